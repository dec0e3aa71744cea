"""Delete guests: the one that was meant, when nothing needs it, and once.

Proxmox destroys by VMID alone and takes no digest, so what was meant is looked at here: the name, the digest if the
caller brings one, protection, HA, who runs, and who is a linked clone of it.  A deletion whose answer was lost is found
in the task list: a guest that is gone without a task of ours was never there, or somebody else deleted it.

`discard_guest` is for workflows that undo themselves.  It deletes only what the task that is being undone has made, as
the effect record of that task says, so it needs no approval; a description proves nothing.  It runs only as an
assignment of the orchestrator that undoes the task, never as a call or as a task of a plan.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from agentd.errors import ConfigChanged, NotFound, Rejected, TaskFailed
from agentd.proxmox.responses import Upid, one_line
from agentd.safety.marks import mark
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import fields, guest_model, methods, targets, units
from agentd_proxmox.fields import STOPPED
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls

DESTROYERS = frozenset({"qmdestroy", "vzdestroy"})
MAKERS = frozenset({"create_vm", "create_container", "clone_container", "restore_backup"})
"""Tools that make a guest where there was none."""
RECENT = 3600
"""Seconds for which a task of ours in the list explains that a guest is gone: a repeat comes sooner."""


class DeleteGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest, by VMID and name.

    digest: of get_vm; then nothing is done if the configuration has changed since
    purge: also take it out of backup and replication jobs; unreferenced: also delete its disks that it does not name
    """

    vmid: fields.Vmid
    name: Annotated[str, Meta(max_length=255, description="as the guest is called now")]
    digest: str = ""
    purge: bool = False
    unreferenced: bool = False


class DiscardGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest of this workflow."""

    vmid: fields.Vmid


class DeletedGuest(msgspec.Struct, frozen=True):
    """What is gone; `guest` is as it was, null if it was gone before."""

    vmid: int
    name: str
    guest: fields.Guest | None


class Removal:
    """The tools that delete guests."""

    calls: ClassVar[Calls] = {
        "delete_guest": (
            *methods.WRITE,
            "GET /nodes",
            "GET /nodes/{node}/storage/{storage}/content",
            *methods.guest("DELETE ", "GET /snapshot"),
        ),
        "discard_guest": (*methods.WRITE, *methods.guest("DELETE ", "POST /status/stop")),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="vm_management")
    async def delete_guest(self, call: Call, p: DeleteGuest) -> DeletedGuest:
        """Delete a VM or container with its disks and snapshots; it cannot be taken back, but its backups stay.

        Refused with the reason, and nothing is done: another name, a guest that runs, is protected or under HA, a
        template that has linked clones.
        """
        was: list[fields.Guest] = []

        async def seen() -> Found | None:
            at = await self.inventory.at(p.vmid)
            if at is None:
                return await self._gone(call, p)
            targets.named(at, p.name)
            ours = [e for e in await self.inventory.active([at.node]) if self._ours(e, p.vmid)]
            if ours:
                return Found(ours[0].text)
            was.append(await self._free(call, at, p))
            call.target(await targets.guest(self.inventory, at, *await self._loses(at, was[-1]), volumes=True))
            return None

        async def act() -> str | None:
            path = f"/nodes/{was[-1].node}/{was[-1].type}/{p.vmid}"
            return upid_of(
                await self.proxmox.delete(
                    path, purge=p.purge or None, **{"destroy-unreferenced-disks": True if p.unreferenced else None}
                )
            )

        found = await call.once(seen, act)
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
                f"the task ended well, and {left.title} is there: somebody made it anew, or it is not gone"
            )
        return DeletedGuest(p.vmid, p.name, was[-1] if was else None)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", undoes=True)
    async def discard_guest(self, call: Call, p: DiscardGuest) -> DeletedGuest:
        """Stop and delete the guest that a task of a workflow has made, when that task is undone; any other is refused.

        It undoes create_vm, create_container, clone_container and restore_backup: name it under `undo`. A protected
        guest is never discarded, and each one counts as an act that destroys.
        """
        was: list[fields.Guest] = []

        async def seen() -> Found | None:
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

        async def act() -> str | None:
            path = f"/nodes/{was[-1].node}/{was[-1].type}/{p.vmid}"
            if was[-1].status != STOPPED and (stopping := upid_of(await self.proxmox.post(f"{path}/status/stop"))):
                await self.proxmox.wait(stopping, call.left())
            return upid_of(await self.proxmox.delete(path, purge=True))

        found = await call.once(seen, act)
        await self.inventory.finish(call, found)
        if await self._there(p.vmid) is not None:
            raise TaskFailed(f"the task ended well, and guest {p.vmid} is still there")
        return DeletedGuest(p.vmid, was[-1].name if was else "", was[-1] if was else None)

    async def _there(self, vmid: int) -> Place | None:
        """Return where the guest is, None if it is not; the cluster's list may name it for seconds after its end."""
        at = await self.inventory.at(vmid)
        try:
            if at is not None:
                await self.inventory.config(at)
        except NotFound:
            return None
        return at

    async def _made_here(self, call: Call, at: Place) -> None:
        """Raise Rejected for a guest that the task that is undone here did not make, as our own effect record says.

        The mark has to be there besides: a guest that was made anew under the same VMID does not have it.
        """
        marks = guest_model.marks(str((await self.inventory.config(at)).get("description") or ""))
        if mark(call.undoes) not in marks or not await call.made(MAKERS, f"guest/{at.vmid}"):
            raise Rejected(
                f"{at.title} was not made by the task that is undone here: nothing was done; delete_guest may"
            )

    async def _loses(self, at: Place, guest: fields.Guest) -> list[str]:
        entries = await self.proxmox.get(f"{at.path}/snapshot") or []
        snapshots = [one_line(each["name"]) for each in entries if each.get("name") != "current"]
        disks = [f"{name} of {units.gib(size)}" for name, size in guest.disks.items()]
        return [", ".join(disks) or "no disks", f"{len(snapshots)} snapshots" if snapshots else "no snapshots"]

    async def _free(self, call: Call, at: Place, p: DeleteGuest) -> fields.Guest:
        """Return the guest that nothing keeps from being deleted; raises Rejected with what does."""
        await self.inventory.unlocked(call, at)
        guest, config = await self.inventory.read(at), await self.inventory.config(at)
        if p.digest and guest.digest != p.digest:
            raise ConfigChanged(f"{at.title} was changed since it was read: look again, then decide again")
        reasons = {
            "it runs: shutdown_vm or stop_vm first": guest.status != STOPPED,
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

    async def _clones(self, at: Place, config: guest_model.Config) -> list[str]:
        """Return the volumes that are linked clones of a template's disks."""
        found: list[str] = []
        for drive in guest_model.disks(config) if config.get("template") else ():
            storage, _, volume = str(config[drive]).partition(",")[0].partition(":")
            name = volume.rpartition("/")[2]
            entries = await self.proxmox.get(f"/nodes/{at.node}/storage/{storage}/content") or []
            # A storage of files says it in the volume's name, the others as its parent.
            base, within = re.compile(rf"(^|/){re.escape(name)}(@|$)"), f"{volume}/"
            found += [
                one_line(each["volid"])
                for each in entries
                if base.search(str(each.get("parent") or "")) or within in str(each["volid"])
            ]
        return found

    async def _gone(self, call: Call, p: DeleteGuest) -> Found:
        """Return our task that deleted the guest a short while ago; raises NotFound if there is none."""
        since = int(time.time()) - RECENT
        for node in await self.proxmox.get("/nodes") or []:
            if node.get("status") != "online":
                continue
            listed = await self.proxmox.tasks(node["node"], source="all", vmid=p.vmid, since=since, limit=500)
            ours = [each for entry in listed if self._ours(each := Upid.parse(entry["upid"]), p.vmid)]
            if ours:
                call.warn(f"guest {p.vmid} was gone already, by our own task {ours[0].text}")
                return Found(ours[0].text)
        raise NotFound(
            f"there is no guest {p.vmid}, or {self.proxmox.user} may not see it (VM.Audit); nothing was done"
        )

    def _ours(self, task: Upid, vmid: int) -> bool:
        return task.type in DESTROYERS and task.id == str(vmid) and task.user == self.proxmox.user
