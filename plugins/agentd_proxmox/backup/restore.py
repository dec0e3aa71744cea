"""Restore a guest from a backup: as a new guest, or over an existing one.

A restored guest has the mark of its call in its description, like a guest that create_vm created; the description in
the archive is kept above the mark, so the configuration in the archive is read first.  While a Proxmox worker restores,
the guest has the lock `create` and no mark yet (proxmox.md, Guests): then the task shows whose guest it is.  A failed
restore over a guest has destroyed the disks of the old guest: the error says so.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from agentd import (
    AgentdError,
    Call,
    Found,
    NotFound,
    ProxmoxUnavailable,
    Rejected,
    Repeat,
    TaskFailed,
    Tier,
    VmidTaken,
    tool,
)
from agentd_proxmox import area, targets
from agentd_proxmox.backup.archives import Archive, BackupLine, archive
from agentd_proxmox.inventory import GuestLocation
from agentd_proxmox.model import fields, guest_model
from agentd_proxmox.model.guest_model import VmidOwner
from agentd_proxmox.targets import upid_of

RESTORERS: Final = frozenset({"qmrestore", "vzrestore"})
IDLE_CHECKS: Final = 3
"""Consecutive checks without a task for a half-created guest before it is reported."""


class RestoreBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The backup, and the VMID of the new guest.

    unique: with new MAC addresses; storage: for its disks; tags: replace those in the backup
    """

    volid: Archive
    node: fields.Node
    vmid: fields.Vmid
    name: fields.Name | None = None
    storage: fields.Storage | None = None
    unique: bool = True
    pool: fields.Pool | None = None
    tags: list[fields.Tag] = []


class RestoreOverGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The backup, and the stopped guest to overwrite, by VMID and name."""

    volid: Archive
    vmid: fields.Vmid
    guest: Annotated[str, Meta(min_length=1, description="the name of the guest that is overwritten")]
    storage: fields.Storage | None = None


class BackupSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backup, as a node sees it."""

    volid: Archive
    node: fields.Node


class Inspection(msgspec.Struct, frozen=True):
    """Facts about a backup that was not restored; `sound`: no problem was found."""

    backup: BackupLine
    sound: bool
    problems: list[str]
    name: str = ""
    disks: dict[str, float] = {}
    memory: int = 0


def parse_config(text: str) -> guest_model.Config:
    """Return the configuration in an archive.

    It has `key: value` lines up to the first section; comment lines are the description.
    """
    config: guest_model.Config = {}
    described: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            break
        if line.startswith("#"):
            if guest_model.is_internal(line):
                continue
            described.append(unquote(line[1:]))
        elif (pair := line.partition(":"))[1]:
            config[pair[0].strip()] = pair[2].strip()
    return config | ({"description": "\n".join(described)} if described else {})


class Restore(area.Area):
    """Tools that restore guests."""

    needs: ClassVar[area.Needs] = {
        "inspect_backup": area.with_path(area.STORAGE, "Datastore.Audit") | {area.SPACE, ("VM.Backup", area.VM)},
        **{
            tool_name: area.with_path(area.VM, "VM.Allocate", "VM.Backup") | {area.SPACE, area.BRIDGE}
            for tool_name in ("restore_backup", "restore_over_guest")
        },
    }

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="backup_management", reads=True)
    async def inspect_backup(self, call: Call, p: BackupSelector) -> Inspection:
        """Check a backup without restoring it.

        It checks that the backup exists, is not empty, is readable and verified, and reports its guest.  Only restoring
        it to a free VMID (restore_backup) and starting it proves that it boots.
        """
        line = await archive(self.inventory, p.node, p.volid)
        problems = ["it is empty"] if line.size <= 0 else []
        if line.verified and line.verified != "ok":
            problems.append(f"the backup server found: {line.verified}")
        config: guest_model.Config = {}
        try:
            config = await self._config(p.node, p.volid)
        except (NotFound, Rejected) as error:
            problems.append(f"its configuration cannot be read: {error}")
        if config and not guest_model.disks(config):
            problems.append("its configuration names no disk")
        return Inspection(
            backup=line,
            sound=not problems,
            problems=problems,
            name=str(config.get("name") or config.get("hostname") or ""),
            disks=guest_model.disks(config),
            memory=guest_model.memory(config) if config else 0,
        )

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="backup_management")
    async def restore_backup(self, call: Call, p: RestoreBackup) -> fields.Guest:
        """Restore a backup as a new guest and wait until it exists; it is not started.

        It has new MAC addresses (`unique`), so that it can exist beside the original guest.
        """
        if not call.key:
            raise Rejected("restore_backup: this call has no key, so what it makes could not be found again")
        line = await archive(self.inventory, p.node, p.volid)
        wanted = GuestLocation(
            *(p.vmid, p.node, line.type or "qemu", p.name or "", "unknown"),
            template=False,
            tags=tuple(p.tags),
            pool=p.pool or "",
        )
        call.target(wanted.target())
        await self._target(p.node, p.storage, wanted.kind)
        more = {"unique": p.unique or None, "pool": p.pool, "tags": ";".join(p.tags) or None}
        if p.name:
            more["name" if wanted.kind == "qemu" else "hostname"] = p.name

        async def apply() -> str | None:
            try:
                return await self._send(call, wanted, p.volid, p.storage, more)
            except VmidTaken:
                found = await self._check(call, wanted)  # perhaps our own request arrived late
                if found is None:
                    raise
                return found.upid or None

        with targets.not_ours_as_taken():
            found = await call.ensure(lambda: self._check(call, wanted), apply)
        return await self._finished(call, wanted, found)

    @tool(tier=Tier.DESTROY, repeat=Repeat.MARKED, capability="backup_management")
    async def restore_over_guest(self, call: Call, p: RestoreOverGuest) -> fields.Guest:
        """Restore a backup over a guest: everything that it holds now is destroyed.

        The guest must be stopped, and its name must be given.
        """
        if not call.key:
            raise Rejected("restore_over_guest: this call has no key, so what it makes could not be found again")
        at = await self.inventory.find(p.vmid)
        line = await archive(self.inventory, at.node, p.volid)
        if line.type and line.type != at.kind:
            raise Rejected(f"{p.volid} is a backup of a {line.type} guest, and {at.title} is not: nothing was done")
        await self._target(at.node, p.storage, at.kind)

        async def check() -> Found | None:
            config = await self.inventory.config(at)
            if (
                guest_model.owner_of(config, call.key) is VmidOwner.OURS
                and config.get("lock") not in guest_model.MAKING
            ):
                return Found()
            if ours := await targets.running_tasks(self.inventory, at.node, RESTORERS, str(at.vmid)):
                return Found(ours[0].text)
            self._may_overwrite(at, p.guest, config, await self.inventory.unlocked(call, at))
            lost = f"all that it holds ({', '.join(guest_model.disks(config)) or 'no disks'}), replaced by {p.volid}"
            call.target(await targets.guest_target(self.inventory, at, lost, volumes=True))
            return None

        found = await call.ensure(check, lambda: self._send(call, at, p.volid, p.storage, {"force": True}))
        return await self._finished(call, at, found)

    @staticmethod
    def _may_overwrite(at: GuestLocation, name: str, config: guest_model.Config, status: dict[str, Any]) -> None:
        targets.check_name(at, name)
        if (state := guest_model.state(status)) not in {"stopped", "suspended"}:
            raise Rejected(f"{at.title} is {state}: only a stopped guest is overwritten; nothing was done")
        if guest_model.enabled(config.get("protection")):
            raise Rejected(f"{at.title} is protected (option `protection`): nothing was done")

    async def _target(self, node: str, storage: str | None, kind: str) -> None:
        if storage is not None:
            await targets.storage(self.inventory, node, storage, "images" if kind == "qemu" else "rootdir")

    async def _config(self, node: str, volid: str) -> guest_model.Config:
        return parse_config(str(await self.proxmox.get(f"/nodes/{node}/vzdump/extractconfig", volume=volid) or ""))

    async def _send(
        self, call: Call, at: GuestLocation, volid: str, storage: str | None, more: dict[str, Any]
    ) -> str | None:
        old = guest_model.text_of(str((await self._config(at.node, volid)).get("description") or ""))
        source = {"archive": volid} if at.kind == "qemu" else {"ostemplate": volid, "restore": True}
        sent = {"vmid": at.vmid, "storage": storage, "description": guest_model.describe(old, call.key)} | source | more
        return upid_of(await self.proxmox.post(f"/nodes/{at.node}/{at.kind}", **sent))

    async def _target_state(self, wanted: GuestLocation) -> tuple[GuestLocation, guest_model.Config | None]:
        at = await self.inventory.at(wanted.vmid)
        try:
            return at or wanted, await self.inventory.config(at or wanted)
        except NotFound as error:
            if at is not None:
                raise ProxmoxUnavailable(
                    f"{at.title} is listed but cannot be read: it is being moved or deleted ({error})"
                ) from error
            return wanted, None

    async def _check(self, call: Call, wanted: GuestLocation) -> Found | None:
        """Return Found if our guest exists on its VMID; wait while this cannot be decided."""
        idle = 0
        while True:
            at, config = await self._target_state(wanted)
            owner = guest_model.owner_of(config, call.key)
            if owner is VmidOwner.FREE:
                if wanted.name:  # delete_guest requires a name
                    call.inverse("delete_guest", {"vmid": wanted.vmid, "name": wanted.name})
                return None
            if owner is VmidOwner.OURS and (config or {}).get("lock") not in guest_model.MAKING:
                return Found()
            if owner is VmidOwner.FOREIGN:
                raise VmidTaken(f"the VMID is taken: {at.title} is not ours")
            if ours := await targets.running_tasks(self.inventory, at.node, RESTORERS, str(at.vmid)):
                return Found(ours[0].text)
            idle += 1
            if idle > IDLE_CHECKS:
                raise VmidTaken(f"the VMID is taken: {at.title} was left incomplete, and none of our tasks runs on it")
            await targets.wait_a_moment(call, f"{at.title} is being created; waiting to see by which task")

    async def _finished(self, call: Call, wanted: GuestLocation, found: Found) -> fields.Guest:
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            raise TaskFailed(f"{error}; {await self._left(wanted)}", log=error.log) from error
        at, config = await self._target_state(wanted)
        if guest_model.owner_of(config, call.key) is not VmidOwner.OURS:
            raise VmidTaken(f"the task succeeded, but {at.title} does not have our mark: another client created it")
        return await self.inventory.read(at)

    async def _left(self, wanted: GuestLocation) -> str:
        try:
            at, config = await self._target_state(wanted)
        except AgentdError as error:
            return f"what was left of guest {wanted.vmid} is not known ({error})"
        if config is None:
            return f"no guest {wanted.vmid} was left behind"
        lock = f", locked ({config['lock']})" if config.get("lock") else ""
        return f"{at.title} was left behind{lock}: check its disks before you use it"
