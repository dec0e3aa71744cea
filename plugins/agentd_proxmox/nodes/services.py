"""One node: its services, name servers, clock and updates.

What cuts users off, or cuts off the API by which the change could be undone, is of tier `destroy`: stopping or
restarting a service is, starting one is not.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import (
    Call,
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
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import convert, fields, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]

SKEW: Final = 2.0
"""Seconds by which a node's clock may differ from ours without a warning; Corosync and tickets suffer from more."""
API: Final = frozenset({"pveproxy", "pvedaemon", "pve-cluster"})
"""Services that a node's API needs to answer; without pve-cluster it returns 500 to all (proxmox.md, Cluster)."""
CUT: Final = re.compile(r"received interrupt|unexpected status")
"""The exit status of a task whose own worker process was ended."""
Service = Annotated[str, formats.full_match("[a-z][a-z0-9-]{0,63}", "as list_services names it")]
Address = formats.Ip
Domain = Annotated[formats.Domain, Meta(description="search domain")]
Zone = formats.TimeZone


class ServiceLine(msgspec.Struct, frozen=True):
    """A service.

    state: running, dead, failed …
    enabled: enabled, disabled, masked or not-found
    """

    service: str
    state: str
    enabled: str
    description: str


class Services(msgspec.Struct, frozen=True):
    """The services of a node; those that are enabled but not running come first."""

    node: str
    running: int
    services: list[ServiceLine]


class ServiceSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The service and its node."""

    node: fields.Node
    service: Service


class RestartService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The service and its node.

    reload: reload only its configuration, if the service can do that
    """

    node: fields.Node
    service: Service
    reload: bool = False


class NodeSettings(msgspec.Struct, frozen=True):
    """Name servers, search domain and clock of a node.

    offset: the node's clock minus ours, in seconds
    """

    node: str
    dns: list[str]
    search: str
    timezone: str
    time: datetime
    offset: float
    digest: str


class SetDns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All name servers of the node, in the order in which it asks them.

    digest: of get_node_settings
    """

    node: fields.Node
    dns: Annotated[list[Address], Meta(min_length=1, max_length=3)]
    search: Domain
    digest: str = ""


class SetTimezone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The time zone that the node is to show."""

    node: fields.Node
    timezone: Zone


class ListUpdates(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """The node, and the page of the list."""

    node: fields.Node


class Update(msgspec.Struct, frozen=True):
    """A package that has a newer version."""

    package: str
    old: str
    new: str
    origin: str


class Updates(msgspec.Struct, frozen=True):
    """How many packages have a newer version, by origin, and one page by name.

    kernel: one of them is a kernel
    """

    node: str
    total: int
    by_origin: dict[str, int]
    kernel: bool
    packages: list[Update]
    next: str = ""


class NodeTools(area.Area):
    """The tools for services, settings and updates of a node."""

    shown_to: ClassVar[area.ShownTo] = {"list_services": blind_token.NODES, "list_updates": blind_token.NODES}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def list_services(self, call: Call, p: fields.NodeSelector) -> Services:
        """List the services of a node; enabled ones that do not run come first."""
        lines = [_service(entry) for entry in await self.proxmox.get(f"/nodes/{p.node}/services") or []]
        lines.sort(key=lambda line: (not _has_failed(line), line.service))
        return Services(p.node, sum(line.state == "running" for line in lines), lines)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="node_management")
    async def start_service(self, call: Call, p: ServiceSelector) -> ServiceLine:
        """Start a service of a node; a running service is left as it is."""
        call.target(
            Target(f"service/{p.node}/{p.service}", f"service {p.service} on {p.node}", labels=[f"node/{p.node}"])
        )

        async def plan() -> changes.Planned:
            if (await self._one(p.node, p.service)).state == "running":
                return Found()
            call.inverse("stop_service", {"node": p.node, "service": p.service})
            return self._sending(p, "start")

        return await self._done(call, p, "start", await changes.change(call, plan))

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def stop_service(self, call: Call, p: ServiceSelector) -> ServiceLine:
        """Stop a service of a node; what it does is not available until it is started."""

        async def plan() -> changes.Planned:
            line = await self._one(p.node, p.service)
            if line.state != "running":
                return Found()
            if p.service in API:
                raise Rejected(f"{p.service}: the API cannot start it again without it; use restart_service")
            call.target(_target(p.node, line, f"what {p.service} does ({line.description}), until it is started"))
            call.inverse("start_service", {"node": p.node, "service": p.service})
            return self._sending(p, "stop")

        return await self._done(call, p, "stop", await changes.change(call, plan))

    @tool(tier=Tier.DESTROY, repeat=Repeat.UNSAFE, capability="node_management")
    async def restart_service(self, call: Call, p: RestartService) -> ServiceLine:
        """Restart a service of a node, or reload its configuration."""
        verb, service = "reload" if p.reload else "restart", ServiceSelector(p.node, p.service)

        async def plan() -> changes.Planned:
            line = await self._one(p.node, p.service)
            call.target(_target(p.node, line, f"what {p.service} was doing ({line.description}), for a moment"))
            return self._sending(service, verb)

        return await self._done(call, service, verb, await changes.change(call, plan))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def get_node_settings(self, call: Call, p: fields.NodeSelector) -> NodeSettings:
        """Show a node's name servers, time zone and clock, compared with our clock."""
        found = await self._settings(p.node)
        if abs(found.offset) > SKEW:
            call.warn(f"the clock of {p.node} is {found.offset:+.0f} s off ours: is chrony running on both?")
        return found

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def set_dns(self, call: Call, p: SetDns) -> NodeSettings:
        """Set the name servers and the search domain of a node."""
        if len(set(p.dns)) < len(p.dns):
            raise Rejected("dns: name each server once; Proxmox writes it once")
        call.target(Target(f"node/{p.node}", f"node {p.node}"))

        async def plan() -> changes.Planned:
            now = await self._settings(p.node)
            # Compared before the digest, which our own change alters when its answer was lost.
            if (now.dns, now.search) == (p.dns, p.search):
                return Found()
            changes.check_unchanged(f"the configuration of {p.node}", p.digest, now.digest)
            if now.dns and now.search:
                call.inverse("set_dns", {"node": p.node, "dns": now.dns, "search": now.search})
            servers = {f"dns{number}": server for number, server in enumerate(p.dns, 1)}
            return lambda: self.proxmox.put(f"/nodes/{p.node}/dns", search=p.search, **servers)

        await changes.change(call, plan)
        after = await self._settings(p.node)
        if (after.dns, after.search) != (p.dns, p.search):
            now = f"uses the DNS servers {', '.join(after.dns) or 'none'} and searches {after.search!r}"
            raise TaskFailed(f"Proxmox reports success, but {p.node} {now}")
        return after

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="node_management")
    async def set_timezone(self, call: Call, p: SetTimezone) -> NodeSettings:
        """Set the time zone that a node shows; its clock is not changed."""
        call.target(Target(f"node/{p.node}", f"node {p.node}"))

        async def plan() -> changes.Planned:
            now = await self._settings(p.node)
            if now.timezone == p.timezone:
                return Found()
            call.inverse("set_timezone", {"node": p.node, "timezone": now.timezone})
            return lambda: self.proxmox.put(f"/nodes/{p.node}/time", timezone=p.timezone)

        await changes.change(call, plan)
        after = await self._settings(p.node)
        if after.timezone != p.timezone:
            raise TaskFailed(f"Proxmox reports success, but the time zone of {p.node} is {after.timezone}")
        return after

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="node_management", reads=True)
    async def list_updates(self, call: Call, p: ListUpdates) -> Updates:
        """List the available package updates of a node, as of its last refresh."""
        lines = [_update(entry) for entry in await self.proxmox.get(f"/nodes/{p.node}/apt/update") or []]
        origins = dict(Counter(update.origin for update in lines))
        kernel = any("kernel" in update.package for update in lines)
        empty = Updates(p.node, len(lines), origins, kernel, [])
        return pages.fill(empty, "packages", lines, lambda update: update.package, p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def refresh_updates(self, call: Call, p: fields.NodeSelector) -> Updates:
        """Refresh a node's list of available package updates; installs nothing."""
        call.target(Target(f"node/{p.node}", f"node {p.node}"))

        async def plan() -> changes.Planned:
            running = await targets.running_tasks(self.inventory, p.node, {"aptupdate"}, "")
            path = f"/nodes/{p.node}/apt/update"
            return Found(running[0].text) if running else lambda: self.proxmox.post(path)

        await self.inventory.finish(call, await changes.change(call, plan))
        return await self.list_updates(call, ListUpdates(p.node))

    async def _one(self, node: str, service: str) -> ServiceLine:
        lines = {line.service: line for line in map(_service, await self.proxmox.get(f"/nodes/{node}/services") or [])}
        if service not in lines:
            raise NotFound(f"service: there is no {service!r} on {node}; there are {', '.join(sorted(lines))}")
        return lines[service]

    def _sending(self, p: ServiceSelector, verb: str) -> changes.Send:
        return lambda: self.proxmox.post(f"/nodes/{p.node}/services/{p.service}/{verb}")

    async def _done(self, call: Call, p: ServiceSelector, verb: str, found: Found) -> ServiceLine:
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            await self._interrupted(call, p, verb, error)
        line = await self._one(p.node, p.service)
        if (line.state == "running") is (verb == "stop"):
            raise TaskFailed(f"{p.service} on {p.node} was to {verb}, and is {line.state}; get_node_log may show why")
        return line

    async def _interrupted(self, call: Call, p: ServiceSelector, verb: str, error: TaskFailed) -> None:
        """Accept a failed task if the service is in the wanted state; else raise `error`.

        A failed restart or reload is accepted only for a service of the API that ended the very task that restarts it.
        """
        ended_itself = p.service in API and verb in {"restart", "reload"} and CUT.search(str(error)) is not None
        state = (await self._one(p.node, p.service)).state
        if (state == "running") is (verb == "stop") or not (ended_itself or verb in {"start", "stop"}):
            raise error
        call.warn(f"{error}; but {p.service} on {p.node} is {state}")

    async def _settings(self, node: str) -> NodeSettings:
        dns = await self.proxmox.get(f"/nodes/{node}/dns") or {}
        clock = await self.proxmox.get(f"/nodes/{node}/time")
        now = datetime.now(UTC)
        servers = [one_line(dns[key]) for key in ("dns1", "dns2", "dns3") if dns.get(key)]
        search, zone = one_line(dns.get("search") or ""), one_line(clock["timezone"])
        time = datetime.fromtimestamp(int(clock["time"]), UTC)
        offset = round(float(clock["time"]) + 0.5 - now.timestamp(), 1)  # the node returns whole seconds
        return NodeSettings(node, servers, search, zone, time, offset, pages.digest([servers, search, zone]))


def _service(entry: Entry) -> ServiceLine:
    return ServiceLine(
        service=one_line(entry["service"]),
        state=convert.text(entry.get("state"), "unknown"),
        enabled=convert.text(entry.get("unit-state"), "unknown"),
        description=convert.text(entry.get("desc")),
    )


def _has_failed(line: ServiceLine) -> bool:
    return line.state != "running" and line.enabled == "enabled"


def _target(node: str, line: ServiceLine, lost: str) -> Target:
    title = f"service {line.service} on {node}, {line.state}"
    return Target(f"service/{node}/{line.service}", title, {"state": line.state}, [f"node/{node}"], [lost])


def _update(entry: Entry) -> Update:
    return Update(
        package=one_line(entry["Package"]),
        old=one_line(entry.get("OldVersion") or ""),
        new=one_line(entry.get("Version") or ""),
        origin=one_line(entry.get("Origin") or "unknown"),
    )
