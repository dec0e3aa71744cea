# SPDX-License-Identifier: AGPL-3.0-or-later
"""Replication jobs of the simulated cluster.

fakepve answers these with its schema alone.  Parameters and answers are the schema's.  A job runs when the scheduler
comes by; `schedule_now` only makes it due.  A job that is deleted is marked and goes with its next run, unless
`force` takes it out at once.  A second job of a guest to the same target is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import TYPE_CHECKING

from fakepve.routing import die, split_list

from pve.nodes.status import Nodes

if TYPE_CHECKING:
    from pve.foreign import Data, Record, Routes, Values

QUARTER = 900


class Replication(Nodes):
    """Mixin of the simulator: /cluster/replication and what nodes say of it."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start without jobs."""
        super().__init__(*args, **kwargs)
        self.replicators: set[asyncio.Task[None]] = set()
        self.reset_replication()

    def reset_replication(self) -> None:
        """Forget the jobs and their states; a run takes `replication_lag` seconds to come by."""
        self.replications: dict[str, Record] = {}
        self.replicated: dict[str, Record] = {}
        self.replication_lag = 0.0
        self.replication_fails = 0.0
        for running in self.replicators:
            running.cancel()

    def _routes_sim_replication(self) -> Routes:
        one = "/cluster/replication/{id}"
        return [
            ("GET", "/cluster/replication", self._rep_list),
            ("POST", "/cluster/replication", self._rep_add),
            ("GET", one, self._rep_show),
            ("PUT", one, self._rep_change),
            ("DELETE", one, self._rep_remove),
            ("GET", "/nodes/{node}/replication", self._rep_states),
            ("GET", "/nodes/{node}/replication/{id}/log", self._rep_log),
            ("POST", "/nodes/{node}/replication/{id}/schedule_now", self._rep_now),
        ]

    def _rep_one(self, v: Values) -> Record:
        if v["id"] not in self.replications:
            raise die(f"no such replication job '{v['id']}'")
        return self.replications[v["id"]]

    @staticmethod
    def _rep_digest(job: Record) -> str:
        return hashlib.sha1(json.dumps(job, sort_keys=True).encode(), usedforsecurity=False).hexdigest()

    async def _rep_list(self, _v: Values, user: str) -> list[Values]:
        return [
            dict(job) for job in self.replications.values() if self.allowed(user, f"/vms/{job['guest']}", "VM.Audit")
        ]

    async def _rep_show(self, v: Values, user: str) -> Values:
        job = self._rep_one(v)
        self.require(user, f"/vms/{job['guest']}", "VM.Audit")
        return job | {"digest": self._rep_digest(job)}

    async def _rep_add(self, v: Values, user: str) -> None:
        guest, number = (int(part) for part in v["id"].split("-"))
        self.require(user, f"/vms/{guest}", "VM.Replicate")
        found = self.guest(guest)
        if found is None:
            raise die(f"no such guest '{guest}'")
        if v["id"] in self.replications:
            raise die(f"replication job '{v['id']}' already exists")
        if v["target"] not in self.nodes:
            raise die(f"replication: unknown target node '{v['target']}'")
        if any(e["guest"] == guest and e["target"] == v["target"] for e in self.replications.values()):
            raise die(f"replication job for guest '{guest}' to target '{v['target']}' already exists")
        self.replications[v["id"]] = {"guest": guest, "jobnum": number, "source": found.node} | dict(v)
        self.replicated[v["id"]] = {"last_sync": 0, "last_try": 0, "fail_count": 0, "log": []}

    async def _rep_change(self, v: Values, user: str) -> None:
        job = self._rep_one(v)
        self.require(user, f"/vms/{job['guest']}", "VM.Replicate")
        if v.get("digest") and v["digest"] != self._rep_digest(job):
            raise die("checksum mismatch (file change by other user?)")
        for key in split_list(v.get("delete")):
            job.pop(key, None)
        job |= {key: value for key, value in v.items() if key not in ("digest", "delete", "id")}

    async def _rep_remove(self, v: Values, user: str) -> None:
        job = self._rep_one(v)
        self.require(user, f"/vms/{job['guest']}", "VM.Replicate")
        if v.get("force"):
            del self.replications[v["id"]]
        else:
            job["remove_job"] = "local" if v.get("keep") else "full"
            self._rep_soon(v["id"])

    async def _rep_states(self, v: Values, user: str) -> list[Values]:
        """List the states of the jobs whose guest is on the node."""
        found = []
        for name, job in self.replications.items():
            guest = self.guest(job["guest"])
            if guest is None or guest.node != v["node"] or v.get("guest") not in (None, job["guest"]):
                continue
            if self.allowed(user, f"/vms/{job['guest']}", "VM.Audit"):
                state = {key: value for key, value in self.replicated[name].items() if key != "log"}
                found.append(job | state | {"next_sync": int(time.time()) + QUARTER, "duration": 0.5})
        return found

    async def _rep_log(self, v: Values, user: str) -> list[Values]:
        self.require(user, f"/vms/{self._rep_one(v)['guest']}", "VM.Audit")
        lines = self.replicated[v["id"]]["log"]
        return [{"n": number, "t": line} for number, line in enumerate(lines, 1)]

    async def _rep_now(self, v: Values, user: str) -> str:
        """Make a job due; the state says nothing but `last_try` 0 until the scheduler comes by."""
        self.require(user, f"/vms/{self._rep_one(v)['guest']}", "VM.Replicate")
        self.replicated[v["id"]]["last_try"] = 0
        self._rep_soon(v["id"])
        return ""

    def _rep_soon(self, name: str) -> None:
        running = asyncio.create_task(self._rep_run(name))
        self.replicators.add(running)
        running.add_done_callback(self.replicators.discard)

    async def _rep_run(self, name: str) -> None:
        await asyncio.sleep(self.replication_lag)
        job, state = self.replications.get(name), self.replicated[name]
        if job is None or job.get("disable"):
            return
        if job.get("remove_job"):
            del self.replications[name]
            return
        now = max(int(time.time()), state["last_sync"] + 1)
        state["last_try"] = now
        state["log"] = [f"{name}: start replication job", f"{name}: end replication job"]
        if self.replication_fails:
            state |= {"fail_count": state["fail_count"] + 1, "error": "command 'zfs send' failed: exit code 1"}
        else:
            state |= {"last_sync": now, "fail_count": 0}
            state.pop("error", None)
