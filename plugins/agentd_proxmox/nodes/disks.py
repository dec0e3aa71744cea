"""Physical disks of a node, and the pools, volume groups and directories that are made on them.

A disk is named by its path and its serial number: paths are given to other disks when one is taken out.  What is made
on a disk destroys what was on it, so only disks that nothing uses are taken, as the node says right before it acts.
Only root@pam may wipe a disk, no token: a person does it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import formats
from agentd.errors import NotFound, PermanentError, Rejected
from agentd.proxmox.responses import one_line
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Target, Tier
from agentd_proxmox import fields, methods
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.methods import Calls, Needs

    Entry = dict[str, Any]

PATH: Final = "/nodes/{node}/disks"
KINDS: Final = ("zfs", "lvm", "lvmthin", "directory")
UNNAMED: Final = (None, "", "unknown")
WORN: Final = 90
"""Percent of an SSD's life that are used up from which on it is told."""
FULL: Final = 90
"""Percent of a thin pool's data or metadata from which on it is reported."""
Device = Annotated[str, formats.whole("/dev/[A-Za-z0-9/_.:-]{1,120}", "for example /dev/sdb")]
Serial = Annotated[
    str, Meta(min_length=1, max_length=120, description="serial number of the disk, as list_disks shows it")
]
Name = formats.Storage


class Disk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A disk; size in bytes, used: by what ("" nothing), worn: percent of an SSD's life, gpt: has a partition table."""

    device: str
    serial: str
    model: str
    size: int
    health: str
    used: str = ""
    worn: int | None = None
    gpt: bool = False


class Disks(msgspec.Struct, frozen=True):
    """The disks of a node, those in trouble first."""

    node: str
    disks: list[Disk]


class OneDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which disk of which node."""

    node: fields.Node
    device: Device


class Attribute(msgspec.Struct, frozen=True):
    """A value that the disk keeps of itself."""

    name: str
    value: str
    raw: str
    failed: str


class Smart(msgspec.Struct, frozen=True):
    """What a disk says of itself; text: as its tool prints it, where it keeps no table."""

    device: str
    health: str
    attributes: list[Attribute]
    text: list[str]


class Made(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something made of disks; sizes in bytes, used in percent, metadata: of a thin pool, in percent."""

    kind: str
    name: str
    state: str = ""
    size: int = 0
    free: int = 0
    used: float = 0.0
    metadata: float = 0.0
    on: str = ""


class LocalStorage(msgspec.Struct, frozen=True):
    """The ZFS pools, volume groups, thin pools and directories of a node; `unread`: kinds that it could not list."""

    node: str
    made: list[Made]
    unread: dict[str, str] = {}


class OnePool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which ZFS pool of which node."""

    node: fields.Node
    pool: Name


class Vdev(msgspec.Struct, frozen=True):
    """A part of a pool; the numbers are errors that it has seen."""

    name: str
    state: str
    read: int
    write: int
    checksum: int
    message: str


class PoolStatus(msgspec.Struct, frozen=True):
    """A ZFS pool: its state, what is to be done, its last scan, and its parts, those in trouble first."""

    pool: str
    state: str
    status: str
    action: str
    scan: str
    errors: str
    parts: list[Vdev]


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk by both of its names."""

    device: Device
    serial: Serial


class InitializeDisk(Chosen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which disk of which node, by both of its names."""

    node: fields.Node


class MakeStorage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to make, of which disks.  raid: of a ZFS pool; storage: let guests use it under its name too."""

    node: fields.Node
    kind: Literal["zfs", "lvm", "lvmthin", "directory"]
    name: Name
    disks: Annotated[list[Chosen], Meta(min_length=1, max_length=24)]
    raid: Literal["single", "mirror", "raid10", "raidz", "raidz2", "raidz3"] = "single"
    storage: bool = True


class Hardware:
    """The tools for disks and what is made of them."""

    calls: ClassVar[Calls] = {
        "list_disks": (f"GET {PATH}/list",),
        "disk_health": (f"GET {PATH}/list", f"GET {PATH}/smart"),
        "list_local_storage": tuple(f"GET {PATH}/{kind}" for kind in KINDS),
        "zfs_status": (f"GET {PATH}/zfs", f"GET {PATH}/zfs/{{name}}"),
        "make_local_storage": (
            *(*methods.TASK, f"GET {PATH}/list"),
            *(f"{verb} {PATH}/{kind}" for kind in KINDS for verb in ("GET", "POST")),
        ),
        "initialize_disk": (*methods.TASK, f"GET {PATH}/list", f"POST {PATH}/initgpt"),
    }
    needs: ClassVar[Needs] = {
        "make_local_storage": methods.on("/storage", "Datastore.Allocate"),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where the cluster is reached."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def list_disks(self, call: Call, p: fields.OneNode) -> Disks:
        """List the physical disks of a node with their health and what uses them, those in trouble first."""
        disks = sorted(await self._disks(p.node), key=lambda disk: (not _bad(disk), disk.device))
        for disk in disks:
            if _bad(disk):
                worn = f", {disk.worn} % of its life used" if disk.worn is not None else ""
                call.warn(f"{disk.device} of {p.node} ({disk.model}, {disk.serial}): {disk.health}{worn}")
        return Disks(p.node, disks)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def disk_health(self, call: Call, p: OneDisk) -> Smart:  # noqa: ARG002 - every tool has a call
        """Show what a disk says of itself (SMART)."""
        await self._disk(p.node, p.device, None)
        data = await self.proxmox.get(f"/nodes/{p.node}/disks/smart", disk=p.device) or {}
        attributes = [
            Attribute(*(one_line(row.get(key) or "") for key in ("name", "value", "raw", "fail")))
            for row in data.get("attributes") or []
        ]
        text = [one_line(line) for line in str(data.get("text") or "").splitlines()][:60]
        return Smart(p.device, one_line(data.get("health") or "UNKNOWN"), attributes, text)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def list_local_storage(self, call: Call, p: fields.OneNode) -> LocalStorage:
        """List the ZFS pools, volume groups, thin pools and directories of a node, and warn of what is full or bad."""
        found, unread = await self._each(p.node)
        for kind, why in unread.items():
            call.warn(f"{kind} of {p.node} cannot be read: {why}")
        for storage in found:
            if storage.state not in {"", "ONLINE"}:
                call.warn(f"{storage.kind} {storage.name} of {p.node} is {storage.state}: zfs_status says which disk")
            if storage.metadata > FULL or (storage.kind == "lvmthin" and storage.used > FULL):
                call.warn(
                    f"thin pool {storage.name} of {p.node}: data {storage.used} %, metadata {storage.metadata} % used"
                )
        return LocalStorage(p.node, found, unread)

    async def _each(self, node: str) -> tuple[list[Made], dict[str, str]]:
        """Return what is made of a node's disks, and the kinds that it cannot list; raises if it can list none."""
        answers = await asyncio.gather(*(self._made(node, kind) for kind in KINDS), return_exceptions=True)
        unread: dict[str, str] = {}
        found: list[Made] = []
        for kind, answer in zip(KINDS, answers, strict=True):
            if isinstance(answer, list):
                found += answer
            elif isinstance(answer, PermanentError) and len(unread) < len(KINDS) - 1:
                unread[kind] = one_line(answer)  # such as ZFS on a node without its programs
            else:
                raise answer
        return found, unread

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def zfs_status(self, call: Call, p: OnePool) -> PoolStatus:  # noqa: ARG002
        """Show a ZFS pool: its state and last scan, and each of its parts with the errors that it has seen."""
        pools = {pool.name for pool in await self._made(p.node, "zfs")}
        if p.pool not in pools:
            raise NotFound(f"pool: {p.node} has no ZFS pool {p.pool!r}; it has {', '.join(sorted(pools)) or 'none'}")
        data = await self.proxmox.get(f"/nodes/{p.node}/disks/zfs/{p.pool}")
        parts = sorted(_parts(data.get("children") or []), key=_well)
        said = {key: one_line(data.get(key) or "") for key in ("state", "status", "action", "scan", "errors")}
        return PoolStatus(pool=p.pool, parts=parts, **said)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def make_local_storage(self, call: Call, p: MakeStorage) -> LocalStorage:
        """Make a ZFS pool, volume group, thin pool or directory of disks that nothing uses; they are overwritten."""
        if p.kind != "zfs" and (len(p.disks) > 1 or p.raid != "single"):
            raise Rejected(f"disks: {p.kind} is made of one disk, without raid; a ZFS pool takes several")

        if len({disk.device for disk in p.disks}) < len(p.disks):
            raise Rejected("disks: a disk is named twice")

        async def seen() -> Found | None:
            if p.name in {storage.name for storage in await self._made(p.node, p.kind)}:
                return Found()
            disks = await asyncio.gather(*(self._free(p.node, disk.device, disk.serial) for disk in p.disks))
            call.target(_target(p.node, list(disks), f"{p.kind} {p.name} of"))
            return None

        async def act() -> str | None:
            sent: Entry = {"name": p.name, "add_storage": p.storage}
            devices = [disk.device for disk in p.disks]
            if p.kind == "zfs":
                sent |= {"devices": ",".join(devices), "raidlevel": p.raid}
            else:
                sent |= {"device": devices[0]}
            return upid_of(await self.proxmox.post(f"/nodes/{p.node}/disks/{p.kind}", **sent))

        await self.inventory.finish(call, await call.once(seen, act))
        return await self.list_local_storage(call, fields.OneNode(p.node))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def initialize_disk(self, call: Call, p: InitializeDisk) -> Disk:
        """Write an empty partition table (GPT) on a disk that nothing uses."""

        async def seen() -> Found | None:
            disk = await self._free(p.node, p.device, p.serial)
            if disk.gpt:
                return Found()
            call.target(_target(p.node, [disk], "partition table of"))
            return None

        async def act() -> str | None:
            return upid_of(await self.proxmox.post(f"/nodes/{p.node}/disks/initgpt", disk=p.device))

        await self.inventory.finish(call, await call.once(seen, act))
        return await self._disk(p.node, p.device, p.serial)

    async def _disks(self, node: str) -> list[Disk]:
        return [_disk(entry) for entry in await self.proxmox.get(f"/nodes/{node}/disks/list") or []]

    async def _disk(self, node: str, device: str, serial: str | None) -> Disk:
        """Return a disk; raises NotFound, and Rejected if another disk has this path now."""
        disks = {disk.device: disk for disk in await self._disks(node)}
        if device not in disks:
            raise NotFound(f"device: {node} has no disk {device}; it has {', '.join(sorted(disks)) or 'none'}")
        if serial is not None and disks[device].serial != serial:
            raise Rejected(f"serial: {device} of {node} is the disk {disks[device].serial}, not {serial}: look again")
        return disks[device]

    async def _free(self, node: str, device: str, serial: str) -> Disk:
        disk = await self._disk(node, device, serial)
        if disk.used:
            raise Rejected(f"device: {device} of {node} ({serial}) is used by {disk.used}: nothing was done")
        return disk

    async def _made(self, node: str, kind: str) -> list[Made]:
        data = await self.proxmox.get(f"/nodes/{node}/disks/{kind}") or []
        entries = data.get("children") or [] if isinstance(data, dict) else data
        return [_MADE[kind](entry) for entry in entries]


def _disk(entry: Entry) -> Disk:
    worn = entry.get("wearout")  # Proxmox tells how much is left, and N/A for a disk that has none
    names = (entry.get("serial"), entry.get("wwn"))  # virtual disks often have but one of them
    return Disk(
        device=one_line(entry["devpath"]),
        serial=one_line(next((name for name in names if name not in UNNAMED), "unknown")),
        model=one_line(entry.get("model") or "unknown"),
        size=int(entry.get("size") or 0),
        health=one_line(entry.get("health") or "UNKNOWN"),
        used=one_line(entry.get("used") or ("mounted" if entry.get("mounted") else "")),
        worn=100 - int(str(worn)) if str(worn).isdigit() else None,
        gpt=bool(int(entry.get("gpt") or 0)),
    )


def _bad(disk: Disk) -> bool:
    return disk.health not in {"PASSED", "OK", "UNKNOWN"} or (disk.worn or 0) >= WORN


def _zfs(entry: Entry) -> Made:
    size, free = int(entry.get("size") or 0), int(entry.get("free") or 0)
    used = round(100 * (size - free) / size, 1) if size else 0.0
    return Made("zfs", one_line(entry["name"]), one_line(entry.get("health") or ""), size, free, used)


def _lvm(entry: Entry) -> Made:
    size, free = int(entry.get("size") or 0), int(entry.get("free") or 0)
    used = round(100 * (size - free) / size, 1) if size else 0.0
    return Made("lvm", one_line(entry["name"]), size=size, free=free, used=used, on=_names(entry.get("children") or []))


def _thin(entry: Entry) -> Made:
    size, used = int(entry.get("lv_size") or 0), int(entry.get("used") or 0)
    whole, meta = int(entry.get("metadata_size") or 0), int(entry.get("metadata_used") or 0)
    share, filled = (round(100 * part / all_, 1) if all_ else 0.0 for part, all_ in ((used, size), (meta, whole)))
    return Made("lvmthin", one_line(entry["lv"]), "", size, size - used, share, filled, one_line(entry.get("vg") or ""))


def _directory(entry: Entry) -> Made:
    return Made("directory", one_line(entry["path"]).rpartition("/")[2], on=one_line(entry.get("device") or ""))


_MADE: Final = {"zfs": _zfs, "lvm": _lvm, "lvmthin": _thin, "directory": _directory}


def _names(entries: list[Entry]) -> str:
    return ", ".join(one_line(entry.get("name") or "") for entry in entries)


def _parts(entries: list[Entry]) -> list[Vdev]:
    """Return the parts of a pool, those within others too."""
    found = []
    for entry in entries:
        read, write, checksum = (int(entry.get(key) or 0) for key in ("read", "write", "cksum"))
        name, state, message = (one_line(entry.get(key) or "") for key in ("name", "state", "msg"))
        found += [Vdev(name, state, read, write, checksum, message), *_parts(entry.get("children") or [])]
    return found


def _well(part: Vdev) -> bool:
    return part.state == "ONLINE" and not part.read + part.write + part.checksum


def _target(node: str, disks: list[Disk], what: str) -> Target:
    said = [f"{disk.device} ({disk.model}, {disk.serial}, {disk.size / 1e9:.0f} GB)" for disk in disks]
    loses = [f"whatever is on {text}" for text in said]
    state = {disk.device: f"{disk.serial} {disk.used}".strip() for disk in disks}
    name, title = f"disk/{node}/{disks[0].serial}", f"{what} {', '.join(said)} on {node}"
    return Target(name, title, state, [f"node/{node}"], loses)
