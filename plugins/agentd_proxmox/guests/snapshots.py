"""Snapshots of VMs and containers: list, create, roll back, delete, find old ones.

The name of a snapshot is fixed before it is created, by the caller or from the invocation key, and its description
has the mark of the call: if an answer was lost, reading the snapshots gives the outcome.  Proxmox accepts the task for
a locked guest and for a name that is already used, and the task fails (proxmox.md, Tasks); both are checked first.  A
rollback leaves no trace that identifies it: if its outcome is unknown, a person decides, because a second rollback
would discard what was written after the first.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from agentd import AgentdError, Call, Found, Rejected, Repeat, TaskFailed, Tier, formats, marks, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.guests.snapshot_tree import CURRENT, SnapshotLine, SnapshotTree, snapshot_line, tree
from agentd_proxmox.model import fields, filter_values, guest_model, pages
from agentd_proxmox.model.fields import GuestName, GuestSelector
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]

MAKERS, DELETERS = frozenset({"qmsnapshot", "vzsnapshot"}), frozenset({"qmdelsnapshot", "vzdelsnapshot"})
GUESTS_A_PAGE, LINES_A_PAGE = 50, 25

SnapName = formats.Snapshot


class CreateSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest; without `name`, it is derived from the invocation key.

    vmstate: include the memory of a running VM
    """

    vmid: fields.Vmid
    name: SnapName | None = None
    description: str = ""
    vmstate: bool = False


class RollbackSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The snapshot, and the guest by VMID and name.

    `start` starts the guest afterwards.
    """

    vmid: fields.Vmid
    guest: GuestName
    name: SnapName
    start: bool = False


class RolledBack(msgspec.Struct, frozen=True):
    """The guest after the rollback, and its snapshots."""

    guest: fields.Guest
    snapshots: SnapshotTree


class DeleteSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The snapshot, and the guest by VMID and name.

    force: remove the snapshot from the configuration even if removing its disks fails
    """

    vmid: fields.Vmid
    guest: GuestName
    name: SnapName
    force: bool = False


class ListOldSnapshots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Minimum age, and the node (default: all).

    `guests` is the number of guests that a page reads, with one request each; `limit` is the number of lines.
    """

    days: Annotated[float, Meta(ge=0, le=36_500)] = 30
    node: fields.Node | None = None
    guests: Annotated[int, Meta(ge=1, le=200)] = GUESTS_A_PAGE
    limit: pages.Limit = LINES_A_PAGE
    cursor: pages.Cursor = ""


class OldSnapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """An old snapshot; age in days."""

    vmid: int
    guest: str
    node: str
    name: str
    age: float
    vmstate: bool = False


class OldSnapshotPage(msgspec.Struct, frozen=True):
    """Number of old snapshots of the guests that were read, and the oldest ones.

    `unread` has the guests that could not be read, with the reason.
    """

    total: int
    searched: int
    guests: int
    snapshots: list[OldSnapshot]
    unread: dict[str, str] = {}
    next: str = ""


class Snapshots(area.Area):
    """Tools for snapshots."""

    shown_to: ClassVar[area.ShownTo] = {"list_snapshots": blind_token.VMS, "list_old_snapshots": blind_token.VMS}
    needs: ClassVar[area.Needs] = {
        "list_snapshots": area.with_path(area.VM, "VM.Audit"),
        "list_old_snapshots": area.with_path(area.VM, "VM.Audit"),
        "rollback_snapshot": area.with_path(area.VM, "VM.Snapshot.Rollback"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def list_snapshots(self, call: Call, p: GuestSelector) -> SnapshotTree:
        """List the snapshots of a VM or container as a tree, with their age.

        Proxmox does not report their size.
        """
        return await self._tree(await self.inventory.find(p.vmid, p.name))

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="vm_management")
    async def create_snapshot(self, call: Call, p: CreateSnapshot) -> SnapshotLine:
        """Create a snapshot of a VM or container and wait until it is complete.

        With `vmstate` it includes the memory of a running VM.
        """
        at = await self.inventory.find(p.vmid)
        if p.vmstate and at.kind != "qemu":
            raise Rejected(f"{at.title} has no memory that a snapshot could keep: leave `vmstate` out")
        if at.template:
            raise Rejected(f"{at.title} is a template: it has no snapshots")
        call.target(at.target())
        name = p.name or targets.derived_name(call, "create_snapshot")
        if name.lower() in {CURRENT, "pending", "vzdump"}:
            raise Rejected(f"create_snapshot: Proxmox keeps the name {name!r} for itself; choose another one")

        async def apply() -> str | None:
            described = guest_model.describe(p.description, call.key) if call.key else p.description
            vmstate = p.vmstate or None
            return upid_of(
                await self.proxmox.post(f"{at.path}/snapshot", snapname=name, description=described, vmstate=vmstate)
            )

        found = await call.ensure(lambda: self._find_ours(call, at, name), apply)
        try:
            await self.inventory.finish(call, found)
            line = await self._one(at, name)
        except TaskFailed as error:
            line = await self._settled(call, at, name, error)
        if line is None:
            raise TaskFailed(f"the task succeeded, but {at.title} has no snapshot {name}: another client deleted it")
        if p.vmstate and not line.vmstate:
            call.warn(f"{at.title} did not run, so its snapshot {name} holds no memory")
        return line

    @tool(tier=Tier.DESTROY, repeat=Repeat.UNSAFE, capability="vm_management")
    async def rollback_snapshot(self, call: Call, p: RollbackSnapshot) -> RolledBack:
        """Roll a guest back to a snapshot: everything written since then is lost."""
        at = await self.inventory.find(p.vmid)
        targets.check_name(at, p.guest)

        async def plan() -> changes.Planned:
            line = await self._one(at, p.name)
            if line is None or line.state:
                raise Rejected(
                    f"{at.title} has no whole snapshot {p.name}; it has {await self._names(at)}: nothing was done"
                )
            await self.inventory.unlocked(call, at)
            lost = f"what was written to it since {p.name} was made ({line.time:%Y-%m-%d %H:%M} UTC)"
            call.target(await targets.guest_target(self.inventory, at, lost, volumes=True))
            return lambda: self.proxmox.post(f"{at.path}/snapshot/{p.name}/rollback", start=p.start or None)

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            raise TaskFailed(f"{error}; {await self._remains(at)}", log=error.log) from error
        shown = await self._tree(at)
        if shown.current != p.name:
            raise TaskFailed(
                f"the task succeeded, but {at.title} continues from {shown.current!r}, not from {p.name!r}"
            )
        return RolledBack(await self.inventory.read(at), shown)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="vm_management")
    async def delete_snapshot(self, call: Call, p: DeleteSnapshot) -> SnapshotTree:
        """Delete a snapshot of a VM or container.

        The state of the guest does not change; the children of the snapshot get its parent.
        """
        at = await self.inventory.find(p.vmid)
        targets.check_name(at, p.guest)

        async def plan() -> changes.Planned:
            line = await self._one(at, p.name)
            if line is None:
                return Found()
            ours = await targets.running_tasks(self.inventory, at.node, DELETERS, str(at.vmid))
            if line.state == "delete" and len(ours) == 1:
                return Found(ours[0].text)
            await self.inventory.unlocked(call, at)
            call.target(
                await targets.guest_target(
                    self.inventory, at, f"its snapshot {p.name}, made {line.time:%Y-%m-%d %H:%M} UTC", volumes=True
                )
            )
            send = partial(self.proxmox.delete, f"{at.path}/snapshot/{p.name}", force=p.force or None)
            return send if await self._one(at, p.name) is not None else Found()

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            if await self._one(at, p.name) is not None:
                raise TaskFailed(f"{error}; {await self._remains(at)}", log=error.log) from error
            call.warn(f"{error}; but the snapshot is gone")
        shown = await self._tree(at)
        if any(line.name == p.name for line in shown.snapshots):
            raise TaskFailed(f"the task succeeded, but {at.title} still has the snapshot {p.name}")
        return shown

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def list_old_snapshots(self, call: Call, p: ListOldSnapshots) -> OldSnapshotPage:
        """Find snapshots in the cluster that are older than a number of days.

        This takes one request for the list of guests, and one a guest.  Guests that cannot be read are listed with the
        reason, so that an unreachable node does not look like guests without snapshots.
        """
        if p.cursor and not (p.cursor.isascii() and p.cursor.isdigit()):
            raise Rejected("list_old_snapshots: a cursor is the value of `next`, nothing else")
        filter_values.check_exists("node", p.node, await self.inventory.node_names() if p.node else ())
        places = [at for at in await self.inventory.places() if p.node in {None, at.node} and not at.template]
        read, after = pages.page(places, lambda place: f"{place.vmid:09d}", p.guests, p.cursor)
        answers = await asyncio.gather(*map(self._asked, read))
        oldest = datetime.now(UTC) - timedelta(days=p.days)
        old = [
            (line.time, at, line)
            for at, answer in zip(read, answers, strict=True)
            if isinstance(answer, SnapshotTree)
            for line in answer.snapshots
            if line.time < oldest
        ]
        old.sort(key=lambda row: (row[0], row[1].vmid, row[2].name))
        found = [
            OldSnapshot(at.vmid, at.name, at.node, line.name, round(line.age / 24, 1), line.vmstate)
            for _, at, line in old[: p.limit]
        ]
        unread = {at.title: str(e) for at, e in zip(read, answers, strict=True) if isinstance(e, AgentdError)}
        return OldSnapshotPage(len(old), len(read), len(places), found, unread, after)

    async def _asked(self, at: GuestLocation) -> SnapshotTree | AgentdError:
        try:
            return await self._tree(at)
        except AgentdError as error:
            return error

    async def _entries(self, at: GuestLocation) -> list[Entry]:
        return await self.proxmox.get(f"{at.path}/snapshot") or []

    async def _tree(self, at: GuestLocation) -> SnapshotTree:
        return tree(at, await self._entries(at), datetime.now(UTC))

    async def _one(self, at: GuestLocation, name: str) -> SnapshotLine | None:
        return next((line for line in (await self._tree(at)).snapshots if line.name == name), None)

    async def _names(self, at: GuestLocation) -> str:
        return ", ".join(line.name for line in (await self._tree(at)).snapshots) or "none"

    async def _find_ours(self, call: Call, at: GuestLocation, name: str) -> Found | None:
        """Return Found if our snapshot exists or is being created.

        Wait for a lock that another task holds.
        """
        while True:
            entry = next((entry for entry in await self._entries(at) if entry.get("name") == name), None)
            ours = await targets.running_tasks(self.inventory, at.node, MAKERS, str(at.vmid))
            if entry is not None:
                return self._ours(call, at, entry, [task.text for task in ours])
            if not ours:
                break
            await targets.wait_a_moment(call, f"a snapshot of {at.title} is being made ({ours[0].text}): is it ours?")
        await self.inventory.unlocked(call, at)
        entry = next((entry for entry in await self._entries(at) if entry.get("name") == name), None)
        if entry is None:
            call.inverse("delete_snapshot", {"vmid": at.vmid, "guest": at.name, "name": name})
        return None if entry is None else self._ours(call, at, entry, [])

    @staticmethod
    def _ours(call: Call, at: GuestLocation, entry: Entry, makers: list[str]) -> Found:
        name = one_line(entry.get("name"))
        if not call.key or marks.mark(call.key) not in guest_model.marks(str(entry.get("description") or "")):
            raise Rejected(f"{at.title} has a snapshot {name} that this call did not make: choose another name")
        if not entry.get("snapstate"):
            return Found()
        if not makers:
            raise TaskFailed(f"the snapshot {name} of {at.title} is incomplete: delete_snapshot with force, retry")
        return Found(makers[0])

    async def _settled(self, call: Call, at: GuestLocation, name: str, error: TaskFailed) -> SnapshotLine:
        """Return our snapshot if it exists although the task failed.

        Else raise TaskFailed with what is left.  The snapshot exists if an earlier request of ours, which seemed lost,
        came first.
        """
        entry = next((entry for entry in await self._entries(at) if entry.get("name") == name), None)
        found = guest_model.marks(str((entry or {}).get("description") or ""))
        if entry is not None and call.key and marks.mark(call.key) in found and not entry.get("snapstate"):
            call.warn(f"{error}; but the snapshot {name} is there and ours")
            return snapshot_line(entry, datetime.now(UTC))
        left = f"the snapshot {name} was left behind" if entry is not None else f"no snapshot {name} was left behind"
        raise TaskFailed(f"{error}; {left}; {await self._remains(at)}", log=error.log) from error

    async def _remains(self, at: GuestLocation) -> str:
        try:
            lock = (await self.inventory.status(at)).get("lock")
        except AgentdError as error:
            return f"how {at.title} was left is not known ({error})"
        if not lock:
            return f"{at.title} is not locked"
        command = "qm" if at.kind == "qemu" else "pct"
        return f"{at.title} is still locked ({one_line(lock)}); if no task runs: {command} unlock {at.vmid}"
