"""Move the disks of a VM between storages, take them off and put them back; no volume is ever deleted here.

What a VM names no longer stays with it as `unusedN`.  Deleting it is delete_volume's, which is of another tier.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

import msgspec

from agentd.errors import ConfigChanged, Rejected, TaskFailed
from agentd.messages import Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, look, methods, targets
from agentd_proxmox.power import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls, Needs

_UNUSED = re.compile(r"unused\d+\Z")


class MoveDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which disk of which VM, and to which storage; digest: of get_vm, then nothing is done if it has changed."""

    vmid: fields.Vmid
    disk: fields.Disk
    storage: fields.Storage
    digest: str = ""


class DetachDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which disk of which VM; digest: of get_vm, then nothing is done if it has changed."""

    vmid: fields.Vmid
    disk: fields.Disk
    digest: str = ""


class AttachDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As which disk to put back which of the VM's unused volumes."""

    vmid: fields.Vmid
    disk: fields.Disk
    volume: fields.Volume
    digest: str = ""


class DiskChange(msgspec.Struct, frozen=True):
    """The VM as it is now, and the volumes that it keeps unused, by option."""

    guest: fields.Guest
    unused: dict[str, str]


class Disks:
    """The tools for the disks of VMs."""

    calls: ClassVar[Calls] = {
        "move_disk": (*methods.WRITE, "POST /nodes/{node}/qemu/{vmid}/move_disk"),
        "detach_disk": (*methods.WRITE, "POST /nodes/{node}/qemu/{vmid}/config"),
        "attach_disk": (*methods.WRITE, "POST /nodes/{node}/qemu/{vmid}/config"),
    }
    needs: ClassVar[Needs] = {
        "move_disk": {methods.SPACE},
        "detach_disk": methods.on(methods.VM, "VM.Config.Disk"),
        "attach_disk": methods.on(methods.VM, "VM.Config.Disk") | {methods.SPACE},
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def move_disk(self, call: Call, p: MoveDisk) -> DiskChange:
        """Copy a disk of a VM to another storage, also while it runs, and let the VM use the copy.

        The old volume stays as `unusedN` until delete_volume deletes it.
        """
        at = await self.inventory.find(p.vmid, vm=True)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self._config(at, p.digest)
            if volume_of(config, p.disk, at).partition(":")[0] == p.storage:
                return Found()
            ours = await targets.running(self.inventory, at.node, {"qmmove"}, str(at.vmid))
            if ours:
                return Found(ours[0].text)
            await targets.storage(self.inventory, at.node, p.storage, "images")
            await self.inventory.unlocked(call, at)
            return None

        async def act() -> str | None:
            options = {"disk": p.disk, "storage": p.storage, "digest": p.digest or None}
            return upid_of(await self.proxmox.post(f"{at.path}/move_disk", **options))

        await self.inventory.finish(call, await call.once(seen, act))
        config = await self.inventory.config(at)
        if volume_of(config, p.disk, at).partition(":")[0] != p.storage:
            raise TaskFailed(f"the task ended well, and {p.disk} of {at.title} does not lie on {p.storage}")
        return await self._now(at)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def detach_disk(self, call: Call, p: DetachDisk) -> DiskChange:
        """Take a disk off a VM; its volume stays as `unusedN`, and attach_disk puts it back.

        A running VM that cannot let it go keeps it until its next start; that is told as a warning.
        """
        at = await self.inventory.find(p.vmid, vm=True)
        call.target(at.target())

        async def seen() -> Found | None:
            if p.disk not in await self._config(at, p.digest):
                return Found()
            await self.inventory.unlocked(call, at)
            return None

        async def act() -> str | None:
            digest = (await self._config(at, p.digest)).get("digest")
            return upid_of(await self.proxmox.post(f"{at.path}/config", delete=p.disk, digest=digest))

        await self.inventory.finish(call, await call.once(seen, act))
        live = dict(await self.proxmox.get(f"{at.path}/config", current=True))
        if p.disk in live:
            call.warn(f"{at.title} keeps {p.disk} until its next start")
        return await self._now(at)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def attach_disk(self, call: Call, p: AttachDisk) -> DiskChange:
        """Put a volume back that a VM keeps unused, as one of its disks."""
        at = await self.inventory.find(p.vmid, vm=True)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self._config(at, p.digest)
            if p.disk in config:
                if volume_of(config, p.disk, at) == p.volume:
                    return Found()
                raise Rejected(f"{at.title} has another {p.disk} already: choose a free one; nothing was done")
            unused = unused_of(config)
            if p.volume not in unused.values():
                have = ", ".join(unused.values()) or "none"
                raise Rejected(f"volume: {p.volume} is no unused one of {at.title}; it has {have}; nothing was done")
            await self.inventory.unlocked(call, at)
            return None

        async def act() -> str | None:
            digest = (await self._config(at, p.digest)).get("digest")
            return upid_of(await self.proxmox.post(f"{at.path}/config", digest=digest, **{p.disk: p.volume}))

        await self.inventory.finish(call, await call.once(seen, act))
        if volume_of(await self.inventory.config(at), p.disk, at) != p.volume:
            raise TaskFailed(f"the task ended well, and {p.disk} of {at.title} is not {p.volume}")
        return await self._now(at)

    async def _config(self, at: Place, digest: str) -> look.Config:
        config = await self.inventory.config(at)
        if digest and config.get("digest") != digest:
            raise ConfigChanged(f"{at.title} was changed since it was read: look again, then decide again")
        return config

    async def _now(self, at: Place) -> DiskChange:
        return DiskChange(await self.inventory.read(at), unused_of(await self.inventory.config(at)))


def volume_of(config: look.Config, disk: str, at: Place) -> str:
    """Return the volume of a disk; raises Rejected with those that there are."""
    have = look.disks(config)
    if disk not in have:
        raise Rejected(f"{at.title} has no disk {disk}; it has {', '.join(have) or 'none'}")
    return str(config[disk]).partition(",")[0]


def unused_of(config: look.Config) -> dict[str, str]:
    """Return the volumes that a VM keeps and does not use, by option."""
    return {key: str(value).partition(",")[0] for key, value in sorted(config.items()) if _UNUSED.match(key)}
