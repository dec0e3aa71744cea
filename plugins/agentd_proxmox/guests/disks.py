"""Add, move, detach and attach disks and mount points; no volume is deleted here.

A volume that a guest no longer uses stays with it as `unusedN`.  Only delete_volume deletes it, which has another tier.
A change of a VM is a Proxmox task, a change of a container is done before the answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from agentd import Call, Found, Rejected, Repeat, TaskFailed, Tier, tool
from agentd_proxmox import area, changes, guest_writing, targets
from agentd_proxmox.model import fields, guest_model
from agentd_proxmox.model.fields import STOPPED

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

MOVERS: Final = frozenset({"qmmove", "move_volume"})
_UNUSED: Final = re.compile(r"unused\d+\Z")
_OF: Final = {"qemu": re.compile(r"(scsi|virtio|sata|ide)\d+\Z"), "lxc": re.compile(r"mp\d+\Z")}
"""Names of disks that can be added and detached, by kind of guest."""


class MoveDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk of a guest, and the storage to move it to.

    digest: from get_guest; if the configuration has changed since, nothing is done
    """

    vmid: fields.Vmid
    disk: fields.Disk
    storage: fields.Storage
    digest: str = ""


class DetachDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk of a guest.

    digest: from get_guest; if the configuration has changed since, nothing is done
    """

    vmid: fields.Vmid
    disk: fields.Disk
    digest: str = ""


class AttachDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An unused volume of the guest, and the disk to attach it as.

    For a container: `mount` is the path inside it, `backup` is whether backups include the volume.
    """

    vmid: fields.Vmid
    disk: fields.Disk
    volume: fields.Volume
    mount: fields.Mount = ""
    backup: bool = True
    digest: str = ""


class CreateDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new disk, its size in GiB and its storage.

    For a container: `mount` is the path inside it, `backup` is whether backups include the volume.
    """

    vmid: fields.Vmid
    disk: fields.Disk
    storage: fields.Storage
    size: fields.Gibibytes
    mount: fields.Mount = ""
    backup: bool = True
    digest: str = ""


class DiskChange(msgspec.Struct, frozen=True):
    """The current state of the guest, and its unused volumes by option."""

    guest: fields.Guest
    unused: dict[str, str]


class Disks(area.Area):
    """Tools for the disks of VMs and the mount points of containers."""

    needs: ClassVar[area.Needs] = {
        "create_disk": area.with_path(area.VM, "VM.Config.Disk") | {area.SPACE},
        "move_disk": {area.SPACE},
        "detach_disk": area.with_path(area.VM, "VM.Config.Disk"),
        "attach_disk": area.with_path(area.VM, "VM.Config.Disk") | {area.SPACE},
    }

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def create_disk(self, call: Call, p: CreateDisk) -> DiskChange:
        """Add an empty disk to a VM, or an empty mount point to a container."""
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        _fits(at, p.disk)
        value = f"{p.storage}:{p.size}{_mounted(at, p.mount, backup=p.backup)}"

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            if p.disk in config:
                if (guest_model.disks(config)[p.disk], volume_of(config, p.disk, at).partition(":")[0]) == (
                    p.size,
                    p.storage,
                ):
                    return Found()
                raise Rejected(f"{at.title} has another {p.disk} already: choose a free one; nothing was done")
            guest_writing.check_unchanged(at, config, p.digest)
            await targets.storage(self.inventory, at.node, p.storage, _content(at))
            await self.inventory.unlocked(call, at)
            call.inverse("detach_disk", {"vmid": at.vmid, "disk": p.disk})
            return lambda: self._change_options(call, at, p.digest, {p.disk: value})

        found = await changes.change(call, plan)
        await guest_writing.finish(self.inventory, call, at, found, [p.disk])
        volume_of(await self.inventory.config(at), p.disk, at)
        return await self._used(call, at, p.disk)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def move_disk(self, call: Call, p: MoveDisk) -> DiskChange:
        """Move a disk of a VM or of a stopped container to another storage.

        Proxmox copies the disk and switches the guest to the copy; a VM may keep running.  The old volume stays as
        `unusedN` until delete_volume deletes it; the move has no undo.
        """
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            present_storage = volume_of(config, p.disk, at).partition(":")[0]
            if present_storage == p.storage:
                return Found()
            ours = await targets.running_tasks(self.inventory, at.node, MOVERS, str(at.vmid))
            if ours:
                return Found(ours[0].text)
            guest_writing.check_unchanged(at, config, p.digest)
            await targets.storage(self.inventory, at.node, p.storage, _content(at))
            status = await self.inventory.unlocked(call, at)
            if at.kind == "lxc" and status.get("status") != STOPPED:
                raise Rejected(f"{at.title} is {status.get('status')}: shutdown_guest first; nothing was done")
            which, where = ("disk", "move_disk") if at.kind == "qemu" else ("volume", "move_volume")
            options = {which: p.disk, "storage": p.storage, "digest": p.digest or None}
            # No undo: moving it back would make a third volume, and the old one is out of date by then.
            return lambda: self.proxmox.post(f"{at.path}/{where}", **options)

        await self.inventory.finish(call, await changes.change(call, plan))
        config = await self.inventory.config(at)
        if volume_of(config, p.disk, at).partition(":")[0] != p.storage:
            raise TaskFailed(f"the task succeeded, but {p.disk} of {at.title} is not on {p.storage}")
        return await self._now(at)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def detach_disk(self, call: Call, p: DetachDisk) -> DiskChange:
        """Detach a disk from a VM or a mount point from a container.

        Its volume stays as `unusedN` for attach_disk.  A running guest that cannot release it keeps it until its next
        start; the result then has a warning.
        """
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        _fits(at, p.disk)

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            if p.disk not in config or await self._is_released(at, p.disk):
                return Found()
            guest_writing.check_unchanged(at, config, p.digest)
            await self.inventory.unlocked(call, at)
            await guest_writing.record_undo(self.inventory, call, at, guest_writing.without(config, [p.disk]))
            return lambda: self._change_options(call, at, p.digest, {"delete": p.disk})

        found = await changes.change(call, plan)
        await guest_writing.finish(self.inventory, call, at, found, [p.disk, "boot"])
        if p.disk in await guest_writing.running_config(self.inventory, at):
            call.warn(f"{at.title} keeps {p.disk} until its next start")
        return await self._now(at)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def attach_disk(self, call: Call, p: AttachDisk) -> DiskChange:
        """Attach an unused volume of a VM or container as a disk or mount point."""
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        _fits(at, p.disk)
        value = p.volume + _mounted(at, p.mount, backup=p.backup)

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            if p.disk in config:
                if volume_of(config, p.disk, at) == p.volume:
                    return Found()
                raise Rejected(f"{at.title} has another {p.disk} already: choose a free one; nothing was done")
            guest_writing.check_unchanged(at, config, p.digest)
            unused = unused_of(config)
            if p.volume not in unused.values():
                have = ", ".join(unused.values()) or "none"
                raise Rejected(f"volume: {p.volume} is no unused one of {at.title}; it has {have}; nothing was done")
            await self.inventory.unlocked(call, at)
            call.inverse("detach_disk", {"vmid": at.vmid, "disk": p.disk})
            return lambda: self._change_options(call, at, p.digest, {p.disk: value})

        found = await changes.change(call, plan)
        await guest_writing.finish(self.inventory, call, at, found, [p.disk])
        if volume_of(await self.inventory.config(at), p.disk, at) != p.volume:
            raise TaskFailed(f"the task succeeded, but {p.disk} of {at.title} is not {p.volume}")
        return await self._used(call, at, p.disk)

    async def _change_options(
        self, call: Call, at: GuestLocation, digest: str, changed: guest_model.Config
    ) -> str | None:
        """Read the configuration and change options of it."""
        config = await self.inventory.config(at)
        guest_writing.check_unchanged(at, config, digest)
        return await guest_writing.send(self.inventory, call, at, config, changed)

    async def _is_released(self, at: GuestLocation, disk: str) -> bool:
        """Return whether a container will release the mount point at its next start.

        Until then its configuration still shows it.
        """
        if at.kind == "qemu":
            return False
        entries = await self.proxmox.get(f"{at.path}/pending") or []
        return any(entry.get("key") == disk and entry.get("delete") for entry in entries)

    async def _used(self, call: Call, at: GuestLocation, disk: str) -> DiskChange:
        if disk not in await guest_writing.running_config(self.inventory, at):
            call.warn(f"{at.title} uses {disk} from its next start on")
        return await self._now(at)

    async def _now(self, at: GuestLocation) -> DiskChange:
        return DiskChange(await self.inventory.read(at), unused_of(await self.inventory.config(at)))


def volume_of(config: guest_model.Config, disk: str, at: GuestLocation) -> str:
    """Return the volume of a disk.

    Raise Rejected with the existing disks if there is no such disk.
    """
    have = guest_model.disks(config)
    if disk not in have:
        raise Rejected(f"{at.title} has no disk {disk}; it has {', '.join(have) or 'none'}")
    return str(config[disk]).partition(",")[0]


def unused_of(config: guest_model.Config) -> dict[str, str]:
    """Return the unused volumes of a guest, by option."""
    volumes = {key: str(value).partition(",")[0] for key, value in sorted(config.items())}
    used = {volumes[key] for key in guest_model.disks(config)}
    return {key: volume for key, volume in volumes.items() if _UNUSED.match(key) and volume not in used}


def _fits(at: GuestLocation, disk: str) -> None:
    if not _OF[at.kind].match(disk):
        names = "mp0, mp1, …" if at.kind == "lxc" else "scsi1, virtio0, …"
        raise Rejected(f"disk: {at.title} can be given and rid of {names}, not {disk}; nothing was done")


def _content(at: GuestLocation) -> str:
    return "images" if at.kind == "qemu" else "rootdir"


def _mounted(at: GuestLocation, mount: str, *, backup: bool) -> str:
    """Return the options after the volume of a mount point.

    Raise Rejected if its path is missing.
    """
    if at.kind == "qemu":
        if mount:
            raise Rejected(f"mount: {at.title} mounts its disks itself; leave `mount` out; nothing was done")
        return ""
    if not mount:
        raise Rejected(f"mount: give the path of it in {at.title}, for example /srv/data; nothing was done")
    return f",mp={mount},backup={int(backup)}"
