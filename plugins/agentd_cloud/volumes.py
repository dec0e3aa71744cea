"""Tools for volumes and their snapshots; what they create is tagged like a node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, TaskFailed, TemporaryError, Tier, tool
from agentd_cloud import limits, model
from agentd_cloud.model import Id, InAccount, Name, Paged, Snapshot, Volume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd_cloud.accounts import Account, Accounts

PAUSE = 2.0
"""Seconds between two reads while an object changes its state."""


class VolumeList(msgspec.Struct, frozen=True):
    """A page of volumes."""

    total: int
    volumes: list[Volume]
    next: str


class SnapshotList(msgspec.Struct, frozen=True):
    """A page of snapshots."""

    total: int
    snapshots: list[Snapshot]
    next: str


class CloudVolumeSelector(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A volume, by its id or its name."""

    volume: Id


class CloudSnapshotSelector(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A snapshot, by its id or its name."""

    snapshot: Id


class CreateCloudVolume(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The new volume; location: that of the node it is for; snapshot: id of the one to restore."""

    name: Name
    size_gb: Annotated[int, Meta(ge=1, le=65_536)]
    location: Id
    snapshot: Annotated[str, Meta(max_length=100)] = ""


class AttachCloudVolume(CloudVolumeSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A volume, the node that gets it, and its device there, for example /dev/sdf."""

    node: Id
    device: Annotated[str, Meta(pattern=r"^/dev/[a-z0-9]{1,16}\Z")] = "/dev/sdf"


class CreateCloudSnapshot(CloudVolumeSelector, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A volume, and the name of its new snapshot."""

    name: Name


class DeletedObject(msgspec.Struct, frozen=True):
    """What was deleted; existed: false if it did not exist."""

    id: str
    existed: bool


class Volumes:
    """The tools for volumes and snapshots."""

    def __init__(self, accounts: Accounts) -> None:
        """Work in these accounts."""
        self.accounts = accounts

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_volumes(self, call: Call, p: Paged) -> VolumeList:
        """List the volumes (disks) of a cloud account."""
        return VolumeList(*model.page(await self.accounts.find(p.account).volumes(), p))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_snapshots(self, call: Call, p: Paged) -> SnapshotList:
        """List the snapshots of volumes of a cloud account."""
        return SnapshotList(*model.page(await self.accounts.find(p.account).snapshots(), p))

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="cloud_management")
    async def create_cloud_volume(self, call: Call, p: CreateCloudVolume) -> Volume:
        """Create a volume in a cloud account."""
        account = self.accounts.find(p.account)
        account.writable()
        target = account.new(p.name, f"new volume {p.name}, {p.size_gb} GB,")
        places: list[object] = []

        async def check() -> Found | None:
            volumes = await account.volumes()
            call.target(target)
            if any(volume.mark == call.key for volume in volumes):
                return Found()
            if limits.only("volume", p.name, volumes) is not None:
                raise Rejected(f"name: a volume {p.name} exists in account {account.name}")
            limits.check_volumes(account.settings, [volume for volume in volumes if volume.mark], p.size_gb)
            locations = await account.read(account.provider.locations)
            if not locations:
                raise TemporaryError(f"account {account.name}: the list of locations is empty; no list is trusted")
            places[:] = [limits.choose("location", p.location, locations, account.settings.locations)]
            call.inverse("delete_cloud_volume", {"account": account.name, "volume": p.name})
            return None

        async def apply() -> None:
            tags = {account.settings.tag: call.key}
            await account.write(
                lambda provider, driver: provider.create_volume(driver, p.name, p.size_gb, places[0], p.snapshot, tags)
            )

        async with account.changing:
            await call.ensure(check, apply)
        return await _made(call, account.volumes, "volume", {"available", "in-use"})

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cloud_management")
    async def attach_cloud_volume(self, call: Call, p: AttachCloudVolume) -> Volume:
        """Attach a volume to a node of a cloud account."""
        account = self.accounts.find(p.account)
        volume = await _own_volume(call, account, p.volume)
        node = limits.needed("node", p.node, await account.nodes())
        limits.check_fence(account.name, account.settings, f"node {node.name} ({node.id})", node.mark)
        call.target(account.target("node", node))

        async def check() -> Found | None:
            now = limits.needed("volume", volume.id, await account.volumes())
            if now.node == node.id:
                return Found()
            if now.node:
                raise Rejected(f"volume: {volume.name} is attached to {now.node}; detach it first")
            call.inverse("detach_cloud_volume", {"account": account.name, "volume": volume.id})
            return None

        async def apply() -> None:
            await account.write(lambda cloud, driver: cloud.attach_volume(driver, volume.id, node.id, p.device))

        await call.ensure(check, apply)
        return await _until(call, account, volume.id, lambda now: now.node == node.id)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cloud_management")
    async def detach_cloud_volume(self, call: Call, p: CloudVolumeSelector) -> Volume:
        """Detach a volume from its node; unmount it in the node before."""
        account = self.accounts.find(p.account)
        volume = await _own_volume(call, account, p.volume)

        async def check() -> Found | None:
            now = limits.needed("volume", volume.id, await account.volumes())
            if not now.node:
                return Found()
            before = {"account": account.name, "volume": now.id, "node": now.node}
            call.inverse("attach_cloud_volume", before | ({"device": now.device} if now.device else {}))
            return None

        async def apply() -> None:
            await account.write(lambda cloud, driver: cloud.detach_volume(driver, volume.id))

        await call.ensure(check, apply)
        return await _until(call, account, volume.id, lambda now: not now.node)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cloud_management")
    async def delete_cloud_volume(self, call: Call, p: CloudVolumeSelector) -> DeletedObject:
        """Delete a volume of a cloud account with its data; it must be detached."""
        account = self.accounts.find(p.account)
        account.writable()
        deleting: list[str] = []

        async def check() -> Found | None:
            volume = limits.only("volume", p.volume, await account.volumes())
            if volume is None:
                return Found()
            _check_own(call, account, "volume", volume)
            if volume.node:
                raise Rejected(f"volume: {volume.name} is attached to {volume.node}; detach it first")
            deleting[:] = [volume.id]
            lost = f"all data of volume {volume.name}, {volume.size_gb} GB"
            call.target(msgspec.structs.replace(account.target("volume", volume), loses=[lost]))
            return None

        async def apply() -> None:
            await account.write(lambda cloud, driver: cloud.delete_volume(driver, deleting[0]))

        await call.ensure(check, apply)
        await _gone(call, account.volumes, deleting)
        return DeletedObject(p.volume, existed=bool(deleting) or call.begun is not None)

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="cloud_management")
    async def create_cloud_snapshot(self, call: Call, p: CreateCloudSnapshot) -> Snapshot:
        """Create a snapshot of a volume of a cloud account."""
        account = self.accounts.find(p.account)
        account.writable()
        volume = limits.needed("volume", p.volume, await account.volumes())
        limits.check_fence(account.name, account.settings, f"volume {volume.name} ({volume.id})", volume.mark)
        call.target(account.new(p.name, f"new snapshot {p.name} of volume {volume.name} ({volume.id})"))

        async def check() -> Found | None:
            if any(snapshot.mark == call.key for snapshot in await account.snapshots()):
                return Found()
            call.inverse("delete_cloud_snapshot", {"account": account.name, "snapshot": p.name})
            return None

        async def apply() -> None:
            tags = {account.settings.tag: call.key}
            await account.write(lambda cloud, driver: cloud.create_snapshot(driver, volume.id, p.name, tags))

        await call.ensure(check, apply)
        return await _made(call, account.snapshots, "snapshot", {"completed", "available", "pending"})

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cloud_management")
    async def delete_cloud_snapshot(self, call: Call, p: CloudSnapshotSelector) -> DeletedObject:
        """Delete a snapshot of a cloud account."""
        account = self.accounts.find(p.account)
        account.writable()
        deleting: list[str] = []

        async def check() -> Found | None:
            snapshot = limits.only("snapshot", p.snapshot, await account.snapshots())
            if snapshot is None:
                return Found()
            _check_own(call, account, "snapshot", snapshot)
            deleting[:] = [snapshot.id]
            lost = f"snapshot {snapshot.name} of volume {snapshot.volume}, made {snapshot.created:%Y-%m-%d %H:%M} UTC"
            call.target(msgspec.structs.replace(account.target("snapshot", snapshot), loses=[lost]))
            return None

        async def apply() -> None:
            await account.write(lambda cloud, driver: cloud.delete_snapshot(driver, deleting[0]))

        await call.ensure(check, apply)
        await _gone(call, account.snapshots, deleting)
        return DeletedObject(p.snapshot, existed=bool(deleting) or call.begun is not None)


async def _own_volume(call: Call, account: Account, wanted: str) -> Volume:
    """Return a volume that may be changed, declared as the target."""
    account.writable()
    volume = limits.needed("volume", wanted, await account.volumes())
    limits.check_fence(account.name, account.settings, f"volume {volume.name} ({volume.id})", volume.mark)
    call.target(account.target("volume", volume))
    return volume


def _check_own(call: Call, account: Account, kind: str, found: Volume | Snapshot) -> None:
    """Raise if an object may not be deleted, or if it is not the one that is undone."""
    limits.check_fence(account.name, account.settings, f"{kind} {found.name} ({found.id})", found.mark)
    if call.undoes and found.mark != call.undoes:
        raise Rejected(f"{kind}: {found.name} was not created by the call that is undone")


async def _made(call: Call, objects: Callable[[], Awaitable[list[limits.O]]], kind: str, states: set[str]) -> limits.O:
    """Return the object with the mark of this call once it has one of these states."""
    while True:
        found = next((item for item in await objects() if item.mark == call.key), None)
        if found is not None and found.state in states:
            return found
        if found is not None and (found.state == "error" or not found.alive):
            raise TaskFailed(
                f"{kind} {found.name} is {found.state}: the provider could not create it, or it was deleted"
            )
        call.progress(f"the {kind} is {found.state if found else 'not listed yet'}")
        await asyncio.sleep(PAUSE)


async def _until(call: Call, account: Account, volume: str, done: Callable[[Volume], bool]) -> Volume:
    while True:
        now = limits.needed("volume", volume, await account.volumes())
        if done(now):
            return now
        call.progress(f"volume {now.name} is {now.state}")
        await asyncio.sleep(PAUSE)


async def _gone(call: Call, objects: Callable[[], Awaitable[list[limits.O]]], ids: list[str]) -> None:
    while any(item.id in ids and item.alive for item in await objects()):
        call.progress(f"{ids[0]} is being deleted")
        await asyncio.sleep(PAUSE)
