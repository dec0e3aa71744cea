"""Usage of nodes, guests and storages over time, summarized in a few numbers.

Proxmox keeps averages: 70 points for each of an hour, a day, a week, a month and a year.  A person or a model mostly
needs the minimum, the mean, the maximum and the last of them, not the table.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from agentd import Call, Rejected, Repeat, Tier, one_line, tool
from agentd_proxmox import area, blind_token
from agentd_proxmox.model import fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

SHOWN: Final = (
    *("cpu", "iowait", "loadavg", "mem", "memused", "maxmem", "memtotal", "swapused", "rootused", "roottotal"),
    *("netin", "netout", "diskread", "diskwrite", "disk", "maxdisk", "used", "total"),
)


class GetUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A guest, a node, or a storage of a node, and the period.

    points  values of which every point is returned too
    """

    vmid: fields.Vmid | None = None
    node: fields.Node | None = None
    storage: fields.Storage | None = None
    period: Literal["hour", "day", "week", "month", "year"] = "hour"
    points: list[str] = []


class Value(msgspec.Struct, frozen=True):
    """A value over time: its minimum, mean, maximum and last point.

    cpu is a fraction of all cores (0 to 1), memory and disk are in bytes, traffic is in bytes per second.
    """

    least: float
    mean: float
    most: float
    last: float


class Usage(msgspec.Struct, frozen=True):
    """The usage, by value.

    points  [time, value] pairs of the values that were requested
    """

    of: str
    since: datetime | None
    until: datetime | None
    samples: int
    values: dict[str, Value]
    points: dict[str, list[tuple[int, float]]] = {}


class UsageTools(area.Area):
    """The tool for usage over time."""

    shown_to: ClassVar[area.ShownTo] = {"get_usage": blind_token.CLUSTER}
    needs: ClassVar[area.Needs] = {"get_usage": area.with_path(area.STORAGE, "Datastore.Audit")}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_usage(self, call: Call, p: GetUsage) -> Usage:
        """Show how much a guest, a node or a storage has used over time.

        The result has the minimum (least), mean, maximum (most) and last of each value.
        """
        path, title = await self._path(p)
        entries: list[Entry] = await self.proxmox.get(f"{path}/rrddata", timeframe=p.period, cf="AVERAGE") or []
        return _usage(title, entries, p.points)

    async def _path(self, p: GetUsage) -> tuple[str, str]:
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
    """Return the summary of a table of points; missing values are skipped."""
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
