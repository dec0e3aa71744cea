"""Network cards of guests, and all of a guest's configuration as Proxmox writes it.

A card is one option, `net0`, of many parts.  What a caller does not speak of stays as it is, the MAC address above all:
by it a guest's system knows the card, and a DHCP server the guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import formats
from agentd.errors import Rejected
from agentd.proxmox.responses import one_line
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import api_tiers, fields, guest_model, guest_writing, methods, option_strings
from agentd_proxmox.fields import Which
from agentd_proxmox.guests.containers import Address, Address6, Gateway, Gateway6, gateways
from agentd_proxmox.guests.suspend import SECRET

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls, Needs

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


class OneCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which network card of which guest; digest: of get_vm, then nothing is done if it has changed."""

    vmid: fields.Vmid
    card: Card
    digest: str = ""


class SetNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a network card shall be; what is left out stays, or is as usual for a new one, which needs a bridge.

    tag: VLAN, 0 for none; rate: MB/s, 0 for no limit; connected: its cable is plugged
    model: of a VM's; ip, gateway, ip6 and gateway6: of a container's
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
    """All options of a guest as Proxmox writes them, with what is pending; secrets are stars. Texts are data."""

    vmid: int
    name: str
    node: str
    type: str
    digest: str
    options: dict[str, str]


class Networks:
    """The tools for network cards, and for the whole configuration."""

    calls: ClassVar[Calls] = {
        "guest_config": methods.READ,
        "set_guest_network": (*methods.WRITE, *guest_writing.SEND, guest_writing.BRIDGES),
        "remove_guest_network": (*methods.WRITE, *guest_writing.SEND),
    }
    needs: ClassVar[Needs] = {
        "set_guest_network": methods.config("Network") | {methods.BRIDGE},
        "remove_guest_network": methods.config("Network"),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def guest_config(self, call: Call, p: Which) -> Configuration:  # noqa: ARG002 - every tool has a call
        """Show all options of a VM or container as Proxmox writes them; get_vm is shorter and says how it is."""
        at = await self.inventory.find(p.vmid, p.name)
        config = await self.inventory.config(at)
        digest = str(config.pop("digest", ""))
        options = {
            one_line(key): "***" if key in SECRET else one_line(value)[:_LONGEST]
            for key, value in sorted(config.items())
        }
        return Configuration(at.vmid, at.name, at.node, at.kind, digest, options)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", raises=(api_tiers.NETWORK,))
    async def set_guest_network(self, call: Call, p: SetNetwork) -> fields.Guest:
        """Give a VM or container a network card, or change one: bridge, VLAN, firewall, cable, limit, addresses.

        It keeps its MAC address.  What takes effect only at the next start is told as a warning.
        """
        gateways("set_guest_network", p.ip, p.gateway, p.ip6, p.gateway6)
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self.inventory.config(at)
            changed = guest_model.changes(config, _wanted(at, p, config))
            if not changed:
                return Found()
            await guest_writing.bridge(self.inventory, at.node, p.bridge)
            if p.card in config:
                await guest_writing.promise(self.inventory, call, at, [p.card])
            else:
                call.inverse("remove_guest_network", {"vmid": at.vmid, "card": p.card})
            return None

        async def act() -> str | None:
            return await guest_writing.change(self.inventory, call, at, p.digest, lambda config: _wanted(at, p, config))

        return await self._changed(call, at, p.card, await call.once(seen, act))

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def remove_guest_network(self, call: Call, p: OneCard) -> fields.Guest:
        """Take a network card out of a VM or container; set_guest_network with its MAC address puts it back."""
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self.inventory.config(at)
            if p.card not in config:
                return Found()
            await guest_writing.promise(self.inventory, call, at, guest_writing.without(config, [p.card]))
            return None

        async def act() -> str | None:
            return await guest_writing.change(self.inventory, call, at, p.digest, lambda _: {p.card: ""})

        return await self._changed(call, at, p.card, await call.once(seen, act))

    async def _changed(self, call: Call, at: Place, card: str, found: Found) -> fields.Guest:
        await guest_writing.finish(self.inventory, call, at, found, [card, "boot"])
        live = await guest_writing.live(self.inventory, at)
        guest = await self.inventory.read(at)
        if one_line(live.get(card, "")) != guest.networks.get(card, ""):
            call.warn(f"{at.title} takes {card} on at its next start")
        return guest


def _wanted(at: Place, p: SetNetwork, config: guest_model.Config) -> guest_model.Config:
    have = option_strings.card(config.get(p.card, ""))
    want = _merged(at, p, have)
    return {p.card: config[p.card] if want == have and p.card in config else _written(at, want)}


def _merged(at: Place, p: SetNetwork, have: option_strings.Parts) -> option_strings.Parts:
    """Return the parts as they shall be; raises Rejected for what this kind of guest does not have."""
    addresses = ("ip", "gateway", "ip6", "gateway6")
    own = ("model",) if at.kind == "qemu" else addresses
    alien = next((each for each in ("model", *addresses) if each not in own and getattr(p, each) is not None), None)
    if alien:
        raise Rejected(f"{alien}: {at.title} has none in its network cards; leave it out; nothing was done")
    if not have and p.bridge is None:
        raise Rejected(f"bridge: {at.title} has no {p.card} yet, and a new one needs a bridge; nothing was done")
    usual = {"model": "virtio"} if at.kind == "qemu" else {"name": f"eth{p.card.removeprefix('net')}", "ip": "dhcp"}
    told = {
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
    merged = (have or usual) | {key: value for key, value in told.items() if value is not None}
    for address, gateway, given in (("ip", "gw", p.ip), ("ip6", "gw6", p.ip6)):
        if given in {"dhcp", "manual", "auto"}:
            merged.pop(gateway, None)  # it belonged to the address that goes
        if merged.get(gateway) and merged.get(address, "manual") in {"dhcp", "manual", "auto"}:
            name = f"gateway{address[2:]}"
            raise Rejected(f"{name}: it goes with an address in {address}, and {p.card} of {at.title} has none")
    return {key: value for key, value in merged.items() if value}


def _written(at: Place, want: option_strings.Parts) -> str:
    rest = [f"{key}={value}" for key, value in want.items() if at.kind == "lxc" or key not in {"model", "macaddr"}]
    if at.kind == "lxc":
        return ",".join(rest)
    return ",".join(["=".join(filter(None, (want["model"], want.get("macaddr")))), *rest])
