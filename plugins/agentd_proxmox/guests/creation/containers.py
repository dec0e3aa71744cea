"""Create, clone and change containers.

create.py describes what can happen to a create; it is the same here.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import Call, Rejected, Repeat, Tier, formats, tool
from agentd_proxmox import api_tiers, area, guest_writing, targets
from agentd_proxmox.guests.creation.create import Creation
from agentd_proxmox.guests.creation.new_guest import GuestOrder
from agentd_proxmox.model import fields, guest_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd_proxmox.inventory import GuestLocation, Inventory

NOT_OPTIONS: Final = frozenset({"vmid", "digest"})

Address = formats.CtIp4
Gateway = formats.CtGateway4
Address6 = formats.CtIp6
Gateway6 = formats.CtGateway6
Features = Annotated[
    str, formats.full_match("(?:[a-z_]+=[a-z0-9;]+(?:,[a-z_]+=[a-z0-9;]+)*)?", "for example nesting=1,keyctl=1")
]
Swap = Annotated[int, Meta(ge=0, le=4_194_304, description="MiB")]


class CreateContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The container to create from an operating system template.

    sshkeys: public keys for root, one a line
    """

    vmid: fields.Vmid
    node: fields.Node
    name: fields.Name
    ostemplate: formats.CtTemplate
    storage: fields.Storage
    disk: fields.Gibibytes = 8
    cores: fields.Cores = 1
    memory: fields.Mebibytes = 512
    swap: Swap = 512
    bridge: fields.Bridge = "vmbr0"
    ip: Address = "dhcp"
    gateway: Gateway = ""
    ip6: Address6 | None = None
    gateway6: Gateway6 = ""
    unprivileged: bool = True
    features: Features = ""
    sshkeys: str = ""
    tags: list[fields.Tag] = []
    pool: fields.Pool | None = None
    onboot: bool = False
    description: str = ""


class CloneContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clone to create from the container `source`.

    full: false makes a linked clone, which only a template can have and which uses the storage of the template
    """

    vmid: fields.Vmid
    node: fields.Node
    name: fields.Name
    source: fields.Vmid
    full: bool = True
    storage: fields.Storage | None = None
    pool: fields.Pool | None = None
    description: str = ""


class UpdateContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change: an omitted option stays, an empty text or list removes it.

    cores: 0 for all cores of its node
    protection: neither the container nor its volumes can be removed; startup: its position in the start order at boot
    digest: from get_guest; if the configuration has changed since, nothing is changed
    """

    vmid: fields.Vmid
    hostname: fields.Name | None = None
    cores: Annotated[int, Meta(ge=0, le=8192)] | None = None
    memory: fields.Mebibytes | None = None
    swap: Swap | None = None
    cpulimit: fields.CpuLimit | None = None
    cpuunits: fields.CpuUnits | None = None
    features: Features | None = None
    description: str | None = None
    tags: list[fields.Tag] | None = None
    onboot: bool | None = None
    startup: fields.Startup | None = None
    protection: bool | None = None
    nameserver: str | None = None
    searchdomain: str | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        """Raise for a change that removes the protection."""
        fields.check_protection("protection", on=self.protection)


class Containers(area.Area):
    """Tools that are only for containers, not for all guests."""

    needs: ClassVar[area.Needs] = {
        "create_container": area.config_privileges("CPU", "Disk", "Memory", "Network", "Options")
        | area.with_path(area.VM, "VM.Allocate")
        | {area.SPACE, area.BRIDGE},
        "clone_container": {area.SPACE, area.BRIDGE},
        "update_container": area.config_privileges("CPU", "Memory", "Network", "Options"),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Use `inventory`."""
        super().__init__(inventory)
        self.creation = Creation(inventory)

    @tool(
        tier=Tier.OPERATE,
        repeat=Repeat.MARKED,
        capability="container_management",
        raises=(api_tiers.FEATURES, api_tiers.PRIVILEGED),
    )
    async def create_container(self, call: Call, p: CreateContainer) -> fields.Guest:
        """Create a container from an operating system template and wait until it exists.

        It is not started.  It is unprivileged by default; a privileged one also needs Sys.Modify on /.
        """
        gateways("create_container", p.ip, p.gateway, p.ip6, p.gateway6)

        async def send() -> str:
            await targets.storage(self.inventory, p.node, p.storage, "rootdir")
            await guest_writing.bridge(self.inventory, p.node, p.bridge)
            return str(await self.proxmox.post(f"/nodes/{p.node}/lxc", **new_container(p, call.key)))

        order = GuestOrder(p.vmid, p.node, p.name, p.pool, kind="lxc")
        return await self.creation.make(call, "create_container", order, send)

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="container_management")
    async def clone_container(self, call: Call, p: CloneContainer) -> fields.Guest:
        """Clone a container or a container template and wait until the clone exists.

        It is not started.  The clone has the cores, memory, tags and mounts of its source; update_container and
        update_tags change them.
        """

        async def options() -> tuple[GuestLocation, guest_model.Config]:
            source = await self._container(p.source)
            running = guest_model.is_powered_on(await self.inventory.status(source))
            return source, clone_of(source, p, call.key, running=running)

        async def check() -> None:
            source, _ = await options()
            await self.creation.can_clone("clone_container", source, p.node, p.storage)

        async def send() -> str:
            source, sent = await options()
            return str(await self.proxmox.post(f"{source.path}/clone", **sent))

        order = GuestOrder(p.vmid, p.node, p.name, p.pool, p.source, kind="lxc")
        return await self.creation.make(call, "clone_container", order, send, check)

    @tool(
        tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="container_management", raises=(api_tiers.FEATURES_CHANGED,)
    )
    async def update_container(self, call: Call, p: UpdateContainer) -> fields.Guest:
        """Change the configuration of a container.

        It can change size, host name, features, tags, description, DNS and start at boot.  Nothing is done if the
        configuration is already as wanted.  A warning names what takes effect only at the next start.
        """
        at = await self._container(p.vmid)
        call.target(at.target())
        await guest_writing.update(self.inventory, call, at, p.digest, partial(_wanted, p))
        waiting = sorted(await guest_writing.pending(self.inventory, at))
        if waiting:
            call.warn(f"{at.title} takes on at its next start: {', '.join(waiting)}")
        return await self.inventory.read(at)

    async def _container(self, vmid: int) -> GuestLocation:
        at = await self.inventory.find(vmid)
        if at.kind != "lxc":
            raise Rejected(f"{at.title} is not a container")
        return at


def gateways(tool: str, ip: str | None, gateway: str | None, ip6: str | None, gateway6: str | None) -> None:
    """Raise Rejected for an invalid address, and for a gateway without an address."""
    for name, version, address, at in (("", 4, ip, gateway), ("6", 6, ip6, gateway6)):
        fixed = address if address not in {None, "", "dhcp", "manual", "auto"} else ""
        if at and address is not None and not fixed:
            raise Rejected(f"{tool}: gateway{name}: it needs an address, and ip{name} is {address}")
        if fixed and not _has_state(ip_interface, fixed, version):
            raise Rejected(f"{tool}: ip{name}: {fixed!r} is no IPv{version} address with the length of its network")
        if at and not _has_state(ip_address, at, version):
            raise Rejected(f"{tool}: gateway{name}: {at!r} is no IPv{version} address")


def _has_state(kind: Callable[[str], IPv4Address | IPv6Address], text: str, version: int) -> bool:
    """Return whether a text is an address without a zone; Proxmox takes no zone."""
    try:
        return "%" not in text and kind(text).version == version
    except ValueError:
        return False


def new_container(p: CreateContainer, key: str) -> guest_model.Config:
    """Return the parameters of POST /nodes/{node}/lxc."""
    given = {"ip": p.ip, "gw": p.gateway, "ip6": p.ip6, "gw6": p.gateway6}
    addresses = "".join(f",{key}={value}" for key, value in given.items() if value)
    return {
        "vmid": p.vmid,
        "hostname": p.name,
        "ostemplate": p.ostemplate,
        "description": guest_model.describe(p.description, key),
        "rootfs": f"{p.storage}:{p.disk}",
        "cores": p.cores,
        "memory": p.memory,
        "swap": p.swap,
        "net0": f"name=eth0,bridge={p.bridge}{addresses}",
        "unprivileged": p.unprivileged,
        "features": p.features or None,
        "ssh-public-keys": p.sshkeys.strip() or None,
        "tags": ";".join(p.tags) or None,
        "pool": p.pool,
        "onboot": p.onboot or None,
        "start": False,
    }


def clone_of(source: GuestLocation, p: CloneContainer, key: str, *, running: bool) -> guest_model.Config:
    """Return the parameters of POST /nodes/{node}/lxc/{source}/clone."""
    if not p.full and not source.template:
        raise Rejected(f"clone_container: {source.title} is no template, so only a full clone can be made of it")
    if not p.full and p.storage is not None:
        raise Rejected("clone_container: a linked clone is on its template's storage; leave `storage` out")
    if p.full and running:
        raise Rejected(f"clone_container: {source.title} runs: shutdown_guest first; nothing was done")
    return {
        "newid": p.vmid,
        "hostname": p.name,
        "description": guest_model.describe(p.description, key),
        "full": p.full,
        "storage": p.storage,
        "target": p.node if p.node != source.node else None,
        "pool": p.pool,
    }


def _wanted(p: UpdateContainer, config: guest_model.Config) -> guest_model.Config:
    """Return the requested options under the names of Proxmox."""
    wanted = {key: value for key, value in msgspec.structs.asdict(p).items() if key not in NOT_OPTIONS}
    if p.description is not None:
        wanted["description"] = guest_model.redescribe(str(config.get("description") or ""), p.description)
    return wanted
