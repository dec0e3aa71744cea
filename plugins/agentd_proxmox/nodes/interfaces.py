"""Network interfaces of a node; changes wait in a file until they are applied.

A change can be viewed and dropped for as long as it waits. Applying changes can cut the node off, and dropping them
loses what another person has prepared: both show the difference line by line. All tools that change something are of
tier `destroy`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, TaskFailed, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import convert, fields, pages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Entry = dict[str, Any]

Interface = formats.Interface
Cidr = formats.Cidr4
Cidr6 = formats.Cidr6
Address = formats.Ip4
BondMode = Literal["active-backup", "802.3ad", "balance-rr", "balance-xor", "balance-alb", "balance-tlb", "broadcast"]
Address6 = formats.Ip6


class InterfaceLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An interface; ports: of a bridge; members: of a bond."""

    iface: str
    type: str
    active: bool = False
    autostart: bool = False
    cidr: str = ""
    gateway: str = ""
    cidr6: str = ""
    gateway6: str = ""
    ports: str = ""
    members: str = ""
    vlan_aware: bool = False
    comment: str = ""


class Interfaces(msgspec.Struct, frozen=True):
    """The interfaces of a node; `pending` are the changes not yet applied, as a diff.

    digest of the pending changes; apply_network and revert_network refuse any other
    """

    node: str
    interfaces: list[InterfaceLine]
    pending: list[str]
    digest: str


class SetInterface(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The interface as it is to be; of an existing one, what is left out stays.

    ports     of a bridge: the interfaces connected to it
    members   of a bond: its interfaces; mode: how the bond shares them
    parent    of a VLAN: the interface it runs on; its number is the end of its name (vmbr0.20)
    without   settings to remove
    """

    node: fields.Node
    iface: Interface
    type: Literal["bridge", "bond", "vlan", "eth"]
    cidr: Cidr | None = None
    gateway: Address | None = None
    cidr6: Cidr6 | None = None
    gateway6: Address6 | None = None
    ports: list[Interface] | None = None
    members: list[Interface] | None = None
    mode: BondMode | None = None
    parent: Interface | None = None
    vlan_aware: bool | None = None
    mtu: Annotated[int, Meta(ge=1280, le=65_520)] | None = None
    comment: formats.OneLine | None = None
    autostart: bool | None = None
    without: list[Literal["cidr", "gateway", "cidr6", "gateway6", "mtu", "comment"]] = []


class DeleteInterface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The interface and its node."""

    node: fields.Node
    iface: Interface


class Apply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node, and the digest of its pending changes (see list_interfaces)."""

    node: fields.Node
    digest: str


class NodeNetwork(area.Area):
    """The tools for the network interfaces of a node."""

    shown_to: ClassVar[area.ShownTo] = {"list_interfaces": blind_token.NODES}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def list_interfaces(self, call: Call, p: fields.NodeSelector) -> Interfaces:
        """List the interfaces of a node as they will be, and the pending changes."""
        return await self._read(p.node)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def set_interface(self, call: Call, p: SetInterface) -> Interfaces:
        """Create a bridge, bond or VLAN on a node, or change an interface.

        The change is pending until apply_network.
        """
        call.target(Target(f"interface/{p.node}/{p.iface}", f"{p.iface} of {p.node}", labels=[f"node/{p.node}"]))
        sent, removed = _sent(p), _removed_settings(p)

        async def plan() -> changes.Planned:
            now = await self._one(p.node, p.iface)
            if now is not None:
                _fits(p, now)
                same = all(_same(now, key, value) for key, value in sent.items() if key != "type")
                if same and not any(now.get(key) for key in removed):
                    return Found()
                targets.set_undo(call, "set_interface", SetInterface, _restore_parameters(p.node, now))
                # Proxmox removes addresses that are not sent.
                settings = {key: value for key, value in now.items() if key in KEPT and key not in removed}
                settings |= sent | {"type": now["type"], "delete": ",".join(removed) or None}
                return lambda: self.proxmox.put(f"/nodes/{p.node}/network/{p.iface}", **settings)
            if p.type == "eth":
                raise NotFound(f"iface: {p.node} has no network card {p.iface!r}")
            call.inverse("delete_interface", {"node": p.node, "iface": p.iface})
            return lambda: self.proxmox.post(f"/nodes/{p.node}/network", iface=p.iface, **({"autostart": True} | sent))

        await changes.change(call, plan)
        return await self._settled(p.node)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def delete_interface(self, call: Call, p: DeleteInterface) -> Interfaces:
        """Remove an interface from a node's configuration.

        The interface exists until apply_network.
        """

        async def plan() -> changes.Planned:
            now = await self._one(p.node, p.iface)
            if now is None:
                return Found()
            users = await self._users(p.node, p.iface)
            if users:
                raise Rejected(f"{p.iface} of {p.node} is used by {', '.join(users)}: change that first")
            lines = [f"{key} {one_line(now[key])}" for key in ("cidr", "bridge_ports", "slaves") if now.get(key)]
            name, title = f"interface/{p.node}/{p.iface}", f"{p.iface} of {p.node} ({now.get('type')})"
            # set_interface cannot restore other settings than these.
            if set(now) <= KNOWN and now.get("bridge_stp") != "on":
                targets.set_undo(call, "set_interface", SetInterface, _restore_parameters(p.node, now))
            call.target(Target(name, title, {"is": lines}, [f"node/{p.node}"], lines))
            return lambda: self.proxmox.delete(f"/nodes/{p.node}/network/{p.iface}")

        await changes.change(call, plan)
        return await self._settled(p.node)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def apply_network(self, call: Call, p: Apply) -> Interfaces:
        """Apply a node's pending network changes; a mistake can cut the node off."""

        async def plan() -> changes.Planned:
            if running := await targets.running_tasks(self.inventory, p.node, {"srvreload"}, "networking"):
                return Found(running[0].text)
            return await self._waiting(call, p, "put in force", self.proxmox.put)

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:  # a reload of the network can end its own task
            now = await self._read(p.node)
            if now.pending:
                raise
            call.warn(f"{error}; but nothing waits any more on {p.node}")
            return now
        return await self._read(p.node)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def revert_network(self, call: Call, p: Apply) -> Interfaces:
        """Drop a node's pending network changes; the interfaces stay as they are."""
        await changes.change(call, lambda: self._waiting(call, p, "dropped", self.proxmox.delete))
        return await self._read(p.node)

    async def _waiting(
        self, call: Call, p: Apply, becomes: str, send: Callable[[str], Awaitable[object]]
    ) -> changes.Planned:
        """Declare the pending changes as the target of the call."""
        now = await self._read(p.node)
        if not now.pending:
            return Found()
        if now.digest != p.digest:
            raise Rejected(f"digest: what waits on {p.node} is not what was read (now {now.digest}); read it again")
        lines = [line for line in now.pending if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
        title = f"network of {p.node}: {len(lines)} lines are {becomes}"
        call.target(Target(f"network/{p.node}", title, {"pending": now.digest}, [f"node/{p.node}"], lines))
        return lambda: send(f"/nodes/{p.node}/network")

    async def _read(self, node: str) -> Interfaces:
        answer = await self.proxmox.whole(f"/nodes/{node}/network")
        lines = sorted((_line(entry) for entry in answer.get("data") or []), key=lambda line: line.iface)
        pending = [one_line(line) for line in str(answer.get("changes") or "").splitlines()]
        return Interfaces(node, lines, pending, pages.digest(pending) if pending else "")

    async def _settled(self, node: str) -> Interfaces:
        """Return the interfaces; drop a file of changes that differs only in blanks.

        Proxmox keeps that file after a change was undone, and therefore reports pending changes.
        """
        now = await self._read(node)
        if not now.pending or _differs(now.pending):
            return now
        await self.proxmox.delete(f"/nodes/{node}/network")
        return await self._read(node)

    async def _entries(self, node: str) -> list[Entry]:
        return await self.proxmox.get(f"/nodes/{node}/network") or []

    async def _one(self, node: str, iface: str) -> Entry | None:
        return next((entry for entry in await self._entries(node) if entry.get("iface") == iface), None)

    async def _users(self, node: str, iface: str) -> list[str]:
        """Return the interfaces that use `iface`."""
        found = []
        for entry in await self._entries(node):
            used = (
                f"{entry.get('bridge_ports') or ''} {entry.get('slaves') or ''} {entry.get('vlan-raw-device') or ''} "
            )
            used += f"{entry.get('ovs_ports') or ''} {entry.get('ovs_bonds') or ''}"
            if iface in used.split() or str(entry.get("iface")).startswith(f"{iface}."):
                found.append(one_line(entry["iface"]))
        return found


def _differs(pending: list[str]) -> bool:
    """Return whether a diff changes more than blanks, compared block by block."""
    for changed, lines in itertools.groupby(pending, lambda line: line[:1] in {"+", "-"}):
        block = [line for line in lines if line[:3] not in {"+++", "---"}]
        old, new = ([" ".join(e[1:].split()) for e in block if e[:1] == sign and e[1:].strip()] for sign in "-+")
        if changed and old != new:
            return True
    return False


KEPT: Final = (
    *("type", "cidr", "gateway", "cidr6", "gateway6", "autostart", "bridge_ports", "bridge_vlan_aware", "bridge_vids"),
    *("ovs_bonds", "ovs_bridge", "ovs_options", "ovs_ports", "ovs_tag", "comments6"),
    *("slaves", "bond_mode", "bond-primary", "bond_xmit_hash_policy", "vlan-id", "vlan-raw-device", "mtu", "comments"),
)
"""The settings of an interface that are sent along with every change."""


TEXTS: Final = {
    "cidr": "cidr", "gateway": "gateway", "cidr6": "cidr6", "gateway6": "gateway6", "comment": "comments",
    "mode": "bond_mode", "parent": "vlan-raw-device",
}  # fmt: skip
LISTS: Final = {"ports": "bridge_ports", "members": "slaves"}
KNOWN: Final = frozenset(
    {
        *(*TEXTS.values(), *LISTS.values(), "iface", "type", "autostart", "mtu", "bridge_vlan_aware", "vlan-id"),
        *("active", "exists", "priority", "families", "altnames", "bridge_stp", "bridge_fd"),
        *("method", "address", "netmask", "method6", "address6", "netmask6"),
    }
)
"""The settings of an interface that set_interface can set, and what else Proxmox returns."""


def _sent(p: SetInterface) -> Entry:
    if p.type == "bond" and p.members is not None and not p.members:
        raise Rejected("members: a bond has at least one interface")
    conflicts = [name for name in p.without if getattr(p, name) is not None]
    if conflicts:
        raise Rejected(f"without: {conflicts[0]} is given as well; give one of the two")
    settings = {
        "type": p.type,
        "cidr": p.cidr,
        "gateway": p.gateway,
        "cidr6": p.cidr6,
        "gateway6": p.gateway6,
        "bridge_ports": " ".join(p.ports or []) or None,
        "slaves": None if p.members is None else " ".join(p.members),
        "bond_mode": p.mode,
        "vlan-raw-device": p.parent,
        "bridge_vlan_aware": p.vlan_aware,
        "mtu": p.mtu,
        "comments": p.comment,
        "autostart": p.autostart,
    }
    return {key: value for key, value in settings.items() if value is not None}


def _restore_parameters(node: str, now: Entry) -> Entry:
    """Return the parameters of set_interface that restore the present interface."""
    kind = str(now.get("type")).removeprefix("OVS")
    text = {name: one_line(now[key]) for name, key in TEXTS.items() if now.get(key)}
    lists = {name: str(now[key]).split() for name, key in LISTS.items() if now.get(key)}
    switches = {"autostart": convert.flag(now.get("autostart"))}
    if kind == "bridge" and not str(now.get("type")).startswith("OVS"):
        switches["vlan_aware"] = convert.flag(now.get("bridge_vlan_aware"))
        lists.setdefault("ports", [])
    mtu = {"mtu": int(now["mtu"])} if now.get("mtu") else {}
    without = [name for name in ("cidr", "gateway", "cidr6", "gateway6", "comment") if name not in text]
    named = {"node": node, "iface": now["iface"], "type": kind.lower() if kind != "eth" else kind}
    return named | text | lists | switches | mtu | {"without": without + ["mtu"] * (not mtu)}


def _removed_settings(p: SetInterface) -> list[str]:
    """Return the settings to remove, by their Proxmox names.

    A gateway is removed with its address.
    """
    removed = {"comments" if name == "comment" else name for name in p.without}
    removed |= {"bridge_ports"} if p.ports == [] else set()
    removed |= {
        f"gateway{family}" for family in ("", "6") if f"cidr{family}" in removed and not getattr(p, f"gateway{family}")
    }
    return sorted(removed)


def _fits(p: SetInterface, now: Entry) -> None:
    """Refuse to change the type of an interface.

    Also refuses settings that an interface of Open vSwitch does not have.
    """
    kind = str(now.get("type"))
    if kind not in {p.type, f"OVS{p.type.capitalize()}"}:
        raise Rejected(f"type: {p.iface} of {p.node} is of type {kind}: delete_interface first")
    given = [name for name in ("ports", "members", "mode", "parent", "vlan_aware") if getattr(p, name) is not None]
    if kind.startswith("OVS") and given:
        raise Rejected(f"{given[0]}: {p.iface} of {p.node} belongs to Open vSwitch; change that by api_call")


def _same(entry: Entry, key: str, value: object) -> bool:
    plain = int(value) if isinstance(value, bool) else value
    return str(entry.get(key) or (0 if isinstance(value, bool) else "")).strip() == str(plain)


def _line(entry: Entry) -> InterfaceLine:
    return convert.entry(
        InterfaceLine,
        entry,
        {"vlan_aware": "bridge_vlan_aware", "comment": "comments"},
        iface=one_line(entry["iface"]),
        type=convert.text(entry.get("type"), "unknown"),
        ports=convert.text(entry.get("bridge_ports") or entry.get("ovs_ports")),
        members=convert.text(entry.get("slaves") or entry.get("ovs_bonds")),
    )
