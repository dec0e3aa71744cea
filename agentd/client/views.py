"""The data that the web pages show, and the interface by which they get it.

The web layer does not know the bus: its caller passes a `View`.  A method that needs the network is async and raises
`AgentdError` (mostly BusUnavailable) if it cannot answer: the page then shows the error instead of data it does not
have.  An empty list means "there is none", never "the query failed".
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from agentd.wire.announcements import (
    AgentRegistration,
    Alert,
    ControlReply,
    MetricReport,
    NetworkReply,
    NetworkRequest,
    ServiceRegistration,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.delivery.dead_letters import Letter
    from agentd.client.move_plans import PlanGoal, Planning
    from agentd.client.node_loads import NodeLoad
    from agentd.wire.messages import SignalReply, WorkflowRequest, WorkflowResponse, WorkflowSignal
    from agentd.wire.records import AuditRecord


class RoleState(msgspec.Struct, frozen=True):
    """Whether a role of this instance is ready, and if not, why."""

    name: str
    ready: bool
    reason: str = ""


class Identity(msgspec.Struct, frozen=True):
    """The identity and state of a daemon.

    warnings    what an operator should know, such as TLS that is not verified
    frozen      by which principal, since when and why the network is frozen; "" if it is not
    unreadable  stored records that could not be read; also part of `warnings`
    """

    instance: str
    node: str
    agent_id: str
    version: str
    started: datetime
    roles: list[RoleState]
    warnings: list[str] = []
    frozen: str = ""
    unreadable: list[str] = []


class Reason(msgspec.Struct, frozen=True):
    """A reason why the daemon is not ready; `source`: a role, or a part like the bus."""

    source: str
    text: str


class Step(msgspec.Struct, frozen=True):
    """The name and status of one task of a workflow."""

    name: str
    status: str


class WorkflowSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow in a list; `steps` may be empty if the plan is large."""

    workflow_id: str
    workflow_type: str
    status: str
    requester: str
    created: datetime
    updated: datetime
    done: int
    total: int
    error: str = ""
    steps: list[Step] = []


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """One task.

    started  when its present attempt was assigned
    after    the tasks that it waits for
    asks     what has to be approved, and how to approve it; "" if the task does not wait for an approval
    digest   digest of what has to be approved: an approval has to contain it
    """

    workflow_id: str
    name: str
    tool: str
    status: str
    queue: str = ""
    attempt: int = 0
    agent: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    error: str = ""
    warnings: list[str] = []
    after: list[str] = []
    asks: str = ""
    digest: str = ""


class TimelineEntry(msgspec.Struct, frozen=True):
    """One event in the history of a workflow."""

    at: datetime
    what: str
    task: str = ""
    attempt: int = 0
    agent: str = ""


class WorkflowDetail(WorkflowSummary, frozen=True, kw_only=True):
    """One workflow with its tasks and its history, the oldest entry first."""

    tasks: list[TaskView]
    timeline: list[TimelineEntry] = []


class PluginStatus(StrEnum):
    """The result of loading a plugin when the daemon started."""

    LOADED = "loaded"
    BLOCKED = "blocked"
    """Not configured, and therefore not imported."""
    BROKEN = "broken"


class QuarantinedTool(msgspec.Struct, frozen=True):
    """A tool that is not offered, and why."""

    name: str
    reason: str


class PluginState(msgspec.Struct, frozen=True):
    """The status of a plugin, and its tools that are not offered."""

    name: str
    status: PluginStatus
    reason: str = ""
    quarantined: list[QuarantinedTool] = []


class GuestSummary(msgspec.Struct, frozen=True):
    """One guest in a list; `type` is qemu (VM) or lxc (container)."""

    vmid: int
    name: str
    node: str
    status: str
    type: str = ""
    tags: list[str] = []
    lock: str = ""


class AlertSummary(msgspec.Struct, frozen=True):
    """One alert; times are in seconds since 1970.

    id     by which it is acknowledged; "" if it cannot be
    state  firing; unknown: it fires, but its data is missing; resolved
    since  when it began to fire; None if that is not known
    ended  when it was resolved
    """

    name: str
    text: str
    severity: str
    id: str = ""
    state: str = "firing"
    labels: dict[str, str] = {}
    since: float | None = None
    ended: float | None = None
    advice: str = ""
    acknowledged_by: str = ""
    silenced_by: str = ""


class FindingSummary(msgspec.Struct, frozen=True):
    """What a check found; `level` is unknown, warning or critical."""

    check: str
    level: str
    text: str
    labels: dict[str, str] = {}
    advice: str = ""


class WorkflowType(msgspec.Struct, frozen=True):
    """A workflow that can be submitted.

    source      the plugin or file that defines it
    parameters  JSON Schema of its parameters
    faults      why it cannot be submitted
    """

    name: str
    source: str
    description: str = ""
    parameters: dict[str, Any] = {}
    faults: list[str] = []


class ToolSummary(msgspec.Struct, frozen=True):
    """One tool; `raises` names the parameters that need a higher tier, `agents` offer it now."""

    name: str
    area: str
    service: str
    tier: str
    repeat: str
    description: str
    raises: dict[str, str] = {}
    agents: list[str] = []


class Changes(msgspec.Struct, frozen=True):
    """The workflows that changed after a sequence of their stream; `until` is its last sequence now."""

    until: int
    workflows: list[WorkflowSummary]


class EventKind(StrEnum):
    """The kind of thing that a live change is about."""

    WORKFLOW = "workflow"
    AGENT = "agent"
    ALERT = "alert"


class Event(msgspec.Struct, frozen=True):
    """A live change: the new state of one thing."""

    kind: EventKind
    data: WorkflowSummary | AgentRegistration | Alert

    @property
    def key(self) -> str:
        """Return the event's object: of two events with one key only the later matters."""
        if isinstance(self.data, WorkflowSummary):
            return f"workflow {self.data.workflow_id}"
        if isinstance(self.data, AgentRegistration):
            return f"agent {self.data.agent_id}"
        labels = " ".join(f"{name}={value}" for name, value in sorted(self.data.labels.items()))
        return f"alert {self.data.alert_type} {self.data.source} {labels}"


class View(Protocol):
    """The state of a daemon and of the network, as the web pages query it."""

    def identity(self) -> Identity:
        """Return the identity of this daemon and the state of its roles."""
        ...

    def plugins(self) -> list[PluginState]:
        """List every plugin that was found."""
        ...

    def readiness(self) -> list[Reason]:
        """Return why this daemon is not ready; empty means ready."""
        ...

    async def agents(self) -> list[AgentRegistration]:
        """List the agents, also silent ones; `timestamp`: time of the last message."""
        ...

    async def services(self) -> list[ServiceRegistration]:
        """List the services of the network with their tools."""
        ...

    async def workflows(self, limit: int, status: str) -> list[WorkflowSummary]:
        """List at most `limit` workflows: unfinished ones first, then the latest."""
        ...

    async def workflow(self, workflow_id: str) -> WorkflowDetail | None:
        """Return one workflow, or None if no workflow has this id."""
        ...

    async def signal(self, principal: str, workflow_id: str, wanted: WorkflowSignal) -> SignalReply:
        """Send a principal's signal to a workflow; return whether it was carried out."""
        ...

    async def submit(self, principal: str, request: WorkflowRequest) -> WorkflowResponse | None:
        """Submit a request on behalf of a principal.

        Return the answer if it was rejected; None if an orchestrator accepted it, or none has answered yet.
        """
        ...

    async def control_agent(self, principal: str, agent_id: str, action: str) -> ControlReply:
        """Ask an agent to drain or reload on behalf of a principal.

        Return whether it does so, and if not, why.
        """
        ...

    async def network(self, principal: str, wanted: NetworkRequest) -> NetworkReply:
        """Freeze or thaw the network for a principal; return whether it was done."""
        ...

    async def tasks(self) -> list[TaskView]:
        """List the tasks that are assigned or running, of all workflows."""
        ...

    async def metrics(self) -> list[MetricReport]:
        """List the latest report of each agent."""
        ...

    async def alerts(self) -> list[Alert]:
        """List the alerts that are firing."""
        ...

    async def guests(self) -> list[GuestSummary]:
        """List the guests of the cluster, at most a few seconds old."""
        ...

    async def alert_list(self) -> list[AlertSummary]:
        """List the alerts that fire, and who has acknowledged or silenced them, if known."""
        ...

    async def alert_history(self) -> list[AlertSummary]:
        """List the alerts that were resolved in the last day."""
        ...

    async def plan_moves(self, goal: PlanGoal) -> Planning:
        """Return a plan of migrations, or that it is being computed; raises UsageError if no agent can compute one."""
        ...

    async def node_loads(self) -> list[NodeLoad]:
        """Return CPU and memory of each node in the last half hour."""
        ...

    async def findings(self) -> list[FindingSummary]:
        """List what the checks found that is not in order.

        Raises UsageError if no agent checks the cluster.
        """
        ...

    async def audit(self, limit: int) -> list[AuditRecord]:
        """List the latest lines of all audit chains, the newest first."""
        ...

    async def workflow_types(self) -> list[WorkflowType]:
        """List the workflows that can be submitted, as they are defined on this machine."""
        ...

    async def tools(self) -> list[ToolSummary]:
        """List the tools that are installed on this machine or offered by an agent."""
        ...

    async def position(self) -> int:
        """Return the sequence of the last change of a workflow, for `changes`."""
        ...

    async def changes(self, since: int, most: int) -> Changes | None:
        """Return the workflows that changed after a sequence.

        Return None if there are more than `most`, or it is unknown.
        """
        ...

    async def dead(self) -> list[Letter]:
        """List the open dead letters, the oldest first."""
        ...

    async def prometheus(self) -> bytes:
        """Return this daemon's metrics in the text format of Prometheus."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Yield live changes until the iterator is closed; one at a time."""
        ...
