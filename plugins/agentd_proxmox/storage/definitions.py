"""Definitions of the storages of the cluster.

A definition has the type, the content types and the nodes of a storage.  It only makes Proxmox use the storage; the
data on it is never changed.  Storages that need a password are not created here: secrets are not sent (README), so a
person creates them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec

from agentd import (
    Call,
    Found,
    NotFound,
    Raise,
    Rejected,
    Repeat,
    Target,
    Tier,
    formats,
    one_line,
    raises,
    tool,
)
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import convert, dropped_values, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

Content = Literal["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import"]
Path = formats.StoragePath
Word = Annotated[str, formats.full_match("[A-Za-z0-9/_.:-]{1,200}")]
USERS: Final = 5
"""Maximum number of guests on a storage that are named."""


class Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A storage.

    nodes: those that use it, empty for all; source: its path, export, pool or volume group
    """

    storage: str
    type: str
    content: list[str]
    enabled: bool = True
    shared: bool = False
    nodes: list[str] = []
    source: str = ""
    digest: str = ""


class Definitions(msgspec.Struct, frozen=True):
    """All storages that the token may see."""

    storages: list[Definition]


class StorageSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A storage."""

    storage: fields.Storage


class CreateStorage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The storage to add.

    dir needs path; nfs needs server and export; cifs needs server and share (a share without login); lvm needs vgname;
    lvmthin needs vgname and thinpool; zfspool needs pool.
    """

    storage: fields.Storage
    type: Literal["dir", "nfs", "cifs", "lvm", "lvmthin", "zfspool"]
    content: list[Content]
    path: Path | None = None
    server: Word | None = None
    export: Path | None = None
    share: Annotated[str, formats.full_match(r"[^/\\\x00-\x1f\x7f]{1,200}")] | None = None
    vgname: Word | None = None
    thinpool: Word | None = None
    pool: Word | None = None
    shared: bool = False
    nodes: list[fields.Node] = []


class UpdateStorage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to change; an omitted setting stays.

    nodes: those that use it, empty for all
    """

    storage: fields.Storage
    enabled: bool | None = None
    content: list[Content] | None = None
    nodes: list[fields.Node] | None = None
    digest: str = ""


USED: Final = (
    Raise(Tier.DESTROY, "content or nodes", raises.is_given("content", "nodes")),
    Raise(Tier.DESTROY, "enabled=false", raises.is_not_true("enabled")),
)
"""Changes of update_storage after which guests and jobs may lose their storage."""
NEEDED: Final = {
    "dir": ("path",), "nfs": ("server", "export"), "cifs": ("server", "share"), "lvm": ("vgname",),
    "lvmthin": ("vgname", "thinpool"), "zfspool": ("pool",),
}  # fmt: skip
ALL: Final = ("path", "server", "export", "share", "vgname", "thinpool", "pool")
CREATABLE: Final = frozenset({*ALL, "storage", "type", "content", "shared", "nodes", "disable", "digest"})
"""The settings that create_storage can give."""


class StorageDefinitions(area.Area):
    """Tools for the definitions of storages."""

    shown_to: ClassVar[area.ShownTo] = {"list_storage_definitions": blind_token.STORES}
    needs: ClassVar[area.Needs] = {area.EVERY: area.with_path(area.STORAGE, "Datastore.Audit")}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="storage_management")
    async def list_storage_definitions(self, call: Call, p: fields.NoParameters) -> Definitions:  # noqa: ARG002
        """List the storages of the cluster: type, content, nodes, and source."""
        return Definitions(sorted((await self._all()).values(), key=lambda definition: definition.storage))

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="storage_management")
    async def create_storage(self, call: Call, p: CreateStorage) -> Definition:
        """Add a storage to Proxmox.

        It can be a directory, NFS export, open CIFS share, volume group, thin pool or ZFS pool.
        """
        given = {key for key in ALL if getattr(p, key) is not None}
        if given != set(NEEDED[p.type]):
            raise Rejected(f"type: {p.type} takes {' and '.join(NEEDED[p.type])}, and no other of {', '.join(ALL)}")
        call.target(Target(f"storage/{p.storage}", f"storage {p.storage}"))

        def same(now: Definition) -> None:
            source = _source(p.type, {key: getattr(p, key) for key in ALL})
            if (now.type, now.content, now.source) != (p.type, sorted(p.content), source):
                raise Rejected(f"storage: there is a {now.type} storage {p.storage} on {now.source} already")

        sent: Entry = {"storage": p.storage, "type": p.type, "content": ",".join(p.content)}
        sent |= {"nodes": ",".join(p.nodes) or None, "shared": True if p.shared and p.type in {"dir", "lvm"} else None}
        sent |= {"pool": p.pool} if p.type == "zfspool" else {key: getattr(p, key) for key in NEEDED[p.type]}
        send, undo = partial(self.proxmox.post, "/storage", **sent), ("delete_storage", {"storage": p.storage})
        return await changes.create(call, self._item(p.storage), send, undo, same)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management", raises=USED)
    async def update_storage(self, call: Call, p: UpdateStorage) -> Definition:
        """Enable or disable a storage, or change its content types and nodes.

        The data on it stays.
        """
        call.target(Target(f"storage/{p.storage}", f"storage {p.storage}"))
        if p.enabled is None and p.content is None and p.nodes is None:
            raise Rejected("update_storage: give enabled, content or nodes")

        async def plan() -> changes.Planned:
            now = await self._one(p.storage)
            old = {"enabled": now.enabled, "content": now.content, "nodes": now.nodes}
            wanted = {"enabled": p.enabled, "content": sorted(p.content or []), "nodes": sorted(p.nodes or [])}
            changed = [key for key in old if getattr(p, key) is not None and old[key] != wanted[key]]
            if not changed:  # our own change may have altered the digest, so it is compared only before a change
                return Found()
            changes.check_unchanged(f"storage {p.storage}", p.digest, now.digest)
            call.inverse("update_storage", {"storage": p.storage, **{key: old[key] for key in changed}})
            content = None if p.content is None else ",".join(p.content)
            nodes = None if p.nodes is None else ",".join(p.nodes)
            given = {"disable": None if p.enabled is None else not p.enabled, "content": content, "nodes": nodes}
            sent = dropped_values.changed_parameters(given, given, {"disable"})
            return lambda: self.proxmox.put(f"/storage/{p.storage}", **sent)

        await changes.change(call, plan)
        return await self._one(p.storage)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="storage_management")
    async def delete_storage(self, call: Call, p: StorageSelector) -> changes.Deleted:
        """Remove a storage from Proxmox; the data on it stays.

        A storage with disks of guests is refused.
        """

        async def plan(now: Definition) -> changes.Send:
            users = await self._users(p.storage)
            if users:
                more = f" and {len(users) - USERS} more" if len(users) > USERS else ""
                named = ", ".join(users[:USERS]) + more
                raise Rejected(f"storage: {p.storage} holds disks of {named}: nothing was done")
            loses = [f"the use of {now.source or p.storage} for {', '.join(now.content)}"]
            title = f"storage {p.storage} ({now.type} on {now.source})"
            call.target(Target(f"storage/{p.storage}", title, {"digest": now.digest}, [], loses))
            raw = await self._raw(p.storage)
            if raw and set(raw) <= CREATABLE and now.enabled:  # create_storage knows all its settings
                settings = {key: one_line(raw[key]) for key in NEEDED.get(now.type, ()) if raw.get(key)}
                whole = {"content": now.content, "shared": now.shared, "nodes": now.nodes}
                targets.set_undo(
                    call, "create_storage", CreateStorage, {"storage": p.storage, "type": now.type, **settings, **whole}
                )
            return lambda: self.proxmox.delete(f"/storage/{p.storage}")

        return await changes.delete(call, self._item(p.storage), plan)

    def _item(self, name: str) -> changes.Item[Definition]:
        async def find() -> Definition | None:
            return (await self._all()).get(name)

        return changes.Item("storage", name, find)

    async def _raw(self, name: str) -> Entry:
        """Return the entry of a storage; empty if it does not exist."""
        return next((entry for entry in await self.proxmox.get("/storage") or [] if entry["storage"] == name), {})

    async def _all(self) -> dict[str, Definition]:
        return {shown.storage: shown for shown in map(_definition, await self.proxmox.get("/storage") or [])}

    async def _one(self, name: str) -> Definition:
        found = await self._all()
        if name not in found:
            raise NotFound(f"storage: there is no storage {name!r}; there are {', '.join(sorted(found)) or 'none'}")
        return found[name]

    async def _users(self, storage: str) -> list[str]:
        """Return the guests with a disk or an image on the storage; one request a guest."""
        places = await self.inventory.places()
        return [at.title for at in places if _names(await self.inventory.config(at), storage)]


def _names(config: Entry, storage: str) -> bool:
    return any(part.startswith(f"{storage}:") for value in config.values() for part in str(value).split(","))


def _source(kind: str, entry: Entry) -> str:
    parts = [one_line(entry[key]) for key in NEEDED.get(kind, ALL) if entry.get(key)]
    return (":" if kind == "nfs" else "/").join(parts)


def _definition(entry: Entry) -> Definition:
    kind = one_line(entry.get("type") or "")
    return convert.entry(
        Definition,
        entry,
        storage=one_line(entry["storage"]),
        content=convert.names(entry.get("content")),
        enabled=not convert.flag(entry.get("disable")),
        nodes=convert.names(entry.get("nodes")),
        source=_source(kind, entry),
    )
