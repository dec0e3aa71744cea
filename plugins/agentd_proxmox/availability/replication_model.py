"""A replication job: read from the entry of Proxmox, and compared with what is requested."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from agentd import one_line
from agentd_proxmox import changes
from agentd_proxmox.model import convert

if TYPE_CHECKING:
    Entry = dict[str, Any]


class Replica(msgspec.Struct, frozen=True, omit_defaults=True):
    """A replication job, with its last runs if the node of its guest can be read.

    removing  the next run deletes the job
    """

    id: str
    vmid: int
    source: str
    target: str
    schedule: str = "*/15"
    enabled: bool = True
    rate: float | None = None
    comment: str = ""
    removing: bool = False
    last_sync: datetime | None = None
    next_sync: datetime | None = None
    fails: int = 0
    error: str = ""


def by_id(job: Replica) -> str:
    """Return a text that sorts jobs by guest, then by number."""
    return f"{job.vmid:09d}-{int(job.id.partition('-')[2]):09d}"


def unchanged_digest(entry: Entry, digest: str) -> str:
    """Return the current digest of a job.

    Raises ConfigChanged if it differs from `digest`.
    """
    now = one_line(entry.get("digest") or "")
    changes.check_unchanged(f"replication job {entry['id']}", digest, now)
    return now


def differences(entry: Entry, wanted: Entry) -> list[str]:
    """Return the options that differ from `wanted`; None there means unchanged."""
    have: Entry = {
        "schedule": one_line(entry.get("schedule") or "*/15"),
        "rate": float(entry["rate"]) if entry.get("rate") else None,
        "comment": one_line(entry.get("comment") or ""),
        "disable": bool(int(entry.get("disable") or 0)),
    }
    normalized = {key: one_line(value) if isinstance(value, str) else value for key, value in wanted.items()}
    return [key for key, value in normalized.items() if value is not None and have[key] != value]


def old_values(was: Replica, options: list[str]) -> Entry:
    """Return the old values of `options`, as parameters of our tools."""
    have: Entry = {"schedule": was.schedule, "rate": was.rate, "comment": was.comment, "disable": was.enabled}
    return {"enabled" if key == "disable" else key: have[key] for key in options}


def replica_of(entry: Entry, where: dict[int, str], state: Entry | None) -> Replica:
    """Return an entry as a job.

    `where` has the node of each guest, `state` the last runs.
    """
    state, vmid = state or {}, int(entry["guest"])
    return convert.entry(
        Replica,
        entry,
        id=one_line(entry["id"]),
        vmid=vmid,
        source=where.get(vmid, convert.text(entry.get("source"))),
        schedule=convert.text(entry.get("schedule"), "*/15"),
        enabled=not convert.flag(entry.get("disable")),
        rate=convert.share(entry.get("rate")) or None,
        removing=bool(entry.get("remove_job")),
        last_sync=_time(state.get("last_sync")),
        next_sync=_time(state.get("next_sync")),
        fails=int(state.get("fail_count") or 0),
        error=one_line(state.get("error") or ""),
    )


def _time(seconds: object) -> datetime | None:
    return datetime.fromtimestamp(int(str(seconds)), UTC) if seconds else None
