"""Hold calls of the API tools to the rule of the named ones: nobody gains more rights than agentd's own token has.

Each method that can give rights is judged on what is sent, by `escalation`.  A method under /access that is not judged
here is refused, so that what a newer Proxmox VE brings is no way around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd.errors import NotFound, Rejected
from agentd_proxmox import escalation
from agentd_proxmox.api_tiers import is_on, names_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.proxmox.client import Proxmox
    from agentd_proxmox.api_schema import Endpoint
    from agentd_proxmox.escalation import Own

    Entry = dict[str, Any]
    Judge = Callable[[Own, str, Entry], Awaitable[list[str]]]


async def check(proxmox: Proxmox, endpoint: Endpoint, sent: Entry) -> None:
    """Raise Rejected if the call would give more rights than the own token has, or change those of agentd itself."""
    judge = JUDGES.get(endpoint.key)
    if judge is None:
        if endpoint.verb != "GET" and endpoint.path.startswith("/access/"):
            raise Rejected(f"{endpoint.key}: it is not known who would gain which rights: use pveum")
        return
    if endpoint.key in MEMBERS and not (sent.get("vms") or sent.get("storage")):
        return
    ours = await escalation.own(proxmox)
    lines = await judge(ours, endpoint.key, {**sent, **endpoint.values})
    escalation.refuse(endpoint.key, ours.token, list(dict.fromkeys(lines)), "this call")


async def _acl(ours: Own, key: str, sent: Entry) -> list[str]:
    path, propagate = str(sent["path"]), is_on(sent.get("propagate", "1"))
    who = [*names_in(sent.get("users", "")), *names_in(sent.get("tokens", ""))]
    who += [f"@{group}" for group in names_in(sent.get("groups", ""))]
    found: list[str] = []
    for name in who:
        ours.refuse_ours(key, name)
    for role in names_in(sent["roles"]):
        if is_on(sent.get("delete", "0")):
            entries = [entry for entry in ours.entries_of(role) if entry.path == path and entry.who in who]
            found += [line for entry in entries for line in await ours.uncovered(entry)]
            continue
        privileges = _known(ours, role)
        lacking = await ours.beyond(path, privileges, propagate=propagate)
        found += [f"role {role} on {path} ({', '.join(sorted(lacking))})"] * bool(lacking)
    return found


def _known(ours: Own, role: str) -> frozenset[str]:
    if role not in ours.roles:
        raise NotFound(f"roles: there is no role {role!r}; there are {', '.join(sorted(ours.roles))}")
    return ours.roles[role]


def _anywhere(ours: Own) -> set[str]:
    return {name for held in ours.held.values() for name in held}


async def _new_role(ours: Own, _key: str, sent: Entry) -> list[str]:
    return [*sorted(set(names_in(sent.get("privs", ""))) - _anywhere(ours)), *await _holders(ours, "", sent)]


async def _holders(ours: Own, key: str, sent: Entry) -> list[str]:
    """Return what the holders of a role gain; raises Rejected if agentd is one of them."""
    role, privileges = str(sent["roleid"]), set(names_in(sent.get("privs", "")))
    gained = privileges - ours.roles.get(role, frozenset())
    found = sorted(gained - _anywhere(ours))
    for entry in ours.entries_of(role):
        ours.refuse_ours(key, entry.who)
        lacking = await ours.beyond(entry.path, gained, propagate=entry.propagate)
        found += [f"{entry.who} gains {', '.join(sorted(lacking))} on {entry.path}"] * bool(lacking)
    return found


async def _gone_role(ours: Own, key: str, sent: Entry) -> list[str]:
    entries = ours.entries_of(str(sent["roleid"]))
    for entry in entries:
        ours.refuse_ours(key, entry.who)
    return [line for entry in entries for line in await ours.uncovered(entry)]


async def _account(ours: Own, key: str, sent: Entry) -> list[str]:
    """Return what a user has beyond the own token, with its groups of now and those that it would get."""
    user = str(sent["userid"])
    ours.refuse_ours(key, user)
    groups = {f"@{group}" for group in names_in(sent.get("groups", ""))}
    for group in groups:
        ours.refuse_ours(key, group)
    tokens = {entry.who for entry in ours.entries if entry.who.startswith(f"{user}!")}
    return await ours.granted_beyond({user, *tokens, *groups, *await _groups(ours, user)})


async def _changed_account(ours: Own, key: str, sent: Entry) -> list[str]:
    """Return what a user gains: nothing by its name, its address or being shut out."""
    ours.refuse_ours(key, str(sent["userid"]))
    lets_in = is_on(sent.get("enable", "0")) or any(name in sent for name in ("groups", "expire", "keys", "append"))
    return await _account(ours, key, sent) if lets_in else []


async def _groups(ours: Own, user: str) -> set[str]:
    entries = await ours.proxmox.get("/access/groups") or []
    return {f"@{entry['groupid']}" for entry in entries if user in names_in(entry.get("users") or "")}


async def _token(ours: Own, key: str, sent: Entry) -> list[str]:
    """Return what a token gains that is to have all rights of its user; raises Rejected for agentd's own."""
    ours.refuse_ours(key, f"{sent['userid']}!{sent['tokenid']}")
    if is_on(sent.get("privsep", "1")) and "expire" not in sent and "delete" not in sent:
        return []
    return await _account(ours, key, sent)


async def _gone(ours: Own, key: str, sent: Entry) -> list[str]:
    """Raise Rejected if what is deleted or renamed is agentd itself."""
    user, group = sent.get("userid"), sent.get("groupid")
    if group is not None:
        ours.refuse_ours(key, f"@{group}")
    elif sent.get("tokenid") is not None:
        ours.refuse_ours(key, f"{user}!{sent['tokenid']}")
    else:
        ours.refuse_ours(key, str(user))
    return []


async def _group(ours: Own, key: str, sent: Entry) -> list[str]:
    """Return what waits for the members of a new group: entries of the access list can be older than it."""
    name = f"@{sent['groupid']}"
    ours.refuse_ours(key, name)
    return await ours.granted_beyond({name}) if key.startswith("POST") else []


async def _realm(ours: Own, key: str, sent: Entry) -> list[str]:
    realm = str(sent["realm"])
    user = ours.token.partition("!")[0]
    if user.endswith(f"@{realm}"):
        ours.refuse_ours(key, user)
    return await ours.granted_beyond(ours.of_realm(realm))


async def _sync_job(ours: Own, key: str, sent: Entry) -> list[str]:
    """Return what the users of a realm have beyond the own token; a job that exists names its realm itself."""
    realm = sent.get("realm")
    if realm is None:
        job = await ours.proxmox.get(f"/cluster/jobs/realm-sync/{sent['id']}") or {}
        realm = job.get("realm", "")
    return await _realm(ours, key, {**sent, "realm": realm})


async def _pool(ours: Own, _key: str, sent: Entry) -> list[str]:
    if is_on(sent.get("delete", "0")):
        return []
    members = [f"/vms/{vmid}" for vmid in names_in(sent.get("vms", ""))]
    members += [f"/storage/{storage}" for storage in names_in(sent.get("storage", ""))]
    return await ours.pooled_beyond(str(sent["poolid"]), members)


MEMBERS: Final = frozenset({"PUT /pools", "PUT /pools/{poolid}"})
JUDGES: Final[dict[str, Judge]] = {
    "PUT /access/acl": _acl,
    "POST /access/roles": _new_role,
    "PUT /access/roles/{roleid}": _holders,
    "DELETE /access/roles/{roleid}": _gone_role,
    "POST /access/users": _account,
    "PUT /access/users/{userid}": _changed_account,
    "DELETE /access/users/{userid}": _gone,
    "PUT /access/password": _account,
    "PUT /access/users/{userid}/unlock-tfa": _account,
    "PUT /access/tfa/{userid}/{id}": _account,
    "DELETE /access/tfa/{userid}/{id}": _account,
    "PUT /access/users/{userid}/token/{tokenid}": _token,
    "DELETE /access/users/{userid}/token/{tokenid}": _gone,
    "POST /access/groups": _group,
    "PUT /access/groups/{groupid}": _group,
    "DELETE /access/groups/{groupid}": _gone,
    "POST /access/domains": _realm,
    "PUT /access/domains/{realm}": _realm,
    "DELETE /access/domains/{realm}": _realm,
    "POST /access/domains/{realm}/sync": _realm,
    "POST /cluster/jobs/realm-sync/{id}": _sync_job,
    "PUT /cluster/jobs/realm-sync/{id}": _sync_job,
    **dict.fromkeys(MEMBERS, _pool),
}
"""By which function a method is judged; each returns what would be given beyond the own rights."""
