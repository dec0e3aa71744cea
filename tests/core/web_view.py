"""A small network in memory: what `agentd.web` is shown in tests, faithful to the Protocol `View`."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

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
    QuarantinedTool,
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
from agentd.wire.messages import SignalReply, Tier, WorkflowRequest, WorkflowResponse, WorkflowSignal
from agentd.wire.records import AuditRecord
from agentd.wire.workflow import TERMINAL as OVER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.delivery.dead_letters import Letter
    from agentd.errors import AgentdError

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
        self.steered: list[tuple[str, str, str]] = []
        self.guest_list: list[GuestSummary] = []
        self.finding_list: list[FindingSummary] = []
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

    async def steer_agent(self, principal: str, agent_id: str, action: str) -> ControlReply:
        """Keep what was asked of an agent; rita may only read."""
        await self._network("steer_agent")
        self.steered.append((principal, agent_id, action))
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


def busy_network() -> MemoryView:
    """Return a network with a bit of everything: what a screenshot shows."""
    view = MemoryView()
    roles = [RoleState(name, ready=True) for name in ("orchestrator", "specialist", "monitor")]
    bridge = RoleState("mcp-bridge", ready=False, reason="port 8001 is in use; choose another `web.port`")
    warnings = ["Proxmox TLS is not verified; set `proxmox.fingerprint`"]
    view.me = Identity("all", "pve1", "all-pve1", "0.1.0", view.ago(hours=77), [*roles, bridge], warnings)
    view.plugin_list = [
        *(PluginState(item.name, PluginStatus.LOADED) for item in [*roles, bridge]),
        PluginState(
            "proxmox",
            PluginStatus.LOADED,
            quarantined=[QuarantinedTool("clone_vm", "a tool has a docstring: it is what an AI client reads")],
        ),
        PluginState("cloud", PluginStatus.BLOCKED, "no section `[cloud]`"),
        PluginState("ceph-tools", PluginStatus.BROKEN, "No module named 'rados'"),
    ]
    view.reasons = [Reason("mcp-bridge", bridge.reason)]
    agent = AgentRegistration
    view.agent_list = [
        agent("orchestrator-pve1", load=0.12, node="pve1", role="orchestrator", version="0.1.0", timestamp=view.at),
        agent("specialist-pve2", load=0.55, status="busy", role="specialist", version="0.1.0", timestamp=view.at),
        agent("mcp-bridge-pve3", load=0.91, status="busy", role="mcp-bridge", version="0.1.0", timestamp=view.at),
        agent("monitor-pve2", status="draining", role="monitor", version="0.0.9", timestamp=view.ago(seconds=9)),
        agent("specialist-pve4", load=0.2, role="specialist", version="0.1.0", timestamp=view.ago(minutes=7)),
        agent("backup-script", timestamp=view.ago(seconds=21)),
    ]
    tools = [
        "create_vm",
        "start_guest",
        "stop_guest",
        "migrate_vm",
        "delete_vm",
        "list_guests",
        "create_snapshot",
        "backup_vm",
    ]
    view.service_list = [
        ServiceRegistration("mcp-proxmox", "proxmox", timestamp=view.at, tools=tools),
        ServiceRegistration("specialist", "specialist", timestamp=view.at, tools=["validate_vm_parameters"]),
        ServiceRegistration("mcp-filesystem", "filesystem", timestamp=view.ago(minutes=12), tools=["read_file"]),
    ]
    view.reports = [
        MetricReport("specialist-pve2", view.at, {"host_cpu_percent": 38.2, "host_memory_percent": 71.0}),
        MetricReport("mcp-bridge-pve3", view.at, {"host_cpu_percent": 86.0, "host_memory_percent": 52.4}),
    ]
    view.alerts_stored = [Alert("high_cpu", "pve3: CPU at 86 % for 5 min", view.ago(minutes=4), "monitor-pve2")]
    _add_workflows(view)
    _add_cluster(view)
    return view


def _add_cluster(view: MemoryView) -> None:
    """Add guests, tools, workflow types, and lines of the audit."""
    states = ("running", "running", "stopped", "unknown")
    view.guest_list = [
        GuestSummary(
            100 + number,
            f"web-{number:02d}",
            f"pve{1 + number % 3}",
            states[number % 4],
            ("qemu", "lxc")[number % 2],
            ["prod", "web"] if number % 3 else [],
            "backup" if number == 4 else "",
        )
        for number in range(24)
    ]
    view.finding_list = [
        FindingSummary("storage_full", "warning", "local-lvm is 91 % full", {"storage": "local-lvm"}, "Move a disk."),
        FindingSummary("zfs_health", "unknown", "not known: the token may not read disks", {"node": "pve2"}),
    ]
    view.tool_list = [
        ToolSummary(
            "list_guests", "vm_management", "mcp-proxmox", "read", "idempotent", "List guests.", {}, ["bridge"]
        ),
        ToolSummary("delete_guest", "vm_management", "mcp-proxmox", "destroy", "probed", "Delete a guest."),
    ]
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "name of the VM", "maxLength": 63},
            "memory": {"type": "integer", "minimum": 16, "default": 2048, "description": "MiB"},
            "start": {"type": "boolean", "default": True},
            "tags": {"type": "array", "items": {"type": "string"}, "default": []},
            "kind": {"enum": ["linux", "windows"], "default": "linux"},
            "options": {"type": "object"},
        },
    }
    view.type_list = [
        WorkflowType("vm_deployment", "plugin orchestrator", "Deploy a VM.", schema),
        WorkflowType("broken", "broken.yaml", faults=["broken.yaml:3:1: tasks: missing"]),
    ]
    made = AuditRecord(
        2, "", view.ago(minutes=3), "bridge-pve1", "anna", "create_vm", Tier.OPERATE, "after", "web2.create"
    )
    called = msgspec.structs.replace(
        made, seq=1, tool="delete_guest", tier=Tier.DESTROY, key="anna=call-1.delete_guest"
    )
    view.audit_lines = [made, msgspec.structs.replace(called, approved_by="bob", phase="before")]


def _add_workflows(view: MemoryView) -> None:
    done = ["completed"] * 3
    view.add_workflow("web2-7f31", ["completed", "running", "waiting"], "running", 14)
    view.add_workflow("db1-resize", ["completed", "assigned", "waiting"], "running", 33)
    half = [*["completed"] * 3, "completed_with_warnings", "running", *["waiting"] * 4]
    fan = {2: ["step1"], 3: ["step1"], 4: ["step2", "step3", "step4"], 6: ["step5"], 7: ["step6", "step7"]}
    view.add_workflow("maint-pve4", half, "running", 42, kind="node_maintenance", requester="ops", after=fan)
    view.add_workflow("purge-old", ["completed", "waiting"], "waiting_approval", 900, kind="guest_cleanup")
    view.add_workflow("web1-0a2c", done, "completed", 4000)
    warned = ["completed", "completed", "completed_with_warnings"]
    view.add_workflow("mail-9c1d", warned, "completed_with_warnings", 9000)
    failed = ["completed", "failed", "skipped"]
    error = "create: storage local-lvm: not enough space (needs 32 GiB, 11 GiB free)"
    view.add_workflow("cache-41be", failed, "failed", 20000, error=error)
    view.add_workflow("nightly-verify", done, "compensated", 90000, kind="vm_deployment", requester="timer")
    view.add_workflow("scratch-2", ["cancelled", "skipped", "skipped"], "cancelled", 200000)


def large_network() -> MemoryView:
    """Return 50 agents and 200 workflows of six tasks."""
    large = MemoryView()
    large.agent_list = [
        AgentRegistration(f"specialist-pve{n}", load=n / 50, role="specialist", version="0.1.0", timestamp=large.at)
        for n in range(50)
    ]
    for n in range(200):
        tasks = ["completed"] * 3 + ["running", "waiting", "waiting"]
        large.add_workflow(f"w{n}", tasks, "running", 50 + n, kind="six")
    return large
