"""Ceph: its health and what each warning means, its disks, and the flags that hold it still during maintenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from agentd.answers import one_line
from agentd.errors import AgentdError, NotFound
from agentd.messages import Target, Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, methods

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.methods import Calls, Needs

    Entry = dict[str, Any]

STATUS: Final = "/cluster/ceph/status"
FLAGS: Final = "/cluster/ceph/flags"
ABSENT: Final = ("not installed", "not initialized", "rados_connect failed", "no such file", "got timeout")
Flag = Literal[
    "nobackfill", "nodeep-scrub", "nodown", "noin", "noout", "norebalance", "norecover", "noscrub", "notieragent",
    "noup", "pause",
]  # fmt: skip


class CephStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How Ceph stands: sizes in bytes, groups of placement by their state; `installed` is false where there is none."""

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
    """A disk of Ceph: used in percent."""

    id: int
    node: str
    up: bool
    in_: bool = msgspec.field(name="in")
    device_class: str
    used: float


class Osds(msgspec.Struct, frozen=True):
    """The disks of Ceph, those that are down or out first."""

    total: int
    osds: list[Osd]


class OnNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node that Ceph runs on."""

    node: fields.Node


class SetFlag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which flag, and whether it is to be set."""

    flag: Flag
    value: bool


class Flags(msgspec.Struct, frozen=True):
    """The flags that are set."""

    flags: list[str]


class Ceph:
    """The tools for Ceph."""

    calls: ClassVar[Calls] = {
        "ceph_status": (f"GET {STATUS}", f"GET {FLAGS}"),
        "list_osds": ("GET /nodes/{node}/ceph/osd",),
        "set_ceph_flag": (f"GET {FLAGS}", f"PUT {FLAGS}/{{flag}}"),
    }
    needs: ClassVar[Needs] = {each: methods.on("/", "Sys.Audit") for each in calls}

    def __init__(self, inventory: Inventory) -> None:
        """Keep where the cluster is reached."""
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def ceph_status(self, call: Call, p: fields.NoParameters) -> CephStatus:  # noqa: ARG002 - every tool has a call
        """Show how Ceph stands, each of its warnings in words, and the flags that are set."""
        try:
            data = await self.proxmox.get(STATUS)
        except AgentdError as error:
            if any(each in str(error) for each in ABSENT):
                return CephStatus(installed=False)
            raise
        return _status(data or {}, await self._flags())

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_osds(self, call: Call, p: OnNode) -> Osds:  # noqa: ARG002
        """List the disks of Ceph with the node that each is in, those that are down or out first."""
        data = await self.proxmox.get(f"/nodes/{p.node}/ceph/osd") or {}
        found = sorted(_osds(data.get("root") or {}, ""), key=lambda each: (each.up and each.in_, each.id))
        return Osds(len(found), found)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def set_ceph_flag(self, call: Call, p: SetFlag) -> Flags:
        """Set or clear a flag of Ceph: `noout` lets a node be away for a while without its data being moved."""
        call.target(Target("ceph/flags", "flags of Ceph"))

        async def seen() -> Found | None:
            if (p.flag in await self._flags()) is p.value:
                return Found()
            call.inverse("set_ceph_flag", {"flag": p.flag, "value": not p.value})
            return None

        async def act() -> None:
            await self.proxmox.put(f"{FLAGS}/{p.flag}", value=p.value)

        await call.once(seen, act)
        flags = await self._flags()
        if (p.flag in flags) is not p.value:
            raise NotFound(f"Proxmox says that it was done, and the flag {p.flag} is not so: {flags}")
        return Flags(flags)

    async def _flags(self) -> list[str]:
        entries = await self.proxmox.get(FLAGS) or []
        return sorted(one_line(each["name"]) for each in entries if int(each.get("value") or 0))


def _status(data: Entry, flags: list[str]) -> CephStatus:
    health, osds, pgs = (data.get(key) or {} for key in ("health", "osdmap", "pgmap"))
    checks = [
        f"{name}: {one_line((each.get('summary') or {}).get('message') or each.get('severity') or '')}"
        for name, each in sorted((health.get("checks") or {}).items())
    ]
    osds = osds.get("osdmap") or osds  # older versions nest it once more
    return CephStatus(
        installed=True,
        health=one_line(health.get("status") or "unknown"),
        checks=checks,
        osds=int(osds.get("num_osds") or 0),
        osds_up=int(osds.get("num_up_osds") or 0),
        osds_in=int(osds.get("num_in_osds") or 0),
        monitors=[one_line(each) for each in data.get("quorum_names") or []],
        total=int(pgs.get("bytes_total") or 0),
        used=int(pgs.get("bytes_used") or 0),
        groups={one_line(e["state_name"]): int(e.get("count") or 0) for e in pgs.get("pgs_by_state") or []},
        flags=flags,
    )


def _osds(entry: Entry, node: str) -> list[Osd]:
    """Return the disks below an entry of Ceph's tree."""
    node = one_line(entry.get("name") or "") if entry.get("type") == "host" else node
    found = [each for child in entry.get("children") or [] for each in _osds(child, node)]
    if entry.get("type") == "osd":
        used = round(float(entry.get("percent_used") or 0), 1)
        kind = one_line(entry.get("device_class") or "")
        up, inside = entry.get("status") == "up", bool(int(entry.get("in") or 0))
        found.append(Osd(int(entry["id"]), node, up, inside, kind, used))
    return found
