# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks that take time, end as they are configured, and are listed as Proxmox VE lists them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fakepve import FakePve, PveError, TaskError
from fakepve.routing import param_error, split_list
from fakepve.server import USER

from pve.faults import CURRENT

if TYPE_CHECKING:
    from pve.foreign import Data, Guest, Record, Request, Response, Routes, Values

Body = Callable[[], Awaitable[str | None]]

# Workers that check first and take their time after it; all others take it before they act.
# A snapshot and a rollback of fakepve take theirs between setting and clearing the lock (proxmox.md, Guests).
PAUSES_ITSELF = {
    "qmstart", "qmstop", "qmshutdown", "qmreboot", "qmigrate", "vzdump", "download", "qmsnapshot", "vzsnapshot",
    "vzdelsnapshot", "vzrollback",
}  # fmt: skip
CREATES = {"qmcreate", "qmclone", "qmrestore", "vzcreate", "vzclone", "vzrestore"}
# The exit of a worker that was killed: its log ends without a TASK line and nothing is tidied up.
KILLED = "unexpected status"
UPID = re.compile(r"^UPID:[^:]+:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:]+:[^:]*:[^:]+:$")
CLUSTER_LIMIT = 25
CLONE_DESCRIPTION = " qmclone temporary file"

# The task whose worker is running in this context.
RUNNING: ContextVar[Record | None] = ContextVar("running", default=None)


def outcome(status: str) -> str:
    """Name the class of an exit status as `statusfilter` does."""
    if status == "OK":
        return "ok"
    if status.startswith("WARNINGS: "):
        return "warning"
    return "unknown" if status == KILLED else "error"


def listed_status(task: Record, *, running: str | None = "RUNNING") -> str | None:
    """Return what lists show under `status`: the exit status once there is one."""
    return task.get("exitstatus", running)


class Tasks(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: the life of tasks, and the three places that show them."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start with tasks that take no time."""
        super().__init__(*args, **kwargs)
        self.durations: dict[str, float] = {}
        self.archive_lag = 0.0
        self.stat_lag = 0.0
        self.reporting: dict[str, float] = {}
        self.workers: dict[str, asyncio.Task[None]] = {}

    def _routes_sim_tasks(self) -> Routes:
        return [
            ("GET", "/cluster/tasks", self._cluster_tasks),
            ("GET", "/nodes/{node}/tasks", self._node_tasks),
            ("GET", "/nodes/{node}/tasks/{upid}/status", self._show_status),
            ("DELETE", "/nodes/{node}/tasks/{upid}", self._kill),
        ]

    # ------------------------------------------------------------------ running

    async def pause(self, secs: float) -> None:  # noqa: ARG002 - fakepve's own signature
        """Take the running task's set time, where fakepve's workers take theirs."""
        record = RUNNING.get()
        if record is not None and record["due"]:
            due, record["due"] = record["due"], 0
            await asyncio.sleep(due)

    async def task(
        self,
        node: str,
        ttype: str,
        tid: object,
        user: str,
        body: Body,
        vm: Guest = None,
        lock: bool = True,  # noqa: FBT001, FBT002
        log: Iterable[str] = (),
    ) -> str:
        """Start a worker and return its UPID."""
        entry = CURRENT.get()
        upid, pid, start = self._upid(node, ttype, tid, user)
        record: Record = {
            "upid": upid, "node": node, "pid": pid, "pstart": pid * 7, "starttime": start, "type": ttype,
            "id": str(tid), "user": user, "status": "running", "log": list(log),
            "due": self.durations.get(ttype, self.durations.get("default", 0)),
            "forced": entry.task_exit if entry else None,
        }  # fmt: skip
        self.tasks[upid] = record
        self.tasklog.append(record)
        if entry:
            entry.upid = upid
        if ttype in CREATES and vm is not None:
            vm.born = time.time()
        if ttype == "qmclone":
            body = self._hide_clone(vm, body)
            # Real PVE: the clone's worker holds the new guest's lock file, so a start of it waits.
            vm.lock_holder, lock = upid, True
        elif ttype == "qmcreate":
            vm.name = f"VM {vm.vmid}"
        await self._launch(record, body, vm if lock else None, vm)
        return str(upid)

    async def _launch(self, record: Record, body: Body, locked: Guest, guest: Guest) -> None:
        """Run a worker that takes no time at once, so that a test need not poll; any other beside the request."""
        waits = locked is not None and locked.lock_holder not in (None, record["upid"])
        if not record["due"] and not waits:
            token = RUNNING.set(None)
            await self._work(record, body, locked, guest)
            RUNNING.reset(token)
            return
        worker = asyncio.create_task(self._work(record, body, locked, guest))
        self.workers[record["upid"]] = worker
        worker.add_done_callback(lambda _: self.workers.pop(record["upid"], None))

    def _adopt_drives(self, vm: Guest) -> None:
        """Give a clone what it must not share with its source; see guests.py."""

    def _hide_clone(self, vm: Guest, body: Body) -> Body:
        """Show a clone's target as real PVE does until it is finished: lock and a fixed description, no name."""
        final, vm.config = vm.config, {"lock": "clone", "description": CLONE_DESCRIPTION}
        name, vm.name = vm.name, f"VM {vm.vmid}"

        async def reveal() -> str | None:
            vm.config, vm.name = final, name
            self._adopt_drives(vm)
            return await body()

        return reveal

    async def _work(self, record: Record, body: Body, locked: Guest, guest: Guest) -> None:
        RUNNING.set(record)
        upid, log = record["upid"], record["log"]
        try:
            if locked is not None and locked.lock_holder != upid:
                if locked.lock_holder is not None:
                    log.append("trying to acquire lock...")
                await self.acquire(locked, upid)
            status = await self._perform(record, body, guest)
        except TaskError as error:
            status = str(error)
        except PveError as error:
            status = error.message
        except asyncio.CancelledError:
            status = KILLED
        finally:
            if locked is not None:
                self.release(locked, upid)
        self._finish(record, status)

    async def _perform(self, record: Record, body: Body, guest: Guest) -> str:
        """Do the work of the task, or end as a rule says, and return the exit status."""
        forced = record["forced"]
        failing = forced is not None and outcome(forced) in ("error", "unknown")
        if failing or record["type"] not in PAUSES_ITSELF:
            await self.pause(1)
        if failing:
            if forced != KILLED and record["type"] in CREATES:
                self._forget(guest)
            return str(forced)
        note = await body()
        if note:
            record["log"].extend(note.splitlines())
        return forced or "OK"

    def _forget(self, guest: Guest) -> None:
        """Remove the guest that a failing create had begun, as real PVE does."""
        for guests in (self.vms, self.cts):
            if guest in guests:
                guests.remove(guest)

    @staticmethod
    def _finish(record: Record, status: str) -> None:
        """Note the exit status and the last line of the log."""
        kind = outcome(status)
        if kind == "ok":
            record["log"].append("TASK OK")
        elif kind == "warning":
            # Real PVE: "WARNINGS: n" is a success; each warning is a line of its own.
            count = int(status.rpartition(" ")[2])
            record["log"] += [f"WARN: simulated warning {number}" for number in range(1, count + 1)]
            record["log"].append(f"TASK {status}")
        elif kind == "error":
            record["log"].append(f"TASK ERROR: {status}")
        record.update(status="stopped", exitstatus=status, endtime=int(time.time()), ended=time.time())

    @staticmethod
    def say(line: str) -> None:
        """Add a line to the log of the running task."""
        record = RUNNING.get()
        if record is not None:
            record["log"].append(line)

    async def failing(self, node: str, ttype: str, vmid: object, user: str, message: str) -> str:
        """Start a task that does nothing but fail."""

        async def body() -> str | None:
            raise TaskError(message)

        return await self.task(node, ttype, vmid, user, body)

    # ------------------------------------------------------------------ showing

    @staticmethod
    def _split_user(task: Record) -> dict[str, str]:
        """Real PVE: /status and the archive show the user without its token, and the token beside it."""
        user, _, token = task["user"].partition("!")
        return {"user": user, "tokenid": token} if token else {"user": user}

    def _find_task(self, v: Values, user: str) -> Record:
        """Return the task of a UPID; real PVE knows it at the UPID's own node only, and says 400 elsewhere."""
        task: Record | None = self.tasks.get(v["upid"])
        if task is None or task["node"] != v["node"]:
            known = UPID.match(v["upid"])
            raise param_error(upid="no such task" if known else "unable to parse worker upid")
        if not self._task_owner(user, task):
            self.require(user, "/nodes/" + task["node"], "Sys.Audit")
        return task

    async def _show_status(self, v: Values, user: str) -> dict[str, Any]:
        task = self._find_task(v, user)
        shown = ("upid", "node", "pid", "pstart", "starttime", "type", "id", "status", "exitstatus")
        return {key: task[key] for key in shown if key in task} | self._split_user(task)

    async def _task_status(self, request: Request) -> Response:
        return await self.serve(request, self._show_status)

    async def _task_list(self, request: Request) -> Response:
        return await self.serve(request, self._node_tasks)

    async def _task_log(self, request: Request) -> Response:
        """Answer the log by pages; real PVE gives all lines for limit=0, and one line for a task it has not."""
        values = self._verify(request, await self.read_params(request))
        try:
            lines = self._find_task(values, request[USER])["log"]
        except PveError as error:
            if error.status != 400 or error.errors != {"upid": "no such task"}:
                raise
            lines = ["unable to open file - No such file or directory"]
        start, limit = values.get("start", 0), values.get("limit", 50)
        page = lines[start:] if limit == 0 else lines[start : start + limit]
        numbered = [{"n": number, "t": line} for number, line in enumerate(page, start + 1)]
        return self.paged(numbered or [{"n": 1, "t": "no content"}], len(lines))

    async def _kill(self, v: Values, user: str) -> None:
        """Stop a worker: real PVE leaves locks and half-made guests behind, and the exit 'unexpected status'."""
        task = self._find_task(v, user)
        if not self._task_owner(user, task):
            self.require(user, "/nodes/" + task["node"], "Sys.Modify")
        worker = self.workers.get(task["upid"])
        if worker is not None:
            worker.cancel()
            await asyncio.wait([worker])

    async def _node_tasks(self, v: Values, user: str) -> Response:
        node = v["node"]
        audit = self.allowed(user, "/nodes/" + node, "Sys.Audit")
        tasks = [t for t in self.tasklog if t["node"] == node and (audit or self._task_owner(user, t))]
        source = v.get("source") or "archive"
        found = [t for t in reversed(tasks) if self._in_source(t, source) and self._passes(t, v)]
        start = v.get("start", 0)
        page = [self._list_item(t) for t in found[start : start + v.get("limit", 50)]]
        return self.paged(page, len(found))

    def _in_source(self, task: Record, source: str) -> bool:
        """Real PVE: a finished task enters the archive late, when the next worker starts or after some seconds."""
        if task["status"] == "running":
            return source in ("active", "all")
        if source == "active":
            return False
        if not self.archive_lag or time.time() - task["ended"] >= self.archive_lag:
            return True
        return any(later["node"] == task["node"] and later["pid"] > task["pid"] for later in self.tasklog)

    @staticmethod
    def _passes(task: Record, v: Values) -> bool:
        """Apply the filters of /nodes/N/tasks."""
        status = listed_status(task, running=None)
        kinds = split_list(v.get("statusfilter"))
        checks = (
            v.get("vmid") is None or task["id"] == str(v["vmid"]),
            not v.get("typefilter") or task["type"] == v["typefilter"],
            not v.get("userfilter") or v["userfilter"].lower() in task["user"].lower(),
            v.get("since") is None or task["starttime"] >= v["since"],
            v.get("until") is None or task["starttime"] <= v["until"],
            not v.get("errors") or (status is not None and outcome(status) in ("error", "unknown")),
            not kinds or (status is not None and outcome(status) in kinds),
        )
        return all(checks)

    def _list_item(self, task: Record) -> dict[str, Any]:
        """Real PVE: an active task is listed as RUNNING, with user and token in one word, and `saved`."""
        item = {key: task[key] for key in ("upid", "node", "pid", "pstart", "starttime", "type", "id")}
        if task["status"] == "running":
            return item | {"status": "RUNNING", "user": task["user"], "saved": "0"}
        return item | {"status": task["exitstatus"], "endtime": task["endtime"]} | self._split_user(task)

    async def _cluster_tasks(self, _v: Values, user: str) -> list[dict[str, Any]]:
        """Real PVE: all running tasks and at most 25 finished ones of each node."""
        audit = {node: self.allowed(user, "/nodes/" + node, "Sys.Audit") for node in self.nodes}
        finished = dict.fromkeys(self.nodes, 0)
        items = []
        for task in reversed(self.tasklog):
            node = task["node"]
            if not audit.get(node) and not self._task_owner(user, task):
                continue
            item = {key: task[key] for key in ("upid", "node", "starttime", "type", "id")} | self._split_user(task)
            if task["status"] == "running":
                items.append(item | {"saved": "0"})
            elif finished[node] < CLUSTER_LIMIT:
                finished[node] += 1
                items.append(item | {"status": task["exitstatus"], "endtime": task["endtime"], "saved": "1"})
        return items
