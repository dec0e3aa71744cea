"""What has changed in a cluster since a time, from its task lists: failures first, then guests and nodes; pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LISTED: Final = 200
"""Changes that are listed; the others are counted."""
SHOWN: Final = 12
"""Lines of the text."""
KINDS: Final = {
    "failed": "failed",
    "deleted": "deleted",
    "created": "created",
    "restored": "restored or rolled back",
    "moved": "migrated",
    "booted": "nodes booted",
    "power": "started or stopped",
    "backup": "backups",
}
"""What happened, the most important first, and its name in a count."""
TYPES: Final = {
    "destroy": ("deleted", "was deleted"),
    "create": ("created", "was created"),
    "clone": ("created", "was cloned"),
    "restore": ("restored", "was restored from a backup"),
    "rollback": ("restored", "was rolled back to a snapshot"),
    "migrate": ("moved", "left {node}"),
    "start": ("power", "was started"),
    "stop": ("power", "was stopped"),
    "shutdown": ("power", "was shut down"),
    "reboot": ("power", "was rebooted"),
}
"""Types of tasks of guests, without qm and vz; others are listed only if they failed."""


class Change(msgspec.Struct, frozen=True):
    """A change: what kind, to which guest or node, in a sentence, when first and by whom; count: how often.

    at  seconds since 1970
    """

    kind: str
    subject: str
    text: str
    at: int
    by: str = ""
    count: int = 1


class Changes(msgspec.Struct, frozen=True):
    """What has changed, the most important first: in one text, as numbers by kind, and one by one.

    unread  nodes whose task lists could not be read, with the reasons; unlisted: changes that are only counted
    """

    text: str
    hours: float
    counts: dict[str, int]
    changes: list[Change]
    unread: list[str] = []
    unlisted: int = 0


def summarize(  # noqa: PLR0913 - all that it is computed from
    tasks: Iterable[Mapping[str, Any]],
    nodes: Iterable[Mapping[str, Any]],
    names: Mapping[int, str],
    *,
    now: float,
    hours: float,
    unread: Sequence[str] = (),
) -> Changes:
    """Return the changes of the last hours.

    tasks  entries of the task lists of the nodes; nodes: entries of /cluster/resources; names: of the guests
    """
    found = [change for task in tasks if (change := _of_task(task, names)) is not None]
    found += _booted(nodes, now, hours)
    changes = sorted(_grouped(found), key=lambda one: (list(KINDS).index(one.kind), one.at, one.subject))
    counts = Counter[str]()
    for change in changes:
        counts[change.kind] += change.count
    ordered = {kind: counts[kind] for kind in KINDS if counts[kind]}
    text = _text(changes, ordered, hours, unread)
    return Changes(text, hours, ordered, changes[:LISTED], list(unread), max(0, len(changes) - LISTED))


def _of_task(task: Mapping[str, Any], names: Mapping[int, str]) -> Change | None:
    """Return the change that a task made, or None if it changed nothing that counts; a running one has not yet."""
    status, kind, about = (str(task.get(key) or "") for key in ("status", "type", "id"))
    if not status or status == "RUNNING":
        return None
    node, at, by = str(task.get("node") or ""), int(task.get("starttime") or 0), str(task.get("user") or "")
    subject = f"guest {about} {names.get(int(about), '')}".strip() if about.isdigit() else f"node {node}"
    if status != "OK" and not status.startswith("WARNINGS"):
        what = f"{kind} on {node}" if about.isdigit() else kind + (f" {about}" if about else "")
        return Change("failed", subject, f"{subject}: {what} failed: {status}", at, by)
    if kind == "vzdump":
        return Change("backup", f"node {node}", f"backups on {node} succeeded", at, by)
    of_guest = kind.removeprefix("qm").removeprefix("vz")
    of_guest = "migrate" if of_guest == "igrate" else of_guest  # qmigrate
    if not about.isdigit() or of_guest not in TYPES:
        return None
    group, text = TYPES[of_guest]
    return Change(group, subject, f"{subject} {text.format(node=node)}", at, by)


def _booted(nodes: Iterable[Mapping[str, Any]], now: float, hours: float) -> Iterable[Change]:
    for entry in nodes:
        uptime = float(entry.get("uptime") or 0)
        if 0 < uptime < hours * 3600:
            name = str(entry.get("node"))
            yield Change("booted", f"node {name}", f"node {name} was booted", int(now - uptime))


def _grouped(changes: Iterable[Change]) -> list[Change]:
    """Return one change for those with the same sentence, with their number and the first time."""
    found: dict[str, Change] = {}
    for change in changes:
        known = found.get(change.text)
        found[change.text] = (
            change
            if known is None
            else msgspec.structs.replace(known, count=known.count + 1, at=min(known.at, change.at))
        )
    return list(found.values())


def _text(changes: Sequence[Change], counts: Mapping[str, int], hours: float, unread: Sequence[str]) -> str:
    total = ", ".join(f"{KINDS[kind]} {count}" for kind, count in counts.items())
    lines = [f"in the last {hours:g} hours: {total or 'nothing changed'}"]
    lines += [one.text + (f" ({one.count} times)" if one.count > 1 else "") for one in changes[:SHOWN]]
    lines += [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    lines += [f"not read: {', '.join(unread)}"] if unread else []
    return "\n".join(lines)
