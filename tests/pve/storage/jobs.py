# SPDX-License-Identifier: AGPL-3.0-or-later
"""Backup jobs of the simulated cluster, and the guests that no job backs up.

A job's entry is that of the recorded cluster-backup and cluster-backup-job; parameters are the schema's.  Changes are
synchronous; without a quorum they fail on the lock of their file (proxmox.md, Envelope).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fakepve.routing import die, param_error, split_list

from pve.storage.backups import Backups, parse_keep

if TYPE_CHECKING:
    from pve.foreign import Data, Routes, Values

NEXT = 3600


class Jobs(Backups):
    """Mixin of the simulator: /cluster/backup."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start without jobs."""
        super().__init__(*args, **kwargs)
        self.jobs: dict[str, dict[str, Any]] = {}

    def _routes_sim_jobs(self) -> Routes:
        return [
            ("GET", "/cluster/backup", self._job_list),
            ("POST", "/cluster/backup", self._job_create),
            ("GET", "/cluster/backup/{id}", self._job_show),
            ("PUT", "/cluster/backup/{id}", self._job_change),
            ("DELETE", "/cluster/backup/{id}", self._job_delete),
            ("GET", "/cluster/backup-info/not-backed-up", self._not_backed_up),
        ]

    def _job(self, v: Values) -> Values:
        if v["id"] not in self.jobs:
            raise die(f"No such job '{v['id']}'")
        return self.jobs[v["id"]]

    def _need_jobs_quorum(self) -> None:
        if not self.quorate:
            raise die("cfs-lock 'file-jobs_cfg' error: no quorum!")

    @staticmethod
    def _options(v: Values) -> Values:
        options = {key: value for key, value in v.items() if key not in ("id", "delete")}
        if "prune-backups" in options:
            keep = parse_keep(options["prune-backups"])
            options["prune-backups"] = {key: str(value) for key, value in keep.items()}
        return options

    async def _job_list(self, _v: Values, _user: str) -> list[Values]:
        soon = int(time.time()) + NEXT
        return [job | ({"next-run": soon} if job["enabled"] else {}) for job in self.jobs.values()]

    async def _job_show(self, v: Values, _user: str) -> Values:
        return dict(self._job(v))

    async def _job_create(self, v: Values, _user: str) -> None:
        self._need_jobs_quorum()
        if v["id"] in self.jobs:
            raise die(f"Job '{v['id']}' already exists")
        if sum(bool(v.get(key)) for key in ("all", "vmid", "pool")) != 1:
            raise param_error(vmid="property is missing and it is not optional")
        self._store(v["storage"])
        self.jobs[v["id"]] = {"id": v["id"], "type": "vzdump", "enabled": 1, "mode": "snapshot"} | self._options(v)

    async def _job_change(self, v: Values, _user: str) -> None:
        self._need_jobs_quorum()
        job = self._job(v)
        for key in split_list(v.get("delete")):
            job.pop(key, None)
        job |= self._options(v)

    async def _job_delete(self, v: Values, _user: str) -> None:
        self._need_jobs_quorum()
        self._job(v)
        del self.jobs[v["id"]]

    async def _not_backed_up(self, _v: Values, _user: str) -> list[Values]:
        """List the guests that no enabled job takes: by all without exclude, by vmid, or by pool."""
        covered: set[int] = set()
        for job in self.jobs.values():
            if not job["enabled"]:
                continue
            ids = {guest.vmid for guest in self._guests() if job.get("node") in (None, guest.node)}
            if job.get("all"):
                covered |= ids - {int(part) for part in split_list(job.get("exclude"))}
            elif job.get("pool"):
                covered |= ids & set(self.pools.get(job["pool"], ()))
            else:
                covered |= {int(part) for part in split_list(job.get("vmid"))}
        left = [guest for guest in self._guests() if guest.vmid not in covered]
        return [{"vmid": g.vmid, "name": g.name, "type": g.guest.partition("/")[0]} for g in left]
