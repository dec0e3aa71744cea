"""Network cards of guests, and the complete configuration of a guest.

A card is one option, `net0`, of many parts.  Parts that the caller does not give stay as they are, above all the MAC
address: it identifies the card to the system of the guest, and the guest to a DHCP server.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, Tier, formats, one_line, tool
from agentd_proxmox import api_tiers, area, changes, guest_writing
from agentd_proxmox.guests.creation.containers import Address, Address6, Gateway, Gateway6, gateways
from agentd_proxmox.guests.suspend import SECRET
from agentd_proxmox.model import fields, guest_model, option_strings
from agentd_proxmox.model.fields import GuestSelector

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

_LONGEST: Final = 2000

Card = formats.Card
Model = Literal[
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
]


class NicSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network card of a guest.

    digest: from get_guest; if the configuration has changed since, nothing is done
    """

    vmid: fields.Vmid
    card: Card
    digest: str = ""


class SetGuestNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wanted network card: an omitted part stays.

    A new card gets defaults and needs a bridge.

    tag: VLAN, 0 for none; rate: MB/s, 0 for no limit; connected: whether its cable is plugged
    model: for VMs; ip, gateway, ip6 and gateway6: for containers
    """

    vmid: fields.Vmid
    card: Card = "net0"
    bridge: fields.Bridge | None = None
    tag: Annotated[int, Meta(ge=0, le=4094)] | None = None
    firewall: bool | None = None
    connected: bool | None = None
    rate: Annotated[float, Meta(ge=0, le=10_240)] | None = None
    mac: formats.Mac | None = None
    model: Model | None = None
    ip: Address | None = None
    gateway: Gateway | None = None
    ip6: Address6 | None = None
    gateway6: Gateway6 | None = None
    digest: str = ""


class Configuration(msgspec.Struct, frozen=True):
    """All options of a guest in the form of Proxmox, with pending changes.

    Secrets are masked; texts are data.
    """

    vmid: int
    name: str
    node: str
    type: str
    digest: str
    options: dict[str, str]


class NicTools(area.Area):
    """Tools for network cards, and for the complete configuration."""

    needs: ClassVar[area.Needs] = {
        "set_guest_network": area.config_privileges("Network") | {area.BRIDGE},
        "delete_guest_network": area.config_privileges("Network"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def get_guest_config(self, call: Call, p: GuestSelector) -> Configuration:
        """Show all options of a VM or container in the form of Proxmox.

        get_guest is shorter and also shows the status.
        """
        at = await self.inventory.find(p.vmid, p.name)
        config = await self.inventory.config(at)
        digest = str(config.pop("digest", ""))
        options = {
            one_line(key): "***" if key in SECRET else one_line(value)[:_LONGEST]
            for key, value in sorted(config.items())
        }
        return Configuration(at.vmid, at.name, at.node, at.kind, digest, options)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", raises=(api_tiers.NETWORK,))
    async def set_guest_network(self, call: Call, p: SetGuestNetwork) -> fields.Guest:
        """Add or change a network card of a VM or container.

        It sets bridge, VLAN, firewall, cable, rate limit and addresses; a card keeps its MAC address.  A warning says
        what takes effect only at the next start.
        """
        gateways("set_guest_network", p.ip, p.gateway, p.ip6, p.gateway6)
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            changed = guest_model.changes(config, _wanted(at, p, config))
            if not changed:
                return Found()
            await guest_writing.bridge(self.inventory, at.node, p.bridge)
            if p.card in config:
                await guest_writing.record_undo(self.inventory, call, at, [p.card])
            else:
                call.inverse("delete_guest_network", {"vmid": at.vmid, "card": p.card})
            return lambda: guest_writing.change(self.inventory, call, at, p.digest, partial(_wanted, at, p))

        return await self._changed(call, at, p.card, await changes.change(call, plan))

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def delete_guest_network(self, call: Call, p: NicSelector) -> fields.Guest:
        """Remove a network card from a VM or container.

        set_guest_network with its MAC address adds it again.
        """
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            if p.card not in config:
                return Found()
            await guest_writing.record_undo(self.inventory, call, at, guest_writing.without(config, [p.card]))
            return lambda: guest_writing.change(self.inventory, call, at, p.digest, lambda _: {p.card: ""})

        return await self._changed(call, at, p.card, await changes.change(call, plan))

    async def _changed(self, call: Call, at: GuestLocation, card: str, found: Found) -> fields.Guest:
        await guest_writing.finish(self.inventory, call, at, found, [card, "boot"])
        live = await guest_writing.running_config(self.inventory, at)
        guest = await self.inventory.read(at)
        if one_line(live.get(card, "")) != guest.networks.get(card, ""):
            call.warn(f"{at.title} takes {card} on at its next start")
        return guest


def _wanted(at: GuestLocation, p: SetGuestNetwork, config: guest_model.Config) -> guest_model.Config:
    have = option_strings.card(config.get(p.card, ""))
    want = _merged(at, p, have)
    return {p.card: config[p.card] if want == have and p.card in config else _written(at, want)}


def _merged(at: GuestLocation, p: SetGuestNetwork, have: option_strings.Parts) -> option_strings.Parts:
    """Return the wanted parts.

    Raise Rejected for a part that this kind of guest does not have.
    """
    addresses = ("ip", "gateway", "ip6", "gateway6")
    own = ("model",) if at.kind == "qemu" else addresses
    unsupported = next(
        (name for name in ("model", *addresses) if name not in own and getattr(p, name) is not None), None
    )
    if unsupported:
        raise Rejected(f"{unsupported}: {at.title} has none in its network cards; leave it out; nothing was done")
    if not have and p.bridge is None:
        raise Rejected(f"bridge: {at.title} has no {p.card} yet, and a new one needs a bridge; nothing was done")
    usual = {"model": "virtio"} if at.kind == "qemu" else {"name": f"eth{p.card.removeprefix('net')}", "ip": "dhcp"}
    given = {
        "bridge": p.bridge,
        "tag": None if p.tag is None else str(p.tag or ""),
        "firewall": None if p.firewall is None else "1" * p.firewall,
        "link_down": None if p.connected is None else "1" * (not p.connected),
        "rate": None if p.rate is None else f"{p.rate:g}" * (p.rate > 0),
        "macaddr" if at.kind == "qemu" else "hwaddr": p.mac and p.mac.upper(),
        "model": p.model,
        "ip": p.ip,
        "gw": p.gateway,
        "ip6": p.ip6,
        "gw6": p.gateway6,
    }
    merged = (have or usual) | {key: value for key, value in given.items() if value is not None}
    for address, gateway, wanted in (("ip", "gw", p.ip), ("ip6", "gw6", p.ip6)):
        if wanted in {"dhcp", "manual", "auto"}:
            merged.pop(gateway, None)  # it belonged to the address that is removed
        if merged.get(gateway) and merged.get(address, "manual") in {"dhcp", "manual", "auto"}:
            name = f"gateway{address[2:]}"
            raise Rejected(f"{name}: it needs an address in {address}, and {p.card} of {at.title} has none")
    return {key: value for key, value in merged.items() if value}


def _written(at: GuestLocation, want: option_strings.Parts) -> str:
    rest = [f"{key}={value}" for key, value in want.items() if at.kind == "lxc" or key not in {"model", "macaddr"}]
    if at.kind == "lxc":
        return ",".join(rest)
    return ",".join(["=".join(filter(None, (want["model"], want.get("macaddr")))), *rest])
