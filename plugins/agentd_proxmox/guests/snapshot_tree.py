"""The snapshots of a guest as a tree."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import one_line
from agentd_proxmox.model import convert, guest_model

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]

CURRENT: Final = "current"
"""The entry in the list of Proxmox that is the current state of the guest, not a snapshot."""


class SnapshotLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot.

    depth: its level in the tree; age: in hours; state: set while it is unfinished
    """

    name: str
    time: datetime
    age: float
    parent: str = ""
    depth: int = 0
    vmstate: bool = False
    description: str = ""
    state: str = ""
    ours: bool = False


class SnapshotTree(msgspec.Struct, frozen=True):
    """The snapshots of a guest, parents before children.

    `current` is the parent of the current state.
    """

    vmid: int
    name: str
    node: str
    current: str
    snapshots: list[SnapshotLine]


def tree(at: GuestLocation, entries: list[Entry], now: datetime) -> SnapshotTree:
    """Return the answer of Proxmox as a tree, parents first.

    A snapshot with an unknown parent is a root.
    """
    current = next((one_line(e.get("parent") or "") for e in entries if e.get("name") == CURRENT), "")
    lines = {e["name"]: snapshot_line(e, now) for e in entries if e.get("name") != CURRENT}
    children: dict[str, list[SnapshotLine]] = {}
    for line in sorted(lines.values(), key=lambda line: (line.time, line.name)):
        children.setdefault(line.parent if line.parent in lines else "", []).append(line)
    ordered: list[SnapshotLine] = []
    left = [(line, 0) for line in reversed(children.get("", []))]
    while left:
        line, depth = left.pop()
        ordered.append(msgspec.structs.replace(line, depth=depth))
        left += [(child, depth + 1) for child in reversed(children.get(line.name, []))]
    return SnapshotTree(at.vmid, at.name, at.node, current, ordered)


def snapshot_line(entry: Entry, now: datetime) -> SnapshotLine:
    """Return an entry of the list as a snapshot."""
    made = datetime.fromtimestamp(int(entry.get("snaptime") or 0), UTC)
    description = str(entry.get("description") or "")
    return convert.entry(
        SnapshotLine,
        entry,
        {"state": "snapstate"},
        name=one_line(entry["name"]),
        time=made,
        age=round(max(0.0, (now - made).total_seconds()) / 3600, 1),
        depth=0,
        description=one_line(guest_model.text_of(description)),
        ours=bool(guest_model.marks(description)),
    )
