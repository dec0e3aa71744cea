"""Everything that the web pages need to know, and how they ask for it.

The web layer knows no bus: whoever runs it hands in a `View`.  A method that needs the network is async and raises
`AgentdError` (mostly BusUnavailable) when it can't answer: the page then says so instead of showing what it
does not know.  An empty list means "there is none", never "I could not ask".
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from agentd.wire.messages import (
    AgentRegistration,
    Alert,
    MetricReport,
    NetworkReply,
    NetworkRequest,
    ServiceRegistration,
    SignalReply,
    WorkflowSignal,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.dead_letters import Letter


class RoleState(msgspec.Struct, frozen=True):
    """Tell whether a role of this instance is ready, and if not, why."""

    name: str
    ready: bool
    reason: str = ""


class Identity(msgspec.Struct, frozen=True):
    """Say who this daemon is; `warnings` is what an operator should know of, such as TLS that isn't verified.

    frozen  says by whom, since when and why the network is frozen; "" while it is not
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
    """Say what isn't ready (`source`: a role, the bus, …) and why."""

    source: str
    text: str


class Step(msgspec.Struct, frozen=True):
    """Name one task of a workflow and say how it stands."""

    name: str
    status: str


class WorkflowSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow in a list; `steps` may be left empty where a plan is large, `done` and `total` count all tasks."""

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
    asks     what it waits for a yes to, and how to say it
    digest   of what is asked: an approval has to name it
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
    """Say what happened to a workflow, and when."""

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
    """What became of a plugin when the daemon started."""

    LOADED = "loaded"
    BLOCKED = "blocked"
    """Not configured, so never imported."""
    BROKEN = "broken"


class QuarantinedTool(msgspec.Struct, frozen=True):
    """A tool that was left out, and why."""

    name: str
    reason: str


class PluginState(msgspec.Struct, frozen=True):
    """Say how a plugin stands and which of its tools were left out."""

    name: str
    status: PluginStatus
    reason: str = ""
    quarantined: list[QuarantinedTool] = []


class EventKind(StrEnum):
    """What a live change is about."""

    WORKFLOW = "workflow"
    AGENT = "agent"
    ALERT = "alert"


class Event(msgspec.Struct, frozen=True):
    """A live change: the new state of one thing."""

    kind: EventKind
    data: WorkflowSummary | AgentRegistration | Alert

    @property
    def key(self) -> str:
        """Return what this is the state of: of two events with one key only the later one matters."""
        if isinstance(self.data, WorkflowSummary):
            return f"workflow {self.data.workflow_id}"
        if isinstance(self.data, AgentRegistration):
            return f"agent {self.data.agent_id}"
        labels = " ".join(f"{name}={value}" for name, value in sorted(self.data.labels.items()))
        return f"alert {self.data.alert_type} {self.data.source} {labels}"


class View(Protocol):
    """What a daemon knows, of itself and of the network."""

    def identity(self) -> Identity:
        """Say who this daemon is and how its roles stand."""
        ...

    def plugins(self) -> list[PluginState]:
        """List every plugin that was found."""
        ...

    def readiness(self) -> list[Reason]:
        """Say why this daemon isn't ready; empty means ready."""
        ...

    async def agents(self) -> list[AgentRegistration]:
        """List the agents heard of lately, silent ones too; `timestamp` is when each was last heard."""
        ...

    async def services(self) -> list[ServiceRegistration]:
        """List the services of the network with their tools."""
        ...

    async def workflows(self, limit: int, status: str) -> list[WorkflowSummary]:
        """List at most `limit` workflows (of one status unless it is ""): those not over first, then the latest."""
        ...

    async def workflow(self, workflow_id: str) -> WorkflowDetail | None:
        """Return one workflow, or None where there is none of that id."""
        ...

    async def signal(self, principal: str, workflow_id: str, wanted: WorkflowSignal) -> SignalReply:
        """Steer a workflow in the name of a principal; say whether it was done, and if not, why."""
        ...

    async def network(self, principal: str, wanted: NetworkRequest) -> NetworkReply:
        """Freeze or thaw the network in the name of a principal; say whether it was done, and if not, why."""
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

    async def dead(self) -> list[Letter]:
        """List the dead letters that wait for a person, the oldest first."""
        ...

    async def prometheus(self) -> bytes:
        """Return this daemon's metrics in the text format of Prometheus."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Yield live changes for as long as they are asked for; one iterator is open at a time."""
        ...
