"""A backup job: read from the entry of Proxmox, and compared with what is requested."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Rejected, formats, one_line
from agentd_proxmox.model import convert, fields, pages
from agentd_proxmox.model.fields import Schedule

if TYPE_CHECKING:
    Entry = dict[str, Any]

KEEPS: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "all")

JobId = formats.NewBackupJob
Keeps = Annotated[dict[str, int], Meta(description="last, hourly, daily, weekly, monthly, yearly: how many to keep")]
Comment = Annotated[str, Meta(max_length=512)]


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


def digest_of(job: Entry) -> str:
    """Return the digest of a job, without the time of its next run."""
    return pages.digest({key: str(value) for key, value in job.items() if key != "next-run"})


def job_of(entry: Entry) -> BackupJob:
    """Return an entry of the list of jobs as a job."""
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


def has_settings(job: BackupJob, wanted: Entry) -> bool:
    """Return whether a job has the wanted settings; None matches any value."""
    have: Entry = {
        "all": job.all or None,
        "vmid": joined_ids(job.vmids),
        "exclude": joined_ids(job.exclude) or "",
        "prune-backups": joined_keep(job.keep) or "",
        "notes-template": job.notes,
        "enabled": job.enabled,
    }
    return all(
        value is None
        or have.get(key, getattr(job, key, None)) == (one_line(value) if isinstance(value, str) else value)
        for key, value in wanted.items()
    )


def old_values(job: BackupJob, wanted: Entry) -> Entry:
    """Return the parameters that change a job back."""
    previous = recreate_parameters(job) | {"exclude": job.exclude, "keep": job.keep, "comment": job.comment}
    names = {"vmid": "vmids", "prune-backups": "keep"}
    return {names.get(key, key): previous[names.get(key, key)] for key, value in wanted.items() if value is not None}


def recreate_parameters(job: BackupJob) -> Entry:
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


def joined_ids(vmids: list[int]) -> str | None:
    """Return VMIDs as Proxmox takes them; None for none."""
    return ",".join(str(vmid) for vmid in sorted(vmids)) or None


def joined_keep(keep: dict[str, int]) -> str | None:
    """Return how many backups to keep as Proxmox takes it.

    Raises Rejected for an unknown name.
    """
    if unknown := sorted(set(keep) - set(KEEPS)):
        raise Rejected(f"keep: there is no {one_line(unknown[0])!r}; there are {', '.join(KEEPS)}")
    if any(value < 0 for value in keep.values()):
        raise Rejected("keep: a number of backups is 0 or more")
    return ",".join(f"keep-{key}={keep[key]}" for key in KEEPS if key in keep) or None
