"""Software-defined networks (SDN): zones, virtual networks and subnets.

As with a node's interfaces, a change is pending until it is applied on all nodes.  So creating and changing is of tier
`operate`; deleting, and applying the pending changes on all nodes, is of tier `destroy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import convert, fields, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]

SDN: Final = "/cluster/sdn"
Id = formats.SdnId
Network = formats.Cidr
Address = formats.Ip
Tag = Annotated[int, Meta(ge=1, le=16_777_215, description="VLAN or VXLAN number")]


class Zone(msgspec.Struct, frozen=True, omit_defaults=True):
    """A zone; pending: new, changed or deleted, until apply_sdn."""

    zone: str
    type: str
    bridge: str = ""
    peers: str = ""
    nodes: str = ""
    mtu: int = 0
    pending: str = ""


class Vnet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A virtual network with its subnets."""

    vnet: str
    zone: str
    tag: int = 0
    alias: str = ""
    vlan_aware: bool = False
    subnets: list[str] = []
    pending: str = ""


class Sdn(msgspec.Struct, frozen=True):
    """All zones and virtual networks, with the pending changes.

    digest  of the pending changes
    """

    zones: list[Zone]
    vnets: list[Vnet]
    pending: list[str]
    digest: str


class SetSdnZone(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the zone; an omitted one is kept.

    bridge   for type vlan
    peers    for type vxlan: the addresses of the nodes
    without  the settings to remove
    """

    zone: Id
    type: Literal["simple", "vlan", "vxlan"]
    bridge: fields.Bridge | None = None
    peers: list[Address] | None = None
    nodes: list[fields.Node] | None = None
    mtu: Annotated[int, Meta(ge=1280, le=65_520)] | None = None
    without: list[Literal["nodes", "mtu"]] = []


class SetSdnVnet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the virtual network; an omitted one is kept.

    Guests use the network as a bridge of that name.

    without  the settings to remove
    """

    vnet: Id
    zone: Id
    tag: Tag | None = None
    alias: formats.OneLine | None = None
    vlan_aware: bool | None = None
    without: list[Literal["tag", "alias"]] = []


class SetSdnSubnet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the subnet; an omitted one is kept.

    snat     the nodes translate the source addresses of outgoing traffic
    without  the settings to remove
    """

    vnet: Id
    subnet: Network
    gateway: Address | None = None
    snat: bool | None = None
    without: list[Literal["gateway"]] = []


class DeleteSdn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to delete; a subnet by its virtual network (`name`) and its `subnet`."""

    kind: Literal["zone", "vnet", "subnet"]
    name: Id
    subnet: Network | None = None


class ApplySdn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The digest of the pending changes (list_sdn)."""

    digest: str


class SdnTools(area.Area):
    """The tools for software-defined networks."""

    shown_to: ClassVar[area.ShownTo] = {"list_sdn": blind_token.NETS}
    needs: ClassVar[area.Needs] = {
        area.EVERY: area.with_path("/sdn/zones/{zone}", "SDN.Audit", "SDN.Allocate"),
        "list_sdn": area.with_path("/sdn/zones/{zone}", "SDN.Audit"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="network_management")
    async def list_sdn(self, call: Call, p: fields.NoParameters) -> Sdn:  # noqa: ARG002 - every tool has a call
        """List zones, virtual networks, their subnets, and the pending changes."""
        return await self._read()

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="network_management")
    async def set_sdn_zone(self, call: Call, p: SetSdnZone) -> Sdn:
        """Create or change a zone; the change is pending until apply_sdn."""
        if (p.type == "vlan") != (p.bridge is not None) or (p.type == "vxlan") != (p.peers is not None):
            raise Rejected("a zone of type vlan has a bridge, one of type vxlan has peers, one of type simple neither")
        sent: Entry = {
            "bridge": p.bridge,
            "peers": _joined_names(p.peers),
            "nodes": _joined_names(p.nodes),
            "mtu": p.mtu,
        }
        await self._set(call, "zone", p, sent, {"type": p.type})
        return await self._read()

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="network_management")
    async def set_sdn_vnet(self, call: Call, p: SetSdnVnet) -> Sdn:
        """Create or change a virtual network; the change is pending until apply_sdn."""
        if p.zone not in {zone.zone for zone in (await self._read()).zones if zone.pending != "deleted"}:
            raise NotFound(f"zone: there is no zone {p.zone!r}; set_sdn_zone makes one")
        sent: Entry = {"zone": p.zone, "tag": p.tag, "alias": p.alias, "vlanaware": p.vlan_aware}
        await self._set(call, "vnet", p, sent, {})
        return await self._read()

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="network_management")
    async def set_sdn_subnet(self, call: Call, p: SetSdnSubnet) -> Sdn:
        """Create or change a subnet; the change is pending until apply_sdn."""
        call.target(Target(f"sdn/{p.vnet}", f"virtual network {p.vnet}"))
        path = f"{SDN}/vnets/{p.vnet}/subnets"
        sent = {key: value for key, value in {"gateway": p.gateway, "snat": p.snat}.items() if value is not None}
        _check_not_both(p, sent)

        async def plan() -> changes.Planned:
            now = next((entry for entry in await self._kept(p.vnet) if _cidr(entry) == p.subnet), None)
            if now is None:
                call.inverse("delete_sdn", {"kind": "subnet", "name": p.vnet, "subnet": p.subnet})
                return lambda: self.proxmox.post(path, subnet=p.subnet, type="subnet", **sent)
            old = _effective(now)
            if _has_settings(old, sent) and not any(old.get(option) for option in p.without):
                return Found()
            targets.set_undo(call, *_restore_parameters("subnet", old | {"vnet": p.vnet, "subnet": p.subnet}))
            name = one_line(now["subnet"])
            return lambda: self.proxmox.put(f"{path}/{name}", **sent, delete=",".join(p.without) or None)

        await changes.change(call, plan)
        return await self._read()

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def delete_sdn(self, call: Call, p: DeleteSdn) -> Sdn:
        """Delete a zone, virtual network or subnet; it is in force until apply_sdn."""
        if (p.kind == "subnet") != (p.subnet is not None):
            raise Rejected("subnet: is for the kind subnet only")

        async def plan() -> changes.Planned:
            there, inside, path = await self._object_and_content(p)
            if not there:
                return Found()
            if inside:
                raise Rejected(f"{p.kind} {p.name} is not empty: {', '.join(inside)}; delete_sdn them first")
            title = f"{p.kind} {p.subnet or p.name} of the software-defined networks"
            state = {"is": pages.digest(there)}
            if set(there) <= KNOWN:  # otherwise it has settings that these tools cannot set
                targets.set_undo(call, *_restore_parameters(p.kind, there))
            call.target(Target(f"sdn/{p.name}", title, state, [], ["the network of the guests on it, after apply_sdn"]))
            return lambda: self.proxmox.delete(f"{SDN}/{path}")

        await changes.change(call, plan)
        return await self._read()

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="network_management")
    async def apply_sdn(self, call: Call, p: ApplySdn) -> Sdn:
        """Apply the pending changes of the software-defined networks on all nodes."""

        async def plan() -> changes.Planned:
            now = await self._read()
            if not now.pending:  # nothing is pending once apply is called, but nodes may still be working
                return Found(await self._applying())
            if now.digest != p.digest:
                raise Rejected(f"digest: what waits is not what was read (now {now.digest}); list_sdn again")
            title = f"software-defined networks of the cluster: {len(now.pending)} changes"
            call.target(Target("sdn/cluster", title, {"pending": now.digest}, [], now.pending))
            return lambda: self.proxmox.put(SDN)

        await self.inventory.finish(call, await changes.change(call, plan))
        return await self._read()

    async def _applying(self) -> str:
        """Return the UPID of our own apply task that runs on any node, or ""."""
        nodes = [str(node["node"]) for node in await self.inventory.resources("node") if node.get("status") == "online"]
        active = await self.inventory.active(nodes)
        ours = [e.text for e in active if e.type == "reloadnetworkall" and e.user == self.proxmox.user]
        return ours[0] if ours else ""

    async def _object_and_content(self, p: DeleteSdn) -> tuple[Entry, list[str], str]:
        """Return the object ({} if it does not exist), what is in it, and its API path."""
        if p.kind == "subnet":
            subnet = next((entry for entry in await self._kept(p.name) if _cidr(entry) == p.subnet), {})
            found = _effective(subnet) | {"vnet": p.name, "subnet": p.subnet} if subnet else {}
            return found, [], f"vnets/{p.name}/subnets/{subnet.get('subnet')}"
        there: Entry = next(
            (entry for entry in await self._list_objects(f"{p.kind}s") if entry.get(p.kind) == p.name), {}
        )
        if not there:
            return {}, [], ""
        if p.kind == "vnet":
            inside = sorted(_cidr(entry) for entry in await self._kept(p.name))
        else:
            inside = [
                one_line(entry["vnet"]) for entry in await self._list_objects("vnets") if entry.get("zone") == p.name
            ]
        return there, inside, f"{p.kind}s/{p.name}"

    async def _set(self, call: Call, key: str, p: SetSdnZone | SetSdnVnet, sent: Entry, first: Entry) -> None:
        """Create or change a zone or a virtual network."""
        path, name = f"{SDN}/{key}s", str(getattr(p, key))
        call.target(Target(f"sdn/{name}", f"{key} {name} of the software-defined networks"))
        settings = {option: value for option, value in sent.items() if value is not None}
        _check_not_both(p, settings)

        async def plan() -> changes.Planned:
            now = next((entry for entry in await self._list_objects(f"{key}s") if entry.get(key) == name), None)
            if now is None:
                call.inverse("delete_sdn", {"kind": key, "name": name})
                return lambda: self.proxmox.post(path, **{key: name}, **first, **settings)
            if first and now.get("type") != first["type"]:
                raise Rejected(f"type: {key} {name} is of type {now.get('type')}: delete_sdn it first")
            if _has_settings(now, settings) and not any(now.get(option) for option in p.without):
                return Found()
            targets.set_undo(call, *_restore_parameters(key, now))
            return lambda: self.proxmox.put(f"{path}/{name}", **settings, delete=",".join(p.without) or None)

        await changes.change(call, plan)

    async def _read(self) -> Sdn:
        zones = [_zone(zone) for zone in await self.proxmox.get(f"{SDN}/zones", pending=True) or []]
        vnets, waiting = [], [f"zone {zone.zone} ({zone.pending})" for zone in zones if zone.pending]
        for entry in await self.proxmox.get(f"{SDN}/vnets", pending=True) or []:
            subnets = await self._entries(entry["vnet"])
            vnets.append(_vnet(entry, sorted(_cidr(subnet) for subnet in subnets if subnet.get("state") != "deleted")))
            waiting += [f"virtual network {vnet.vnet} ({vnet.pending})" for vnet in vnets[-1:] if vnet.pending]
            waiting += [
                f"subnet {_cidr(subnet)} ({one_line(subnet['state'])})" for subnet in subnets if subnet.get("state")
            ]
        return Sdn(zones, vnets, waiting, pages.digest([waiting, zones, vnets]) if waiting else "")

    async def _entries(self, vnet: str) -> list[Entry]:
        return await self.proxmox.get(f"{SDN}/vnets/{vnet}/subnets", pending=True) or []

    async def _list_objects(self, kind: str) -> list[Entry]:
        """Return the zones or virtual networks with their pending changes."""
        entries: list[Entry] = await self.proxmox.get(f"{SDN}/{kind}", pending=True) or []
        return [_effective(entry) for entry in entries if entry.get("state") != "deleted"]

    async def _kept(self, vnet: str) -> list[Entry]:
        return [entry for entry in await self._entries(vnet) if entry.get("state") != "deleted"]


KNOWN: Final = frozenset(
    {
        *("zone", "type", "bridge", "peers", "nodes", "mtu", "vnet", "tag", "alias", "vlanaware", "subnet", "cidr"),
        *("gateway", "snat", "network", "mask", "state", "pending", "digest"),
    }
)
"""The settings of zones, networks and subnets that these tools can set, and what else Proxmox returns."""


def _restore_parameters(kind: str, entry: Entry) -> tuple[str, type[msgspec.Struct], Entry]:
    """Return how to restore a zone, a virtual network or a subnet.

    The answer is a tool, the type of its parameters, and their values.
    """
    name, parameters = _MAKES[kind]
    switches = {"vlan_aware": convert.flag(entry.get("vlanaware")), "snat": convert.flag(entry.get("snat"))}
    whole = (entry | switches).items()
    values = {key: value for key, value in whole if key in parameters.__struct_fields__ and value not in (None, "")}
    lists: Entry = {key: str(values[key]).split(",") for key in ("peers", "nodes") if key in values}
    numbers: Entry = {key: int(values[key]) for key in ("mtu", "tag") if key in values}
    return name, parameters, {**values, **lists, **numbers, "without": sorted(_MAY_LACK[kind] - set(values))}


def _check_not_both(p: SetSdnZone | SetSdnVnet | SetSdnSubnet, settings: Entry) -> None:
    """Reject a setting that is both set and removed."""
    if both := sorted(set(settings) & set(p.without)):
        raise Rejected(f"without: {both[0]} is given as well; give one of the two")


_MAKES: Final[dict[str, tuple[str, type[msgspec.Struct]]]] = {
    "zone": ("set_sdn_zone", SetSdnZone),
    "vnet": ("set_sdn_vnet", SetSdnVnet),
    "subnet": ("set_sdn_subnet", SetSdnSubnet),
}
_MAY_LACK: Final = {"zone": {"nodes", "mtu"}, "vnet": {"tag", "alias"}, "subnet": {"gateway"}}


def _joined_names(names: list[str] | None) -> str | None:
    return None if names is None else ",".join(names)


def _has_settings(entry: Entry, settings: Entry) -> bool:
    """Return whether an entry has these settings.

    To Proxmox, a setting that is off and one that is omitted are the same.
    """
    return all(str(entry.get(key) or 0) == str(_plain(value) or 0) for key, value in settings.items())


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def _effective(entry: Entry) -> Entry:
    """Return an entry with its pending changes.

    Proxmox returns them under `pending`, with `deleted` for a setting that is removed.
    """
    whole = entry | (entry.get("pending") or {})
    return {key: value for key, value in whole.items() if value != "deleted" or key == "state"}


def _cidr(entry: Entry) -> str:
    """Return the network of a subnet; its name in the API is `ZONE-ADDRESS-LENGTH`."""
    _, address, length = f"--{entry['subnet']}".rsplit("-", 2)
    return one_line(_effective(entry).get("cidr") or f"{address}/{length}")


def _zone(entry: Entry) -> Zone:
    data = _effective(entry)
    return convert.entry(Zone, data, zone=one_line(data["zone"]), pending=convert.text(entry.get("state")))


def _vnet(entry: Entry, subnets: list[str]) -> Vnet:
    data = _effective(entry)
    return convert.entry(
        Vnet,
        data,
        {"vlan_aware": "vlanaware"},
        vnet=one_line(data["vnet"]),
        subnets=subnets,
        pending=convert.text(entry.get("state")),
    )
