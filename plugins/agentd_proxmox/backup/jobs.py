"""Backup jobs of the cluster, and the guests that no job backs up.

The id of a job is fixed before it is created, by the caller or from the invocation key, so a repeat finds the job.
Proxmox checks no digest when a job is changed: this module reads the job right before the change, and refuses the
change if the job is not what the caller saw.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from agentd import Call, ConfigChanged, Found, NotFound, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, convert, fields, pages, targets
from agentd_proxmox.backup.archives import template
from agentd_proxmox.fields import Schedule

if TYPE_CHECKING:
    Entry = dict[str, Any]


SHOWN_BY_PROXMOX = frozenset(
    {
        *("id", "type", "enabled", "schedule", "storage", "all", "vmid", "exclude", "pool", "node", "mode"),
        *("compress", "prune-backups", "notes-template", "comment", "next-run", "digest"),
    }
)
"""Properties that Proxmox shows of a job that create_backup_job can create."""
KEEPS = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "all")

JobId = formats.NewBackupJob
AnyJobId = formats.BackupJob
Keeps = Annotated[dict[str, int], Meta(description="last, hourly, daily, weekly, monthly, yearly: how many to keep")]
Comment = Annotated[str, Meta(max_length=512)]


class BackupJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backup job; `all` without `vmids` backs up every guest except `exclude`."""

    id: str
    enabled: bool
    schedule: str = ""
    storage: str = ""
    all: bool = False
    vmids: list[int] = []
    exclude: list[int] = []
    pool: str = ""
    node: str = ""
    mode: str = ""
    compress: str = ""
    keep: dict[str, int] = {}
    notes: str = ""
    comment: str = ""
    next_run: datetime | None = None
    digest: str = ""


class ListBackupJobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The page to show."""

    limit: pages.Fit = None
    cursor: pages.Cursor = ""
    show: pages.Fields = []


class JobPage(msgspec.Struct, frozen=True):
    """Number of jobs, number of enabled jobs, and one page by id."""

    total: int
    enabled: int
    jobs: list[BackupJob]
    next: str = ""


class CreateBackupJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schedule, the storage and the guests: exactly one of `all`, `vmids`, `pool`."""

    schedule: Schedule
    storage: fields.Storage
    id: JobId | None = None
    all: bool = False
    vmids: list[fields.Vmid] = []
    pool: fields.Pool | None = None
    exclude: list[fields.Vmid] = []
    node: fields.Node | None = None
    mode: Literal["snapshot", "suspend", "stop"] = "snapshot"
    compress: Literal["zstd", "gzip", "lzo", "0"] = "zstd"
    keep: Keeps = {}
    notes: str = "{{guestname}}"
    comment: Comment = ""
    enabled: bool = True


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


class ListGuestsWithoutBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The page to show."""

    limit: pages.Fit = None
    cursor: pages.Cursor = ""
    show: pages.Fields = []


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
    async def list_backup_jobs(self, call: Call, p: ListBackupJobs) -> JobPage:  # noqa: ARG002 - every tool has a call
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
            "vmid": _ids(p.vmids),
            "pool": p.pool,
            "exclude": _ids(p.exclude),
            "node": p.node,
            "mode": p.mode,
            "compress": p.compress,
            "prune-backups": _keep(p.keep),
            "notes-template": template(p.notes, ""),
            "comment": p.comment or None,
            "enabled": p.enabled,
        }
        self._known(p.storage, await self.inventory.resources("storage"))

        async def check() -> Found | None:
            job = await self._one(name)
            if job is None:
                await self._guests_known(p.vmids or [])
                call.inverse("delete_backup_job", {"id": name})
                return None
            if not _matches(job, wanted):
                raise Rejected(f"there is a backup job {name} with other settings: choose another id, or update it")
            return Found()

        async def apply() -> None:
            await self.proxmox.post("/cluster/backup", id=name, **wanted)

        await call.ensure(check, apply)
        return await self._existing(name)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def update_backup_job(self, call: Call, p: UpdateBackupJob) -> BackupJob:
        """Change a backup job: schedule, storage, guests, retention, enabled or not."""
        call.target(Target(f"backup_job/{p.id}", f"backup job {p.id}"))
        wanted = {
            "schedule": p.schedule,
            "storage": p.storage,
            "vmid": None if p.vmids is None else _ids(p.vmids),
            "exclude": None if p.exclude is None else _ids(p.exclude) or "",
            "mode": p.mode,
            "prune-backups": None if p.keep is None else _keep(p.keep) or "",
            "comment": p.comment,
            "enabled": p.enabled,
        }
        if p.vmids == []:
            raise Rejected("vmids: a job without guests; delete_backup_job, or enabled=false")
        if p.storage is not None:
            self._known(p.storage, await self.inventory.resources("storage"))

        async def check() -> Found | None:
            job = await self._raw(p.id)
            if p.vmids is not None and (job.get("all") or job.get("pool")):
                raise Rejected(f"vmids: the backup job {p.id} takes all guests or a pool; make another job for these")
            if _matches(_job(job), wanted):
                return Found()
            self._unchanged(job, p.digest)
            targets.set_undo(call, "update_backup_job", UpdateBackupJob, {"id": p.id, **_before(_job(job), wanted)})
            return None

        async def apply() -> None:
            deleted = ",".join(key for key, value in wanted.items() if value == "")
            sent = {key: value for key, value in wanted.items() if value not in ("", None)}
            await self.proxmox.put(f"/cluster/backup/{p.id}", delete=deleted or None, **sent)

        await call.ensure(check, apply)
        return await self._existing(p.id)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def delete_backup_job(self, call: Call, p: DeleteBackupJob) -> DeletedJob:
        """Delete a backup job; the backups that it made stay.

        The result names the guests that no job backs up any more.
        """

        async def declare(job: BackupJob) -> None:
            raw = await self._raw(p.id)
            self._unchanged(raw, p.digest)
            call.target(
                Target(f"backup_job/{p.id}", f"backup job {p.id}", {"job": digest_of(raw)}, loses=["its schedule"])
            )
            if set(raw) <= SHOWN_BY_PROXMOX:  # otherwise it has settings that create_backup_job does not know
                targets.set_undo(call, "create_backup_job", CreateBackupJob, _recreate_parameters(job))

        async def send(_: BackupJob) -> None:
            await self.proxmox.delete(f"/cluster/backup/{p.id}")

        job = changes.Item("backup job", p.id, lambda: self._one(p.id))
        done = await changes.delete(call, job, declare, send)
        return DeletedJob(p.id, done.existed, done.before, [guest.vmid for guest in await self._uncovered()])

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="backup_management")
    async def list_guests_without_backup(self, call: Call, p: ListGuestsWithoutBackup) -> UncoveredPage:  # noqa: ARG002
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
        return [_job(entry) for entry in entries if entry.get("type", "vzdump") == "vzdump"]

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

    @staticmethod
    def _unchanged(job: Entry, digest: str) -> None:
        if digest and digest != digest_of(job):
            raise ConfigChanged(
                f"the backup job {job['id']} was changed since it was read: read it again, then decide again"
            )

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


def digest_of(job: Entry) -> str:
    """Return the digest of a job, without the time of its next run."""
    return pages.digest({key: str(value) for key, value in job.items() if key != "next-run"})


def _job(entry: Entry) -> BackupJob:
    keep = entry.get("prune-backups") or {}
    if isinstance(keep, str):  # older versions of Proxmox show a text
        keep = dict(pair.split("=", 1) for pair in keep.split(",") if "=" in pair)
    next_run = entry.get("next-run")
    return convert.entry(
        BackupJob,
        entry,
        {"notes": "notes-template"},
        id=one_line(entry["id"]),
        enabled=convert.flag(entry.get("enabled"), default=True),
        vmids=_numbers(entry.get("vmid")),
        exclude=_numbers(entry.get("exclude")),
        keep={key.removeprefix("keep-"): int(value) for key, value in sorted(keep.items())},
        next_run=datetime.fromtimestamp(int(next_run), UTC) if next_run else None,
        digest=digest_of(entry),
    )


def _matches(job: BackupJob, wanted: Entry) -> bool:
    """Return whether a job has the wanted settings; None matches any value."""
    have: Entry = {
        "all": job.all or None,
        "vmid": _ids(job.vmids),
        "exclude": _ids(job.exclude) or "",
        "prune-backups": _keep(job.keep) or "",
        "notes-template": job.notes,
        "enabled": job.enabled,
    }
    return all(
        value is None
        or have.get(key, getattr(job, key, None)) == (one_line(value) if isinstance(value, str) else value)
        for key, value in wanted.items()
    )


def _before(job: BackupJob, wanted: Entry) -> Entry:
    """Return the parameters that change a job back."""
    previous = _recreate_parameters(job) | {"exclude": job.exclude, "keep": job.keep, "comment": job.comment}
    names = {"vmid": "vmids", "prune-backups": "keep"}
    return {names.get(key, key): previous[names.get(key, key)] for key, value in wanted.items() if value is not None}


def _recreate_parameters(job: BackupJob) -> Entry:
    """Return the parameters that create a job again, with all defaults written out."""
    notes = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], job.notes)
    parameters = msgspec.structs.asdict(job) | {
        "mode": job.mode or "snapshot",
        "compress": job.compress or "0",
        "notes": notes,
        "pool": job.pool or None,
        "node": job.node or None,
    }
    return {key: parameters[key] for key in CreateBackupJob.__struct_fields__}


def _numbers(text: object) -> list[int]:
    return sorted(int(number) for number in str(text or "").replace(" ", ",").split(",") if number)


def _ids(vmids: list[int]) -> str | None:
    return ",".join(str(vmid) for vmid in sorted(vmids)) or None


def _keep(keep: dict[str, int]) -> str | None:
    if unknown := sorted(set(keep) - set(KEEPS)):
        raise Rejected(f"keep: there is no {one_line(unknown[0])!r}; there are {', '.join(KEEPS)}")
    if any(value < 0 for value in keep.values()):
        raise Rejected("keep: a number of backups is 0 or more")
    return ",".join(f"keep-{key}={keep[key]}" for key in KEEPS if key in keep) or None
