"""Make, clone and change containers; what can happen to a create is told in create.py, and is the same here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from agentd.errors import Rejected
from agentd.messages import Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, look, methods, targets
from agentd_proxmox.create import Creation, Order
from agentd_proxmox.guests import change
from agentd_proxmox.power import RUNNING

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls, Needs

NOT_OPTIONS = frozenset({"vmid", "digest"})

Template = Annotated[
    str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*:vztmpl/[^,;/\s]+$", description="local:vztmpl/debian-12….tar.zst")
]
Address = Annotated[
    str, Meta(pattern=r"^(dhcp|manual|[0-9.]{7,15}/\d{1,2})$", description="dhcp, manual or 192.0.2.5/24")
]
Gateway = Annotated[str, Meta(pattern=r"^([0-9.]{7,15})?$", description="192.0.2.1; only with an address")]
Features = Annotated[
    str, Meta(pattern=r"^([a-z_]+=[a-z0-9;]+(,[a-z_]+=[a-z0-9;]+)*)?$", description="for example nesting=1,keyctl=1")
]
Swap = Annotated[int, Meta(ge=0, le=4_194_304, description="MiB")]


class CreateContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to make of which template of an operating system; sshkeys: public keys for root, one a line."""

    vmid: fields.Vmid
    node: fields.Node
    name: fields.Name
    ostemplate: Template
    storage: fields.Storage
    disk: fields.Gibibytes = 8
    cores: fields.Cores = 1
    memory: fields.Mebibytes = 512
    swap: Swap = 512
    bridge: fields.Bridge = "vmbr0"
    ip: Address = "dhcp"
    gateway: Gateway = ""
    unprivileged: bool = True
    features: Features = ""
    sshkeys: str = ""
    tags: list[fields.Tag] = []
    pool: fields.Pool | None = None
    onboot: bool = False
    description: str = ""


class CloneContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to make of which container; not `full`: a linked clone, of a template only, on its storage."""

    vmid: fields.Vmid
    node: fields.Node
    name: fields.Name
    source: fields.Vmid
    full: bool = True
    storage: fields.Storage | None = None
    pool: fields.Pool | None = None
    description: str = ""


class UpdateContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change; what is left out stays, an empty text or list removes.

    protection: neither the container nor its volumes can be removed; startup: its place in the order at boot
    digest: of get_vm; then nothing is changed if somebody has changed the configuration since
    """

    vmid: fields.Vmid
    hostname: fields.Name | None = None
    cores: fields.Cores | None = None
    memory: fields.Mebibytes | None = None
    swap: Swap | None = None
    features: Features | None = None
    description: str | None = None
    tags: list[fields.Tag] | None = None
    onboot: bool | None = None
    startup: fields.Startup | None = None
    protection: bool | None = None
    nameserver: str | None = None
    searchdomain: str | None = None
    digest: str = ""


class Containers:
    """The tools for containers that are not for all guests."""

    calls: ClassVar[Calls] = {
        "create_container": (*methods.WRITE, "POST /nodes/{node}/lxc"),
        "clone_container": (*methods.WRITE, "POST /nodes/{node}/lxc/{vmid}/clone"),
        "update_container": (
            *methods.WRITE,
            "PUT /nodes/{node}/lxc/{vmid}/config",
            "GET /nodes/{node}/lxc/{vmid}/pending",
        ),
    }
    needs: ClassVar[Needs] = {
        "create_container": methods.config("CPU", "Disk", "Memory", "Network", "Options")
        | methods.on(methods.VM, "VM.Allocate")
        | {methods.SPACE, methods.BRIDGE},
        "clone_container": {methods.SPACE, methods.BRIDGE},
        "update_container": methods.config("CPU", "Memory", "Network", "Options"),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found, and how they are made."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox
        self.creation = Creation(inventory)

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="container_management")
    async def create_container(self, call: Call, p: CreateContainer) -> fields.Guest:
        """Make a container of a template of an operating system and wait until it is there; it is not started.

        It is unprivileged unless told otherwise, which needs Sys.Modify on / besides.
        """
        if p.gateway and p.ip in {"dhcp", "manual"}:
            raise Rejected(f"create_container: gateway: it goes with an address, and ip is {p.ip}")

        async def send() -> str:
            await targets.storage(self.inventory, p.node, p.storage, "rootdir")
            return str(await self.proxmox.post(f"/nodes/{p.node}/lxc", **new_container(p, call.key)))

        order = Order(p.vmid, p.node, p.name, p.pool, kind="lxc")
        return await self.creation.make(call, "create_container", order, send)

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="container_management")
    async def clone_container(self, call: Call, p: CloneContainer) -> fields.Guest:
        """Clone a container, or a template of one, and wait until the clone is there; it is not started.

        The clone has its source's cores, memory, tags and mounts; update_container and set_tags change them.
        """

        async def send() -> str:
            source = await self._container(p.source)
            running = (await self.inventory.status(source)).get("status") == RUNNING
            options = clone_of(source, p, call.key, running=running)
            return str(await self.proxmox.post(f"{source.path}/clone", **options))

        order = Order(p.vmid, p.node, p.name, p.pool, p.source, kind="lxc")
        return await self.creation.make(call, "clone_container", order, send)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="container_management")
    async def update_container(self, call: Call, p: UpdateContainer) -> fields.Guest:
        """Change a container's configuration: size, host name, features, tags, description, DNS, start at boot.

        Nothing is done if it already is so.  What takes effect only at its next start is told as a warning.
        """
        at = await self._container(p.vmid)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self.inventory.config(at)
            changed = look.changes(config, _wanted(p, config))
            if not changed:
                return Found()
            given = [each for each in changed if each != "delete"] + str(changed.get("delete", "")).split(",")
            call.inverse("update_container", {"vmid": at.vmid, **look.options(config, given)})
            return None

        async def act() -> str | None:
            return await change(self.inventory, call, at, p.digest, lambda config: _wanted(p, config))

        await self.inventory.finish(call, await call.once(seen, act))
        entries = await self.proxmox.get(f"{at.path}/pending") or []
        waiting = sorted(str(each["key"]) for each in entries if "pending" in each or each.get("delete"))
        if waiting:
            call.warn(f"{at.title} takes on at its next start: {', '.join(waiting)}")
        return await self.inventory.read(at)

    async def _container(self, vmid: int) -> Place:
        at = await self.inventory.find(vmid)
        if at.kind != "lxc":
            raise Rejected(f"{at.title} is not a container")
        return at


def new_container(p: CreateContainer, key: str) -> look.Config:
    """Return the parameters of POST /nodes/{node}/lxc."""
    gateway = f",gw={p.gateway}" if p.gateway else ""
    return {
        "vmid": p.vmid,
        "hostname": p.name,
        "ostemplate": p.ostemplate,
        "description": look.describe(p.description, key),
        "rootfs": f"{p.storage}:{p.disk}",
        "cores": p.cores,
        "memory": p.memory,
        "swap": p.swap,
        "net0": f"name=eth0,bridge={p.bridge},ip={p.ip}{gateway}",
        "unprivileged": p.unprivileged,
        "features": p.features or None,
        "ssh-public-keys": p.sshkeys.strip() or None,
        "tags": ";".join(p.tags) or None,
        "pool": p.pool,
        "onboot": p.onboot or None,
        "start": False,
    }


def clone_of(source: Place, p: CloneContainer, key: str, *, running: bool) -> look.Config:
    """Return the parameters of POST /nodes/{node}/lxc/{source}/clone."""
    if not p.full and not source.template:
        raise Rejected(f"clone_container: {source.title} is no template, so only a full clone can be made of it")
    if not p.full and p.storage is not None:
        raise Rejected("clone_container: a linked clone lies on its template's storage; leave `storage` out")
    if p.full and running:
        raise Rejected(f"clone_container: {source.title} runs: shutdown_vm first; nothing was done")
    return {
        "newid": p.vmid,
        "hostname": p.name,
        "description": look.describe(p.description, key),
        "full": p.full,
        "storage": p.storage,
        "target": p.node if p.node != source.node else None,
        "pool": p.pool,
    }


def _wanted(p: UpdateContainer, config: look.Config) -> look.Config:
    """Return the options that a request asks for, as Proxmox calls them."""
    wanted = {key: value for key, value in msgspec.structs.asdict(p).items() if key not in NOT_OPTIONS}
    if p.description is not None:
        wanted["description"] = look.redescribe(str(config.get("description") or ""), p.description)
    return wanted
