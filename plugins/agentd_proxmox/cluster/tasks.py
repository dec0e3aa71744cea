"""Read the tasks of Proxmox: what runs, and what has ended how."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from agentd import Call, Repeat, TaskFailed, TemporaryError, Tier, Upid, one_line, tool
from agentd_proxmox import area, blind_token
from agentd_proxmox.model import convert, fields, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]


class ListTasks(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """Filters for the tasks, and the page to return.

    node  omitted: the tasks of the whole cluster
    """

    node: fields.Node | None = None
    vmid: fields.Vmid | None = None
    running: bool = False
    failed: bool = False


class TaskLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Proxmox task.

    status  `running`, or the result: OK, WARNINGS: n, or an error
    """

    upid: str
    node: str = ""
    type: str = ""
    id: str = ""
    user: str = ""
    status: str = ""
    start: datetime | None = None
    end: datetime | None = None


class TaskPage(msgspec.Struct, frozen=True):
    """The number of matching tasks by result, and one page of them, newest first."""

    total: int
    by_status: dict[str, int]
    tasks: list[TaskLine] = []
    next: str = ""


class TaskSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The task, and how many lines of the end of its log to return.

    patience  how long to wait for the end of the task
    """

    upid: str
    lines: Annotated[int, Meta(ge=0, le=200)] = 20
    patience: Annotated[int, Meta(ge=0, le=3600, description="seconds")] = 0


class TaskDetails(msgspec.Struct, frozen=True):
    """A task and the end of its log."""

    upid: str
    node: str
    type: str
    id: str
    user: str
    running: bool
    succeeded: bool
    status: str
    start: datetime
    log: list[str]


class Tasks(area.Area):
    """The tools for tasks; none of them changes anything."""

    shown_to: ClassVar[area.ShownTo] = {"list_tasks": blind_token.NODES}
    needs: ClassVar[area.Needs] = {"list_tasks": area.with_path("/nodes/{node}", "Sys.Audit")}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_tasks(self, call: Call, p: ListTasks) -> TaskPage:
        """List the tasks of the cluster or of one node, newest first.

        The list of the cluster has at most 25 finished tasks of each node, the list of one node 500.
        """
        if p.node is None:
            entries = await self.proxmox.get("/cluster/tasks") or []
        else:
            source = "active" if p.running else "all"
            entries = await self.proxmox.tasks(p.node, source=source, limit=500, **({"vmid": p.vmid} if p.vmid else {}))
        lines = [line for line in map(_task_line, entries) if _is_wanted(line, p)]
        tally = TaskPage(len(lines), dict(Counter(map(_ending, lines))))
        return pages.fill(tally, "tasks", lines, _newest, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_task(self, call: Call, p: TaskSelector) -> TaskDetails:
        """Show the status of a Proxmox task and the end of its log.

        With `patience` it waits for the end of the task.
        """
        upid = Upid.parse(p.upid)
        if p.patience:
            call.progress(f"{upid.type} {upid.id} runs on {upid.node}")
            with contextlib.suppress(TaskFailed, TemporaryError):  # the result shows the error, or that it runs
                await self.proxmox.wait(p.upid, min(p.patience, call.left()))
        status = await self.proxmox.task(p.upid)
        return TaskDetails(
            upid=upid.text,
            node=upid.node,
            type=upid.type,
            id=upid.id,
            user=upid.user,
            running=status.running,
            succeeded=status.succeeded,
            status=status.exit or "running",
            start=datetime.fromtimestamp(upid.start, UTC),
            log=await self.proxmox.log_tail(p.upid, p.lines) if p.lines else [],
        )


def _task_line(entry: Entry) -> TaskLine:
    ended = entry.get("endtime")
    user, token = one_line(entry.get("user") or ""), one_line(entry.get("tokenid") or "")
    return TaskLine(
        upid=one_line(entry["upid"]),
        node=one_line(entry["node"]),
        type=one_line(entry["type"]),
        id=convert.text(entry.get("id")),
        user=f"{user}!{token}" if token else user,  # a finished task has two fields, a running task has one
        status=one_line(entry.get("status") or "unknown") if ended else "running",
        start=datetime.fromtimestamp(int(entry["starttime"]), UTC),
        end=datetime.fromtimestamp(int(ended), UTC) if ended else None,
    )


def _is_wanted(line: TaskLine, p: ListTasks) -> bool:
    return (
        (p.vmid is None or line.id == str(p.vmid))
        and (not p.running or line.status == "running")
        and (not p.failed or _ending(line) == "failed")
    )


def _ending(line: TaskLine) -> str:
    """Return the status of a task as one word."""
    if line.status.startswith("WARNINGS"):
        return "warnings"
    return line.status if line.status in {"OK", "running"} else "failed"


def _newest(line: TaskLine) -> str:
    return pages.newest_first(int(line.start.timestamp()) if line.start else 0, line.upid)
