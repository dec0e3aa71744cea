"""Where Proxmox sends notifications and metrics, and the sync of realms.

Targets and realms contain passwords, so an administrator creates them; these tools list, test and run them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import msgspec

from agentd import Call, Found, NotFound, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, blind_token, changes, escalation, targets
from agentd_proxmox.model import convert, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

PATH: Final = "/cluster/notifications"


class Receiver(msgspec.Struct, frozen=True, omit_defaults=True):
    """A notification target: sendmail, smtp, gotify or webhook."""

    name: str
    type: str
    enabled: bool = True
    comment: str = ""


class Matcher(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which notifications go to which targets: by severity, field and calendar.

    Without any of these, all notifications match.
    """

    name: str
    targets: list[str]
    matches: list[str] = []
    enabled: bool = True


class Notifications(msgspec.Struct, frozen=True):
    """The notification targets, the matchers, and the metric servers."""

    targets: list[Receiver]
    matchers: list[Matcher]
    metric_servers: dict[str, str]


class TestNotification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The target to test."""

    name: formats.ConfigId


class TestSent(msgspec.Struct, frozen=True):
    """The target that a test was sent to."""

    name: str


class SyncRealm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The realm, and which part of it to sync.

    preview  only report what the sync would do

    A user or group that is gone from the directory is kept in Proxmox.
    """

    realm: formats.Realm
    scope: Literal["users", "groups", "both"] = "both"
    preview: bool = False


class Synced(msgspec.Struct, frozen=True):
    """The realm, and the end of the log of its sync."""

    realm: str
    log: list[str]


class NotificationTools(area.Area):
    """The tools for notifications and the sync of realms."""

    shown_to: ClassVar[area.ShownTo] = {"list_notifications": blind_token.NOTIFICATIONS}
    needs: ClassVar[area.Needs] = {
        "sync_realm": area.with_path("/nodes/{node}", "Sys.Audit") | area.with_path("/access", "Sys.Audit")
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_notifications(self, call: Call, p: fields.NoParameters) -> Notifications:  # noqa: ARG002
        """List the notification targets, the matchers, and the metric servers."""
        receivers, matchers = [await self.proxmox.get(f"{PATH}/{kind}") or [] for kind in ("targets", "matchers")]
        servers = await self.proxmox.get("/cluster/metrics/server") or []
        return Notifications(
            [_receiver(receiver) for receiver in receivers],
            [_matcher(matcher) for matcher in matchers],
            {one_line(e["id"]): one_line(f"{e.get('type')} {e.get('server')}:{e.get('port')}") for e in servers},
        )

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="cluster_management")
    async def test_notification(self, call: Call, p: TestNotification) -> TestSent:
        """Send a test notification through a target; its recipients get a message."""
        call.target(Target(f"notification/{p.name}", f"target {p.name} of notifications"))

        async def plan() -> changes.Planned:
            known = [one_line(entry["name"]) for entry in await self.proxmox.get(f"{PATH}/targets") or []]
            if p.name not in known:
                raise NotFound(f"name: there is no target {p.name!r}; there are {', '.join(known) or 'none'}")
            return lambda: self.proxmox.post(f"{PATH}/targets/{p.name}/test")

        await changes.change(call, plan)
        return TestSent(p.name)

    @tool(tier=Tier.EXEC, repeat=Repeat.IDEMPOTENT, capability="user_management")
    async def sync_realm(self, call: Call, p: SyncRealm) -> Synced:
        """Import users and groups from a realm's directory (LDAP, Active Directory).

        The sync deletes no users or groups.  It is refused if a group or user of the realm has more permissions than
        agentd's own token: the directory decides who is in it.
        """
        call.target(Target(f"realm/{p.realm}", f"realm {p.realm}"))
        known = {one_line(entry["realm"]): entry for entry in await self.proxmox.get("/access/domains") or []}
        if p.realm not in known or known[p.realm].get("type") not in {"ldap", "ad"}:
            fit = [name for name, entry in known.items() if entry.get("type") in {"ldap", "ad"}]
            there = ", ".join(fit) or "none"
            raise NotFound(f"realm: there is no directory {p.realm!r} to sync with; there are {there}")

        sent: Entry = {"scope": p.scope, "remove-vanished": "none", "enable-new": True}
        sent |= {"dry-run": True} if p.preview else {}
        send = partial(self.proxmox.post, f"/access/domains/{p.realm}/sync", **sent)

        async def plan() -> changes.Planned:
            if p.preview:  # a running sync is not a preview, and a second preview changes nothing
                return send
            for node in sorted(one_line(entry["node"]) for entry in await self.proxmox.get("/nodes") or []):
                ours = await targets.running_tasks(self.inventory, node, {"auth-realm-sync"}, p.realm)
                if ours:
                    return Found(ours[0].text)
            own = await escalation.token_rights(self.proxmox)
            lines = await own.granted_beyond(own.of_realm(p.realm))
            escalation.refuse_excess("sync_realm", own.token, lines, f"the directory of {p.realm}")
            return send

        found = await changes.change(call, plan)
        await self.inventory.finish(call, found)
        return Synced(p.realm, await self.proxmox.log_tail(found.upid) if found.upid else [])


def _receiver(entry: Entry) -> Receiver:
    enabled = not convert.flag(entry.get("disable"))
    return convert.entry(Receiver, entry, name=one_line(entry["name"]), enabled=enabled)


def _matcher(entry: Entry) -> Matcher:
    kinds = [key for key in entry if key.startswith("match-")]
    rules = [f"{key.removeprefix('match-')} {one_line(value)}" for key in kinds for value in entry[key]]
    goes = [one_line(target) for target in entry.get("target") or []]
    return Matcher(one_line(entry["name"]), goes, rules, not int(entry.get("disable") or 0))
