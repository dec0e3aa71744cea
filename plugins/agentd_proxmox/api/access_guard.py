"""Refuse API calls that would give more rights than agentd's own token has.

The named tools follow the same rule (`escalation`). Each method that can give rights has a check in `EXCESS_CHECKS`,
which decides on the parameters that are sent. A method that changes something under /access and has no check here is
refused, so a method that a newer Proxmox VE adds cannot be used to get around the rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd import NotFound, Rejected
from agentd_proxmox import escalation
from agentd_proxmox.api_tiers import is_on, names_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd import Proxmox
    from agentd_proxmox.api_schema import Endpoint
    from agentd_proxmox.escalation import TokenRights

    Entry = dict[str, Any]
    ExcessCheck = Callable[[TokenRights, str, Entry], Awaitable[list[str]]]


async def check(proxmox: Proxmox, endpoint: Endpoint, sent: Entry) -> None:
    """Raise Rejected if a call would give more rights than agentd's own token has.

    A change of agentd's own rights is rejected too.
    """
    excess_check = EXCESS_CHECKS.get(endpoint.key)
    if excess_check is None:
        if endpoint.verb != "GET" and endpoint.path.startswith("/access/"):
            raise Rejected(f"{endpoint.key}: it is not known who would gain which rights: use pveum")
        return
    if endpoint.key in MEMBERS and not (sent.get("vms") or sent.get("storage")):
        return
    ours = await escalation.token_rights(proxmox)
    lines = await excess_check(ours, endpoint.key, {**sent, **endpoint.values})
    escalation.refuse_excess(endpoint.key, ours.token, list(dict.fromkeys(lines)), "this call")


async def _acl_change(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    path, propagate = str(sent["path"]), is_on(sent.get("propagate", "1"))
    holders = [*names_in(sent.get("users", "")), *names_in(sent.get("tokens", ""))]
    holders += [f"@{group}" for group in names_in(sent.get("groups", ""))]
    found: list[str] = []
    for name in holders:
        ours.refuse_ours(key, name)
    for role in names_in(sent["roles"]):
        if is_on(sent.get("delete", "0")):
            entries = [entry for entry in ours.entries_of(role) if entry.path == path and entry.who in holders]
            found += [line for entry in entries for line in await ours.uncovered(entry)]
            continue
        privileges = _known(ours, role)
        missing = await ours.beyond(path, privileges, propagate=propagate)
        found += [f"role {role} on {path} ({', '.join(sorted(missing))})"] * bool(missing)
    return found


def _known(ours: TokenRights, role: str) -> frozenset[str]:
    if role not in ours.roles:
        raise NotFound(f"roles: there is no role {role!r}; there are {', '.join(sorted(ours.roles))}")
    return ours.roles[role]


def _all_privileges(ours: TokenRights) -> set[str]:
    return {name for held in ours.held.values() for name in held}


async def _new_role(ours: TokenRights, _key: str, sent: Entry) -> list[str]:
    return [*sorted(set(names_in(sent.get("privs", ""))) - _all_privileges(ours)), *await _holders(ours, "", sent)]


async def _holders(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Return what the holders of a role gain.

    Raises Rejected if agentd is one of them.
    """
    role, privileges = str(sent["roleid"]), set(names_in(sent.get("privs", "")))
    gained = privileges - ours.roles.get(role, frozenset())
    found = sorted(gained - _all_privileges(ours))
    for entry in ours.entries_of(role):
        ours.refuse_ours(key, entry.who)
        missing = await ours.beyond(entry.path, gained, propagate=entry.propagate)
        found += [f"{entry.who} gains {', '.join(sorted(missing))} on {entry.path}"] * bool(missing)
    return found


async def _deleted_role(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    entries = ours.entries_of(str(sent["roleid"]))
    for entry in entries:
        ours.refuse_ours(key, entry.who)
    return [line for entry in entries for line in await ours.uncovered(entry)]


async def _account(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Return the rights of a user beyond those of agentd's own token.

    The rights of the user's present groups and of the groups that it would get are included.
    """
    user = str(sent["userid"])
    ours.refuse_ours(key, user)
    groups = {f"@{group}" for group in names_in(sent.get("groups", ""))}
    for group in groups:
        ours.refuse_ours(key, group)
    tokens = {entry.who for entry in ours.entries if entry.who.startswith(f"{user}!")}
    return await ours.granted_beyond({user, *tokens, *groups, *await _groups(ours, user)})


async def _changed_account(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Return what a user gains by a change.

    A new name or address, or being disabled, gives it nothing.
    """
    ours.refuse_ours(key, str(sent["userid"]))
    may_gain = is_on(sent.get("enable", "0")) or any(name in sent for name in ("groups", "expire", "keys", "append"))
    return await _account(ours, key, sent) if may_gain else []


async def _groups(ours: TokenRights, user: str) -> set[str]:
    entries = await ours.proxmox.get("/access/groups") or []
    return {f"@{entry['groupid']}" for entry in entries if user in names_in(entry.get("users") or "")}


async def _token(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Return what a token gains that gets all rights of its user.

    Raises Rejected for agentd's own token.
    """
    ours.refuse_ours(key, f"{sent['userid']}!{sent['tokenid']}")
    if is_on(sent.get("privsep", "1")) and "expire" not in sent and "delete" not in sent:
        return []
    return await _account(ours, key, sent)


async def _deletion(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Raise Rejected if the user, group or token that is deleted is agentd's own."""
    user, group = sent.get("userid"), sent.get("groupid")
    if group is not None:
        ours.refuse_ours(key, f"@{group}")
    elif sent.get("tokenid") is not None:
        ours.refuse_ours(key, f"{user}!{sent['tokenid']}")
    else:
        ours.refuse_ours(key, str(user))
    return []


async def _group(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Return what the members of a new group gain.

    Entries of the access list can be older than the group.
    """
    name = f"@{sent['groupid']}"
    ours.refuse_ours(key, name)
    return await ours.granted_beyond({name}) if key.startswith("POST") else []


async def _realm(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    realm = str(sent["realm"])
    user = ours.token.partition("!")[0]
    if user.endswith(f"@{realm}"):
        ours.refuse_ours(key, user)
    return await ours.granted_beyond(ours.of_realm(realm))


async def _sync_job(ours: TokenRights, key: str, sent: Entry) -> list[str]:
    """Return the rights of a realm's users beyond those of agentd's own token.

    The realm of an existing job is read from that job.
    """
    realm = sent.get("realm")
    if realm is None:
        job = await ours.proxmox.get(f"/cluster/jobs/realm-sync/{sent['id']}") or {}
        realm = job.get("realm", "")
    return await _realm(ours, key, {**sent, "realm": realm})


async def _pool(ours: TokenRights, _key: str, sent: Entry) -> list[str]:
    if is_on(sent.get("delete", "0")):
        return []
    members = [f"/vms/{vmid}" for vmid in names_in(sent.get("vms", ""))]
    members += [f"/storage/{storage}" for storage in names_in(sent.get("storage", ""))]
    return await ours.pooled_beyond(str(sent["poolid"]), members)


MEMBERS: Final = frozenset({"PUT /pools", "PUT /pools/{poolid}"})
EXCESS_CHECKS: Final[dict[str, ExcessCheck]] = {
    "PUT /access/acl": _acl_change,
    "POST /access/roles": _new_role,
    "PUT /access/roles/{roleid}": _holders,
    "DELETE /access/roles/{roleid}": _deleted_role,
    "POST /access/users": _account,
    "PUT /access/users/{userid}": _changed_account,
    "DELETE /access/users/{userid}": _deletion,
    "PUT /access/password": _account,
    "PUT /access/users/{userid}/unlock-tfa": _account,
    "PUT /access/tfa/{userid}/{id}": _account,
    "DELETE /access/tfa/{userid}/{id}": _account,
    "PUT /access/users/{userid}/token/{tokenid}": _token,
    "DELETE /access/users/{userid}/token/{tokenid}": _deletion,
    "POST /access/groups": _group,
    "PUT /access/groups/{groupid}": _group,
    "DELETE /access/groups/{groupid}": _deletion,
    "POST /access/domains": _realm,
    "PUT /access/domains/{realm}": _realm,
    "DELETE /access/domains/{realm}": _realm,
    "POST /access/domains/{realm}/sync": _realm,
    "POST /cluster/jobs/realm-sync/{id}": _sync_job,
    "PUT /cluster/jobs/realm-sync/{id}": _sync_job,
    **dict.fromkeys(MEMBERS, _pool),
}
"""The check of each method; it returns what the call would give beyond the rights of agentd's own token."""
