"""Backups: create and list them, change their notes and protection.

A mark identifies the backups of agentd.  It is at the end of the first line of the notes: the list of a file storage
shows only this line.  Proxmox accepts vzdump for a guest that is locked, moved or gone, and the task ends in `job
errors` (proxmox.md, Tasks); then this module reads and reports the state of the guest.  Creating a backup never prunes
older ones (`remove=0`): only prune_backups does, which deletes exactly the backups that were shown before.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import (
    AgentdError,
    Call,
    Found,
    GuestLocked,
    NotFound,
    Rejected,
    Repeat,
    Target,
    TaskFailed,
    Tier,
    formats,
    mark,
    one_line,
    tool,
)
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import convert, fields, pages
from agentd_proxmox.model.guest_model import mark_of, notes_text
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation, Inventory

    Entry = dict[str, Any]

VOLUME: Final = "GET /nodes/{node}/storage/{storage}/content/{volume}"

NOTES_LIMIT: Final = 1024
KNOWN_KEYS: Final = frozenset({"cluster", "guestname", "node", "vmid"})

_TEMPLATE: Final = re.compile(r"\{\{([^{}]*)\}\}")
_LOCKED: Final = re.compile(r"(?:VM|CT) is locked \(([^)]+)\)")

Archive = formats.Backup


class CreateBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest to back up.

    notes: may contain {{guestname}}, {{vmid}}, {{node}}, {{cluster}}
    storage: can be omitted if its node has only one for backups
    """

    vmid: fields.Vmid
    storage: fields.Storage | None = None
    mode: Literal["snapshot", "suspend", "stop"] = "snapshot"
    compress: Literal["zstd", "gzip", "lzo", "0"] = "zstd"
    notes: str = "{{guestname}}"
    protected: bool = False


class BackupLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backup.

    size: in bytes; verified: the result of a Proxmox Backup Server (ok, failed); made_by: the key of the invocation
    """

    volid: str
    vmid: int = 0
    time: datetime | None = None
    size: int = 0
    type: str = ""
    node: str = ""
    protected: bool = False
    verified: str = ""
    encrypted: bool = False
    notes: str = ""
    made_by: str = ""


class ListBackups(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """Filters: guest, storage, node (default: all reachable backups)."""

    vmid: fields.Vmid | None = None
    storage: fields.Storage | None = None
    node: fields.Node | None = None


class BackupPage(msgspec.Struct, frozen=True):
    """Number of backups, guests and bytes, and one page, newest first.

    `unread` has the storages that could not be read, with the reason.
    """

    total: int
    guests: int
    size: int
    protected: int
    backups: list[BackupLine]
    unread: dict[str, str] = {}
    next: str = ""


class SetBackupNotes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New notes of a backup; the mark of a backup made by agentd stays."""

    volid: Archive
    node: fields.Node
    notes: Annotated[str, Meta(max_length=NOTES_LIMIT)]


class SetBackupProtection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a backup is protected from deletion and pruning."""

    volid: Archive
    node: fields.Node
    protected: bool = True


def mark_notes(text: str, key: str) -> str:
    """Return `text` with the mark of `key` at the end of its first line."""
    first, newline, rest = text.strip().partition("\n")
    return f"{first.rstrip()} {mark(key)}".strip() + newline + rest if key else text.strip()


def template(text: str, key: str) -> str:
    """Return `text` as notes-template of vzdump.

    It is one line with newlines and backslashes escaped.
    """
    text = re.sub(r"\{\{[ \t]*([^{}]*?)[ \t]*\}\}", r"{{\1}}", text)  # Proxmox takes no blanks inside the braces
    unknown = [name for name in _TEMPLATE.findall(text) if name.strip() not in KNOWN_KEYS]
    if unknown:
        known = ", ".join(f"{{{{{name}}}}}" for name in sorted(KNOWN_KEYS))
        raise Rejected(f"notes: Proxmox does not know {{{{{one_line(unknown[0])}}}}}; there are {known}")
    escaped = mark_notes(text.replace("\r\n", "\n"), key).replace("\\", "\\\\").replace("\n", "\\n")
    if len(escaped) > NOTES_LIMIT:
        raise Rejected(f"notes: {len(escaped)} characters with the mark; Proxmox takes {NOTES_LIMIT}")
    return escaped


def backup_line(entry: Entry, node: str) -> BackupLine:
    """Return an entry of a content list as a backup."""
    notes = str(entry.get("notes") or "")
    state = (entry.get("verification") or {}).get("state")
    return convert.entry(
        BackupLine,
        entry,
        {"type": "subtype"},
        volid=one_line(entry["volid"]),
        time=datetime.fromtimestamp(int(entry.get("ctime") or 0), UTC),
        node=node,
        verified=one_line(state or ""),
        encrypted=bool(entry.get("encrypted")),
        notes=notes_text(notes),
        made_by=one_line(mark_of(notes)),
    )


async def archives(inventory: Inventory, node: str, storage: str, vmid: int | None = None) -> list[BackupLine]:
    """Return the backups on a storage, as a node sees it."""
    path = f"/nodes/{node}/storage/{storage}/content"
    return [backup_line(e, node) for e in await inventory.proxmox.get(path, content="backup", vmid=vmid) or []]


async def archive(inventory: Inventory, node: str, volid: str) -> BackupLine:
    """Return one backup; raise NotFound if it does not exist."""
    storage = volid.partition(":")[0]
    await targets.storage(inventory, node, storage, "backup")
    found = next((line for line in await archives(inventory, node, storage) if line.volid == volid), None)
    if found is None:
        raise NotFound(f"there is no backup {volid} that {node} can see; list_backups lists those there are")
    return found


class Backups(area.Area):
    """Tools that create, list and change backups."""

    shown_to: ClassVar[area.ShownTo] = {"list_backups": blind_token.STORES}
    needs: ClassVar[area.Needs] = {
        area.EVERY: area.with_path(area.STORAGE, "Datastore.Audit") | {area.SPACE, ("VM.Backup", area.VM)}
    }

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="backup_management")
    async def create_backup(self, call: Call, p: CreateBackup) -> BackupLine:
        """Back up a VM or container and wait until the archive exists; older backups stay."""
        if not call.key:
            raise Rejected("create_backup: this call has no key, so what it makes could not be found again")
        notes = template(p.notes, call.key)
        at = await self.inventory.find(p.vmid)
        storage = str((await targets.storage(self.inventory, at.node, p.storage, "backup"))["storage"])
        call.target(msgspec.structs.replace(at.target(), labels=[*at.target().labels, f"storage/{storage}"]))

        async def apply() -> str | None:
            sent = {"notes-template": notes, "protected": p.protected or None, "remove": False}
            return upid_of(
                await self.proxmox.post(
                    f"/nodes/{at.node}/vzdump",
                    vmid=p.vmid,
                    storage=storage,
                    mode=p.mode,
                    compress=p.compress,
                    **sent,
                )
            )

        found = await call.ensure(lambda: self._find_ours(call, at, storage), apply)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            await self._failed(call, at, storage, error)
        made = await self._ours(call, at, storage)
        if made is None:
            raise TaskFailed(f"the task succeeded, but no backup of {at.title} on {storage} has our mark")
        return made

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="backup_management")
    async def list_backups(self, call: Call, p: ListBackups) -> BackupPage:
        """List backups, newest first: counts of all that match, and one page.

        This takes one request a storage.  A storage that cannot be read is listed, so that a guest does not seem to
        have no backups only because its storage is unavailable.
        """
        lines: list[BackupLine] = []
        unread: dict[str, str] = {}
        for node, storage, away in await self._storages(p):
            try:
                if away:
                    unread[f"{storage} on {node}"] = away
                    continue
                found = await archives(self.inventory, node, storage, p.vmid)
                lines += found
                if not found and (reason := await targets.hidden_reason(self.inventory, storage)):
                    unread[f"{storage} on {node}"] = reason
            except AgentdError as error:
                unread[f"{storage} on {node}"] = str(error)
        empty = BackupPage(
            total=len(lines),
            guests=len({line.vmid for line in lines}),
            size=sum(line.size for line in lines),
            protected=sum(line.protected for line in lines),
            backups=[],
            unread=unread,
        )
        return pages.fill(empty, "backups", lines, _newest, p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="backup_management")
    async def set_backup_notes(self, call: Call, p: SetBackupNotes) -> BackupLine:
        """Replace the notes of a backup; the mark of a backup made by agentd stays."""
        before = await archive(self.inventory, p.node, p.volid)
        return await self._set(call, p.node, p.volid, "notes", mark_notes(p.notes, before.made_by))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="backup_management")
    async def set_backup_protection(self, call: Call, p: SetBackupProtection) -> BackupLine:
        """Protect a backup from deletion and pruning, or remove the protection."""
        await archive(self.inventory, p.node, p.volid)
        return await self._set(call, p.node, p.volid, "protected", p.protected)

    async def _set(self, call: Call, node: str, volid: str, name: str, value: str | bool) -> BackupLine:  # noqa: FBT001
        storage = volid.partition(":")[0]
        path = f"/nodes/{node}/storage/{storage}/content/{formats.path_part(volid)}"
        call.target(Target(f"volume/{volid}", f"backup {volid}", labels=[f"storage/{storage}"]))

        async def plan() -> changes.Planned:
            present = (await self.proxmox.get(path)).get(name)
            now = bool(int(present or 0)) if name == "protected" else str(present or "")
            if now == value:
                return Found()
            if name == "protected":
                call.inverse("set_backup_protection", {"volid": volid, "node": node, "protected": now})
            return lambda: self.proxmox.put(path, **{name: value})

        await changes.change(call, plan)
        return await archive(self.inventory, node, volid)

    async def _storages(self, p: ListBackups) -> list[tuple[str, str, str]]:
        """Return (node, storage, why it cannot be read) of each storage.

        A shared storage occurs once, on a node where it is available.
        """
        entries = [e for e in await self.inventory.resources("storage") if targets.may_contain(e, "backup")]
        wanted = [e for e in entries if p.storage in {None, e["storage"]} and p.node in {None, e["node"]}]
        if not wanted and (p.storage or p.node):
            await targets.check_node(self.inventory, p.node)
            names = ", ".join(sorted({f"{e['storage']} on {e['node']}" for e in entries})) or "none"
            what = " on ".join(filter(None, (f"storage {p.storage}" if p.storage else "no storage", p.node)))
            raise NotFound(f"{what} holds no backups, or does not exist; there are {names}")
        chosen: dict[str, Entry] = {}
        for entry in sorted(wanted, key=lambda e: (e.get("status") != "available", e["node"])):
            chosen.setdefault(entry["storage"] if entry.get("shared") else f"{entry['storage']} {entry['node']}", entry)
        return [
            (e["node"], e["storage"], "" if e.get("status") == "available" else f"it is {one_line(e.get('status'))}")
            for e in chosen.values()
        ]

    async def _ours(self, call: Call, at: GuestLocation, storage: str) -> BackupLine | None:
        found = await archives(self.inventory, at.node, storage, at.vmid)
        return next((line for line in found if line.made_by == call.key), None)

    async def _find_ours(self, call: Call, at: GuestLocation, storage: str) -> Found | None:
        """Return Found if our backup exists.

        Wait while a backup task of our token runs for the guest, which may be ours.
        """
        while ours := await targets.running_tasks(self.inventory, at.node, {"vzdump"}, str(at.vmid)):
            if await self._ours(call, at, storage) is not None:
                break
            await targets.wait_a_moment(call, f"{at.title} is being backed up ({ours[0].text}): is it ours?")
        if await self._ours(call, at, storage) is not None:
            return Found()
        await self.inventory.unlocked(call, at)
        return None

    async def _failed(self, call: Call, at: GuestLocation, storage: str, error: TaskFailed) -> None:
        """Raise an error with the reason of a failed backup and with what is left.

        Return only if our archive exists although the task failed.
        """
        reason = " ".join(line for line in error.log if line.startswith("ERROR"))
        if (lock := _LOCKED.search(reason)) is not None:
            raise GuestLocked(f"{error}: {at.title} is locked ({lock[1]}); nothing was done", delay=10.0) from error
        if await self._ours(call, at, storage) is not None:
            call.warn(f"{error}; but the backup is there")
            return
        now = await self.inventory.at(at.vmid)
        if now is None:
            after = f"{at.title} is gone"
        elif now.node != at.node:
            after = f"{at.title} moved to {now.node} meanwhile: call again"
        else:
            lock_now = (await self.inventory.status(now)).get("lock")
            command = "qm" if at.kind == "qemu" else "pct"
            after = (
                f"{at.title} is still locked ({one_line(lock_now)}); if no task runs: {command} unlock {at.vmid}"
                if lock_now
                else f"{at.title} is not locked"
            )
        raise TaskFailed(
            f"{error}; {reason or 'no reason given'}; no backup was left on {storage}; {after}", log=error.log
        )


def _newest(line: BackupLine) -> str:
    return pages.newest_first(int(line.time.timestamp()) if line.time else 0, f"{line.volid} {line.node}")
