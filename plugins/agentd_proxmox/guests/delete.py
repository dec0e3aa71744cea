"""Delete guests, exactly once.

Only the intended guest is deleted, and only if nothing depends on it.  Proxmox deletes by VMID alone and takes no
digest, so this module checks what was intended: the name, the digest if the caller gives one, protection, HA, whether
the guest runs, and its linked clones.  A deletion whose answer was lost is found in the task list: a guest that is gone
without a task of ours never existed, or another client deleted it.

`discard_guest` is for the undo of workflows.  It deletes only what the task that is being undone has created, according
to the effect record of that task, so it needs no approval; a description proves nothing.  It runs only as an assignment
of the orchestrator that undoes the task, never as a direct call or as a task of a plan.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, TaskFailed, Tier, Upid, mark, one_line, tool
from agentd_proxmox import area, changes, targets
from agentd_proxmox.model import fields, guest_model, units
from agentd_proxmox.model.fields import STOPPED
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

DESTROYERS: Final = frozenset({"qmdestroy", "vzdestroy"})
MAKERS: Final = frozenset({"create_vm", "create_container", "clone_container", "restore_backup"})
"""Tools that create a new guest."""
RECENT: Final = 3600
"""Maximum age in seconds of our own task that explains why a guest is gone: a repeat comes sooner."""


class DeleteGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest, by VMID and name.

    digest: from get_guest; if the configuration has changed since, nothing is done
    purge: also remove the guest from backup and replication jobs
    unreferenced: also delete disks of the guest that its configuration does not name
    """

    vmid: fields.Vmid
    name: Annotated[str, Meta(max_length=255, description="as the guest is called now")]
    digest: str = ""
    purge: bool = False
    unreferenced: bool = False


class DiscardGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest that this workflow created."""

    vmid: fields.Vmid


class DeletionTools(area.Area):
    """Tools that delete guests."""

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="vm_management")
    async def delete_guest(self, call: Call, p: DeleteGuest) -> changes.Deleted:
        """Delete a VM or container with its disks and snapshots; its backups stay.

        This cannot be undone.  It is refused with the reason, and nothing is done, if the guest has another name, runs,
        is protected, is under HA, or is a template with linked clones.
        """
        before: list[fields.Guest] = []

        async def plan() -> changes.Planned:
            at = await self.inventory.at(p.vmid)
            if at is None:
                return await self._deletion_task(call, p)
            targets.check_name(at, p.name)
            ours = [e for e in await self.inventory.active([at.node]) if self._ours(e, p.vmid)]
            if ours:
                return Found(ours[0].text)
            before.append(await self._deletable_guest(call, at, p))
            call.target(
                await targets.guest_target(self.inventory, at, *await self._loses(at, before[-1]), volumes=True)
            )
            path = f"/nodes/{before[-1].node}/{before[-1].type}/{p.vmid}"
            more = {"destroy-unreferenced-disks": True if p.unreferenced else None}
            return lambda: self.proxmox.delete(path, purge=p.purge or None, **more)

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            left = await self.inventory.at(p.vmid)
            if left is not None:
                raise TaskFailed(f"{error}; {left.title} is still there", log=error.log) from error
            call.warn(f"{error}; but guest {p.vmid} is gone")
        left = await self.inventory.at(p.vmid)
        if left is not None:
            raise TaskFailed(
                f"the task succeeded, but {left.title} is there: another client created it again, or it was not deleted"
            )
        return changes.deleted(str(p.vmid), before[-1] if before else None)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", undoes=True)
    async def discard_guest(self, call: Call, p: DiscardGuest) -> changes.Deleted:
        """Undo a workflow task: stop and delete the guest that it created.

        Any other guest is refused.  It undoes create_vm, create_container, clone_container and restore_backup: name it
        under `undo`.  A protected guest is never deleted, and each deletion counts as a destructive act.
        """
        before: list[fields.Guest] = []

        async def check() -> Found | None:
            at = await self._find_guest(p.vmid)
            if at is None:
                return Found()
            if ours := await targets.running_tasks(self.inventory, at.node, DESTROYERS, str(p.vmid)):
                return Found(ours[0].text)
            await self._made_here(call, at)
            await self.inventory.unlocked(call, at)
            before[:] = [await self.inventory.read(at)]
            call.target(at.target())
            return None

        async def apply() -> str | None:
            path = f"/nodes/{before[-1].node}/{before[-1].type}/{p.vmid}"
            if before[-1].status != STOPPED and (stopping := upid_of(await self.proxmox.post(f"{path}/status/stop"))):
                await self.proxmox.wait(stopping, call.left())
            return upid_of(await self.proxmox.delete(path, purge=True))

        found = await call.ensure(check, apply)
        await self.inventory.finish(call, found)
        if await self._find_guest(p.vmid) is not None:
            raise TaskFailed(f"the task succeeded, but guest {p.vmid} is still there")
        return changes.deleted(str(p.vmid), before[-1] if before else None)

    async def _find_guest(self, vmid: int) -> GuestLocation | None:
        """Return the place of the guest, None if it is gone.

        The cluster's list may show it for seconds after its end.
        """
        at = await self.inventory.at(vmid)
        try:
            if at is not None:
                await self.inventory.config(at)
        except NotFound:
            return None
        return at

    async def _made_here(self, call: Call, at: GuestLocation) -> None:
        """Raise Rejected if the task that is being undone did not create the guest.

        Our own effect record shows it.  The guest must also have the mark: a guest that was created later under the
        same VMID does not have it.
        """
        marks = guest_model.marks(str((await self.inventory.config(at)).get("description") or ""))
        if mark(call.undoes) not in marks or not await call.made(MAKERS, f"guest/{at.vmid}"):
            raise Rejected(
                f"{at.title} was not made by the task that is undone here: nothing was done; delete_guest may"
            )

    async def _loses(self, at: GuestLocation, guest: fields.Guest) -> list[str]:
        entries = await self.proxmox.get(f"{at.path}/snapshot") or []
        snapshots = [one_line(entry["name"]) for entry in entries if entry.get("name") != "current"]
        disks = [f"{name} of {units.gib(size)}" for name, size in guest.disks.items()]
        return [", ".join(disks) or "no disks", f"{len(snapshots)} snapshots" if snapshots else "no snapshots"]

    async def _deletable_guest(self, call: Call, at: GuestLocation, p: DeleteGuest) -> fields.Guest:
        """Return the guest if it may be deleted; raise Rejected with the reasons if not."""
        await self.inventory.unlocked(call, at)
        guest, config = await self.inventory.read(at), await self.inventory.config(at)
        changes.check_unchanged(at.title, p.digest, guest.digest)
        reasons = {
            "it runs: shutdown_guest or stop_guest first": guest.status != STOPPED,
            "it is protected: its option `protection` has to be taken away first": guest_model.enabled(
                config.get("protection")
            ),
            "it is under HA: take it out of HA first": guest.ha,
        }
        why = [reason for reason, holds in reasons.items() if holds]
        if not why and (clones := await self._clones(at, config)):
            why = [f"it has linked clones: {', '.join(clones)}"]
        if why:
            raise Rejected(f"{at.title} is not deleted, {'; '.join(why)}; nothing was done")
        return guest

    async def _clones(self, at: GuestLocation, config: guest_model.Config) -> list[str]:
        """Return the volumes that are linked clones of a template's disks."""
        found: list[str] = []
        for drive in guest_model.disks(config) if config.get("template") else ():
            storage, _, volume = str(config[drive]).partition(",")[0].partition(":")
            name = volume.rpartition("/")[2]
            entries = await self.proxmox.get(f"/nodes/{at.node}/storage/{storage}/content") or []
            # A file storage has the base in the name of the volume, the other storages have it as `parent`.
            base, within = re.compile(rf"(^|/){re.escape(name)}(@|$)"), f"{volume}/"
            found += [
                one_line(entry["volid"])
                for entry in entries
                if base.search(str(entry.get("parent") or "")) or within in str(entry["volid"])
            ]
        return found

    async def _deletion_task(self, call: Call, p: DeleteGuest) -> Found:
        """Return our task that deleted the guest recently.

        Raise NotFound if there is none.
        """
        since = int(time.time()) - RECENT
        for node in await self.proxmox.get("/nodes") or []:
            if node.get("status") != "online":
                continue
            listed = await self.proxmox.tasks(node["node"], source="all", vmid=p.vmid, since=since, limit=500)
            ours = [task for entry in listed if self._ours(task := Upid.parse(entry["upid"]), p.vmid)]
            if ours:
                call.warn(f"guest {p.vmid} was gone already, by our own task {ours[0].text}")
                return Found(ours[0].text)
        raise NotFound(
            f"there is no guest {p.vmid}, or {self.proxmox.user} may not see it (VM.Audit); nothing was done"
        )

    def _ours(self, task: Upid, vmid: int) -> bool:
        return task.type in DESTROYERS and task.id == str(vmid) and task.user == self.proxmox.user
