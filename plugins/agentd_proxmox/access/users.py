"""Users and groups: which accounts exist, and which of them can log in.

A new user or group has no rights, so creating one can be undone. What lets a user log in that could not before, or
locks a user out, is of tier `destroy` or, in update_user, `exec`. The user of agentd itself and root@pam are not
changed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import Call, Found, PermanentError, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, escalation
from agentd_proxmox.model import convert, fields, filter_values, pages

if TYPE_CHECKING:
    from agentd import Proxmox

    Entry = dict[str, Any]

GROUPS: Final = "/access/groups"

ROOT: Final = "root@pam"

UserId = formats.User
GroupId = formats.Group
PersonName = Annotated[str, Meta(max_length=1024)]
Email = Annotated[str, Meta(max_length=254)]
UserComment = Annotated[str, Meta(max_length=2048)]
Epoch = Annotated[int, Meta(ge=0, description="seconds since 1970; 0: never")]


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user; `expire` in seconds since 1970, 0 for never."""

    id: str
    enabled: bool
    expire: int = 0
    groups: list[str] = []
    tokens: list[str] = []
    name: str = ""
    email: str = ""
    comment: str = ""


class UserPage(msgspec.Struct, frozen=True):
    """How many users match, how many of them are enabled, and a page of them.

    `next` is "" on the last page.
    """

    total: int
    enabled: int
    users: list[User]
    next: str = ""


class Group(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group and its members."""

    id: str
    members: list[str] = []
    comment: str = ""


class Groups(msgspec.Struct, frozen=True):
    """The groups that agentd's token may see."""

    groups: list[Group]


class ListUsers(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """Which users: members of a group, or with a text in their name.

    `cursor` is `next` of the previous page.
    """

    group: str = ""
    name: str = ""


class UserSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user."""

    id: UserId


class CreateUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new user; password and rights are given separately."""

    id: UserId
    first_name: PersonName = ""
    last_name: PersonName = ""
    email: Email = ""
    comment: UserComment = ""
    expire: Epoch = 0
    enabled: bool = True


class UpdateUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a user; what is left out stays unchanged.

    `groups` is the complete list of its groups.
    """

    id: UserId
    enabled: bool | None = None
    groups: list[GroupId] | None = None
    email: Email | None = None
    comment: UserComment | None = None
    expire: Epoch | None = None

    def expire_or(self, before: int) -> int:
        """Return the new expiry of the user; `before` if it is not changed."""
        return before if self.expire is None else self.expire


class CreateGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name and the comment of the group."""

    id: GroupId
    comment: fields.Comment = ""


class GroupSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The group."""

    id: GroupId


class Users(area.Area):
    """The tools for users and groups."""

    shown_to: ClassVar[area.ShownTo] = {"list_users": blind_token.USERS, "list_groups": blind_token.USERS}
    needs: ClassVar[area.Needs] = {
        **{name: area.with_path(GROUPS, "Sys.Audit") for name in ("list_users", "get_user", "list_groups")},
        "create_user": {("Realm.AllocateUser", "/access/realm/{realm}"), ("User.Modify", GROUPS)},
        "update_user": area.with_path(GROUPS, "User.Modify"),
        "delete_user": {("Realm.AllocateUser", "/access/realm/{realm}"), ("User.Modify", GROUPS)},
        "create_group": area.with_path(GROUPS, "Sys.Audit"),
        "delete_group": area.with_path(GROUPS, "Sys.Audit"),
    }

    # -- users --------------------------------------------------------------------------------------------------------

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def list_users(self, call: Call, p: ListUsers) -> UserPage:
        """List users with their groups: a tally and a page."""
        entries: list[Entry] = await self.proxmox.get("/access/users", full=1) or []
        users = sorted((_user(str(e["userid"]), e) for e in entries), key=lambda user: user.id)
        if p.group and p.group not in (named := {group for user in users for group in user.groups}):
            groups = await self.proxmox.get("/access/groups") or []
            filter_values.check_exists("group", p.group, {*named, *(str(group["groupid"]) for group in groups)})
        found = [e for e in users if p.name.lower() in e.id.lower() and (not p.group or p.group in e.groups)]
        empty = UserPage(len(found), sum(user.enabled for user in found), [])
        return pages.fill(empty, "users", found, lambda user: user.id, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def get_user(self, call: Call, p: UserSelector) -> User:
        """Show a user with its groups and the names of its tokens."""
        return await self._user(p.id)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def create_user(self, call: Call, p: CreateUser) -> User:
        """Create a user without password, groups and rights.

        A person sets the password, grant_role grants rights.
        """
        wanted = {
            "firstname": p.first_name,
            "lastname": p.last_name,
            "email": p.email,
            "comment": p.comment,
            "expire": p.expire,
            "enable": p.enabled,
        }
        call.target(Target(f"user/{p.id}", f"user {p.id}"))

        def same(now: User) -> None:
            if (now.email, now.comment, now.enabled) != (p.email, p.comment, p.enabled):
                raise Rejected(f"there is a user {p.id} already, with other settings: update_user changes it")

        sent = {key: value for key, value in wanted.items() if value != ""}
        undo = ("delete_user", {"id": p.id})
        send = partial(self.proxmox.post, "/access/users", userid=p.id, **sent)
        return await changes.create(call, self._item(p.id), send, undo, same)

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="user_management")
    async def update_user(self, call: Call, p: UpdateUser) -> User:
        """Change a user: enabled, groups, expiry, address or comment.

        The user may gain or lose rights by it.
        """
        if p.enabled is False:
            self._refuse_own(p.id, "disabled")
        wanted = {
            "enable": p.enabled,
            "groups": None if p.groups is None else ",".join(sorted(p.groups)),
            "email": p.email,
            "comment": p.comment,
            "expire": p.expire,
        }

        async def plan() -> changes.Planned:
            now = await self._user(p.id)
            have = {"enable": now.enabled, "groups": ",".join(sorted(now.groups)), "email": now.email}
            have |= {"comment": now.comment, "expire": now.expire}
            changed = {key: value for key, value in wanted.items() if value is not None and value != have[key]}
            if not changed:
                return Found()
            final = await self._may_change(now, p, changed)
            before = {"enabled": now.enabled, "groups": now.groups, "email": now.email, "comment": now.comment}
            asked = {key for key, value in msgspec.structs.asdict(p).items() if value is not None and key != "id"}
            was = {key: value for key, value in (before | {"expire": now.expire}).items() if key in asked}
            if not final:
                call.inverse("update_user", {"id": p.id, **was})
            loses = [f"{key}: {have[key]!r} → {value!r}" for key, value in changed.items()]
            call.target(_target(now, *loses))
            return lambda: self.proxmox.put(f"/access/users/{formats.path_part(p.id)}", **wanted)

        await changes.change(call, plan)
        return await self._user(p.id)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def delete_user(self, call: Call, p: UserSelector) -> changes.Deleted:
        """Delete a user with its tokens and all that was granted to it."""
        self._refuse_own(p.id, "deleted")

        async def plan(now: User) -> changes.Send:
            tokens = f"its tokens {', '.join(now.tokens)}" if now.tokens else "no tokens"
            call.target(_target(now, tokens, *await grants_of(self.proxmox, "user", p.id)))
            return lambda: self.proxmox.delete(f"/access/users/{formats.path_part(p.id)}")

        return await changes.delete(call, self._item(p.id), plan)

    # -- groups -------------------------------------------------------------------------------------------------------

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def list_groups(self, call: Call, p: fields.NoParameters) -> Groups:  # noqa: ARG002
        """List the groups with their members."""
        entries: list[Entry] = await self.proxmox.get("/access/groups") or []
        return Groups(sorted(map(_group, entries), key=lambda group: group.id))

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="user_management")
    async def create_group(self, call: Call, p: CreateGroup) -> Group:
        """Create a group without members and rights.

        update_user adds users to it.
        """
        call.target(Target(f"group/{p.id}", f"group {p.id}"))
        send = partial(self.proxmox.post, "/access/groups", groupid=p.id, comment=p.comment or None)
        group = changes.Item("group", p.id, lambda: self._group(p.id))
        return await changes.create(call, group, send, ("delete_group", {"id": p.id}))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def delete_group(self, call: Call, p: GroupSelector) -> changes.Deleted:
        """Delete a group; its members lose what was granted to it.

        A group that agentd is a member of is not deleted.
        """

        async def plan(now: Group) -> changes.Send:
            if formats.user_of(self.proxmox.user) in now.members:
                raise Rejected(f"id: agentd itself is in the group {p.id}: it is not deleted")
            members = f"{len(now.members)} members: {', '.join(now.members)}" if now.members else "no members"
            loses = [members, *await grants_of(self.proxmox, "group", p.id)]
            call.target(Target(f"group/{p.id}", f"group {p.id}", {"members": sorted(now.members)}, loses=loses))
            return lambda: self.proxmox.delete(f"/access/groups/{p.id}")

        group = changes.Item("group", p.id, lambda: self._group(p.id))
        return await changes.delete(call, group, plan)

    # -- helpers ------------------------------------------------------------------------------------------------------

    async def _may_change(self, now: User, p: UpdateUser, changed: Entry) -> bool:
        """Refuse a change by which a user gains more rights than agentd has.

        Returns whether undoing the change would be such a change. A user gains what is granted to its new groups, and
        all its rights when it is allowed to log in again.
        """
        if not changed.keys() & {"groups", "enable", "expire"}:
            return False
        ours = await escalation.token_rights(self.proxmox)
        before, after = set(now.groups), set(now.groups if p.groups is None else p.groups)
        if before != after:
            ours.refuse_ours("update_user", p.id)
        everything = {p.id, *(f"{p.id}!{token}" for token in now.tokens), *(f"@{group}" for group in before)}
        unlocked = changed.get("enable") is True or (
            "expire" in changed and not 0 < p.expire_or(now.expire) < now.expire
        )
        gained = {f"@{group}" for group in after - before} | (everything if unlocked else set())
        escalation.refuse_excess("update_user", ours.token, await ours.granted_beyond(gained), f"this change of {p.id}")
        lost = {f"@{group}" for group in before - after}
        locked = not unlocked and changed.keys() & {"enable", "expire"}
        return bool(await ours.granted_beyond(lost | (everything if locked else set())))

    def _refuse_own(self, user: str, what: str) -> None:
        if user == formats.user_of(self.proxmox.user):
            raise Rejected(f"{user} is the user that agentd itself is: it is not {what}")
        if user == ROOT:
            raise Rejected(f"{ROOT} is the user that can repair everything: it is not {what}")

    def _item(self, user: str) -> changes.Item[User]:
        return changes.Item("user", user, lambda: self._find(user))

    async def _user(self, user: str) -> User:
        return _user(user, await self.proxmox.get(f"/access/users/{formats.path_part(user)}"))

    async def _find(self, user: str) -> User | None:
        """Return the user, or None."""
        try:
            return await self._user(user)
        except PermanentError:
            entries: list[Entry] = await self.proxmox.get("/access/users") or []
            if any(entry.get("userid") == user for entry in entries):
                raise
            return None

    async def _group(self, group: str) -> Group | None:
        entries: list[Entry] = await self.proxmox.get("/access/groups") or []
        return next((_group(entry) for entry in entries if entry.get("groupid") == group), None)


async def grants_of(proxmox: Proxmox, kind: str, name: str) -> list[str]:
    """Return what is granted to a user, group or token, one line per role and path."""
    entries: list[Entry] = await proxmox.get("/access/acl") or []
    mine = [entry for entry in entries if entry.get("type") == kind and entry.get("ugid") == name]
    return [f"role {entry['roleid']} on {entry['path']}" for entry in mine]


def _user(user: str, entry: Entry) -> User:
    groups, tokens = entry.get("groups") or [], entry.get("tokens") or {}
    names = [str(token["tokenid"]) for token in tokens] if isinstance(tokens, list) else list(tokens)
    return convert.entry(
        User,
        entry,
        id=one_line(user),
        enabled=convert.flag(entry.get("enable"), default=True),
        groups=sorted(groups.split(",") if isinstance(groups, str) else groups),
        tokens=sorted(names),
        name=one_line(f"{entry.get('firstname') or ''} {entry.get('lastname') or ''}".strip()),
    )


def _group(entry: Entry) -> Group:
    members = [name for name in str(entry.get("users") or "").split(",") if name]
    return Group(one_line(entry["groupid"]), sorted(members), one_line(entry.get("comment") or ""))


def _target(user: User, *loses: str) -> Target:
    state = {"enabled": user.enabled, "groups": user.groups, "tokens": user.tokens}
    labels = [f"group/{group}" for group in user.groups]
    return Target(f"user/{user.id}", f"user {user.id}", state, labels, list(loses))
