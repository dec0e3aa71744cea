"""Notification matchers, mail targets and metric servers.

An administrator creates targets and servers that need a password or a token, because secrets are not sent through
agentd (README).  What comes with Proxmox is switched off, not deleted.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, Tier, formats, one_line, tool
from agentd_proxmox import area, changes, targets
from agentd_proxmox.model import convert, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

PATH: Final = "/cluster/notifications"
SERVERS: Final = "/cluster/metrics/server"
Name = formats.ConfigId
Mail = Annotated[str, formats.full_match(r"[^\s@,;<>]{1,64}@[A-Za-z0-9.-]{1,190}", "address of mail")]
User = formats.User
Host = formats.Host
Rule = Annotated[str, formats.full_match(r"(?:exact|regex):[a-z-]{1,40}=[^\x00-\x1f]{1,200}", "exact:type=vzdump")]
Calendar = Annotated[str, formats.full_match("[A-Za-z0-9*/,.: -]{1,100}", "mon..fri 8-17")]
Port = Annotated[int, Meta(ge=1, le=65_535)]


METER_DEFAULTS: Final[dict[str, object]] = {"proto": "udp", "influxdbproto": "udp", "path": "proxmox"}
"""The settings that Proxmox omits of a metric server if they have these values."""
PLAIN: Final = frozenset({"id", "type", "server", "port", "proto", "path", "influxdbproto", "disable", "digest"})
"""The settings of a metric server that create_metric_server can set."""
MAILS: Final = {
    "mailto": "to", "mailto-user": "users", "server": "server", "port": "port", "mode": "mode",
    "from-address": "sender", "comment": "comment",
}  # fmt: skip
"""The settings of a target that create_mail_target can set, and the names of its parameters."""


class SetNotificationMatcher(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of the matcher, whether it exists or not.

    rules  conditions on fields

    Without conditions it matches every notification.
    """

    name: Name
    targets: Annotated[list[Name], Meta(max_length=20)]
    severities: list[Literal["info", "notice", "warning", "error", "unknown"]] = []
    rules: Annotated[list[Rule], Meta(max_length=20)] = []
    calendars: Annotated[list[Calendar], Meta(max_length=10)] = []
    mode: Literal["all", "any"] = "all"
    enabled: bool = True
    comment: fields.Comment = ""


class NameSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name."""

    name: Name


class CreateMailTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A target: smtp has a server and a sender, sendmail is the one of the node.

    Mail goes to addresses (`to`) or to `users`.
    """

    name: Name
    type: Literal["sendmail", "smtp"]
    to: Annotated[list[Mail], Meta(max_length=20)] = []
    users: Annotated[list[User], Meta(max_length=20)] = []
    server: Host | None = None
    port: Port | None = None
    mode: Literal["insecure", "starttls", "tls"] | None = None
    sender: Mail | None = None
    comment: fields.Comment = ""


class CreateMetricServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A metric server that needs no token: graphite, or InfluxDB over UDP."""

    name: Name
    type: Literal["graphite", "influxdb"]
    server: Host
    port: Port
    protocol: Literal["udp", "tcp"] = "udp"
    path: Annotated[str, formats.full_match("[A-Za-z0-9_.-]{1,64}")] | None = None


class StoredSettings(msgspec.Struct, frozen=True):
    """The name, and the settings as Proxmox stores them."""

    name: str
    settings: dict[str, str]


class NotificationSetup(area.Area):
    """The tools that set up notifications and metric servers."""

    # -- matchers -----------------------------------------------------------------------------------------------------

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def set_notification_matcher(self, call: Call, p: SetNotificationMatcher) -> StoredSettings:
        """Create or change a matcher: which notifications go to which targets."""
        call.target(Target(f"matcher/{p.name}", f"matcher {p.name} of notifications"))
        wanted = _wanted_changes(p)

        async def plan() -> changes.Planned:
            known = await self._named("targets")
            missing = sorted(set(p.targets) - set(known))
            if missing:
                raise NotFound(f"targets: there is no target {missing[0]!r}; there are {', '.join(sorted(known))}")
            now = (await self._named("matchers")).get(p.name)
            sent = {key: value for key, value in wanted.items() if value}  # a false `disable` is deleted
            if now is None:
                call.inverse("delete_notification_matcher", {"name": p.name})
                return lambda: self.proxmox.post(f"{PATH}/matchers", name=p.name, **sent)
            if _kept(now) == wanted:
                return Found()
            self._invertible(call, now)
            gone = [key for key in wanted if key not in sent]
            return lambda: self.proxmox.put(f"{PATH}/matchers/{p.name}", delete=gone or None, **sent)

        await changes.change(call, plan)
        return _shown(p.name, (await self._named("matchers")).get(p.name) or {})

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_notification_matcher(self, call: Call, p: NameSelector) -> changes.Deleted:
        """Delete a matcher; what only it forwarded is no longer sent to anyone."""

        async def plan(now: Entry) -> changes.Send:
            if now.get("origin") == "builtin":
                raise Rejected(
                    f"name: {p.name} comes with Proxmox: switch it off with set_notification_matcher enabled=false"
                )
            self._invertible(call, now)
            goes = ", ".join(map(one_line, now.get("target") or [])) or "no target"
            loses = [f"what was sent to {goes}"]
            call.target(Target(f"matcher/{p.name}", f"matcher {p.name} of notifications", _kept(now), [], loses))
            return lambda: self.proxmox.delete(f"{PATH}/matchers/{p.name}")

        return await changes.delete(call, self._item("matchers", p.name), plan)

    @staticmethod
    def _invertible(call: Call, now: Entry) -> None:
        """Record how to restore the matcher, if these tools can set all of it."""
        if not now.get("invert-match"):
            stored = _kept(now)
            renamed = {"target": "targets", "match-severity": "severities", "match-field": "rules"}
            renamed |= {"match-calendar": "calendars", "mode": "mode", "comment": "comment"}
            old = {new: stored[key] for key, new in renamed.items()}
            old["severities"] = [severity for part in old["severities"] for severity in part.split(",")]
            call.inverse(
                "set_notification_matcher", {"name": one_line(now["name"]), "enabled": not stored["disable"], **old}
            )

    # -- targets ------------------------------------------------------------------------------------------------------

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def create_mail_target(self, call: Call, p: CreateMailTarget) -> StoredSettings:
        """Create a notification target that sends mail without a login.

        set_notification_matcher sends notifications to it, test_notification tests it.
        """
        if not p.to and not p.users:
            raise Rejected("to: give an address, or users whose address Proxmox knows")
        if (p.type == "smtp") != (p.server is not None and p.sender is not None):
            raise Rejected("type: smtp takes a server and a sender; sendmail is the node's own and takes no server")
        call.target(Target(f"notification/{p.name}", f"target {p.name} of notifications"))
        sent: Entry = {"mailto": p.to or None, "mailto-user": p.users or None, "comment": p.comment or None}
        sent |= {"server": p.server, "port": p.port, "mode": p.mode, "from-address": p.sender}

        async def plan() -> changes.Planned:
            now = (await self._named("targets")).get(p.name)
            if now is None:
                call.inverse("delete_notification_target", {"name": p.name})
                return lambda: self.proxmox.post(f"{PATH}/endpoints/{p.type}", name=p.name, **sent)
            if now.get("type") != p.type:
                raise Rejected(f"name: there is a target {p.name} of type {now.get('type')} already")
            now = await self.proxmox.get(f"{PATH}/endpoints/{p.type}/{p.name}") or {}
            differs = [key for key, value in sent.items() if value is not None and now.get(key) != value]
            if differs:
                raise Rejected(f"name: there is a target {p.name} already, with another {differs[0]}")
            return Found()

        await changes.change(call, plan)
        return _shown(p.name, (await self._named("targets")).get(p.name) or {})

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_notification_target(self, call: Call, p: NameSelector) -> changes.Deleted:
        """Delete a notification target with its password or token.

        It is refused while a matcher sends to the target.
        """

        async def plan(now: Entry) -> changes.Send:
            if now.get("origin") == "builtin":
                raise Rejected(
                    f"name: {p.name} comes with Proxmox: take it out of the matchers with set_notification_matcher"
                )
            users = [
                key for key, matcher in (await self._named("matchers")).items() if p.name in matcher.get("target", [])
            ]
            if users:
                raise Rejected(f"name: the matchers {', '.join(users)} send to {p.name}: nothing was done")
            kind = one_line(now["type"])
            title, loses = f"target {p.name} ({kind}) of notifications", ["its settings, and its secret if it has one"]
            call.target(Target(f"notification/{p.name}", title, {"type": kind}, [], loses))
            path, known = f"{PATH}/endpoints/{kind}/{p.name}", {*MAILS, "name", "type", "digest", "origin", "disable"}
            now = await self.proxmox.get(path) or {} if kind in {"sendmail", "smtp"} else {}
            if now and set(now) <= known and not int(now.get("disable") or 0):
                values = {new: now[key] for key, new in MAILS.items() if now.get(key)}
                targets.set_undo(call, "create_mail_target", CreateMailTarget, {"name": p.name, "type": kind, **values})
            return lambda: self.proxmox.delete(path)

        return await changes.delete(call, self._item("targets", p.name), plan)

    # -- metric servers -----------------------------------------------------------------------------------------------

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def create_metric_server(self, call: Call, p: CreateMetricServer) -> StoredSettings:
        """Send the metrics of all nodes to a graphite or InfluxDB server as well.

        A server that needs a token is added by an administrator.
        """
        if p.type == "influxdb" and (p.protocol != "udp" or p.path is not None):
            raise Rejected("protocol: InfluxDB without a token is reached over udp, and has no path")
        call.target(Target(f"metrics/{p.name}", f"metric server {p.name}"))
        wanted: Entry = {"type": p.type, "server": p.server, "port": p.port}
        wanted |= {"proto": p.protocol, "path": p.path} if p.type == "graphite" else {"influxdbproto": "udp"}

        def same(now: Entry) -> None:
            given = {key: value for key, value in wanted.items() if value is not None}
            have, asked = METER_DEFAULTS | now, METER_DEFAULTS | given
            other = [key for key in wanted if have.get(key) != asked.get(key)]
            if other or int(now.get("disable") or 0):
                what = f"with another {', '.join(other)}" if other else "disabled"
                at = f"{now.get('server')}:{now.get('port')}"
                raise Rejected(f"name: there is a metric server {p.name} ({at}) already, {what}")

        send = partial(self.proxmox.post, f"{SERVERS}/{p.name}", **wanted)
        undo = ("delete_metric_server", {"name": p.name})
        return _shown(p.name, await changes.create(call, self._item("servers", p.name), send, undo, same))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_metric_server(self, call: Call, p: NameSelector) -> changes.Deleted:
        """Delete a metric server; nodes send it nothing more, and its token is lost."""

        async def plan(now: Entry) -> changes.Send:
            state = _shown(p.name, now).settings
            title = f"metric server {p.name} ({state.get('type')} {state.get('server')})"
            call.target(Target(f"metrics/{p.name}", title, dict(state), [], ["figures from now on, and its token"]))
            if set(now) <= PLAIN and not int(now.get("disable") or 0):
                protocol = now.get("proto") or now.get("influxdbproto") or "udp"
                values = {key: now[key] for key in ("type", "server", "port", "path") if now.get(key)}
                targets.set_undo(
                    call, "create_metric_server", CreateMetricServer, {"name": p.name, "protocol": protocol, **values}
                )
            return lambda: self.proxmox.delete(f"{SERVERS}/{p.name}")

        return await changes.delete(call, self._item("servers", p.name), plan)

    # -- reads --------------------------------------------------------------------------------------------------------

    def _item(self, what: str, name: str) -> changes.Item[Entry]:
        async def find() -> Entry | None:
            return await self._server(name) if what == "servers" else (await self._named(what)).get(name)

        kind = {"matchers": "matcher", "targets": "notification target", "servers": "metric server"}[what]
        return changes.Item(kind, name, find)

    async def _named(self, what: str) -> dict[str, Entry]:
        return {one_line(entry["name"]): entry for entry in await self.proxmox.get(f"{PATH}/{what}") or []}

    async def _server(self, name: str) -> Entry | None:
        """Return a metric server with all its settings, of which the list has only some.

        Return None if it does not exist.
        """
        if all(entry["id"] != name for entry in await self.proxmox.get(SERVERS) or []):
            return None
        found: Entry = await self.proxmox.get(f"{SERVERS}/{name}") or {}
        return found | {"port": int(found.get("port") or 0)}


def _wanted_changes(p: SetNotificationMatcher) -> Entry:
    """Return a matcher as Proxmox stores it."""
    return {
        "target": sorted(p.targets),
        "match-severity": sorted(p.severities),
        "match-field": sorted(p.rules),
        "match-calendar": sorted(p.calendars),
        "mode": p.mode,
        "disable": not p.enabled,
        "comment": p.comment,
    }


def _kept(entry: Entry) -> Entry:
    """Return a matcher as Proxmox has it, with the defaults that Proxmox omits."""
    lists = ("target", "match-severity", "match-field", "match-calendar")
    return {
        **{key: sorted(one_line(item) for item in entry.get(key) or []) for key in lists},
        "mode": one_line(entry.get("mode") or "all"),
        "disable": convert.flag(entry.get("disable")),
        "comment": one_line(entry.get("comment") or ""),
    }


def _shown(name: str, entry: Entry) -> StoredSettings:
    shown = {key: value for key, value in entry.items() if key not in {"name", "id", "token"}}
    texts = {key: one_line(", ".join(map(str, v)) if isinstance(v, list) else v) for key, v in shown.items()}
    return StoredSettings(name, {key: text for key, text in texts.items() if text not in {"", "0", "False"}})
