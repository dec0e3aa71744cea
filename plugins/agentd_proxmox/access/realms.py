"""Realms: external sources of users (LDAP, Active Directory, OpenID Connect).

A realm decides who can log in, so creating or changing a realm is of tier `exec`, and deleting one of tier `destroy`.
Passwords and client keys are not passed through agentd (README): a person sets them in Proxmox. No secret is shown,
although Proxmox returns the client key to every account that may read the realm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, changes, escalation, targets
from agentd_proxmox.model import convert, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

RealmId = formats.Realm
Text = Annotated[str, Meta(max_length=256)]
Server = formats.Host
Url = Annotated[str, formats.full_match(r"https?://[^\s@]{1,240}", "without user and password")]
Port = Annotated[int, Meta(ge=1, le=65_535)]

NEEDED: Final = {
    "ldap": ("server1", "base_dn", "user_attr"), "ad": ("server1", "domain"), "openid": ("issuer_url", "client_id"),
}  # fmt: skip
DIRECTORY: Final = ("server1", "server2", "port", "mode", "verify", "base_dn", "bind_dn", "user_attr", "filter")
TAKEN: Final = {
    "ldap": ("comment", *DIRECTORY),
    "ad": ("comment", "domain", *DIRECTORY),
    "openid": ("comment", "issuer_url", "client_id", "autocreate"),
}
MayLack = Literal[
    "comment", "server2", "port", "mode", "verify", "base_dn", "bind_dn", "user_attr", "filter", "autocreate"
]


class Settings(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a realm; ldap and ad have servers, openid an issuer.

    Settings that are left out stay unchanged.
    """

    comment: fields.Comment | None = None
    server1: Server | None = None
    server2: Server | None = None
    port: Port | None = None
    mode: Literal["ldap", "ldaps", "ldap+starttls"] | None = None
    verify: bool | None = None
    base_dn: Text | None = None
    bind_dn: Text | None = None
    user_attr: Annotated[str, formats.full_match(r"[^\s\x00-\x1f\x7f]{2,256}")] | None = None
    filter: Text | None = None
    domain: Annotated[str, formats.full_match("[A-Za-z0-9._-]{1,253}")] | None = None
    issuer_url: Url | None = None
    client_id: Text | None = None
    autocreate: bool | None = None


class RealmInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A realm.

    settings: as create_realm takes them
    users: the number of its known users
    digest: of the settings that were read
    """

    id: str
    type: str
    settings: dict[str, str | int | bool]
    users: int = 0
    digest: str = ""


class RealmSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The realm."""

    id: RealmId


class CreateRealm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new realm.

    ldap needs server1, base_dn and user_attr
    ad needs server1 and domain
    openid needs issuer_url and client_id
    """

    id: RealmId
    type: Literal["ldap", "ad", "openid"]
    settings: Settings


class UpdateRealm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings to change, and those to remove (`without`).

    digest: of get_realm; the change is refused if the realm was changed since then
    """

    id: RealmId
    settings: Settings = Settings()
    without: list[MayLack] = []
    digest: str = ""


class Realms(area.Area):
    """The tools for single realms.

    list_realms is in roles.py, sync_realm in cluster/notifications.py.
    """

    needs: ClassVar[area.Needs] = {area.EVERY: {("Sys.Audit", "/access/realm"), ("Sys.Audit", "/access/groups")}}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def get_realm(self, call: Call, p: RealmSelector) -> RealmInfo:
        """Show a realm: type, servers or issuer, number of users; secrets are left out."""
        return await self._realm(p.id)

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="user_management")
    async def create_realm(self, call: Call, p: CreateRealm) -> RealmInfo:
        """Create a realm, so that users of a directory or an OpenID provider can log in.

        A person sets its password or client key.
        """
        wanted = _wanted(p.type, p.settings)
        missing = [key for key in NEEDED[p.type] if key not in wanted]
        if missing:
            raise Rejected(f"settings: a realm of type {p.type} needs {' and '.join(missing)} too")

        async def plan() -> changes.Planned:
            now = await self._find(p.id)
            if now is not None:
                differs = [key for key, value in wanted.items() if now.settings.get(key) != value]
                if now.type != p.type or differs:
                    what = ", ".join(differs) or "type"
                    raise Rejected(f"id: there is a realm {p.id} of type {now.type} already, with another {what}")
                return Found()
            await self._may_decide("create_realm", p.id)
            call.inverse("delete_realm", {"id": p.id})
            where = p.settings.issuer_url or p.settings.server1
            loses = [f"{where} decides from now on who is NAME@{p.id}"]
            call.target(Target(f"realm/{p.id}", f"realm {p.id} ({p.type}, {where})", {"there": False}, [], loses))
            return lambda: self.proxmox.post("/access/domains", realm=p.id, type=p.type, **_sent(wanted))

        await changes.change(call, plan)
        self._hint(call, p.id, p.type, p.settings)
        return await self._realm(p.id)

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="user_management")
    async def update_realm(self, call: Call, p: UpdateRealm) -> RealmInfo:
        """Change a realm; its password or client key stays as it is."""

        async def plan() -> changes.Planned:
            now = await self._realm(p.id)
            self._not_built_in(now, "changed")
            old = now.settings
            changed = {key: value for key, value in _changed(now.type, p).items() if old.get(key) != value}
            removed = [key for key in p.without if key in old]
            if not changed and not removed:
                return Found()
            changes.check_unchanged(f"realm {p.id}", p.digest, now.digest)
            if {*changed, *removed} - {"comment"}:
                await self._may_decide("update_realm", p.id)
            previous = {key: old[key] for key in (*changed, *removed) if key in old}
            new = [key for key in changed if key not in old]
            targets.set_undo(call, "update_realm", UpdateRealm, {"id": p.id, "settings": previous, "without": new})
            loses = [f"{key}: {old.get(key)!r} → {value!r}" for key, value in changed.items()]
            loses += [f"{key}: {old[key]!r} → nothing" for key in removed]
            call.target(_target(now, loses))
            sent = {"digest": now.digest or None, "delete": ",".join(removed) or None}
            sent |= _sent(msgspec.structs.asdict(p.settings))
            return lambda: self.proxmox.put(f"/access/domains/{p.id}", **sent)

        await changes.change(call, plan)
        return await self._realm(p.id)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="user_management")
    async def delete_realm(self, call: Call, p: RealmSelector) -> changes.Deleted:
        """Delete a realm; its users can no longer log in.

        What was granted to its users stays until they are deleted.
        """
        if p.id == formats.user_of(self.proxmox.user).rpartition("@")[2]:
            raise Rejected(f"id: {p.id} is the realm of agentd itself: it is not deleted")

        async def plan(now: RealmInfo) -> changes.Send:
            self._not_built_in(now, "deleted")
            users = await self._users(p.id)
            affected = f"{len(users)} users can no longer log in: {', '.join(users)}" if users else "no users"
            call.target(_target(now, [affected, "its settings, and its password or client key"]))
            return lambda: self.proxmox.delete(f"/access/domains/{p.id}")

        return await changes.delete(call, changes.Item("realm", p.id, lambda: self._find(p.id)), plan)

    async def _may_decide(self, tool: str, realm: str) -> None:
        """Refuse a new directory for users that have more rights than agentd.

        The directory decides who these users are.
        """
        ours = await escalation.token_rights(self.proxmox)
        lines = await ours.granted_beyond(ours.of_realm(realm))
        escalation.refuse_excess(tool, ours.token, lines, f"what decides who the users of {realm} are")

    @staticmethod
    def _not_built_in(now: RealmInfo, what: str) -> None:
        if now.type not in NEEDED:
            raise Rejected(f"id: {now.id} ({now.type}) comes with Proxmox: it is not {what}")

    @staticmethod
    def _hint(call: Call, realm: str, kind: str, settings: Settings) -> None:
        """Warn that a person has to set the secret, if one is needed."""
        if kind == "openid":
            call.warn(f"if its provider asks for a key, a person gives it: pveum realm modify {realm} --client-key …")
        elif settings.bind_dn is not None:
            call.warn(f"a person gives the password of {settings.bind_dn}: pveum realm modify {realm} --password …")

    async def _realm(self, name: str) -> RealmInfo:
        found = await self._find(name)
        if found is None:
            known = sorted(one_line(entry["realm"]) for entry in await self.proxmox.get("/access/domains") or [])
            raise NotFound(f"id: there is no realm {name!r}; there are {', '.join(known)}")
        return found

    async def _find(self, name: str) -> RealmInfo | None:
        """Return the realm, or None.

        It is looked up in the list, because the error for a missing realm is not specific.
        """
        entries: list[Entry] = await self.proxmox.get("/access/domains") or []
        if all(entry["realm"] != name for entry in entries):
            return None
        entry: Entry = await self.proxmox.get(f"/access/domains/{name}") or {}
        settings, users = _settings(entry), len(await self._users(name))
        return convert.entry(RealmInfo, entry, id=name, settings=settings, users=users)

    async def _users(self, realm: str) -> list[str]:
        entries: list[Entry] = await self.proxmox.get("/access/users") or []
        return sorted(one_line(entry["userid"]) for entry in entries if str(entry["userid"]).endswith(f"@{realm}"))


def _wanted(kind: str, settings: Settings) -> Entry:
    """Return the given settings.

    Raises Rejected for settings that realms of this type do not have.
    """
    given = {key: value for key, value in msgspec.structs.asdict(settings).items() if value is not None}
    unsupported = sorted(set(given) - set(TAKEN[kind]))
    if unsupported:
        raise Rejected(f"settings: a realm of type {kind} has no {unsupported[0]}; it has {', '.join(TAKEN[kind])}")
    if not given:
        raise Rejected(f"settings: give one of {', '.join(TAKEN[kind])}")
    return given


def _changed(kind: str, p: UpdateRealm) -> Entry:
    """Return the settings to change; raise Rejected for an impossible change."""
    needed = next((key for key in p.without if key in NEEDED[kind]), None)
    if needed:
        raise Rejected(f"without: a realm of type {kind} needs {needed}")
    given = {key for key, value in msgspec.structs.asdict(p.settings).items() if value is not None}
    if both := sorted(given & set(p.without)):
        raise Rejected(f"without: {both[0]} is given in settings as well; give one of the two")
    return {} if p.without and not given else _wanted(kind, p.settings)


def _sent(settings: Entry) -> Entry:
    names = {"issuer_url": "issuer-url", "client_id": "client-id"}
    return {names.get(key, key): value for key, value in settings.items()}


def _settings(entry: Entry) -> dict[str, str | int | bool]:
    """Return the settings of a realm that may be shown; all others are left out."""
    found: dict[str, str | int | bool] = {}
    for key in Settings.__struct_fields__:
        value = entry.get(key, entry.get(key.replace("_", "-")))
        if value is None:
            continue
        found[key] = (
            bool(int(value)) if key in {"verify", "autocreate"} else int(value) if key == "port" else one_line(value)
        )
    return found


def _target(now: RealmInfo, loses: list[str]) -> Target:
    where = now.settings.get("issuer_url") or now.settings.get("server1")
    return Target(f"realm/{now.id}", f"realm {now.id} ({now.type}, {where})", {"digest": now.digest}, [], loses)
