"""Physical disks of a node, and the pools, volume groups and directories on them.

A disk is identified by its path and its serial number: a path is given to another disk when one is removed. Creating
storage on a disk destroys its data, so only disks that nothing uses are accepted, as the node reports right before the
change. Only root@pam may wipe a disk, no token: a person does it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, PermanentError, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes
from agentd_proxmox.model import convert, fields
from agentd_proxmox.nodes.local_storage import MADE, CreatedStorage, Vdev, is_healthy, vdevs

if TYPE_CHECKING:
    Entry = dict[str, Any]

KINDS: Final = ("zfs", "lvm", "lvmthin", "directory")
UNNAMED: Final = (None, "", "unknown")
WORN: Final = 90
"""Percent of an SSD's life used from which on it is reported."""
FULL: Final = 90
"""Percent used of a thin pool's data or metadata from which on it is reported."""
Device = Annotated[str, formats.full_match("/dev/[A-Za-z0-9/_.:-]{1,120}", "for example /dev/sdb")]
Serial = Annotated[
    str, Meta(min_length=1, max_length=120, description="serial number of the disk, as list_node_disks shows it")
]
Name = formats.Storage


class Disk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A disk.

    size: in bytes
    used: what uses it ("": nothing)
    worn: percent of an SSD's life used
    gpt: it has a partition table
    """

    device: str
    serial: str
    model: str
    size: int
    health: str
    used: str = ""
    worn: int | None = None
    gpt: bool = False


class Disks(msgspec.Struct, frozen=True):
    """The disks of a node, those with problems first."""

    node: str
    disks: list[Disk]


class DiskSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The disk and its node."""

    node: fields.Node
    device: Device


class Attribute(msgspec.Struct, frozen=True):
    """A value that the disk records about itself (SMART)."""

    name: str
    value: str
    raw: str
    failed: str


class Smart(msgspec.Struct, frozen=True):
    """The SMART data of a disk.

    text: the output of the disk's tool, where there is no table of attributes
    """

    device: str
    health: str
    attributes: list[Attribute]
    text: list[str]


class LocalStorage(msgspec.Struct, frozen=True):
    """The ZFS pools, volume groups, thin pools and directories of a node.

    unread: the kinds that the node could not list, with the reason
    """

    node: str
    made: list[CreatedStorage]
    unread: dict[str, str] = {}


class ZfsPoolSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ZFS pool and its node."""

    node: fields.Node
    pool: Name


class PoolStatus(msgspec.Struct, frozen=True):
    """A ZFS pool: state, required action, last scan and parts.

    Parts with problems come first.
    """

    pool: str
    state: str
    status: str
    action: str
    scan: str
    errors: str
    parts: list[Vdev]


class DiskChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk, by its path and its serial number."""

    device: Device
    serial: Serial


class InitializeDisk(DiskChoice, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The disk, by its path and its serial number, and its node."""

    node: fields.Node


class CreateLocalStorage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to create, on which disks.

    raid: level of a ZFS pool
    storage: also add it as a storage of this name that guests can use
    """

    node: fields.Node
    kind: Literal["zfs", "lvm", "lvmthin", "directory"]
    name: Name
    disks: Annotated[list[DiskChoice], Meta(min_length=1, max_length=24)]
    raid: Literal["single", "mirror", "raid10", "raidz", "raidz2", "raidz3"] = "single"
    storage: bool = True


class NodeDiskTools(area.Area):
    """The tools for disks and the storage on them."""

    shown_to: ClassVar[area.ShownTo] = {"list_node_disks": blind_token.NODES, "list_local_storage": blind_token.NODES}
    needs: ClassVar[area.Needs] = {
        "create_local_storage": area.with_path("/storage", "Datastore.Allocate"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def list_node_disks(self, call: Call, p: fields.NodeSelector) -> Disks:
        """List a node's physical disks with health and use, those with problems first."""
        disks = sorted(await self._disks(p.node), key=lambda disk: (not _has_problem(disk), disk.device))
        for disk in disks:
            if _has_problem(disk):
                worn = f", {disk.worn} % of its life used" if disk.worn is not None else ""
                call.warn(f"{disk.device} of {p.node} ({disk.model}, {disk.serial}): {disk.health}{worn}")
        return Disks(p.node, disks)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def get_disk_health(self, call: Call, p: DiskSelector) -> Smart:
        """Show the SMART data of a disk."""
        await self._disk(p.node, p.device, None)
        data = await self.proxmox.get(f"/nodes/{p.node}/disks/smart", disk=p.device) or {}
        attributes = [
            Attribute(*(one_line(row.get(key) or "") for key in ("name", "value", "raw", "fail")))
            for row in data.get("attributes") or []
        ]
        text = [one_line(line) for line in str(data.get("text") or "").splitlines()][:60]
        return Smart(p.device, one_line(data.get("health") or "UNKNOWN"), attributes, text)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def list_local_storage(self, call: Call, p: fields.NodeSelector) -> LocalStorage:
        """List a node's ZFS pools, volume groups, thin pools and directories.

        Warns of those that are full or in a bad state.
        """
        found, unread = await self._each(p.node)
        for kind, why in unread.items():
            call.warn(f"{kind} of {p.node} cannot be read: {why}")
        for storage in found:
            if storage.state not in {"", "ONLINE"}:
                call.warn(
                    f"{storage.kind} {storage.name} of {p.node} is {storage.state}: get_zfs_status shows which disk"
                )
            if storage.metadata > FULL or (storage.kind == "lvmthin" and storage.used > FULL):
                call.warn(
                    f"thin pool {storage.name} of {p.node}: data {storage.used} %, metadata {storage.metadata} % used"
                )
        return LocalStorage(p.node, found, unread)

    async def _each(self, node: str) -> tuple[list[CreatedStorage], dict[str, str]]:
        """Return the storage on a node's disks, and the kinds that it cannot list.

        Raises the node's error if it can list none.
        """
        answers = await asyncio.gather(*(self._made(node, kind) for kind in KINDS), return_exceptions=True)
        unread: dict[str, str] = {}
        found: list[CreatedStorage] = []
        for kind, answer in zip(KINDS, answers, strict=True):
            if isinstance(answer, list):
                found += answer
            elif isinstance(answer, PermanentError) and len(unread) < len(KINDS) - 1:
                unread[kind] = one_line(answer)  # such as ZFS on a node without the ZFS programs
            else:
                raise answer
        return found, unread

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def get_zfs_status(self, call: Call, p: ZfsPoolSelector) -> PoolStatus:
        """Show a ZFS pool: state, last scan, and the errors of each of its parts."""
        pools = {pool.name for pool in await self._made(p.node, "zfs")}
        if p.pool not in pools:
            raise NotFound(f"pool: {p.node} has no ZFS pool {p.pool!r}; it has {', '.join(sorted(pools)) or 'none'}")
        data = await self.proxmox.get(f"/nodes/{p.node}/disks/zfs/{p.pool}")
        parts = sorted(vdevs(data.get("children") or []), key=is_healthy)
        texts = {key: one_line(data.get(key) or "") for key in ("state", "status", "action", "scan", "errors")}
        return PoolStatus(pool=p.pool, parts=parts, **texts)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def create_local_storage(self, call: Call, p: CreateLocalStorage) -> LocalStorage:
        """Create a ZFS pool, volume group, thin pool or directory on unused disks.

        The disks are overwritten.
        """
        if p.kind != "zfs" and (len(p.disks) > 1 or p.raid != "single"):
            raise Rejected(f"disks: {p.kind} is made of one disk, without raid; a ZFS pool takes several")

        if len({disk.device for disk in p.disks}) < len(p.disks):
            raise Rejected("disks: a disk is named twice")

        async def plan() -> changes.Planned:
            if p.name in {storage.name for storage in await self._made(p.node, p.kind)}:
                return Found()
            disks = await asyncio.gather(*(self._free(p.node, disk.device, disk.serial) for disk in p.disks))
            call.target(_target(p.node, list(disks), f"{p.kind} {p.name} of"))
            devices = [disk.device for disk in p.disks]
            zfs: Entry = {"devices": ",".join(devices), "raidlevel": p.raid}
            sent: Entry = {"name": p.name, "add_storage": p.storage}
            sent |= zfs if p.kind == "zfs" else {"device": devices[0]}
            return lambda: self.proxmox.post(f"/nodes/{p.node}/disks/{p.kind}", **sent)

        await self.inventory.finish(call, await changes.change(call, plan))
        return await self.list_local_storage(call, fields.NodeSelector(p.node))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def initialize_disk(self, call: Call, p: InitializeDisk) -> Disk:
        """Write an empty partition table (GPT) to an unused disk."""

        async def plan() -> changes.Planned:
            disk = await self._free(p.node, p.device, p.serial)
            if disk.gpt:
                return Found()
            call.target(_target(p.node, [disk], "partition table of"))
            return lambda: self.proxmox.post(f"/nodes/{p.node}/disks/initgpt", disk=p.device)

        await self.inventory.finish(call, await changes.change(call, plan))
        return await self._disk(p.node, p.device, p.serial)

    async def _disks(self, node: str) -> list[Disk]:
        return [_disk(entry) for entry in await self.proxmox.get(f"/nodes/{node}/disks/list") or []]

    async def _disk(self, node: str, device: str, serial: str | None) -> Disk:
        """Return a disk; raise NotFound, or Rejected if another disk has this path now."""
        disks = {disk.device: disk for disk in await self._disks(node)}
        if device not in disks:
            raise NotFound(f"device: {node} has no disk {device}; it has {', '.join(sorted(disks)) or 'none'}")
        if serial is not None and disks[device].serial != serial:
            raise Rejected(
                f"serial: {device} of {node} is the disk {disks[device].serial}, not {serial}: read it again"
            )
        return disks[device]

    async def _free(self, node: str, device: str, serial: str) -> Disk:
        disk = await self._disk(node, device, serial)
        if disk.used:
            raise Rejected(f"device: {device} of {node} ({serial}) is used by {disk.used}: nothing was done")
        return disk

    async def _made(self, node: str, kind: str) -> list[CreatedStorage]:
        data = await self.proxmox.get(f"/nodes/{node}/disks/{kind}") or []
        entries = data.get("children") or [] if isinstance(data, dict) else data
        return [MADE[kind](entry) for entry in entries]


def _disk(entry: Entry) -> Disk:
    worn = entry.get("wearout")  # Proxmox returns the percent left, and N/A for a disk without wear
    names = (entry.get("serial"), entry.get("wwn"))  # virtual disks often have only one of them
    return convert.entry(
        Disk,
        entry,
        device=one_line(entry["devpath"]),
        serial=one_line(next((name for name in names if name not in UNNAMED), "unknown")),
        model=convert.text(entry.get("model"), "unknown"),
        health=convert.text(entry.get("health"), "UNKNOWN"),
        used=one_line(entry.get("used") or ("mounted" if entry.get("mounted") else "")),
        worn=100 - int(str(worn)) if str(worn).isdigit() else None,
    )


def _has_problem(disk: Disk) -> bool:
    return disk.health not in {"PASSED", "OK", "UNKNOWN"} or (disk.worn or 0) >= WORN


def _target(node: str, disks: list[Disk], what: str) -> Target:
    disk_names = [f"{disk.device} ({disk.model}, {disk.serial}, {disk.size / 1e9:.0f} GB)" for disk in disks]
    loses = [f"whatever is on {disk_name}" for disk_name in disk_names]
    state = {disk.device: f"{disk.serial} {disk.used}".strip() for disk in disks}
    name, title = f"disk/{node}/{disks[0].serial}", f"{what} {', '.join(disk_names)} on {node}"
    return Target(name, title, state, [f"node/{node}"], loses)
