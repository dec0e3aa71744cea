"""A small network in memory: what `agentd.web` is shown in tests, faithful to the Protocol `View`."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from agentd.client.move_plans import Planning
from agentd.client.views import (
    AlertSummary,
    Changes,
    Event,
    EventKind,
    FindingSummary,
    GuestSummary,
    Identity,
    PluginState,
    PluginStatus,
    Reason,
    RoleState,
    Step,
    TaskView,
    TimelineEntry,
    ToolSummary,
    WorkflowDetail,
    WorkflowSummary,
    WorkflowType,
)
from agentd.errors import UsageError
from agentd.wire.announcements import (
    AgentRegistration,
    Alert,
    ControlReply,
    MetricReport,
    NetworkReply,
    NetworkRequest,
    ServiceRegistration,
)
from agentd.wire.codec import now
from agentd.wire.messages import SignalReply, WorkflowRequest, WorkflowResponse, WorkflowSignal
from agentd.wire.workflow import TERMINAL as OVER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.delivery.dead_letters import Letter
    from agentd.client.move_plans import PlanGoal
    from agentd.client.node_loads import NodeLoad
    from agentd.errors import AgentdError
    from agentd.wire.records import AuditRecord

WORKFLOW_STATES = [
    "planned",
    "waiting_approval",
    "running",
    "paused",
    "completed",
    "completed_with_warnings",
    "failed",
    "cancelling",
    "cancelled",
    "compensating",
    "compensated",
    "compensation_failed",
    "rejected",
    "expired",
]
TASK_STATES = [
    "waiting",
    "waiting_approval",
    "assigned",
    "running",
    "completed",
    "completed_with_warnings",
    "failed",
    "skipped",
    "cancelled",
]
PLAN = ("validate", "create", "configure")
TOOLS = {"validate": "validate_vm_parameters", "create": "create_vm", "configure": "configure_vm"}


class MemoryView:
    """Keep lists and hand them out; with `fault` set the network does not answer."""

    def __init__(self) -> None:
        self.at = now()
        self.fault: AgentdError | None = None
        self.slow = 0.0
        self.me = Identity(
            instance="orchestrator",
            node="pve1",
            agent_id="orchestrator-pve1",
            version="0.1.0",
            started=self.ago(hours=77),
            roles=[RoleState("orchestrator", ready=True)],
        )
        self.plugin_list = [PluginState("orchestrator", PluginStatus.LOADED)]
        self.reasons: list[Reason] = []
        self.agent_list: list[AgentRegistration] = []
        self.service_list: list[ServiceRegistration] = []
        self.details: dict[str, WorkflowDetail] = {}
        self.reports: list[MetricReport] = []
        self.alerts_stored: list[Alert] = []
        self.asked: list[str] = []
        self.signals: list[tuple[str, str, WorkflowSignal]] = []
        self.wanted: list[tuple[str, NetworkRequest]] = []
        self.requested: list[tuple[str, WorkflowRequest]] = []
        self.controlled: list[tuple[str, str, str]] = []
        self.guest_list: list[GuestSummary] = []
        self.finding_list: list[FindingSummary] = []
        self.resolved: list[AlertSummary] = []
        self.load_list: list[NodeLoad] = []
        self.planned: Planning | AgentdError = UsageError("no agent offers a tool 'plan_moves'")
        self.goals: list[PlanGoal] = []
        self.audit_lines: list[AuditRecord] = []
        self.type_list: list[WorkflowType] = []
        self.tool_list: list[ToolSummary] = []
        self.sequence = 1
        self.changed: dict[int, str] = {}
        self.queues: set[asyncio.Queue[Event | None]] = set()
        self.followed = asyncio.Event()
        self.left = asyncio.Event()

    def ago(self, **length: float) -> datetime:
        """Return the time that was so long ago."""
        return self.at - timedelta(**length)

    def identity(self) -> Identity:
        """Return the identity of this daemon."""
        return self.me

    def plugins(self) -> list[PluginState]:
        """List plugins."""
        return self.plugin_list

    def readiness(self) -> list[Reason]:
        """Say why not ready."""
        return self.reasons

    async def agents(self) -> list[AgentRegistration]:
        """List agents."""
        await self._network("agents")
        return self.agent_list

    async def services(self) -> list[ServiceRegistration]:
        """List services."""
        await self._network("services")
        return self.service_list

    async def workflows(self, limit: int, status: str) -> list[WorkflowSummary]:
        """List workflows, those not over first."""
        await self._network("workflows")
        found = [summary(detail) for detail in self.details.values() if status in ("", detail.status)]
        found.sort(key=lambda item: (item.status in OVER, -item.updated.timestamp()))
        return found[:limit]

    async def workflow(self, workflow_id: str) -> WorkflowDetail | None:
        """Return one workflow."""
        await self._network("workflow")
        return self.details.get(workflow_id)

    async def network(self, principal: str, wanted: NetworkRequest) -> NetworkReply:
        """Keep what was asked for, and do it."""
        await self._network("network")
        self.wanted.append((principal, wanted))
        return NetworkReply("a", done=principal != "rita", message=wanted.action)

    async def signal(self, principal: str, workflow_id: str, wanted: WorkflowSignal) -> SignalReply:
        """Record the signal; a principal cannot sign for its own workflow."""
        await self._network("signal")
        self.signals.append((principal, workflow_id, wanted))
        own = self.details[workflow_id].requester == principal
        return SignalReply(workflow_id, not own, "another principal has to approve it" if own else "")

    async def submit(self, principal: str, request: WorkflowRequest) -> WorkflowResponse | None:
        """Keep the request; one without parameters is rejected."""
        await self._network("submit")
        self.requested.append((principal, request))
        rejected = not request.parameters and not request.retry_of
        return WorkflowResponse(request.workflow_id, "rejected", error="parameters: missing") if rejected else None

    async def control_agent(self, principal: str, agent_id: str, action: str) -> ControlReply:
        """Keep what was asked of an agent; rita may only read."""
        await self._network("control_agent")
        self.controlled.append((principal, agent_id, action))
        return ControlReply(agent_id, principal != "rita", "rita may read" if principal == "rita" else action)

    async def guests(self) -> list[GuestSummary]:
        """List guests."""
        await self._network("guests")
        return self.guest_list

    async def alert_list(self) -> list[AlertSummary]:
        """List alerts with an id."""
        await self._network("alerts")
        return [
            AlertSummary(
                alert.alert_type,
                alert.message,
                alert.severity,
                "ab12cd",
                labels=alert.labels,
                since=self.at.timestamp(),
            )
            for alert in self.alerts_stored
        ]

    async def alert_history(self) -> list[AlertSummary]:
        """List resolved alerts."""
        await self._network("alert_history")
        return self.resolved

    async def plan_moves(self, goal: PlanGoal) -> Planning:
        """Keep the goal, and return the plan or raise the error."""
        await self._network("plan_moves")
        self.goals.append(goal)
        if isinstance(self.planned, Planning):
            return self.planned
        raise self.planned

    async def node_loads(self) -> list[NodeLoad]:
        """List loads."""
        await self._network("node_loads")
        return self.load_list

    async def findings(self) -> list[FindingSummary]:
        """List findings."""
        await self._network("findings")
        return self.finding_list

    async def audit(self, limit: int) -> list[AuditRecord]:
        """List lines of the audit."""
        await self._network("audit")
        return self.audit_lines[:limit]

    async def workflow_types(self) -> list[WorkflowType]:
        """List what can be submitted."""
        return self.type_list

    async def tools(self) -> list[ToolSummary]:
        """List tools."""
        await self._network("tools")
        return self.tool_list

    async def position(self) -> int:
        """Return the last sequence."""
        await self._network("position")
        return self.sequence

    async def changes(self, since: int, most: int) -> Changes | None:
        """Return the workflows that were changed after a sequence."""
        await self._network("changes")
        found = {name for sequence, name in self.changed.items() if sequence > since}
        if since > self.sequence or len(found) > most:
            return None
        return Changes(self.sequence, [summary(self.details[name]) for name in sorted(found)])

    async def tasks(self) -> list[TaskView]:
        """List tasks at work."""
        await self._network("tasks")
        return [t for detail in self.details.values() for t in detail.tasks if t.status in ("assigned", "running")]

    async def metrics(self) -> list[MetricReport]:
        """List reports."""
        await self._network("metrics")
        return self.reports

    async def alerts(self) -> list[Alert]:
        """List alerts."""
        await self._network("alerts")
        return self.alerts_stored

    async def dead(self) -> list[Letter]:
        """List dead letters."""
        await self._network("dead")
        return []

    async def prometheus(self) -> bytes:
        """Return metrics."""
        return b"# HELP agentd_up Whether it runs.\n# TYPE agentd_up gauge\nagentd_up 1.0\n"

    async def events(self) -> AsyncIterator[Event]:
        """Yield what `emit` was given, until `hang_up`."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.queues.add(queue)
        self.followed.set()
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.queues.discard(queue)
            self.left.set()

    def emit(self, kind: EventKind, data: WorkflowSummary | AgentRegistration | Alert) -> None:
        """Send an event to the listeners."""
        for queue in self.queues:
            queue.put_nowait(Event(kind, data))

    def hang_up(self) -> None:
        """End every iterator over events."""
        for queue in self.queues:
            queue.put_nowait(None)

    async def _network(self, question: str) -> None:
        self.asked.append(question)
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.fault is not None:
            raise self.fault

    def add_workflow(
        self,
        workflow_id: str,
        statuses: list[str],
        status: str,
        age: float,
        *,
        kind: str = "vm_deployment",
        error: str = "",
        requester: str = "anna",
        after: dict[int, list[str]] | None = None,
    ) -> WorkflowDetail:
        """Add a workflow whose tasks follow one another."""
        made = self.ago(seconds=age)
        names = PLAN if kind == "vm_deployment" else [f"step{number + 1}" for number in range(len(statuses))]
        tasks = [self._task(workflow_id, made, place, name, statuses) for place, name in enumerate(names)]
        for place, earlier in (after or {}).items():
            tasks[place] = msgspec.structs.replace(tasks[place], after=earlier)
        detail = WorkflowDetail(
            workflow_id=workflow_id,
            workflow_type=kind,
            status=status,
            requester=requester,
            created=made,
            updated=self.ago(seconds=age / 3),
            done=sum(item.startswith("completed") for item in statuses),
            total=len(statuses),
            error=error,
            steps=[Step(task.name, task.status) for task in tasks],
            tasks=tasks,
            timeline=[TimelineEntry(made, "requested"), TimelineEntry(made, f"planned {len(tasks)} tasks")],
        )
        self.details[workflow_id] = detail
        return detail

    def _task(self, workflow_id: str, made: datetime, place: int, name: str, statuses: list[str]) -> TaskView:
        status = statuses[place]
        begun = status not in ("waiting", "skipped")
        agents = ("specialist-pve2", "mcp-bridge-pve3")
        return TaskView(
            workflow_id=workflow_id,
            name=name,
            tool=TOOLS.get(name, "drain_node"),
            status=status,
            queue=("specialist", "mcp-proxmox@pve3")[place % 2],
            attempt=int(begun),
            agent=agents[place % 2] if begun and status != "assigned" else "",
            started=made + timedelta(seconds=4 * place) if begun else None,
            finished=made + timedelta(seconds=4 * place + 3.5) if status in OVER else None,
            error="storage local-lvm: not enough space" if status == "failed" else "",
            warnings=["guest agent not installed"] if status == "completed_with_warnings" else [],
            after=[PLAN[place - 1] if name in PLAN else f"step{place}"] if place else [],
        )


def summary(detail: WorkflowDetail) -> WorkflowSummary:
    """Return a workflow without its tasks and history."""
    return WorkflowSummary(**{name: getattr(detail, name) for name in WorkflowSummary.__struct_fields__})
