"""Read the cluster through the tools of mcp-proxmox.

Only reads happen here; what they mean is decided in `balance`.  Every call of another tool names its step.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import AgentdError, BusUnavailable, Call, Denied, ProxmoxUnavailable
from agentd_specialist.balance import reading
from agentd_specialist.balance.reading import Figures, HaRule, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentd_specialist.balance.model import Landscape, Limits

    Entry = dict[str, Any]

PROXMOX: Final = "mcp-proxmox"
PAGE: Final = 500
"""Entries on one page: the maximum that api_get returns."""
AT_ONCE: Final = 6
"""Tables over time that are read at the same time."""
GUEST_FIELDS: Final = (
    *("vmid", "name", "node", "type", "status", "template", "tags", "pool", "lock", "hastate"),
    *("maxmem", "mem", "memhost", "maxcpu", "cpu", "uptime"),
)
NODE_FIELDS: Final = ("node", "status", "maxcpu", "maxmem", "cpu", "mem", "uptime", "hastate")
POINT_FIELDS: Final = (
    *("time", "cpu", "mem", "memhost", "memused"),
    *("pressurecpusome", "pressurememorysome", "pressureiosome"),
)


class Answer(msgspec.Struct, frozen=True):
    """Result of api_get."""

    data: Any = None
    next: str = ""


class HaView(msgspec.Struct, frozen=True):
    """Result of list_ha, with the fields that are needed here."""

    quorate: bool
    nodes: dict[str, str] = {}
    rules: list[HaRule] = []


class CheckView(msgspec.Struct, frozen=True):
    """A finding of check_migration."""

    check: str
    blocks: bool
    text: str
    advice: str = ""

    def line(self) -> str:
        """Return the finding and what to do about it."""
        return self.text + (f" ({self.advice})" if self.advice else "")


class ReportView(msgspec.Struct, frozen=True):
    """Result of check_migration."""

    findings: list[CheckView] = []


class Collector:
    """Reads the cluster for one call; `step` makes the steps of several readings distinct."""

    def __init__(self, call: Call, step: str = "look") -> None:
        """Use the call for the steps."""
        self.call = call
        self.step = step

    async def entries(self, kind: str, fields: Iterable[str]) -> list[Entry]:
        """Return /cluster/resources of one kind."""
        found: list[Entry] = []
        cursor = ""
        while not found or cursor:
            parameters = {"type": kind}
            page = await self.get(
                "/cluster/resources",
                parameters,
                fields=list(fields),
                limit=PAGE,
                cursor=cursor,
                step=f"{kind}-{cursor}",
            )
            found += page.data or []
            cursor = page.next
            if not page.data:
                break
        return found

    async def get(self, path: str, parameters: Mapping[str, Any] | None = None, *, step: str, **more: Any) -> Answer:  # noqa: ANN401 - parameters of api_get
        """Return the answer of api_get."""
        sent = {"path": path, "parameters": dict(parameters or {}), **more}
        return await self.call.use(PROXMOX, "api_get", sent, Answer, step=f"{self.step}-{step}")

    async def ha(self) -> HaView:
        """Return the HA rules and nodes; raises ProxmoxUnavailable if the cluster is not quorate."""
        found = await self.call.use(PROXMOX, "list_ha", {"limit": 1}, HaView, step=f"{self.step}-ha")
        if not found.quorate:
            raise ProxmoxUnavailable("the cluster is not quorate: nothing can be moved", delay=5.0)
        return found

    async def ha_balancing(self) -> str:
        """Return why the HA manager may move its guests itself, or "" if it does not.

        Options that cannot be read count as on: two balancers would undo each other's migrations.
        """
        try:
            found = await self.get("/cluster/options", step="options")
        except BusUnavailable:
            raise
        except AgentdError as error:
            return f"Proxmox VE may balance the guests under HA itself: its options were not read ({error})"
        return reading.ha_balancing(found.data)

    async def migration(self, vmid: int, target: str, *, restart: bool, local_disks: bool) -> list[CheckView]:
        """Return the findings of check_migration; a guest that cannot be checked, such as a deleted one, is blocked."""
        parameters = {"vmid": vmid, "target": target, "restart": restart, "with_local_disks": local_disks}
        step = f"{self.step}-{vmid}-{target}"
        try:
            found = await self.call.use(PROXMOX, "check_migration", parameters, ReportView, step=step)
        except BusUnavailable:
            raise
        except AgentdError as error:
            return [CheckView("check", blocks=True, text=str(error))]
        return found.findings

    async def landscape(
        self,
        scope: Scope,
        limits: Limits,
        *,
        minutes: float = 0.0,
        hours: float = 0.0,
        beside: Entry | None = None,
    ) -> Landscape:
        """Return the cluster as it is now.

        minutes  use what was used over so many minutes; 0: what is used now
        hours    how far back a migration counts as lately; 0: none does
        beside   a guest that does not exist yet
        """
        nodes, guests, ha = await asyncio.gather(
            self.entries("node", NODE_FIELDS), self.entries("vm", GUEST_FIELDS), self.ha()
        )
        if bare := sorted(str(e["node"]) for e in nodes if e.get("status") == "online" and not e.get("maxmem")):
            raise Denied(f"the memory of {', '.join(bare)} was not read: the token lacks Sys.Audit on /nodes")
        if not guests:  # the list of a token without rights is empty; this tool reports it
            await self.call.use(PROXMOX, "list_guests", {"limit": 1}, Answer, step=f"{self.step}-guests")
        used = await self._history(nodes, guests, minutes) if minutes else {}
        guests += [] if beside is None else [beside]
        maintenance = {node for node, state in ha.nodes.items() if "maintenance" in state}
        came_from = await self._left_lately(nodes, hours) if hours else {}
        answers = reading.Answers(nodes, guests, ha.rules, used, maintenance, came_from)
        return reading.landscape(answers, scope, limits)

    async def tasks(self, node: str, since: float, kind: str = "") -> list[Entry]:
        """Return the ended tasks of a node, of one type or all."""
        wanted: Entry = {"since": int(since), "source": "archive", "limit": PAGE}
        wanted |= {"typefilter": kind} if kind else {}
        found = await self.get(f"/nodes/{node}/tasks", wanted, limit=PAGE, step=f"tasks-{kind}-{node}")
        return found.data or []

    async def _left_lately(self, nodes: list[Entry], hours: float) -> dict[int, frozenset[str]]:
        """Return the nodes that guests have left; what cannot be read is a warning."""
        now = time.time()
        found: list[Entry] = []
        for node in (str(entry["node"]) for entry in nodes if entry.get("status") == "online"):
            try:
                for kind in ("qmigrate", "vzmigrate"):
                    found += await self.tasks(node, now - hours * 3600, kind)
            except BusUnavailable:
                raise
            except AgentdError as error:
                self.call.warn(f"the migrations from {node} were not read, so guests may be sent back: {error}")
        return reading.left_lately(found, nodes, now)

    async def _history(self, nodes: list[Entry], guests: list[Entry], minutes: float) -> dict[str, Figures]:
        """Return what nodes and running guests have used; what cannot be read is left out."""
        since = time.time() - minutes * 60
        at_once = asyncio.Semaphore(AT_ONCE)
        found: dict[str, Figures] = {}
        online = {str(node["node"]) for node in nodes if node.get("status") == "online"}

        async def read(key: str, path: str) -> None:
            async with at_once:
                self.call.progress(f"reading what {key} has used")
                try:
                    answer = await self.get(
                        f"{path}/rrddata",
                        {"timeframe": "hour", "cf": "AVERAGE"},
                        fields=list(POINT_FIELDS),
                        limit=PAGE,
                        step=f"used-{key.replace('/', '-')}",
                    )
                except BusUnavailable:
                    raise
                except AgentdError:
                    return
            found[key] = reading.figures(answer.data or [], since)

        running = [e for e in guests if e.get("status") == "running" and not e.get("template") and e["node"] in online]
        await asyncio.gather(
            *(read(f"node/{node}", f"/nodes/{node}") for node in sorted(online)),
            *(read(str(e["vmid"]), f"/nodes/{e['node']}/{e.get('type') or 'qemu'}/{e['vmid']}") for e in running),
        )
        return found
