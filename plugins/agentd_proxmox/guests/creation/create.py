"""Create guests exactly once.

The VMID is fixed first, the mark identifies the guest, and the create of Proxmox is atomic.  What can happen to a
create request, and what this module does:

* The request was lost before Proxmox received it: no guest is found, so the request is sent again.
* The answer was lost: the guest is found by its mark, or it is still being created.  Then this waits until the guest
  shows its mark: while a Proxmox worker creates it, it has a lock and no description of ours (proxmox.md, Guests).
* The lost request arrives late, after the check found no guest: a second request is sent, Proxmox lets one of the two
  succeed and answers the other with `already exists`.  So that answer is accepted only after one more check.
* The VMID is used by a guest that this call did not create: `vmid_taken`, and the planner draws another VMID.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from agentd import (
    AgentdError,
    Call,
    Denied,
    Found,
    GuestLocked,
    NotFound,
    ProxmoxUnavailable,
    Rejected,
    Repeat,
    TaskFailed,
    Tier,
    VmidTaken,
    grant,
    tool,
)
from agentd_proxmox import api_tiers, area, guest_writing, targets
from agentd_proxmox.guests.creation.new_guest import CreateVm, GuestOrder, check_consistent, clone_of, new_guest
from agentd_proxmox.inventory import MARGIN, GuestLocation
from agentd_proxmox.model import drives, fields, guest_model
from agentd_proxmox.model.guest_model import VmidOwner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd import Upid

MAKERS: Final = {"qmcreate", "qmrestore", "vzcreate", "vzrestore"}
"""Task types whose id is the new guest's VMID; the id of a `qmclone` or `vzclone` is the VMID of its source."""
CLONERS: Final = {"qmclone", "vzclone"}
"""Parameters that only cloud-init reads."""
IMPORTED: Final = frozenset({"import", "images"})
"""Content types that a disk can be copied from."""
PAUSE: Final = 0.5
NO_MAKER: Final = 3
"""Consecutive checks without a task for a half-created guest before it is reported: a worker may have just ended."""


class GetFreeVmids(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Number of free VMIDs to draw, and the range (default: the configured range)."""

    count: fields.Count = 1
    vmid_min: fields.Vmid | None = None
    vmid_max: fields.Vmid | None = None
    exclude: list[int] = []


class Vmids(msgspec.Struct, frozen=True):
    """Free VMIDs; they are not reserved."""

    vmids: Annotated[list[int], msgspec.Meta(description="free when checked")]


class Creation(area.Area):
    """Tools that create guests."""

    needs: ClassVar[area.Needs] = {
        "create_vm": area.config_privileges(
            "CDROM", "CPU", "Cloudinit", "Disk", "HWType", "Memory", "Network", "Options"
        )
        | area.with_path(area.VM, "VM.Allocate")
        | {area.SPACE, area.BRIDGE},
        "get_free_vmids": area.with_path(area.VM, "VM.Audit"),
    }

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="vm_management", raises=(api_tiers.MEDIUM,))
    async def create_vm(self, call: Call, p: CreateVm) -> fields.Guest:
        """Create a VM: new, from a cloud image, or as a clone of a template.

        The call waits until the VM exists; it is not started.  A clone has the cores, memory, disks, networks and tags
        of its template, as the result shows; update_vm and resize_disk change them.
        """
        check_consistent(p)
        order = GuestOrder(p.vmid, p.node, p.name, p.pool, p.template)

        async def check() -> None:
            if p.template is not None:
                source = await self.inventory.find(p.template, vm=True)
                clone_of(source, p, call.key)
                await self.can_clone("create_vm", source, p.node, p.storage)

        return await self.make(call, "create_vm", order, lambda: self._send(p, call.key), check)

    async def can_clone(self, tool: str, source: GuestLocation, node: str, storage: str | None) -> None:
        """Raise for a clone that Proxmox would refuse, and say where a clone is possible."""
        config = await self.inventory.config(source)
        if fixed := drives.uncloneable(config, container=source.kind == "lxc"):
            raise Rejected(f"{tool}: {source.title} cannot be cloned: {'; '.join(fixed)}")
        entries = await self.inventory.resources("storage")
        if storage is not None and not any(e.get("storage") == storage and e.get("node") == node for e in entries):
            existing = sorted(str(entry["storage"]) for entry in entries if entry.get("node") == node)
            raise NotFound(
                f"{tool}: storage: there is no {storage!r} on {node}; there are {', '.join(existing) or 'none'}"
            )
        if node == source.node:
            return
        shared = {str(entry["storage"]) for entry in entries if entry.get("shared")}
        if stay := drives.not_shared(config, shared):
            raise Rejected(
                f"{tool}: node: {source.title} can only be cloned on {source.node}, where its disks are: "
                f"{', '.join(stay)} (not shared); clone it there and move it with migrate_guest"
            )
        if storage is not None and storage not in shared:
            raise Rejected(
                f"{tool}: storage: {storage} is not shared, so a clone on it can only be made on {source.node}, "
                f"not on {node}; clone it there and move it with migrate_guest"
            )

    async def make(
        self,
        call: Call,
        tool: str,
        p: GuestOrder,
        send: Callable[[], Awaitable[str]],
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> fields.Guest:
        """Create the ordered guest with `send`, exactly once, and return it.

        The guest gets the mark of the call.  `check` raises for what Proxmox would refuse; it is called if there is no
        guest yet, in a dry run too.
        """
        if not call.key:
            raise Rejected(f"{tool}: this call has no key, so what it makes could not be found again")
        wanted = GuestLocation(p.vmid, p.node, p.kind, p.name, "unknown", template=False, pool=p.pool or "")
        call.target(wanted.target())

        async def apply() -> str | None:
            try:
                return await send()
            except Denied as error:
                raise self._denied(p, error) from error
            except VmidTaken:
                # Perhaps our own request, which seemed lost, arrived late: check before accepting the answer.
                found = await self._check(call, p)
                if found is None:
                    raise
                return found.upid or None

        with targets.not_ours_as_taken():
            found = await call.ensure(lambda: self._check(call, p, check), apply)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            raise TaskFailed(f"{error}; {await self._remains(p)}", log=error.log) from error
        at, config = await self._target_state(p)
        if guest_model.owner_of(config, call.key) is not VmidOwner.OURS:
            raise VmidTaken(f"the task succeeded, but {at.title} does not have our mark: another client replaced it")
        return await self.inventory.read(at)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def get_free_vmids(self, call: Call, p: GetFreeVmids) -> Vmids:
        """Draw free VMIDs at random.

        At random, because several clients that take the next VMID all take the same one.  They are not reserved:
        create_vm returns vmid_taken if another client was faster, or if a guest that our token may not see uses one.
        """
        low = p.vmid_min or self.proxmox.settings.vmid_min
        high = p.vmid_max or self.proxmox.settings.vmid_max
        taken = {place.vmid for place in await self.inventory.places()} | set(p.exclude)
        taken = {vmid for vmid in taken if low <= vmid <= high}
        free = high - low + 1 - len(taken)
        if free < p.count:
            raise Rejected(f"get_free_vmids: {max(free, 0)} VMIDs are free from {low} to {high}, {p.count} are wanted")
        return Vmids(draw(low, high, taken, p.count))

    async def _send(self, p: CreateVm, key: str) -> str:
        if p.image is not None:
            await self._is_image(p.node, p.image)
        if p.template is None:
            await guest_writing.bridge(self.inventory, p.node, p.bridge)
            return str(await self.proxmox.post(f"/nodes/{p.node}/qemu", **new_guest(p, key)))
        source = await self.inventory.find(p.template, vm=True)
        return str(await self.proxmox.post(f"{source.path}/clone", **clone_of(source, p, key)))

    async def _is_image(self, node: str, volid: str) -> None:
        """Raise for a volume that is not an image for a disk.

        Proxmox would report it only in the middle of the task.
        """
        storage = volid.partition(":")[0]
        await targets.storage(self.inventory, node, storage, "")
        entries = await self.proxmox.get(f"/nodes/{node}/storage/{storage}/content") or []
        found = next((entry for entry in entries if entry.get("volid") == volid), None)
        if found is None:
            raise NotFound(f"image: there is no {volid} on {node}; list_volumes lists what there is")
        if found.get("content") not in IMPORTED:
            raise Rejected(
                f"image: {volid} is of content {found.get('content')}, not import; send it with upload_file or "
                "download_url as content import, with a name that ends in .qcow2, .raw or .vmdk"
            )

    def _denied(self, p: GuestOrder, error: Denied) -> Denied:
        """Return the error with the missing privilege.

        For a create, Proxmox answers only `Permission check failed`.
        """
        if "pveum" in str(error):
            return error
        where = f"/pool/{p.pool}" if p.pool else f"/vms/{p.vmid}"
        command = grant(where, "VM.Allocate", self.proxmox.user)
        return Denied(f"{error}; making a guest needs VM.Allocate on {where}; to grant it: {command}")

    async def _check(
        self, call: Call, p: GuestOrder, check: Callable[[], Awaitable[None]] | None = None
    ) -> Found | None:
        """Return Found if our guest exists on its VMID; wait while this cannot be decided."""
        idle = 0
        while True:
            at, config = await self._target_state(p)
            owner = guest_model.owner_of(config, call.key)
            if owner is VmidOwner.FREE:
                if check is not None:
                    await check()
                call.inverse("delete_guest", {"vmid": p.vmid, "name": p.name})
                return None
            if owner is VmidOwner.FOREIGN:
                raise VmidTaken(f"the VMID is taken: {at.title} is not ours")
            if owner is VmidOwner.OURS and (config or {}).get("lock") not in guest_model.MAKING:
                return Found()
            ours = await self._our_makers(p, at)
            if owner is VmidOwner.OURS and len(ours) == 1:
                return Found(ours[0].text)
            idle = 0 if ours else idle + 1
            if idle > NO_MAKER:
                _refuse_abandoned(at, owner)
                return None
            await self._pause(call, at)

    @staticmethod
    async def _pause(call: Call, at: GuestLocation) -> None:
        if call.left() < MARGIN:
            raise GuestLocked(f"{at.title} is being created by an unknown task", delay=5.0)
        call.progress(f"{at.title} is being created; waiting to see by which task")
        await asyncio.sleep(PAUSE)

    async def _target_state(self, p: GuestOrder) -> tuple[GuestLocation, guest_model.Config | None]:
        """Return the place of the guest on the VMID and its configuration (or None).

        The place comes from the cluster's list.  If the guest is not in it, the wanted node is asked: the list may be
        late, and it omits what the token may not audit.
        """
        at = await self.inventory.at(p.vmid)
        try:
            wanted = at or GuestLocation(p.vmid, p.node, p.kind, "", "unknown", template=False)
            return wanted, await self.inventory.config(wanted)
        except NotFound as error:
            if at is not None:
                raise ProxmoxUnavailable(
                    f"{at.title} is listed but cannot be read: it is being moved or deleted ({error})"
                ) from error
            return GuestLocation(p.vmid, p.node, p.kind, p.name, "unknown", template=False), None

    async def _our_makers(self, p: GuestOrder, at: GuestLocation) -> list[Upid]:
        """Return the tasks of our token that may be creating the guest.

        Raise VmidTaken for tasks of another user.  The task of a clone runs on the node of its source and has the VMID
        of the source.  So it is not known which of several clone tasks creates our guest; then it is enough that one of
        them runs.
        """
        source = await self.inventory.at(p.template) if p.template is not None else None
        found = await self.inventory.active({at.node, source.node if source else at.node})
        makers = [task for task in found if task.type in MAKERS and task.id == str(p.vmid)]
        clones = [task for task in found if task.type in CLONERS and (source is None or task.id == str(source.vmid))]
        ours = [task for task in makers or clones if task.user == self.proxmox.user]
        if makers and not ours:
            raise VmidTaken(f"the VMID is taken: {makers[0].user} is making {at.title} ({makers[0].text})")
        return ours

    async def _remains(self, p: GuestOrder) -> str:
        try:
            at, config = await self._target_state(p)
        except AgentdError as error:
            return f"whether guest {p.vmid} was left behind is not known ({error})"
        noun = "VM" if p.kind == "qemu" else "container"
        return f"no {noun} {p.vmid} was left behind" if config is None else f"{at.title} was left behind"


def _refuse_abandoned(at: GuestLocation, owner: VmidOwner) -> None:
    """Raise TaskFailed for our own half-created guest without a running task.

    Otherwise the request is sent: a guest without our mark does not seem to be ours, and Proxmox itself answers that
    the VMID is taken.
    """
    if owner is VmidOwner.OURS:
        raise TaskFailed(f"{at.title} was left behind incomplete: its task crashed; delete it and use another VMID")


def draw(low: int, high: int, taken: set[int], count: int) -> list[int]:
    """Return `count` random numbers from `low` to `high` that are not in `taken`.

    The caller checks that there are enough.
    """
    chance = random.SystemRandom()
    drawn: set[int] = set()
    if len(taken) + count > (high - low + 1) // 2:
        return chance.sample([vmid for vmid in range(low, high + 1) if vmid not in taken], count)
    while len(drawn) < count:  # at least every second draw is a free number
        vmid = chance.randint(low, high)
        if vmid not in taken:
            drawn.add(vmid)
    return list(drawn)
