"""Snapshots of VMs and containers: list, make, roll back, delete, find the old ones.

A snapshot's name is fixed before it is made, by the caller or from the call's key, and its description bears the
call's mark: so a lost answer is settled by looking.  Its task is accepted for a locked guest and for a name that is
taken, and fails (proxmox.md, Tasks); both are looked at before.  A rollback leaves nothing by which it could be known
again: on doubt a person decides, for a second one would throw away what came after the first.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from agentd import formats
from agentd.errors import AgentdError, Rejected, TaskFailed
from agentd.proxmox.responses import one_line
from agentd.safety import marks
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import fields, filter_values, guest_model, methods, pages, targets
from agentd_proxmox.fields import GuestName, Which
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls, Needs

    Entry = dict[str, Any]

CURRENT = "current"
"""The entry of Proxmox' list that stands for the guest as it is now."""
MAKERS, DELETERS = frozenset({"qmsnapshot", "vzsnapshot"}), frozenset({"qmdelsnapshot", "vzdelsnapshot"})
GUESTS_A_PAGE, LINES_A_PAGE = 50, 25

SnapName = formats.Snapshot


class SnapshotLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot; depth is its place in the tree, age is in hours, state says that it is not finished."""

    name: str
    time: datetime
    age: float
    parent: str = ""
    depth: int = 0
    vmstate: bool = False
    description: str = ""
    state: str = ""
    ours: bool = False


class SnapshotTree(msgspec.Struct, frozen=True):
    """The snapshots of a guest, parents before children; `current` is the one that the guest goes on from."""

    vmid: int
    name: str
    node: str
    current: str
    snapshots: list[SnapshotLine]


class CreateSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of which guest; without `name` it is drawn from the call's key.  vmstate: with the memory of a running VM."""

    vmid: fields.Vmid
    name: SnapName | None = None
    description: str = ""
    vmstate: bool = False


class RollbackSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which snapshot of which guest, named too; `start` starts it afterwards."""

    vmid: fields.Vmid
    guest: GuestName
    name: SnapName
    start: bool = False


class RolledBack(msgspec.Struct, frozen=True):
    """The guest after it, and the snapshots that stand as before."""

    guest: fields.Guest
    snapshots: SnapshotTree


class DeleteSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which snapshot of which guest, named too; `force` takes it out of the configuration if its disks fail."""

    vmid: fields.Vmid
    guest: GuestName
    name: SnapName
    force: bool = False


class OldSnapshots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How old, on which node; `guests` is how many guests a page looks at, each by one call; `limit` is for lines."""

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
    """How many old snapshots the guests looked at have, the oldest of them; `unread` are guests not asked, and why."""

    total: int
    looked_at: int
    guests: int
    snapshots: list[OldSnapshot]
    unread: dict[str, str] = {}
    next: str = ""


def tree(at: Place, entries: list[Entry], now: datetime) -> SnapshotTree:
    """Return the answer of Proxmox as a tree in reading order; one with an unknown parent is a root."""
    current = next((one_line(e.get("parent") or "") for e in entries if e.get("name") == CURRENT), "")
    lines = {e["name"]: _line(e, now) for e in entries if e.get("name") != CURRENT}
    children: dict[str, list[SnapshotLine]] = {}
    for each in sorted(lines.values(), key=lambda each: (each.time, each.name)):
        children.setdefault(each.parent if each.parent in lines else "", []).append(each)
    ordered: list[SnapshotLine] = []
    left = [(each, 0) for each in reversed(children.get("", []))]
    while left:
        each, depth = left.pop()
        ordered.append(msgspec.structs.replace(each, depth=depth))
        left += [(child, depth + 1) for child in reversed(children.get(each.name, []))]
    return SnapshotTree(at.vmid, at.name, at.node, current, ordered)


def _line(entry: Entry, now: datetime) -> SnapshotLine:
    made = datetime.fromtimestamp(int(entry.get("snaptime") or 0), UTC)
    description = str(entry.get("description") or "")
    return SnapshotLine(
        name=one_line(entry["name"]),
        time=made,
        age=round(max(0.0, (now - made).total_seconds()) / 3600, 1),
        parent=one_line(entry.get("parent") or ""),
        vmstate=bool(int(entry.get("vmstate") or 0)),
        description=one_line(guest_model.text_of(description)),
        state=one_line(entry.get("snapstate") or ""),
        ours=bool(guest_model.marks(description)),
    )


class Snapshots:
    """The tools for snapshots."""

    calls: ClassVar[Calls] = {
        "list_snapshots": (*methods.PLACES, *methods.guest("GET /snapshot")),
        "create_snapshot": (*methods.WRITE, *methods.guest("GET /snapshot", "POST /snapshot")),
        "rollback_snapshot": (*methods.WRITE, *methods.guest("GET /snapshot", "POST /snapshot/{snapname}/rollback")),
        "delete_snapshot": (*methods.WRITE, *methods.guest("GET /snapshot", "DELETE /snapshot/{snapname}")),
        "old_snapshots": (*methods.PLACES, *methods.guest("GET /snapshot")),
    }
    needs: ClassVar[Needs] = {
        "list_snapshots": methods.on(methods.VM, "VM.Audit"),
        "old_snapshots": methods.on(methods.VM, "VM.Audit"),
        "rollback_snapshot": methods.on(methods.VM, "VM.Snapshot.Rollback"),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def list_snapshots(self, call: Call, p: Which) -> SnapshotTree:  # noqa: ARG002 - every tool has a call
        """List the snapshots of a VM or container as a tree, with their age; Proxmox does not tell their size."""
        return await self._tree(await self.inventory.find(p.vmid, p.name))

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="vm_management")
    async def create_snapshot(self, call: Call, p: CreateSnapshot) -> SnapshotLine:
        """Make a snapshot of a VM or container and wait until it is there; with `vmstate` also of its memory."""
        at = await self.inventory.find(p.vmid)
        if p.vmstate and at.kind != "qemu":
            raise Rejected(f"{at.title} has no memory that a snapshot could keep: leave `vmstate` out")
        if at.template:
            raise Rejected(f"{at.title} is a template: it has no snapshots")
        call.target(at.target())
        name = p.name or targets.keyed(call, "create_snapshot")
        if name.lower() in {CURRENT, "pending", "vzdump"}:
            raise Rejected(f"create_snapshot: Proxmox keeps the name {name!r} for itself; choose another one")

        async def act() -> str | None:
            described = guest_model.describe(p.description, call.key) if call.key else p.description
            vmstate = p.vmstate or None
            return upid_of(
                await self.proxmox.post(f"{at.path}/snapshot", snapname=name, description=described, vmstate=vmstate)
            )

        found = await call.once(lambda: self._seat(call, at, name), act)
        try:
            await self.inventory.finish(call, found)
            line = await self._one(at, name)
        except TaskFailed as error:
            line = await self._settled(call, at, name, error)
        if line is None:
            raise TaskFailed(f"the task ended well, and {at.title} has no snapshot {name}: somebody deleted it")
        if p.vmstate and not line.vmstate:
            call.warn(f"{at.title} did not run, so its snapshot {name} holds no memory")
        return line

    @tool(tier=Tier.DESTROY, repeat=Repeat.UNSAFE, capability="vm_management")
    async def rollback_snapshot(self, call: Call, p: RollbackSnapshot) -> RolledBack:
        """Put a guest back to a snapshot: everything that was written to it since is gone."""
        at = await self.inventory.find(p.vmid)
        targets.named(at, p.guest)

        async def seen() -> Found | None:
            line = await self._one(at, p.name)
            if line is None or line.state:
                raise Rejected(
                    f"{at.title} has no whole snapshot {p.name}; it has {await self._names(at)}: nothing was done"
                )
            await self.inventory.unlocked(call, at)
            lost = f"what was written to it since {p.name} was made ({line.time:%Y-%m-%d %H:%M} UTC)"
            call.target(await targets.guest(self.inventory, at, lost, volumes=True))
            return None

        async def act() -> str | None:
            return upid_of(await self.proxmox.post(f"{at.path}/snapshot/{p.name}/rollback", start=p.start or None))

        found = await call.once(seen, act)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            raise TaskFailed(f"{error}; {await self._left(at)}", log=error.log) from error
        shown = await self._tree(at)
        if shown.current != p.name:
            raise TaskFailed(f"the task ended well, and {at.title} goes on from {shown.current!r}, not from {p.name!r}")
        return RolledBack(await self.inventory.read(at), shown)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="vm_management")
    async def delete_snapshot(self, call: Call, p: DeleteSnapshot) -> SnapshotTree:
        """Delete a snapshot; the guest stays as it is, children of the snapshot get its parent."""
        at = await self.inventory.find(p.vmid)
        targets.named(at, p.guest)

        async def seen() -> Found | None:
            line = await self._one(at, p.name)
            if line is None:
                return Found()
            ours = await targets.running(self.inventory, at.node, DELETERS, str(at.vmid))
            if line.state == "delete" and len(ours) == 1:
                return Found(ours[0].text)
            await self.inventory.unlocked(call, at)
            call.target(
                await targets.guest(
                    self.inventory, at, f"its snapshot {p.name}, made {line.time:%Y-%m-%d %H:%M} UTC", volumes=True
                )
            )
            return None if await self._one(at, p.name) is not None else Found()

        async def act() -> str | None:
            return upid_of(await self.proxmox.delete(f"{at.path}/snapshot/{p.name}", force=p.force or None))

        found = await call.once(seen, act)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            if await self._one(at, p.name) is not None:
                raise TaskFailed(f"{error}; {await self._left(at)}", log=error.log) from error
            call.warn(f"{error}; but the snapshot is gone")
        shown = await self._tree(at)
        if any(each.name == p.name for each in shown.snapshots):
            raise TaskFailed(f"the task ended well, and {at.title} still has the snapshot {p.name}")
        return shown

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def old_snapshots(self, call: Call, p: OldSnapshots) -> OldSnapshotPage:  # noqa: ARG002
        """Find snapshots older than some days over the cluster: one call for all guests, and one a guest.

        Guests that cannot be asked are named with the reason: no snapshot is taken for absent because a node is away.
        """
        if p.cursor and not (p.cursor.isascii() and p.cursor.isdigit()):
            raise Rejected("old_snapshots: a cursor is what `next` said, nothing else")
        filter_values.known("node", p.node, await self.inventory.node_names() if p.node else ())
        places = [each for each in await self.inventory.places() if p.node in {None, each.node} and not each.template]
        looked, after = pages.page(places, lambda each: f"{each.vmid:09d}", p.guests, p.cursor)
        answers = await asyncio.gather(*map(self._asked, looked))
        oldest = datetime.now(UTC) - timedelta(days=p.days)
        old = [
            (line.time, at, line)
            for at, answer in zip(looked, answers, strict=True)
            if isinstance(answer, SnapshotTree)
            for line in answer.snapshots
            if line.time < oldest
        ]
        old.sort(key=lambda each: (each[0], each[1].vmid, each[2].name))
        found = [
            OldSnapshot(at.vmid, at.name, at.node, line.name, round(line.age / 24, 1), line.vmstate)
            for _, at, line in old[: p.limit]
        ]
        unread = {each.title: str(e) for each, e in zip(looked, answers, strict=True) if isinstance(e, AgentdError)}
        return OldSnapshotPage(len(old), len(looked), len(places), found, unread, after)

    async def _asked(self, at: Place) -> SnapshotTree | AgentdError:
        try:
            return await self._tree(at)
        except AgentdError as error:
            return error

    async def _entries(self, at: Place) -> list[Entry]:
        return await self.proxmox.get(f"{at.path}/snapshot") or []

    async def _tree(self, at: Place) -> SnapshotTree:
        return tree(at, await self._entries(at), datetime.now(UTC))

    async def _one(self, at: Place, name: str) -> SnapshotLine | None:
        return next((each for each in (await self._tree(at)).snapshots if each.name == name), None)

    async def _names(self, at: Place) -> str:
        return ", ".join(each.name for each in (await self._tree(at)).snapshots) or "none"

    async def _seat(self, call: Call, at: Place, name: str) -> Found | None:
        """Tell whether our snapshot is there or being made; waits for a lock that others hold."""
        while True:
            entry = next((each for each in await self._entries(at) if each.get("name") == name), None)
            ours = await targets.running(self.inventory, at.node, MAKERS, str(at.vmid))
            if entry is not None:
                return self._ours(call, at, entry, [each.text for each in ours])
            if not ours:
                break
            await targets.pause(call, f"a snapshot of {at.title} is being made ({ours[0].text}): is it ours?")
        await self.inventory.unlocked(call, at)
        entry = next((each for each in await self._entries(at) if each.get("name") == name), None)
        if entry is None:
            call.inverse("delete_snapshot", {"vmid": at.vmid, "guest": at.name, "name": name})
        return None if entry is None else self._ours(call, at, entry, [])

    @staticmethod
    def _ours(call: Call, at: Place, entry: Entry, makers: list[str]) -> Found:
        name = one_line(entry.get("name"))
        if not call.key or marks.mark(call.key) not in guest_model.marks(str(entry.get("description") or "")):
            raise Rejected(f"{at.title} has a snapshot {name} that this call did not make: choose another name")
        if not entry.get("snapstate"):
            return Found()
        if not makers:
            raise TaskFailed(f"the snapshot {name} of {at.title} was left half made: delete_snapshot with force, retry")
        return Found(makers[0])

    async def _settled(self, call: Call, at: Place, name: str, error: TaskFailed) -> SnapshotLine:
        """Return our snapshot if it is there after all (a lost request of ours came first); else say what is left."""
        entry = next((each for each in await self._entries(at) if each.get("name") == name), None)
        found = guest_model.marks(str((entry or {}).get("description") or ""))
        if entry is not None and call.key and marks.mark(call.key) in found and not entry.get("snapstate"):
            call.warn(f"{error}; but the snapshot {name} is there and ours")
            return _line(entry, datetime.now(UTC))
        left = f"the snapshot {name} was left behind" if entry is not None else f"no snapshot {name} was left behind"
        raise TaskFailed(f"{error}; {left}; {await self._left(at)}", log=error.log) from error

    async def _left(self, at: Place) -> str:
        try:
            lock = (await self.inventory.status(at)).get("lock")
        except AgentdError as error:
            return f"how {at.title} was left is not known ({error})"
        if not lock:
            return f"{at.title} is not locked"
        command = "qm" if at.kind == "qemu" else "pct"
        return f"{at.title} is still locked ({one_line(lock)}); if no task runs: {command} unlock {at.vmid}"
