"""Delete guests: only the one that is meant, and only when nothing stands against it.

What Proxmox would do without asking is refused here: a guest that runs, is protected, is under HA, or is called
otherwise than whoever asks thinks.  `discard_guest` is for workflows that undo themselves: it deletes nothing but what
that very workflow has made, as the guest's mark says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentd.errors import NotFound, Rejected, TaskFailed
from agentd.messages import Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, look, targets
from agentd_proxmox.power import RUNNING, upid_of
from agentd_proxmox.snapshots import GuestName

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place

DESTROYERS = {"qmdestroy", "vzdestroy"}
STOPPERS = {"qmstop", "vzstop"}


class DeleteGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest, named too.

    purge         take it out of backup jobs, replication and HA as well
    unreferenced  delete volumes that bear its id and are in no configuration, too
    """

    vmid: fields.Vmid
    name: GuestName
    purge: bool = True
    unreferenced: bool = False


class DiscardGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest of this workflow."""

    vmid: fields.Vmid


class DeletedGuest(msgspec.Struct, frozen=True):
    """What the guest was; None if it was gone already."""

    vmid: int
    was: fields.Guest | None = None


class Removal:
    """The tools that delete guests."""

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="vm_management")
    async def delete_guest(self, call: Call, p: DeleteGuest) -> DeletedGuest:
        """Delete a stopped VM or container with its disks and snapshots; its backups stay."""
        was: list[fields.Guest] = []

        async def seen() -> Found | None:
            at = await self._there(p.vmid)
            if at is None:
                return Found()
            if ours := await targets.running(self.inventory, at.node, DESTROYERS, str(p.vmid)):
                return Found(ours[0].text)
            targets.named(at, p.name)
            await self.inventory.unlocked(call, at)
            guest = await self.inventory.read(at)
            await self._may_go(at, guest)
            was[:] = [guest]
            disks = ", ".join(f"{name} {size:g} GiB" for name, size in guest.disks.items()) or "no disks"
            call.target(await targets.guest(self.inventory, at, disks, await self._snapshots(at)))
            return None

        found = await call.once(seen, lambda: self._send(p.vmid, p.purge, p.unreferenced))
        await self._gone(call, p.vmid, found)
        return DeletedGuest(p.vmid, was[0] if was else None)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def discard_guest(self, call: Call, p: DiscardGuest) -> DeletedGuest:
        """Stop and delete a guest that this very workflow has made; any other one is refused.

        It undoes create_vm and restore_backup: name it under `undo`.
        """
        was: list[fields.Guest] = []

        async def running() -> Found | None:
            at = await self._there(p.vmid)
            if at is None:
                return Found()
            if ours := await targets.running(self.inventory, at.node, DESTROYERS, str(p.vmid)):
                return Found(ours[0].text)
            await self._made_here(call, at)
            await self.inventory.unlocked(call, at)
            was[:] = [await self.inventory.read(at)]
            call.target(at.target())
            return None

        found = await call.once(running, lambda: self._stop_and_send(call, p.vmid))
        await self._gone(call, p.vmid, found)
        return DeletedGuest(p.vmid, was[0] if was else None)

    async def _there(self, vmid: int) -> Place | None:
        """Return where the guest is, None if it is not; the cluster's list may name it for seconds after its end."""
        at = await self.inventory.at(vmid)
        if at is None:
            return None
        try:
            await self.inventory.config(at)
        except NotFound:
            return None
        return at

    async def _may_go(self, at: Place, guest: fields.Guest) -> None:
        if guest.status == RUNNING:
            raise Rejected(f"{at.title} is running: shutdown_vm or stop_vm first; nothing was done")
        if guest.ha:
            raise Rejected(f"{at.title} is under HA: take it out of HA first; nothing was done")
        if look.enabled((await self.inventory.config(at)).get("protection")):
            raise Rejected(f"{at.title} is protected (option `protection`): nothing was done")

    async def _made_here(self, call: Call, at: Place) -> None:
        marks = look.marks(str((await self.inventory.config(at)).get("description") or ""))
        workflow = call.key.partition(".")[0]
        if not workflow or not any(each.startswith(f"{look.mark(workflow)}.") for each in marks):
            raise Rejected(f"{at.title} was not made by this workflow: nothing was done; delete_guest may")

    async def _snapshots(self, at: Place) -> str:
        entries: list[dict[str, Any]] = await self.proxmox.get(f"{at.path}/snapshot") or []
        names = [str(each["name"]) for each in entries if each.get("name") != "current"]
        return f"{len(names)} snapshots" if names else "no snapshots"

    async def _send(self, vmid: int, purge: bool, unreferenced: bool) -> str | None:  # noqa: FBT001 - as the API has them
        at = await self.inventory.find(vmid)
        sent = {"purge": purge or None, "destroy-unreferenced-disks": unreferenced}
        return upid_of(await self.proxmox.delete(at.path, **sent))

    async def _stop_and_send(self, call: Call, vmid: int) -> str | None:
        at = await self.inventory.find(vmid)
        if (await self.inventory.status(at)).get("status") == RUNNING:
            call.progress(f"stopping {at.title}")
            stopping = upid_of(await self.proxmox.post(f"{at.path}/status/stop"))
            if stopping:
                await self.proxmox.wait(stopping, call.left())
        return await self._send(vmid, purge=True, unreferenced=False)

    async def _gone(self, call: Call, vmid: int, found: Found) -> None:
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            at = await self._there(vmid)
            if at is not None:
                raise TaskFailed(f"{error}; {at.title} is still there, look at its disks", log=error.log) from error
            call.warn(f"{error}; but the guest is gone")
        at = await self._there(vmid)
        if at is not None:
            raise TaskFailed(f"the task ended well, and {at.title} is still there")
