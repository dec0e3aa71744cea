"""The tools of node maintenance: check that a node is empty, wait for it, and check its health.

The decision whether a node is well is pure (`node_faults`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import AgentdError, BusUnavailable, Call, Rejected, Repeat, TaskFailed, Tier, formats, tool
from agentd_specialist.collecting import PROXMOX, Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

POLL: Final = 2.0
LONGEST_POLL: Final = 15.0
HELD_POLL: Final = 30.0
"""Seconds between two looks: at first, at most, and while a node is held; a look only reads and leaves no record."""
MARGIN: Final = 10.0
"""Seconds before the deadline at which waiting ends, to report what it waited for."""
NEEDED: Final = frozenset({"pve-cluster", "pvedaemon", "pveproxy", "pvestatd", "corosync", "pve-ha-lrm", "pve-ha-crm"})
"""Services without which a node must not take guests, if they are enabled."""


class NodeWithGuests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node."""

    node: formats.Node


class Emptiness(msgspec.Struct, frozen=True):
    """The node; it runs no guest.

    uptime  seconds since it was booted
    """

    node: str
    uptime: int


class AwaitNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The node that is waited for.

    hold      seconds to wait in any case, for work on the node
    uptime    its uptime before a reboot: wait until it has been booted since; 0: it need not be
    """

    node: formats.Node
    hold: Annotated[int, Meta(ge=0, le=86_400)] = 0
    uptime: int = 0


class NodeBack(msgspec.Struct, frozen=True):
    """The node, and for how long it was waited for; seconds."""

    node: str
    uptime: int
    waited: int


class CheckNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node to check, and how many seconds its services may take to become well."""

    node: formats.Node
    seconds: Annotated[int, Meta(ge=0, le=3600)] = 0


class NodeHealth(msgspec.Struct, frozen=True):
    """What was checked on a node that is well."""

    node: str
    checked: list[str]


class ServiceView(msgspec.Struct, frozen=True):
    """A service of list_services."""

    service: str
    state: str = ""
    enabled: str = ""


class ServicesView(msgspec.Struct, frozen=True):
    """Result of list_services."""

    services: list[ServiceView] = []


class MaintenanceTools:
    """The tools of node maintenance."""

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def check_empty(self, call: Call, p: NodeWithGuests) -> Emptiness:
        """Check that no guest runs on a node; otherwise the error names those that do."""
        collector = Collector(call)
        if running := await self._running(collector, p.node):
            raise TaskFailed(f"{p.node} is not empty: {running} run there")
        nodes = {str(e["node"]): e for e in await collector.entries("node", ("node", "uptime"))}
        if p.node not in nodes:
            raise Rejected(f"node: there is no node {p.node!r}; there are {', '.join(sorted(nodes))}")
        return Emptiness(p.node, int(nodes[p.node].get("uptime") or 0))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def await_node(self, call: Call, p: AwaitNode) -> NodeBack:
        """Wait until a node is online, and has been rebooted if that is asked for.

        A guest that begins to run on it while it is held is a warning.
        """
        began, looks = time.monotonic(), 0
        while True:
            waited = time.monotonic() - began
            node = await self._node(call, p.node, looks)
            uptime = int(node.get("uptime") or 0)
            online = node.get("status") == "online"
            booted = not p.uptime or (online and uptime < p.uptime)
            if online and booted and p.hold:
                await self._warn_of_guests(call, p.node, looks)
            if online and booted and waited >= p.hold:
                return NodeBack(p.node, uptime, int(waited))
            what = "is held" if online and booted else "is not back" if not online else "has not rebooted yet"
            call.progress(f"waiting: {p.node} {what}")
            if call.left() < MARGIN:
                raise TaskFailed(f"{p.node} {what} after {waited:.0f} s")
            looks += 1
            await asyncio.sleep(pause(looks, p.hold - waited if online and booted else 0.0, call.left() - MARGIN))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def check_node(self, call: Call, p: CheckNode) -> NodeHealth:
        """Check that a node can take guests: it is online, its services run and its storages are available.

        Otherwise the error names every fault.
        """
        began, looks = time.monotonic(), 0
        while True:
            faults, checked = await self._faults(call, p.node, looks)
            if not faults:
                return NodeHealth(p.node, checked)
            text = f"{p.node} is not well: {'; '.join(faults)}"
            if time.monotonic() - began >= p.seconds or call.left() < MARGIN:
                raise TaskFailed(text)
            call.progress(f"waiting: {text}")
            looks += 1
            await asyncio.sleep(pause(looks, 0.0, call.left() - MARGIN))

    @staticmethod
    async def _running(collector: Collector, node: str) -> str:
        """Return the guests that run on a node, or may: those whose state is not known."""
        guests = await collector.entries("vm", ("vmid", "name", "node", "status"))
        running = [e for e in guests if e["node"] == node and e.get("status") != "stopped"]
        return ", ".join(f"{e['vmid']} {e.get('name') or ''}".strip() for e in running)

    async def _warn_of_guests(self, call: Call, node: str, look: int) -> None:
        try:
            running = await self._running(Collector(call, f"held{look}"), node)
        except BusUnavailable:
            raise
        except AgentdError:
            return  # the next look reads again
        if running:
            call.warn(f"{node} was to be empty, and {running} run there: HA or another client started or moved them")

    async def _faults(self, call: Call, name: str, look: int) -> tuple[list[str], list[str]]:
        """Return the faults of a node, and what was checked."""
        collector = Collector(call, f"check{look}")
        node = await self._node(call, name, look)
        if node.get("status") != "online":
            return node_faults(node, (), ()), []
        ha, storages = await asyncio.gather(collector.ha(), collector.entries("storage", ("node", "storage", "status")))
        step = f"services{look}"
        found = await call.use(PROXMOX, "list_services", {"node": name}, ServicesView, step=step)
        faults = node_faults(node, found.services, [e for e in storages if e.get("node") == name])
        if "maintenance" in ha.nodes.get(name, ""):
            faults.append("HA keeps it in maintenance")
        return faults, ["quorum", "online", f"{len(found.services)} services", "storages"]

    @staticmethod
    async def _node(call: Call, name: str, look: int) -> Mapping[str, Any]:
        """Return the entry of a node; while Proxmox does not answer, it counts as unknown."""
        try:
            nodes = await Collector(call, f"node{look}").entries("node", ("node", "status", "uptime"))
        except BusUnavailable:
            raise
        except AgentdError:
            return {"node": name, "status": "unknown"}
        found = next((entry for entry in nodes if entry["node"] == name), None)
        if found is None:
            raise Rejected(f"node: there is no node {name!r}")
        return found


def pause(looks: int, held: float, left: float) -> float:
    """Return the seconds until the next look.

    held  seconds for which the node is still held; left: seconds until waiting ends
    """
    wanted = min(HELD_POLL, held) if held > 0 else min(LONGEST_POLL, POLL * 1.2 ** min(looks - 1, 20))
    return max(0.1, min(wanted, left))


def node_faults(
    node: Mapping[str, Any], services: Iterable[ServiceView], storages: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return what prevents a node from taking guests."""
    found = [] if node.get("status") == "online" else [f"it is {node.get('status') or 'unknown'}"]
    found += [
        f"the service {one.service} is {one.state}"
        for one in services
        if one.service in NEEDED and one.enabled == "enabled" and one.state != "running"
    ]
    found += [f"storage {e['storage']} is {e.get('status')}" for e in storages if e.get("status") != "available"]
    return found
