"""Roles, permissions and realms: which rights users, groups and tokens have.

Every change here can give rights or lock an account out, so it is of tier `destroy` or `exec`; only create_role is not,
because a new role gives no rights until it is granted. The roles of Proxmox itself (`special`) are not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, escalation
from agentd_proxmox.escalation import AccessEntry, TokenRights
from agentd_proxmox.model import convert, fields, filter_values, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]

RoleId = formats.Role
Privilege = formats.Privilege
AclPath = formats.AclPath
Whom = formats.UserOrGroup


class Role(msgspec.Struct, frozen=True, omit_defaults=True):
    """A role; `special` roles are built into Proxmox."""

    id: str
    privileges: list[str]
    special: bool = False


class Roles(msgspec.Struct, frozen=True):
    """All roles."""

    roles: list[Role]


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the access control list; `who` is a user, a token or @group."""

    path: str
    who: str
    role: str
    propagate: bool = True


class Grants(msgspec.Struct, frozen=True):
    """The number of matching entries, and one page of them."""

    total: int
    grants: list[Grant]
    next: str = ""


class Realm(msgspec.Struct, frozen=True, omit_defaults=True):
    """A source of users, of type pam, pve, ldap, ad or openid."""

    id: str
    type: str
    comment: str = ""
    default: bool = False
    second_factor: str = ""


class Realms(msgspec.Struct, frozen=True):
    """All realms."""

    realms: list[Realm]


class Permissions(msgspec.Struct, frozen=True):
    """The privileges of `who`, by path."""

    who: str
    paths: dict[str, list[str]]


class ListGrants(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """Which entries: by start of the path, by user, token or @group, and by role."""

    path: str = ""
    who: str = ""
    role: str = ""


class NewRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name and the privileges of the role."""

    id: RoleId
    privileges: list[Privilege]


class RoleSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The role."""

    id: RoleId


class GrantRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The role, the user, token or @group (`who`), and the path.

    propagate: the role also applies to everything below the path
    """

    role: RoleId
    who: Whom
    path: AclPath
    propagate: bool = True


class GetPermissions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user or token (left out: agentd's own token), and the path (left out: all)."""

    who: Whom | None = None
    path: AclPath | None = None


class Access(area.Area):
    """The tools for roles, permissions and realms."""

    shown_to: ClassVar[area.ShownTo] = {
        "list_roles": blind_token.EVERY_TOKEN,
        "list_grants": blind_token.GRANTS,
        "list_realms": blind_token.EVERY_TOKEN,
    }
    needs: ClassVar[area.Needs] = {
        "get_permissions": area.with_path("/access", "Sys.Audit"),
        "grant_role": area.with_path("{path}", "Permissions.Modify"),
        "revoke_role": area.with_path("{path}", "Permissions.Modify"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def list_roles(self, call: Call, p: fields.NoParameters) -> Roles:  # noqa: ARG002 - every tool has a call
        """List the roles with their privileges."""
        return Roles(await self._roles())

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="user_management")
    async def create_role(self, call: Call, p: NewRole) -> Role:
        """Create a role with privileges that agentd's own token has.

        It gives no rights until grant_role grants it.
        """
        call.target(Target(f"role/{p.id}", f"role {p.id}"))

        async def plan() -> changes.Planned:
            now = await self._role(p.id)
            if now is None:
                ours = await escalation.token_rights(self.proxmox)
                not_ours = sorted(set(p.privileges) - {name for held in ours.held.values() for name in held})
                escalation.refuse_excess("create_role", ours.token, not_ours, f"role {p.id}")
                call.inverse("delete_role", {"id": p.id})
                privileges = ",".join(sorted(set(p.privileges)))
                return lambda: self.proxmox.post("/access/roles", roleid=p.id, privs=privileges)
            if now.privileges != sorted(set(p.privileges)):
                raise Rejected(f"there is a role {p.id} already, with other privileges: update_role changes it")
            return Found()

        await changes.change(call, plan)
        return await self._role(p.id) or Role(p.id, [])

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="user_management")
    async def update_role(self, call: Call, p: NewRole) -> Role:
        """Set the privileges of a role; its holders gain or lose them at once.

        A role that agentd itself has is not changed, and no role gains a privilege that agentd's own token does not
        have.
        """

        async def plan() -> changes.Planned:
            now = await self._changeable(p.id)
            if now.privileges == sorted(set(p.privileges)):
                return Found()
            ours = await escalation.token_rights(self.proxmox)
            gained = sorted(set(p.privileges) - set(now.privileges))
            lost = sorted(set(now.privileges) - set(p.privileges))
            escalation.refuse_excess(
                "update_role", ours.token, await _newly_exceeding(ours, p.id, gained), f"role {p.id}"
            )
            if not await _newly_exceeding(ours, p.id, lost):  # the undo gives the lost privileges back
                call.inverse("update_role", {"id": p.id, "privileges": now.privileges})
            texts = [f"gains {', '.join(gained)}"] * bool(gained) + [f"loses {', '.join(lost)}"] * bool(lost)
            call.target(_role_target(now, [*texts, *await self._held(p.id)]))
            return lambda: self.proxmox.put(f"/access/roles/{p.id}", privs=",".join(sorted(set(p.privileges))))

        await changes.change(call, plan)
        return await self._changeable(p.id)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def delete_role(self, call: Call, p: RoleSelector) -> changes.Deleted:
        """Delete a role; all its holders lose it.

        A role that agentd itself has is not deleted.
        """

        async def plan(now: Role) -> changes.Send:
            _refuse_special(now)
            held = await self._held(p.id)
            ours = await escalation.token_rights(self.proxmox)
            entries = ours.entries_of(p.id)
            for entry in entries:
                ours.refuse_ours("delete_role", entry.who)
            uncovered = [line for entry in entries for line in await ours.uncovered(entry)]
            escalation.refuse_excess("delete_role", ours.token, uncovered, f"what role {p.id} keeps from its holders")
            anywhere = {name for names in ours.held.values() for name in names}
            if not held and anywhere >= set(now.privileges):  # the undo does not restore grants
                call.inverse("create_role", {"id": p.id, "privileges": now.privileges})
            call.target(_role_target(now, held))
            return lambda: self.proxmox.delete(f"/access/roles/{p.id}")

        return await changes.delete(call, changes.Item("role", p.id, lambda: self._role(p.id)), plan)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def list_grants(self, call: Call, p: ListGrants) -> Grants:
        """List which role is granted to which user, token or group, on which path.

        Only paths on which agentd's token may change rights are shown.
        """
        if p.role:
            filter_values.check_exists("role", p.role, [role.id for role in await self._roles()])
        found = [
            grant
            for grant in await self._grants()
            if grant.path.startswith(p.path) and p.who in {"", grant.who} and p.role in {"", grant.role}
        ]
        return pages.fill(
            Grants(len(found), []), "grants", found, lambda grant: f"{grant.path} {grant.who} {grant.role}", p
        )

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="user_management")
    async def grant_role(self, call: Call, p: GrantRole) -> Grant:
        """Grant a role to a user, a token or a group on a path.

        The role must not give more rights than agentd's own token has there. Nothing is granted to agentd itself: its
        token, its user, and the groups of that user.
        """
        wanted = Grant(p.path, p.who, p.role, p.propagate)

        async def plan() -> changes.Planned:
            role = await self._role(p.role)
            if role is None:
                raise NotFound(f"there is no role {p.role!r}; there are {', '.join(e.id for e in await self._roles())}")
            ours = await escalation.token_rights(self.proxmox)
            ours.refuse_ours("grant_role", p.who)
            if wanted in await self._grants():
                return Found()
            missing = await ours.beyond(p.path, role.privileges, propagate=p.propagate)
            escalation.refuse_excess("grant_role", ours.token, sorted(missing), f"role {p.role} on {p.path}")
            call.inverse("revoke_role", {"role": p.role, "who": p.who, "path": p.path})
            below = " and all below" if p.propagate else ""
            loses = [
                f"{p.who} gains {len(role.privileges)} privileges on {p.path}{below}: {', '.join(role.privileges)}"
            ]
            call.target(_grant_target(wanted, loses, there=False))
            return lambda: self._put(p, delete=False)

        await changes.change(call, plan)
        return wanted

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def revoke_role(self, call: Call, p: GrantRole) -> Grant:
        """Revoke a granted role; a role of agentd itself is not revoked."""
        revoked: list[Grant] = []

        async def plan() -> changes.Planned:
            now = [e for e in await self._grants() if (e.path, e.who, e.role) == (p.path, p.who, p.role)]
            ours = await escalation.token_rights(self.proxmox)
            ours.refuse_ours("revoke_role", p.who)
            if not now:
                return Found()
            revoked[:] = now
            entry = AccessEntry(p.path, p.who, p.role, now[0].propagate)
            what = f"what role {p.role} on {p.path} keeps from {p.who}"
            escalation.refuse_excess("revoke_role", ours.token, await ours.uncovered(entry), what)
            grant_again = {"role": p.role, "who": p.who, "path": p.path, "propagate": now[0].propagate}
            if not await ours.beyond(p.path, ours.roles.get(p.role, frozenset()), propagate=now[0].propagate):
                call.inverse("grant_role", grant_again)
            call.target(_grant_target(now[0], [f"{p.who} loses role {p.role} on {p.path}"], there=True))
            return lambda: self._put(p, delete=True)

        await changes.change(call, plan)
        return revoked[0] if revoked else Grant(p.path, p.who, p.role, p.propagate)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def list_realms(self, call: Call, p: fields.NoParameters) -> Realms:  # noqa: ARG002
        """List the realms that users come from."""
        entries: list[Entry] = await self.proxmox.get("/access/domains") or []
        realms = [
            convert.entry(Realm, entry, {"second_factor": "tfa"}, id=one_line(entry["realm"])) for entry in entries
        ]
        return Realms(sorted(realms, key=lambda realm: realm.id))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def get_permissions(self, call: Call, p: GetPermissions) -> Permissions:
        """Show the permissions of a user or token by path, as Proxmox computes them.

        They include inherited rights and those of groups.
        """
        data = await self.proxmox.get("/access/permissions", userid=p.who, path=p.path) or {}
        paths = {
            one_line(path): sorted(name for name, on in held.items() if on is not None) for path, held in data.items()
        }
        return Permissions(p.who or self.proxmox.user, dict(sorted(paths.items())))

    # -- reading and changing -----------------------------------------------------------------------------------------

    async def _roles(self) -> list[Role]:
        entries: list[Entry] = await self.proxmox.get("/access/roles") or []
        return sorted((_role(entry) for entry in entries), key=lambda role: role.id)

    async def _role(self, name: str) -> Role | None:
        return next((role for role in await self._roles() if role.id == name), None)

    async def _changeable(self, name: str) -> Role:
        role = await self._role(name)
        if role is None:
            raise NotFound(f"there is no role {name!r}")
        _refuse_special(role)
        return role

    async def _grants(self) -> list[Grant]:
        entries: list[Entry] = await self.proxmox.get("/access/acl") or []
        return sorted(map(_grant, entries), key=lambda grant: (grant.path, grant.who, grant.role))

    async def _held(self, role: str) -> list[str]:
        return [f"{grant.who} has it on {grant.path}" for grant in await self._grants() if grant.role == role]

    async def _put(self, p: GrantRole, *, delete: bool) -> None:
        kind, name = _kind(p.who)
        sent = {f"{kind}s": name, "propagate": p.propagate, "delete": delete or None}
        await self.proxmox.put("/access/acl", path=p.path, roles=p.role, **sent)


async def _newly_exceeding(ours: TokenRights, role: str, gained: list[str]) -> list[str]:
    """Return which holders of `role` would gain more than agentd's own token has.

    Raises Rejected if agentd has the role.
    """
    found = []
    for entry in ours.entries_of(role):
        ours.refuse_ours("update_role", entry.who)
        missing = await ours.beyond(entry.path, gained, propagate=entry.propagate)
        found += [f"{entry.who} gains {', '.join(sorted(missing))} on {entry.path}"] * bool(missing)
    if not ours.entries_of(role):
        found += sorted(set(gained) - {name for held in ours.held.values() for name in held})
    return found


def _refuse_special(role: Role) -> None:
    if role.special:
        raise Rejected(f"the role {role.id} comes with Proxmox and stays as it is: create_role makes one of your own")


def _role(entry: Entry) -> Role:
    privileges = [name for name in str(entry.get("privs") or "").split(",") if name]
    return Role(one_line(entry["roleid"]), sorted(privileges), convert.flag(entry.get("special")))


def _grant(entry: Entry) -> Grant:
    who = one_line(entry["ugid"])
    who = f"@{who}" if entry.get("type") == "group" else who
    return convert.entry(Grant, entry, path=one_line(entry["path"]), who=who, role=one_line(entry["roleid"]))


def _kind(who: str) -> tuple[str, str]:
    """Return the kind of `who` (group, token or user), and its name."""
    if formats.is_group(who):
        return "group", who.removeprefix("@")
    return "token" if formats.is_token(who) else "user", who


def _role_target(role: Role, loses: list[str]) -> Target:
    return Target(f"role/{role.id}", f"role {role.id}", {"privileges": role.privileges}, loses=loses)


def _grant_target(grant: Grant, loses: list[str], *, there: bool) -> Target:
    labels = [f"role/{grant.role}", "/".join(_kind(grant.who))]
    state = {"there": there, "propagate": grant.propagate}
    return Target(f"acl{grant.path}", f"{grant.role} for {grant.who} on {grant.path}", state, labels, loses)
