"""Refuse changes that would give more rights than agentd's own token has.

Proxmox lets every holder of Permissions.Modify grant any role, also to itself, so the check is made here.  There are
many ways to give a right: grant a role, add a privilege to a granted role, add a member to a group, enable a user,
create a token without privilege separation, add a member to a pool, or change the realm that authenticates a user.  All
of them are checked by `TokenRights.beyond`: it returns the privileges on a path that agentd's own token does not have
on that path, or not on everything below it.

The grants of agentd's own token, of its user and of the groups of that user are never changed, neither to gain nor to
lose rights.  The check fails closed: if the token may not read the whole access list (Sys.Audit on /access), nothing
that depends on it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd import Denied, Rejected, formats, grant, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd import Proxmox

    Entry = dict[str, Any]
    Held = dict[str, dict[str, bool]]
    """Path, privilege, and whether the privilege also applies to everything below the path."""

READS: Final = ("GET /access/permissions", "GET /access/acl", "GET /access/roles", "GET /access/users/{userid}")
"""API methods that `token_rights` calls."""
ROOT: Final = "root@pam"
SHOWN: Final = 5


@dataclass(frozen=True)
class AccessEntry:
    """One entry of the access list; `who` is a user, a token, or @group."""

    path: str
    who: str
    role: str
    propagate: bool


@dataclass(frozen=True)
class TokenRights:
    """The identity and rights of agentd's own token, and all grants to others."""

    proxmox: Proxmox
    token: str
    names: frozenset[str]
    held: Held
    entries: tuple[AccessEntry, ...]
    roles: dict[str, frozenset[str]]

    async def beyond(self, path: str, privileges: Iterable[str], *, propagate: bool) -> set[str]:
        """Return the privileges that the own token lacks on `path`.

        With `propagate`, also those that it lacks on any path below.
        """
        wanted = set(privileges)
        if not wanted:
            return set()
        here = _held(await self.proxmox.get("/access/permissions", path=path)).get(path, {})
        lacking = {name for name in wanted if name not in here or (propagate and not here[name])}
        if propagate:
            root = path.rstrip("/") + "/"
            below = {lower for lower in (*self.held, *(entry.path for entry in self.entries)) if lower.startswith(root)}
            for lower in below - {path}:
                lacking |= wanted - set(self.held.get(lower, {}))
        return lacking

    async def granted_beyond(self, names: Iterable[str]) -> list[str]:
        """Return the grants that exceed the rights of the own token, one line each.

        names  users, tokens and @groups whose grants are checked
        """
        wanted = set(names)
        found = [f"{ROOT} may do everything"] if ROOT in wanted else []
        for entry in self.entries:
            if entry.who in wanted:
                lacking = await self._excess(entry)
                found += [f"{entry.who} has role {entry.role} on {entry.path} ({_named(lacking)})"] if lacking else []
        return found

    async def uncovered(self, entry: AccessEntry) -> list[str]:
        """Return the roles beyond the own rights that removing `entry` would give.

        They are granted to the same holder on a path above; on its own path, `entry` hides them.
        """
        if any(
            other.who == entry.who and other.path == entry.path and other.role != entry.role for other in self.entries
        ):
            return []
        found = []
        for other in self.entries:
            if other.who == entry.who and other.propagate and _above(other.path, entry.path):
                privileges = self.roles.get(other.role, frozenset())
                lacking = await self.beyond(entry.path, privileges, propagate=entry.propagate)
                found += [f"role {other.role} of {entry.who} reaches {entry.path} ({_named(lacking)})"] * bool(lacking)
        return found

    async def pooled_beyond(self, pool: str, paths: Iterable[str]) -> list[str]:
        """Return the roles on a pool that exceed the rights of the own token.

        paths  the new members of the pool, on which the roles would apply
        """
        place, found = f"/pool/{pool}", []
        entries = [e for e in self.entries if e.path == place or (e.propagate and _above(e.path, place, root=False))]
        for path in paths:
            for entry in entries:
                lacking = await self.beyond(path, self.roles.get(entry.role, frozenset()), propagate=False)
                found += [f"{entry.who} has role {entry.role} on {entry.path} ({_named(lacking)})"] * bool(lacking)
        return list(dict.fromkeys(found))

    def of_realm(self, realm: str) -> set[str]:
        """Return the users, tokens and groups of a realm that have any grant.

        The groups of a realm are named NAME-REALM.
        """
        who = {entry.who for entry in self.entries} | self.names
        users = {name for name in who if formats.user_of(name).endswith(f"@{realm}")}
        return users | {name for name in who if formats.is_group(name) and name.endswith(f"-{realm}")}

    def entries_of(self, role: str) -> list[AccessEntry]:
        """Return the entries that grant `role`."""
        return [entry for entry in self.entries if entry.role == role]

    def is_ours(self, who: str) -> bool:
        """Return whether `who` is the own token, its user, or a group of that user."""
        return who in self.names

    def refuse_ours(self, tool: str, who: str) -> None:
        """Raise Rejected if `who` is the own token, its user, or a group of that user."""
        if self.is_ours(who):
            raise Rejected(
                f"{tool}: {who} is agentd itself ({self.token}): agentd does not change its own rights; "
                "an administrator does, with pveum"
            )

    async def _excess(self, entry: AccessEntry) -> set[str]:
        return await self.beyond(entry.path, self.roles.get(entry.role, frozenset()), propagate=entry.propagate)


def refuse_excess(tool: str, token: str, lines: list[str], what: str) -> None:
    """Raise Rejected if there are `lines`.

    lines  the rights that would be given beyond those of the own token
    """
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise Rejected(
            f"{tool}: {what} gives more rights than {token} has: {'; '.join(lines[:SHOWN])}{more}; nothing was done: "
            "an administrator does this with pveum"
        )


async def token_rights(proxmox: Proxmox) -> TokenRights:
    """Read the identity and the rights of the own token.

    Raises Denied if it may not read the whole access list.
    """
    held = _held(await proxmox.get("/access/permissions"))
    if "Sys.Audit" not in held.get("/access", {}):
        raise Denied(
            f"{proxmox.user} may not read the whole access list, so it is not known who would gain which rights: "
            f"it lacks Sys.Audit on /access; to grant it: {grant('/access', 'Sys.Audit', proxmox.user)}"
        )
    user = formats.user_of(proxmox.user)
    account: Entry = await proxmox.get(f"/access/users/{formats.path_part(user)}") or {}
    groups = account.get("groups") or []
    names = {proxmox.user, user, *(f"@{group}" for group in (groups.split(",") if isinstance(groups, str) else groups))}
    entries: list[Entry] = await proxmox.get("/access/acl") or []
    roles: list[Entry] = await proxmox.get("/access/roles") or []
    return TokenRights(
        proxmox=proxmox,
        token=proxmox.user,
        names=frozenset(names),
        held=held,
        entries=tuple(_entry(entry) for entry in entries),
        roles={str(e["roleid"]): frozenset(filter(None, str(e.get("privs") or "").split(","))) for e in roles},
    )


def _entry(entry: Entry) -> AccessEntry:
    who = one_line(entry["ugid"])
    who = f"@{who}" if entry.get("type") == "group" else who
    return AccessEntry(one_line(entry["path"]), who, one_line(entry["roleid"]), bool(int(entry.get("propagate", 1))))


def _held(data: Any) -> Held:  # noqa: ANN401 - what Proxmox answers
    return {
        str(path): {name: bool(int(below)) for name, below in privileges.items() if below is not None}
        for path, privileges in (data or {}).items()
    }


def _above(path: str, other: str, *, root: bool = True) -> bool:
    """Return whether `path` is an ancestor of `other`."""
    if path == "/":
        return root and other != "/"
    return other.startswith(path.rstrip("/") + "/")


def _named(privileges: Iterable[str]) -> str:
    names = sorted(privileges)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
