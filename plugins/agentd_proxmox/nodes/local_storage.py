"""What is on the disks of a node: ZFS pools and their parts, volume groups, thin pools, directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import one_line
from agentd_proxmox.model import convert

if TYPE_CHECKING:
    Entry = dict[str, Any]


class CreatedStorage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Storage on disks: a ZFS pool, a volume group, a thin pool or a directory.

    Sizes are in bytes, used is in percent; metadata: of a thin pool, in percent.
    """

    kind: str
    name: str
    state: str = ""
    size: int = 0
    free: int = 0
    used: float = 0.0
    metadata: float = 0.0
    on: str = ""


class Vdev(msgspec.Struct, frozen=True):
    """A part of a pool; the numbers count its errors."""

    name: str
    state: str
    read: int
    write: int
    checksum: int
    message: str


def _zfs(entry: Entry) -> CreatedStorage:
    size, free = int(entry.get("size") or 0), int(entry.get("free") or 0)
    used = round(100 * (size - free) / size, 1) if size else 0.0
    return CreatedStorage("zfs", one_line(entry["name"]), one_line(entry.get("health") or ""), size, free, used)


def _lvm(entry: Entry) -> CreatedStorage:
    size, free = int(entry.get("size") or 0), int(entry.get("free") or 0)
    used = round(100 * (size - free) / size, 1) if size else 0.0
    return CreatedStorage(
        "lvm", one_line(entry["name"]), size=size, free=free, used=used, on=_names(entry.get("children") or [])
    )


def _thin(entry: Entry) -> CreatedStorage:
    size, used = int(entry.get("lv_size") or 0), int(entry.get("used") or 0)
    whole, meta = int(entry.get("metadata_size") or 0), int(entry.get("metadata_used") or 0)
    share, filled = (round(100 * part / all_, 1) if all_ else 0.0 for part, all_ in ((used, size), (meta, whole)))
    return CreatedStorage(
        "lvmthin", one_line(entry["lv"]), "", size, size - used, share, filled, one_line(entry.get("vg") or "")
    )


def _directory(entry: Entry) -> CreatedStorage:
    return CreatedStorage(
        "directory", one_line(entry["path"]).rpartition("/")[2], on=one_line(entry.get("device") or "")
    )


MADE: Final = {"zfs": _zfs, "lvm": _lvm, "lvmthin": _thin, "directory": _directory}


def _names(entries: list[Entry]) -> str:
    return ", ".join(one_line(entry.get("name") or "") for entry in entries)


def vdevs(entries: list[Entry]) -> list[Vdev]:
    """Return the parts of a pool, including nested parts."""
    found = []
    for entry in entries:
        part = convert.entry(Vdev, entry, {"checksum": "cksum", "message": "msg"})
        found += [part, *vdevs(entry.get("children") or [])]
    return found


def is_healthy(part: Vdev) -> bool:
    """Return whether a part is online and has no errors."""
    return part.state == "ONLINE" and not part.read + part.write + part.checksum
