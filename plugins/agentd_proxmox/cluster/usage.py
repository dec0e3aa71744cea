"""How much nodes, guests and storages have used over time, as few numbers rather than a table.

Proxmox keeps averages: 70 points for each of an hour, a day, a week, a month and a year.  What a person or a model
wants to know of them is mostly the least, the mean, the most and the last.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from agentd.errors import Rejected
from agentd.proxmox.responses import one_line
from agentd.tools.definition import Call, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import fields, methods

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.methods import Calls, Needs

    Entry = dict[str, Any]

SHOWN: Final = (
    *("cpu", "iowait", "loadavg", "mem", "memused", "maxmem", "memtotal", "swapused", "rootused", "roottotal"),
    *("netin", "netout", "diskread", "diskwrite", "disk", "maxdisk", "used", "total"),
)


class ShowUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of a guest, of a node, or of a storage of a node; points: every point of these values too."""

    vmid: fields.Vmid | None = None
    node: fields.Node | None = None
    storage: fields.Storage | None = None
    period: Literal["hour", "day", "week", "month", "year"] = "hour"
    points: list[str] = []


class Value(msgspec.Struct, frozen=True):
    """A value over time: cpu as a share of all cores (0 to 1), memory and disk in bytes, traffic in bytes a second."""

    least: float
    mean: float
    most: float
    last: float


class Usage(msgspec.Struct, frozen=True):
    """What was used, by value; `points` are [time, value] pairs of those that were asked for."""

    of: str
    since: datetime | None
    until: datetime | None
    samples: int
    values: dict[str, Value]
    points: dict[str, list[tuple[int, float]]] = {}


class UsageTools:
    """The tool for usage over time."""

    calls: ClassVar[Calls] = {
        "show_usage": (
            *(*methods.PLACES, *methods.guest("GET /rrddata")),
            *("GET /nodes/{node}/rrddata", "GET /nodes/{node}/storage/{storage}/rrddata"),
        ),
    }
    needs: ClassVar[Needs] = {"show_usage": methods.on(methods.STORAGE, "Datastore.Audit")}

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def show_usage(self, call: Call, p: ShowUsage) -> Usage:  # noqa: ARG002 - every tool has a call
        """Show how much a guest, a node or a storage has used over time: least, mean, most and last of each value."""
        path, title = await self._path(p)
        entries: list[Entry] = await self.proxmox.get(f"{path}/rrddata", timeframe=p.period, cf="AVERAGE") or []
        return _usage(title, entries, p.points)

    async def _path(self, p: ShowUsage) -> tuple[str, str]:
        if p.vmid is not None:
            if p.node or p.storage:
                raise Rejected("vmid: a guest is found by itself; leave node and storage out")
            at = await self.inventory.find(p.vmid)
            return at.path, at.title
        if p.node is None:
            raise Rejected("node: name a guest by its vmid, a node, or a storage with the node that sees it")
        if p.storage is not None:
            return f"/nodes/{p.node}/storage/{p.storage}", f"storage {p.storage} as {p.node} sees it"
        return f"/nodes/{p.node}", f"node {p.node}"


def _usage(title: str, entries: list[Entry], points: list[str]) -> Usage:
    """Return what the points of a table come to; a point without a value is none."""
    entries = sorted(entries, key=lambda entry: int(entry.get("time") or 0))
    series = {
        one_line(name): [(int(e["time"]), float(e[name])) for e in entries if e.get(name) is not None]
        for name in SHOWN
        if any(entry.get(name) is not None for entry in entries)
    }
    if unknown := sorted(set(points) - set(series)):
        raise Rejected(f"points: there is no {unknown[0]!r}; there are {', '.join(series) or 'none'}")
    times = [datetime.fromtimestamp(int(entry["time"]), UTC) for entry in entries if entry.get("time")]
    return Usage(
        of=title,
        since=times[0] if times else None,
        until=times[-1] if times else None,
        samples=len(entries),
        values={name: _value([value for _, value in pairs]) for name, pairs in series.items()},
        points={name: series[name] for name in points},
    )


def _value(values: list[float]) -> Value:
    mean = sum(values) / len(values)
    return Value(*(round(number, 4) for number in (min(values), mean, max(values), values[-1])))
