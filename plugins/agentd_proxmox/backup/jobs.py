"""Backup jobs of the cluster, and the guests that no job backs up.

The id of a job is fixed before it is created, by the caller or from the invocation key, so a repeat finds the job.
Proxmox checks no digest when a job is changed: this module reads the job right before the change, and refuses the
change if the job is not what the caller saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.backup.archives import template
from agentd_proxmox.backup.job_model import (
    BackupJob,
    Comment,
    CreateBackupJob,
    Keeps,
    digest_of,
    has_settings,
    job_of,
    joined_ids,
    joined_keep,
    old_values,
    recreate_parameters,
)
from agentd_proxmox.model import fields, pages
from agentd_proxmox.model.fields import Schedule

if TYPE_CHECKING:
    Entry = dict[str, Any]


SHOWN_BY_PROXMOX: Final = frozenset(
    {
        *("id", "type", "enabled", "schedule", "storage", "all", "vmid", "exclude", "pool", "node", "mode"),
        *("compress", "prune-backups", "notes-template", "comment", "next-run", "digest"),
    }
)
"""Properties that Proxmox shows of a job that create_backup_job can create."""

AnyJobId = formats.BackupJob


class JobPage(msgspec.Struct, frozen=True):
    """Number of jobs, number of enabled jobs, and one page by id."""

    total: int
    enabled: int
    jobs: list[BackupJob]
    next: str = ""


class UpdateBackupJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; an omitted setting stays.

    digest: from list_backup_jobs; if the job has changed since, nothing is changed
    """

    id: AnyJobId
    schedule: Schedule | None = None
    storage: fields.Storage | None = None
    vmids: list[fields.Vmid] | None = None
    exclude: list[fields.Vmid] | None = None
    mode: Literal["snapshot", "suspend", "stop"] | None = None
    keep: Keeps | None = None
    comment: Comment | None = None
    enabled: bool | None = None
    digest: str = ""


class DeleteBackupJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job.

    digest: from list_backup_jobs; if the job has changed since, nothing is done
    """

    id: AnyJobId
    digest: str = ""


class DeletedJob(changes.Deleted, frozen=True):
    """The deleted job; `uncovered` has the guests that no job backs up now."""

    uncovered: list[int] = msgspec.field(default_factory=list)


class Uncovered(msgspec.Struct, frozen=True):
    """A guest that no enabled job backs up."""

    vmid: int
    name: str
    type: str


class UncoveredPage(msgspec.Struct, frozen=True):
    """Number of guests that no enabled job backs up, and one page by VMID."""

    total: int
    guests: list[Uncovered]
    next: str = ""


class Jobs(area.Area):
    """Tools for backup jobs."""

    shown_to: ClassVar[area.ShownTo] = {
        "list_backup_jobs": blind_token.CLUSTER,
        "list_guests_without_backup": blind_token.VMS,
    }
    needs: ClassVar[area.Needs] = {
        tool_name: area.with_path(area.STORAGE, "Datastore.Audit")
        for tool_name in ("create_backup_job", "update_backup_job")
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="backup_management")
    async def list_backup_jobs(self, call: Call, p: pages.Paged) -> JobPage:
        """List the backup jobs of the cluster: schedule, storage, guests and retention."""
        jobs = await self._jobs()
        return pages.fill(JobPage(len(jobs), sum(job.enabled for job in jobs), []), "jobs", jobs, lambda job: job.id, p)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def create_backup_job(self, call: Call, p: CreateBackupJob) -> BackupJob:
        """Create a backup job.

        Without an id, it is derived from the invocation key, so that a repeat finds the job.
        """
        if sum((p.all, bool(p.vmids), p.pool is not None)) != 1:
            raise Rejected("create_backup_job: give what to back up by exactly one of all, vmids, pool")
        if p.exclude and not p.all:
            raise Rejected("create_backup_job: exclude can only be given with all=true")
        name = p.id or targets.derived_name(call, "create_backup_job")
        call.target(Target(f"backup_job/{name}", f"backup job {name}", labels=[f"storage/{p.storage}"]))
        wanted = {
            "schedule": p.schedule,
            "storage": p.storage,
            "all": True if p.all else None,
            "vmid": joined_ids(p.vmids),
            "pool": p.pool,
            "exclude": joined_ids(p.exclude),
            "node": p.node,
            "mode": p.mode,
            "compress": p.compress,
            "prune-backups": joined_keep(p.keep),
            "notes-template": template(p.notes, ""),
            "comment": p.comment or None,
            "enabled": p.enabled,
        }
        self._known(p.storage, await self.inventory.resources("storage"))

        async def plan() -> changes.Planned:
            job = await self._one(name)
            if job is None:
                await self._guests_known(p.vmids or [])
                call.inverse("delete_backup_job", {"id": name})
                return lambda: self.proxmox.post("/cluster/backup", id=name, **wanted)
            if not has_settings(job, wanted):
                raise Rejected(f"there is a backup job {name} with other settings: choose another id, or update it")
            return Found()

        await changes.change(call, plan)
        return await self._existing(name)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def update_backup_job(self, call: Call, p: UpdateBackupJob) -> BackupJob:
        """Change a backup job: schedule, storage, guests, retention, enabled or not."""
        call.target(Target(f"backup_job/{p.id}", f"backup job {p.id}"))
        wanted = {
            "schedule": p.schedule,
            "storage": p.storage,
            "vmid": None if p.vmids is None else joined_ids(p.vmids),
            "exclude": None if p.exclude is None else joined_ids(p.exclude) or "",
            "mode": p.mode,
            "prune-backups": None if p.keep is None else joined_keep(p.keep) or "",
            "comment": p.comment,
            "enabled": p.enabled,
        }
        if p.vmids == []:
            raise Rejected("vmids: a job without guests; delete_backup_job, or enabled=false")
        if p.storage is not None:
            self._known(p.storage, await self.inventory.resources("storage"))

        async def plan() -> changes.Planned:
            job = await self._raw(p.id)
            if p.vmids is not None and (job.get("all") or job.get("pool")):
                raise Rejected(f"vmids: the backup job {p.id} takes all guests or a pool; make another job for these")
            if has_settings(job_of(job), wanted):
                return Found()
            changes.check_unchanged(f"backup job {p.id}", p.digest, digest_of(job))
            targets.set_undo(
                call, "update_backup_job", UpdateBackupJob, {"id": p.id, **old_values(job_of(job), wanted)}
            )
            deleted = ",".join(key for key, value in wanted.items() if value == "")
            sent = {key: value for key, value in wanted.items() if value not in ("", None)}
            return lambda: self.proxmox.put(f"/cluster/backup/{p.id}", delete=deleted or None, **sent)

        await changes.change(call, plan)
        return await self._existing(p.id)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def delete_backup_job(self, call: Call, p: DeleteBackupJob) -> DeletedJob:
        """Delete a backup job; the backups that it made stay.

        The result names the guests that no job backs up any more.
        """

        async def plan(job: BackupJob) -> changes.Send:
            raw = await self._raw(p.id)
            changes.check_unchanged(f"backup job {p.id}", p.digest, digest_of(raw))
            call.target(
                Target(f"backup_job/{p.id}", f"backup job {p.id}", {"job": digest_of(raw)}, loses=["its schedule"])
            )
            if set(raw) <= SHOWN_BY_PROXMOX:  # otherwise it has settings that create_backup_job does not know
                targets.set_undo(call, "create_backup_job", CreateBackupJob, recreate_parameters(job))
            return lambda: self.proxmox.delete(f"/cluster/backup/{p.id}")

        job = changes.Item("backup job", p.id, lambda: self._one(p.id))
        done = await changes.delete(call, job, plan)
        return DeletedJob(p.id, done.existed, done.before, [guest.vmid for guest in await self._uncovered()])

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="backup_management")
    async def list_guests_without_backup(self, call: Call, p: pages.Paged) -> UncoveredPage:
        """List the guests that no enabled backup job backs up.

        list_backups shows whether the backups of the other guests succeed.
        """
        found = await self._uncovered()
        return pages.fill(UncoveredPage(len(found), []), "guests", found, lambda guest: f"{guest.vmid:09d}", p)

    async def _uncovered(self) -> list[Uncovered]:
        entries = await self.proxmox.get("/cluster/backup-info/not-backed-up") or []
        return [
            Uncovered(int(e["vmid"]), one_line(e.get("name") or ""), one_line(e.get("type") or "")) for e in entries
        ]

    async def _jobs(self) -> list[BackupJob]:
        entries = await self.proxmox.get("/cluster/backup") or []
        return [job_of(entry) for entry in entries if entry.get("type", "vzdump") == "vzdump"]

    async def _one(self, name: str) -> BackupJob | None:
        return next((job for job in await self._jobs() if job.id == name), None)

    async def _existing(self, name: str) -> BackupJob:
        job = await self._one(name)
        if job is None:
            raise NotFound(f"Proxmox reports success, but there is no backup job {name}: another client deleted it")
        return job

    async def _raw(self, name: str) -> Entry:
        entries = await self.proxmox.get("/cluster/backup") or []
        job = next((entry for entry in entries if entry.get("id") == name), None)
        if job is None:
            raise NotFound(
                f"there is no backup job {name}; there are {', '.join(str(e['id']) for e in entries) or 'none'}"
            )
        return dict(job)

    async def _guests_known(self, vmids: list[int]) -> None:
        """Raise NotFound for a guest that does not exist.

        The job would fail each time, or back up nothing.
        """
        existing = {place.vmid for place in await self.inventory.places()} if vmids else set()
        for vmid in vmids:
            if vmid not in existing:
                raise NotFound(f"vmids: there is no guest {vmid}, or {self.proxmox.user} may not see it (VM.Audit)")

    @staticmethod
    def _known(storage: str, entries: list[Entry]) -> None:
        suitable = sorted({e["storage"] for e in entries if targets.may_contain(e, "backup")})
        if storage not in suitable:
            raise Rejected(f"storage: {storage} holds no backups; {', '.join(suitable) or 'no storage'} does")
