"""What the pages of a daemon show: its own state from memory, the state of the network from JetStream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.bus.delivery.dead_letters import letters
from agentd.client import queries, requests
from agentd.client.move_plans import PlanReads
from agentd.client.node_loads import NodeLoads
from agentd.client.tool_reads import ToolReads
from agentd.client.views import AlertSummary, Changes
from agentd.errors import BusUnavailable, NoResponder, UsageError
from agentd.safety import freeze
from agentd.wire import subjects
from agentd.wire.messages import WorkflowResponse
from agentd.wire.records import AuditRecord
from agentd.wire.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from agentd.bus.delivery.dead_letters import Letter
    from agentd.bus.jetstream import Bus
    from agentd.client.move_plans import PlanGoal, Planning
    from agentd.client.node_loads import NodeLoad
    from agentd.client.views import (
        Event,
        FindingSummary,
        GuestSummary,
        Identity,
        PluginState,
        Reason,
        TaskView,
        ToolSummary,
        WorkflowDetail,
        WorkflowSummary,
        WorkflowType,
    )
    from agentd.wire.announcements import (
        AgentRegistration,
        Alert,
        ControlReply,
        MetricReport,
        NetworkReply,
        NetworkRequest,
        ServiceRegistration,
    )
    from agentd.wire.messages import SignalReply, WorkflowRequest, WorkflowSignal


@dataclass(frozen=True)
class OwnState:
    """What a daemon knows without the network; the names are those of `agentd.client.views.View`.

    workflow_types  may read files, so it is called in a thread
    tools           may import plugins, so it is called in a thread
    """

    agent_id: str
    identity: Callable[[], Identity]
    plugins: Callable[[], list[PluginState]]
    readiness: Callable[[], list[Reason]]
    prometheus: Callable[[], Coroutine[Any, Any, bytes]]
    workflow_types: Callable[[], list[WorkflowType]]
    tools: Callable[[], list[ToolSummary]]


class DaemonView:
    """The data of a daemon's pages; of the network only readings of some seconds, plans and loads are kept."""

    def __init__(self, bus: Bus, own: OwnState) -> None:
        """Use `own` for the daemon's own state."""
        self.identity = own.identity
        self.plugins = own.plugins
        self.readiness = own.readiness
        self.prometheus = own.prometheus
        self._own = own
        self._bus = bus
        self._reads = ToolReads(own.agent_id)
        self._plans = PlanReads(own.agent_id)
        self._loads = NodeLoads()
        self._installed: list[ToolSummary] | None = None

    async def agents(self) -> list[AgentRegistration]:
        """List the agents with a valid lease."""
        return await queries.agents(self._connected_bus())

    async def services(self) -> list[ServiceRegistration]:
        """List the services of the network with their tools."""
        return await queries.services(self._connected_bus())

    async def workflows(self, limit: int, status: str) -> list[WorkflowSummary]:
        """List at most `limit` workflows, unfinished ones first, then the latest."""
        return await queries.workflows(self._connected_bus(), limit, status)

    async def workflow(self, workflow_id: str) -> WorkflowDetail | None:
        """Return one workflow."""
        return await queries.workflow(self._connected_bus(), workflow_id)

    async def signal(self, principal: str, workflow_id: str, wanted: WorkflowSignal) -> SignalReply:
        """Send a signal to a workflow on behalf of a principal."""
        bus = self._connected_bus()
        if wanted.action in {"approve", "reject"}:
            return await requests.send_decision(bus, principal, workflow_id, wanted.task, wanted)
        return await requests.signal(bus, principal, workflow_id, wanted)

    async def submit(self, principal: str, request: WorkflowRequest) -> WorkflowResponse | None:
        """Submit a request on behalf of a principal; return the answer if it was rejected."""
        bus = self._connected_bus()
        request = msgspec.structs.replace(request, requester_id=principal)
        await requests.submit(bus, principal, request)
        answer = await queries.accepted(bus, principal, request)
        return answer if isinstance(answer, WorkflowResponse) and answer.refused else None

    async def control_agent(self, principal: str, agent_id: str, action: str) -> ControlReply:
        """Ask an agent to drain or reload on behalf of a principal; raises UsageError if it does not run."""
        try:
            return await requests.control_agent_as(self._connected_bus(), principal, agent_id, action)
        except NoResponder as error:
            raise UsageError(f"there is no running agent {agent_id!r}; `agentd agents` lists them") from error

    async def network(self, principal: str, wanted: NetworkRequest) -> NetworkReply:
        """Freeze or thaw the network on behalf of a principal."""
        return await freeze.ask(self._connected_bus(), principal, wanted)

    async def tasks(self) -> list[TaskView]:
        """List the tasks that are queued or running."""
        return await queries.tasks(self._connected_bus())

    async def metrics(self) -> list[MetricReport]:
        """List the latest report of each agent."""
        return await queries.metrics(self._connected_bus())

    async def alerts(self) -> list[Alert]:
        """List the alerts that are firing."""
        return await queries.alerts(self._connected_bus())

    async def guests(self) -> list[GuestSummary]:
        """List the guests of the cluster."""
        return await self._reads.guests(self._connected_bus())

    async def alert_list(self) -> list[AlertSummary]:
        """List the alerts that fire; without an agent that lists them, those that are stored."""
        return await self._alerts("firing")

    async def alert_history(self) -> list[AlertSummary]:
        """List the alerts that were resolved in the last day."""
        return await self._alerts("resolved")

    async def _alerts(self, state: str) -> list[AlertSummary]:
        bus = self._connected_bus()
        try:
            return await self._reads.alerts(bus, state)
        except UsageError:
            return [_stored_alert(alert) for alert in await queries.alerts(bus, state)]

    async def plan_moves(self, goal: PlanGoal) -> Planning:
        """Return a plan of migrations, or that it is being computed."""
        return await self._plans.plan(self._connected_bus(), goal)

    async def node_loads(self) -> list[NodeLoad]:
        """Return CPU and memory of each node in the last half hour."""
        return await self._loads.read(self._connected_bus())

    async def findings(self) -> list[FindingSummary]:
        """List what the checks of the cluster found."""
        return await self._reads.findings(self._connected_bus())

    async def audit(self, limit: int) -> list[AuditRecord]:
        """List the latest lines of all audit chains, the newest first."""
        bus = self._connected_bus()
        since = max(1, await _last_sequence(bus, subjects.AUDIT) - limit + 1)
        stored = [entry async for entry in bus.walk(subjects.AUDIT, subjects.audit("*"), since=since)]
        return bus.readable(stored, AuditRecord)[::-1]

    async def workflow_types(self) -> list[WorkflowType]:
        """List the workflows that are defined on this machine."""
        return await asyncio.to_thread(self._own.workflow_types)

    async def tools(self) -> list[ToolSummary]:
        """List the installed tools, and those that only other agents offer, with the agents that offer them."""
        if self._installed is None:
            self._installed = await asyncio.to_thread(self._own.tools)
        return queries.tool_summaries(self._installed, await queries.presences(self._connected_bus()))

    async def dead(self) -> list[Letter]:
        """List the open dead letters."""
        return [letter for letter in await letters(self._connected_bus()) if letter.open]

    async def position(self) -> int:
        """Return the last sequence of the stream of workflows."""
        return await _last_sequence(self._connected_bus(), subjects.WORKFLOWS)

    async def changes(self, since: int, most: int) -> Changes | None:
        """Return the workflows that changed after a sequence, unless there are too many or it is unknown."""
        bus = self._connected_bus()
        until = await self.position()
        if not 0 < since <= until:
            return None
        found: dict[str, Workflow] = {}
        read = 0
        async for stored in bus.walk(subjects.WORKFLOWS, subjects.ALL_EVENTS, since=since + 1):
            read += 1
            if read > most:
                return None
            for state in bus.readable([stored], Workflow):
                found[state.workflow_id] = state
        return Changes(until, [queries.workflow_summary(state) for state in found.values()])

    def events(self) -> AsyncIterator[Event]:
        """Yield live changes."""
        return queries.events(self._connected_bus())

    def _connected_bus(self) -> Bus:
        """Return the bus, or raise BusUnavailable at once instead of after a time-out."""
        if not self._bus.connected:
            raise BusUnavailable(f"no connection to NATS: {self._bus.problem or 'connecting'}")
        return self._bus


def _stored_alert(alert: Alert) -> AlertSummary:
    """Return an alert as it is stored for all agents: the time is that of its last change."""
    ended = alert.state != "firing"
    at = alert.timestamp.timestamp()
    return AlertSummary(
        alert.alert_type,
        f"{alert.message} ({alert.source})",
        alert.severity,
        state=alert.state,
        labels=alert.labels,
        since=None if ended else at,
        ended=at if ended else None,
    )


async def _last_sequence(bus: Bus, stream: str) -> int:
    info = await bus.api(f"STREAM.INFO.{stream}")
    return int(info["state"]["last_seq"])
