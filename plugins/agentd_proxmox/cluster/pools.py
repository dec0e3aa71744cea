"""Pools: guests and storages under one name, for permissions and backups.

A guest is in at most one pool; it is taken out of another pool only with `move`.  Proxmox refuses to add an existing
member, so existing members are not sent again, and a repeated call changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from agentd import (
    Call,
    Denied,
    Found,
    NotFound,
    Rejected,
    Repeat,
    Target,
    TaskFailed,
    Tier,
    formats,
    one_line,
    tool,
)
from agentd_proxmox import area, blind_token, changes, escalation
from agentd_proxmox.model import convert, fields, filter_values, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]

PoolId = formats.Pool


class PoolLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pool in a list."""

    pool: str
    comment: str = ""


class PoolPage(msgspec.Struct, frozen=True):
    """The number of pools that the token may see, and one page sorted by name."""

    total: int
    pools: list[PoolLine]
    next: str = ""


class PoolSelector(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """The pool, and the page of its guests to return."""

    pool: PoolId


class Pool(msgspec.Struct, frozen=True):
    """A pool: one page of its guests by VMID, its storages, and the pools within it.

    total   number of its guests
    digest  of all its members and its comment
    """

    pool: str
    comment: str
    total: int
    guests: list[fields.GuestLine]
    storages: list[str]
    pools: list[str]
    digest: str
    next: str = ""


class CreatePool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name, and a comment on its purpose."""

    pool: formats.NewPool
    comment: fields.Comment = ""


class UpdatePool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The changes to the pool.

    comment           omitted: it is kept
    guests, storages  members to add; with remove=true, members to remove
    move              a guest may be taken out of another pool
    digest            from get_pool: the call is refused if the pool has changed since
    """

    pool: PoolId
    comment: fields.Comment | None = None
    guests: list[fields.Vmid] = []
    storages: list[fields.Storage] = []
    remove: bool = False
    move: bool = False
    digest: str = ""


class DeletePool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pool to delete; it must be empty."""

    pool: PoolId


class Pools(area.Area):
    """The tools for pools."""

    shown_to: ClassVar[area.ShownTo] = {"list_pools": blind_token.POOLS}
    needs: ClassVar[area.Needs] = {
        "list_pools": area.with_path("/pool/{pool}", "Pool.Audit"),
        "get_pool": area.with_path("/pool/{pool}", "Pool.Audit"),
        "create_pool": area.with_path("/pool/{pool}", "Pool.Audit"),
        "update_pool": area.with_path("/storage/{storage}", "Datastore.Allocate")
        | area.with_path("/pool/{pool}", "Pool.Audit")
        | area.with_path(area.VM, "VM.Allocate")
        | area.with_path("/access", "Sys.Audit"),
        "delete_pool": area.with_path("/pool/{pool}", "Pool.Audit"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_pools(self, call: Call, p: pages.Paged) -> PoolPage:
        """List the pools that the token may see."""
        pools = await self._list()
        lines = [PoolLine(name, comment) for name, comment in pools.items()]
        return pages.fill(PoolPage(len(lines), []), "pools", lines, lambda line: line.pool, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_pool(self, call: Call, p: PoolSelector) -> Pool:
        """Show a pool: its guests, its storages and the pools within it."""
        return await self._read(p.pool, p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def create_pool(self, call: Call, p: CreatePool) -> Pool:
        """Create an empty pool; an existing one with the same comment is not changed."""
        call.target(Target(f"pool/{p.pool}", f"pool {p.pool}"))

        async def find() -> str | None:
            return (await self._list()).get(p.pool)

        def same(comment: str) -> None:
            if comment != one_line(p.comment):
                raise Rejected(f"there is a pool {p.pool} with another comment ({comment!r}): update_pool sets it")

        pool = changes.Item("pool", p.pool, find)
        send = partial(self.proxmox.post, "/pools", poolid=p.pool, comment=p.comment or None)
        await changes.create(call, pool, send, ("delete_pool", {"pool": p.pool}), same)
        return await self._read(p.pool)

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="cluster_management")
    async def update_pool(self, call: Call, p: UpdatePool) -> Pool:
        """Add members to a pool or remove them, or change its comment.

        The members are guests and storages.  Permissions on a pool apply to its members: the call is refused if an
        added member would give anyone more permissions on it than agentd's own token has.  A member that is in the
        requested state already is not changed.
        """
        if p.comment is None and not p.guests and not p.storages:
            raise Rejected("update_pool: give what to change by comment, guests or storages")
        labels = [*(f"guest/{vmid}" for vmid in p.guests), *(f"storage/{storage}" for storage in p.storages)]
        call.target(Target(f"pool/{p.pool}", f"pool {p.pool}", labels=labels))

        async def plan() -> changes.Planned:
            entry = await self._entry(p.pool)
            sent = await self._wanted_changes(entry, p)
            if not sent:
                return Found()
            widened = await self._excess_permissions(p, sent)
            if not p.move and not widened:  # this call does not know the old pools of moved guests
                call.inverse("update_pool", _undo_parameters(entry, p, sent))
            vms = ",".join(map(str, sent.get("vms", []))) or None
            return lambda: self.proxmox.put(
                "/pools",
                poolid=p.pool,
                comment=sent.get("comment"),
                vms=vms,
                storage=",".join(sent.get("storages", [])) or None,
                delete=True if p.remove else None,
                **{"allow-move": True if p.move and vms and not p.remove else None},
            )

        await changes.change(call, plan)
        left = _changes(await self._entry(p.pool), p)
        if left:
            raise TaskFailed(
                f"Proxmox reports success, but the pool {p.pool} is not as requested: {', '.join(sorted(left))}"
            )
        return await self._read(p.pool)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_pool(self, call: Call, p: DeletePool) -> changes.Deleted:
        """Delete an empty pool, and the permissions that were granted on it."""
        if p.pool not in await self._list():
            await self._check_hidden(p.pool)

        async def find() -> Pool | None:  # the list only: with the pool, the right to read it may be gone
            return await self._read(p.pool, PoolSelector(p.pool, limit=5)) if p.pool in await self._list() else None

        async def plan(pool: Pool) -> changes.Send:
            inside = [f"guest {guest.vmid}" for guest in pool.guests] + [f"storage {name}" for name in pool.storages]
            inside += [f"pool {name}" for name in pool.pools]
            if inside:
                more = pool.total + len(pool.storages) + len(pool.pools) - len(inside)
                named = ", ".join(inside) + (f" and {more} more" if more else "")
                raise Rejected(f"the pool {p.pool} is not empty: {named}; update_pool with remove=true takes them out")
            lost = f"the rights that were given on /pool/{p.pool}"
            call.target(Target(f"pool/{p.pool}", f"pool {p.pool}", {"members": pool.digest}, loses=[lost]))
            call.inverse("create_pool", {"pool": p.pool, "comment": pool.comment})
            return lambda: self.proxmox.delete("/pools", poolid=p.pool)

        return await changes.delete(call, changes.Item("pool", p.pool, find), plan)

    async def _excess_permissions(self, p: UpdatePool, sent: Entry) -> list[str]:
        """Return which permissions of the membership exceed those of agentd's own token.

        Raises Rejected if a new member would get such permissions.
        """
        members = [f"/vms/{vmid}" for vmid in sent.get("vms", [])]
        members += [f"/storage/{storage}" for storage in sent.get("storages", [])]
        if not members:
            return []
        ours = await escalation.token_rights(self.proxmox)
        widened = await ours.pooled_beyond(p.pool, members)
        if not p.remove:
            escalation.refuse_excess("update_pool", ours.token, widened, f"membership of the pool {p.pool}")
        return widened

    async def _list(self) -> dict[str, str]:
        """Return the pools that the token may see, with their comments.

        Raises Denied for a token without any permission.
        """
        entries = await self.proxmox.get("/pools") or []
        if not entries and not await self.proxmox.permissions():
            raise Denied(f"the token {self.proxmox.user} has no rights, so Proxmox shows it no pools (Pool.Audit)")
        return {one_line(entry["poolid"]): one_line(entry.get("comment") or "") for entry in entries}

    async def _check_hidden(self, name: str) -> None:
        """Raise Denied if a pool exists that the token may not see.

        The list of pools omits those that the token may not see.
        """
        try:
            await self._entry(name)
        except NotFound:
            return
        raise Denied(
            f"there is a pool {name}, and {self.proxmox.user} may not see it: it lacks Pool.Audit on /pool/{name}"
        )

    async def _entry(self, name: str) -> Entry:
        try:
            found = await self.proxmox.get("/pools", poolid=name) or []
        except NotFound as error:
            raise NotFound(f"there is no pool {name}; there are {', '.join(await self._list()) or 'none'}") from error
        return dict(found[0])

    async def _read(self, name: str, asked: PoolSelector | None = None) -> Pool:
        entry, pools = await self._entry(name), await self._list()
        guests = await self.inventory.completed(
            [member for member in _members(entry) if member.get("vmid") is not None]
        )
        lines = list({int(guest["vmid"]): _line(guest) for guest in guests}.values())
        empty = Pool(
            pool=name,
            comment=one_line(entry.get("comment") or ""),
            total=len(lines),
            guests=[],
            storages=_storages(entry),
            pools=[pool for pool in pools if pool.startswith(f"{name}/")],
            digest=_digest(entry),
        )
        return pages.fill(empty, "guests", lines, lambda line: f"{line.vmid:09d}", asked or PoolSelector(name))

    async def _wanted_changes(self, entry: Entry, p: UpdatePool) -> Entry:
        """Return the changes to send; raises ConfigChanged, and what `_free` raises."""
        wanted = _changes(entry, p)
        if wanted:
            changes.check_unchanged(f"pool {p.pool}", p.digest, _digest(entry))
        if wanted.get("vms") and not p.remove:
            await self._free(wanted["vms"], p)
        if wanted.get("storages") and not p.remove:
            there = {entry.get("storage") for entry in await self.inventory.resources("storage")}
            for storage in wanted["storages"]:
                filter_values.check_exists("storages", storage, there, "storage")
        return wanted

    async def _free(self, vmids: list[int], p: UpdatePool) -> None:
        """Reject unknown guests, and guests of another pool unless they may be moved."""
        entries = {int(entry["vmid"]): entry for entry in await self.inventory.resources("vm")}
        for vmid in vmids:
            if vmid not in entries:
                raise NotFound(f"guests: there is no guest {vmid}, or {self.proxmox.user} may not see it (VM.Audit)")
            other = one_line(entries[vmid].get("pool") or "")
            if other not in {"", p.pool} and not p.move:
                raise Rejected(f"guests: {vmid} is in the pool {other}; move=true takes it out of there")


def _members(entry: Entry) -> list[Entry]:
    return [dict(member) for member in entry.get("members") or []]


def _storages(entry: Entry) -> list[str]:
    return sorted({one_line(member["storage"]) for member in _members(entry) if member.get("type") == "storage"})


def _vmids(entry: Entry) -> set[int]:
    return {int(member["vmid"]) for member in _members(entry) if member.get("vmid") is not None}


def _digest(entry: Entry) -> str:
    return pages.digest([sorted(_vmids(entry)), _storages(entry), str(entry.get("comment") or "")])


def _changes(entry: Entry, p: UpdatePool) -> Entry:
    """Return the part of a request that is not in place yet."""
    vmids, storages = _vmids(entry), set(_storages(entry))
    changes: Entry = {
        "vms": sorted(vmid for vmid in set(p.guests) if (vmid in vmids) is p.remove),
        "storages": sorted(storage for storage in set(p.storages) if (storage in storages) is p.remove),
        "comment": None if p.comment == str(entry.get("comment") or "") else p.comment,
    }
    return {key: value for key, value in changes.items() if value not in ([], None)}


def _undo_parameters(entry: Entry, p: UpdatePool, sent: Entry) -> Entry:
    """Return the parameters that undo a change."""
    changed: Entry = {"pool": p.pool, "guests": sent.get("vms", []), "storages": sent.get("storages", [])}
    comment = {"comment": one_line(entry.get("comment") or "")} if "comment" in sent else {}
    return changed | {"remove": not p.remove} | comment


def _line(entry: Entry) -> fields.GuestLine:
    status = convert.text(entry.get("status"), "unknown")
    return convert.entry(fields.GuestLine, entry, vmid=int(entry["vmid"]), status=status, lock="")
