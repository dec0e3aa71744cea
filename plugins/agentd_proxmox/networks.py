"""Network cards of guests, and all of a guest's configuration as Proxmox writes it.

A card is one option, `net0`, of many parts.  What a caller does not speak of stays as it is, the MAC address above all:
by it a guest's system knows the card, and a DHCP server the guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd.answers import one_line
from agentd.errors import Rejected
from agentd.messages import Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, look, methods
from agentd_proxmox.containers import Address, Gateway
from agentd_proxmox.guests import change
from agentd_proxmox.power import Which
from agentd_proxmox.states import SECRET

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls, Needs

MODELS: Final = ("virtio", "e1000", "e1000e", "rtl8139", "vmxnet3")
_SEND: Final = ("POST /nodes/{node}/qemu/{vmid}/config", "PUT /nodes/{node}/lxc/{vmid}/config")
_LONGEST: Final = 2000

Card = Annotated[str, Meta(pattern=r"^net([0-9]|[12][0-9]|3[01])$", description="net0 to net31")]
Parts = dict[str, str]
"""The parts of a card; of a VM `model` and `macaddr`, whichever way they are written."""


class OneCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which network card of which guest; digest: of get_vm, then nothing is done if it has changed."""

    vmid: fields.Vmid
    card: Card
    digest: str = ""


class SetNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a network card shall be; what is left out stays, or is as usual for a new one, which needs a bridge.

    tag: VLAN, 0 for none; rate: MB/s, 0 for no limit; connected: its cable is plugged
    model: of a VM's; ip and gateway: of a container's
    """

    vmid: fields.Vmid
    card: Card = "net0"
    bridge: fields.Bridge | None = None
    tag: Annotated[int, Meta(ge=0, le=4094)] | None = None
    firewall: bool | None = None
    connected: bool | None = None
    rate: Annotated[float, Meta(ge=0, le=10_240)] | None = None
    mac: Annotated[str, Meta(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")] | None = None
    model: Literal["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"] | None = None
    ip: Address | None = None
    gateway: Gateway | None = None
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
        "set_guest_network": (*methods.WRITE, *_SEND),
        "remove_guest_network": (*methods.WRITE, *_SEND),
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

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def set_guest_network(self, call: Call, p: SetNetwork) -> fields.Guest:
        """Give a VM or container a network card, or change one: bridge, VLAN, firewall, cable, limit, addresses.

        It keeps its MAC address.  What takes effect only at the next start is told as a warning.
        """
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self.inventory.config(at)
            changed = look.changes(config, _wanted(at, p, config))
            if not changed:
                return Found()
            if p.card in config:
                call.inverse("set_guest_network", {"vmid": at.vmid, "card": p.card, **said(config[p.card])})
            else:
                call.inverse("remove_guest_network", {"vmid": at.vmid, "card": p.card})
            return None

        async def act() -> str | None:
            return await change(self.inventory, call, at, p.digest, lambda config: _wanted(at, p, config))

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
            call.inverse("set_guest_network", {"vmid": at.vmid, "card": p.card, **said(config[p.card])})
            return None

        async def act() -> str | None:
            return await change(self.inventory, call, at, p.digest, lambda _: {p.card: ""})

        return await self._changed(call, at, p.card, await call.once(seen, act))

    async def _changed(self, call: Call, at: Place, card: str, found: Found) -> fields.Guest:
        await self.inventory.finish(call, found)
        live = dict(await self.proxmox.get(f"{at.path}/config", current=True))
        guest = await self.inventory.read(at)
        if one_line(live.get(card, "")) != guest.networks.get(card, ""):
            call.warn(f"{at.title} takes {card} on at its next start")
        return guest


def parts(value: object) -> Parts:
    """Return the parts of a card: `virtio=BC:24:…,bridge=vmbr0` names model and MAC address in one."""
    found: Parts = {}
    for each in str(value).split(","):
        key, _, text = each.partition("=")
        if key in MODELS:
            found |= {"model": key, "macaddr": text} if text else {"model": key}
        elif key:
            found[key] = text
    return found


def said(value: object) -> look.Config:
    """Return a card as parameters of set_guest_network."""
    have = parts(value)
    mac = have.get("macaddr") or have.get("hwaddr")
    known = {key: have[key] for key in ("bridge", "model") if key in have}
    return known | {
        "tag": int(have.get("tag") or 0),
        "firewall": have.get("firewall") == "1",
        "connected": have.get("link_down") != "1",
        "rate": float(have.get("rate") or 0),
        **({"mac": mac} if mac else {}),
        **({"ip": have.get("ip", "manual"), "gateway": have.get("gw", "")} if "hwaddr" in have else {}),
    }


def _wanted(at: Place, p: SetNetwork, config: look.Config) -> look.Config:
    have = parts(config.get(p.card, ""))
    want = _merged(at, p, have)
    return {p.card: config[p.card] if want == have and p.card in config else _written(at, want)}


def _merged(at: Place, p: SetNetwork, have: Parts) -> Parts:
    """Return the parts as they shall be; raises Rejected for what this kind of guest does not have."""
    own = ("model",) if at.kind == "qemu" else ("ip", "gateway")
    alien = next(
        (each for each in ("model", "ip", "gateway") if each not in own and getattr(p, each) is not None), None
    )
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
    }
    merged = (have or usual) | {key: value for key, value in told.items() if value is not None}
    if p.ip in {"dhcp", "manual"}:
        merged.pop("gw", None)  # it belonged to the address that goes
    return {key: value for key, value in merged.items() if value}


def _written(at: Place, want: Parts) -> str:
    rest = [f"{key}={value}" for key, value in want.items() if at.kind == "lxc" or key not in {"model", "macaddr"}]
    if at.kind == "lxc":
        return ",".join(rest)
    return ",".join(["=".join(filter(None, (want["model"], want.get("macaddr")))), *rest])
