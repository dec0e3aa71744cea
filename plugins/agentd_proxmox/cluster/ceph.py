"""Ceph: its health and warnings, its disks, and the flags for maintenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import AgentdError, Call, Found, NotFound, Raise, Rejected, Repeat, Target, Tier, one_line, tool
from agentd_proxmox import area, blind_token, changes
from agentd_proxmox.model import convert, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

STATUS: Final = "/cluster/ceph/status"
FLAGS: Final = "/cluster/ceph/flags"
ABSENT: Final = ("not installed", "not initialized", "no such file")
"""Error texts of a node without Ceph.  If the monitors are down, a node does not answer at all, which does not mean
that Ceph is absent."""
SAFE: Final = 2
"""With fewer copies than this, a failed disk loses data."""
Flag = Literal[
    "nobackfill", "nodeep-scrub", "nodown", "noin", "noout", "norebalance", "norecover", "noscrub", "notieragent",
    "noup", "pause",
]  # fmt: skip


HARMLESS: Final = frozenset({"noout", "norebalance", "noscrub", "nodeep-scrub"})
"""Flags for maintenance that do not keep Ceph from reading or repairing data."""
SERIOUS: Final = Raise(
    Tier.DESTROY,
    "any flag but noout, norebalance, noscrub and nodeep-scrub",
    lambda parameters: str(parameters.get("flag")) not in HARMLESS,
)


class CephStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The status of Ceph; sizes in bytes.

    installed  false if there is no Ceph
    groups     number of placement groups in each state
    """

    installed: bool
    health: str = ""
    checks: list[str] = []
    osds: int = 0
    osds_up: int = 0
    osds_in: int = 0
    monitors: list[str] = []
    total: int = 0
    used: int = 0
    groups: dict[str, int] = {}
    flags: list[str] = []


class Osd(msgspec.Struct, frozen=True):
    """An OSD, which is a disk of Ceph; `used` is in percent."""

    id: int
    node: str
    up: bool
    in_: bool = msgspec.field(name="in")
    device_class: str
    used: float


class Osds(msgspec.Struct, frozen=True):
    """The OSDs, those that are down or out first."""

    total: int
    osds: list[Osd]


class OnNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node that runs Ceph."""

    node: fields.Node


class MoveOsdData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The OSD by its number, the node that it is in, and the direction.

    through  the node that gets the request; omitted: the node of the OSD
    """

    osd: Annotated[int, Meta(ge=0, le=100_000)]
    host: fields.Node
    data: Literal["in", "out"]
    through: fields.Node | None = None


class CephPool(msgspec.Struct, frozen=True):
    """A pool: data has `size` copies, and is served while `min_size` of them exist."""

    name: str
    type: str
    size: int
    min_size: int
    groups: int
    used: float


class Monitor(msgspec.Struct, frozen=True):
    """A monitor, and whether it is in the quorum."""

    name: str
    host: str
    address: str
    quorum: bool


class CephPools(msgspec.Struct, frozen=True):
    """The pools, the fullest first, and the monitors, those out of the quorum first.

    The use of a pool is in percent.
    """

    pools: list[CephPool]
    monitors: list[Monitor]


class SetCephFlag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The flag, and whether to set or to clear it."""

    flag: Flag
    value: bool


class Flags(msgspec.Struct, frozen=True):
    """The flags that are set."""

    flags: list[str]


class Ceph(area.Area):
    """The tools for Ceph."""

    shown_to: ClassVar[area.ShownTo] = {"list_osds": blind_token.NODES, "list_ceph_pools": blind_token.NODES}
    needs: ClassVar[area.Needs] = {area.EVERY: area.with_path("/", "Sys.Audit")}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_ceph_status(self, call: Call, p: fields.NoParameters) -> CephStatus:  # noqa: ARG002 - every tool has a call
        """Show the health of Ceph, each of its warnings, and the flags that are set."""
        try:
            data = await self.proxmox.get(STATUS)
        except AgentdError as error:
            if any(text in str(error) for text in ABSENT):
                return CephStatus(installed=False)
            raise
        return _status(data or {}, await self._flags())

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_osds(self, call: Call, p: OnNode) -> Osds:
        """List the OSDs (disks) of Ceph with their nodes, those down or out first."""
        found = sorted(await self._tree(p.node), key=lambda osd: (osd.up and osd.in_, osd.id))
        return Osds(len(found), found)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_ceph_pools(self, call: Call, p: OnNode) -> CephPools:
        """List the pools and monitors of Ceph.

        It warns of pools that keep or write fewer than two copies, and of monitors that are not in the quorum.
        """
        pools = [_pool(entry) for entry in await self.proxmox.get(f"/nodes/{p.node}/ceph/pool") or []]
        monitors = [_monitor(entry) for entry in await self.proxmox.get(f"/nodes/{p.node}/ceph/mon") or []]
        for pool in pools:
            if pool.type == "replicated" and min(pool.size, pool.min_size) < SAFE:
                call.warn(
                    f"pool {pool.name} keeps {pool.size} copies and writes with {pool.min_size}: it may lose data"
                )
        for monitor in monitors:
            if not monitor.quorum:
                call.warn(f"monitor {monitor.name} on {monitor.host} is not in the quorum")
        pools.sort(key=lambda pool: -pool.used)
        return CephPools(pools, sorted(monitors, key=lambda monitor: (monitor.quorum, monitor.name)))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def move_osd_data(self, call: Call, p: MoveOsdData) -> Osd:
        """Take an OSD (disk of Ceph) out, so that its data moves to others, or in again.

        Taking it out is refused while data lacks copies.
        """
        node = p.through or p.host

        async def plan() -> changes.Planned:
            now = await self._osd(node, p)
            if now.in_ is (p.data == "in"):
                return Found()
            status = _status(await self.proxmox.get(STATUS) or {}, [])
            unclean = [f"{count} {state}" for state, count in status.groups.items() if "active+clean" not in state]
            if p.data == "out" and unclean:
                raise Rejected(f"osd: not all data has all its copies now ({', '.join(unclean)}): nothing was done")
            call.inverse("move_osd_data", {**msgspec.structs.asdict(p), "data": "out" if p.data == "in" else "in"})
            full = (
                f"{100 * status.used / status.total:.0f} % of Ceph is used" if status.total else "how full is unknown"
            )
            loses = [f"data is moved until osd.{p.osd} is {p.data}"]
            risks = [f"{now.used} % of it is used", full]
            state = {"up": now.up, "in": now.in_}
            call.target(Target(f"osd/{p.osd}", f"osd.{p.osd} on {p.host}", state, [f"node/{p.host}"], loses, risks))
            return lambda: self.proxmox.post(f"/nodes/{node}/ceph/osd/{p.osd}/{p.data}")

        await changes.change(call, plan)
        return await self._osd(node, p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management", raises=(SERIOUS,))
    async def set_ceph_flag(self, call: Call, p: SetCephFlag) -> Flags:
        """Set or clear a flag of Ceph.

        With `noout` a node can be down for a while without its data being moved.
        """
        call.target(Target("ceph/flags", "flags of Ceph"))

        async def plan() -> changes.Planned:
            if (p.flag in await self._flags()) is p.value:
                return Found()
            call.inverse("set_ceph_flag", {"flag": p.flag, "value": not p.value})
            return lambda: self.proxmox.put(f"{FLAGS}/{p.flag}", value=p.value)

        await changes.change(call, plan)
        flags = await self._flags()
        if (p.flag in flags) is not p.value:
            raise NotFound(f"Proxmox reports success, but the flag {p.flag} is not set as requested: {flags}")
        return Flags(flags)

    async def _tree(self, node: str) -> list[Osd]:
        data = await self.proxmox.get(f"/nodes/{node}/ceph/osd") or {}
        return _osds(data.get("root") or {}, "")

    async def _osd(self, node: str, p: MoveOsdData) -> Osd:
        """Return the OSD; raise NotFound, or Rejected if it is in another node."""
        found = next((osd for osd in await self._tree(node) if osd.id == p.osd), None)
        if found is None:
            raise NotFound(f"osd: there is no osd.{p.osd}; list_osds shows which there are")
        if found.node != p.host:
            raise Rejected(f"host: osd.{p.osd} is in {found.node}, not in {p.host}: list_osds again")
        return found

    async def _flags(self) -> list[str]:
        entries = await self.proxmox.get(FLAGS) or []
        return sorted(one_line(entry["name"]) for entry in entries if int(entry.get("value") or 0))


def _status(data: Entry, flags: list[str]) -> CephStatus:
    health, osds, pgs = (data.get(key) or {} for key in ("health", "osdmap", "pgmap"))
    checks = [
        f"{name}: {one_line((check.get('summary') or {}).get('message') or check.get('severity') or '')}"
        for name, check in sorted((health.get("checks") or {}).items())
    ]
    osds = osds.get("osdmap") or osds  # older versions nest it one level deeper
    return CephStatus(
        installed=True,
        health=one_line(health.get("status") or "unknown"),
        checks=checks,
        osds=int(osds.get("num_osds") or 0),
        osds_up=int(osds.get("num_up_osds") or 0),
        osds_in=int(osds.get("num_in_osds") or 0),
        monitors=[one_line(name) for name in data.get("quorum_names") or []],
        total=int(pgs.get("bytes_total") or 0),
        used=int(pgs.get("bytes_used") or 0),
        groups={one_line(e["state_name"]): int(e.get("count") or 0) for e in pgs.get("pgs_by_state") or []},
        flags=flags,
    )


def _pool(entry: Entry) -> CephPool:
    used = round(100 * float(entry.get("percent_used") or 0), 1)  # a fraction of 1; that of an OSD is percent
    return convert.entry(CephPool, entry, {"groups": "pg_num"}, name=one_line(entry["pool_name"]), used=used)


def _monitor(entry: Entry) -> Monitor:
    return convert.entry(Monitor, entry, {"address": "addr"})


def _osds(entry: Entry, node: str) -> list[Osd]:
    """Return the OSDs below an entry of Ceph's tree."""
    node = one_line(entry.get("name") or "") if entry.get("type") == "host" else node
    found = [osd for child in entry.get("children") or [] for osd in _osds(child, node)]
    if entry.get("type") == "osd":
        used = round(float(entry.get("percent_used") or 0), 1)
        kind = one_line(entry.get("device_class") or "")
        up, inside = entry.get("status") == "up", bool(int(entry.get("in") or 0))
        found.append(Osd(int(entry["id"]), node, up, inside, kind, used))
    return found
