"""Networks in memory for the tests of the pages: a busy one and a large one."""

from __future__ import annotations

import msgspec

from agentd.client.move_plans import Distribution, MovePlan, NodeShare, PlannedMove, Planning, StayingGuest
from agentd.client.node_loads import LoadPoint, NodeLoad
from agentd.client.views import (
    AlertSummary,
    FindingSummary,
    GuestSummary,
    Identity,
    PluginState,
    PluginStatus,
    QuarantinedTool,
    Reason,
    RoleState,
    ToolSummary,
    WorkflowType,
)
from agentd.wire.announcements import (
    AgentRegistration,
    Alert,
    MetricReport,
    ServiceRegistration,
)
from agentd.wire.messages import Tier
from agentd.wire.records import AuditRecord
from core.web_view import MemoryView


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
    _add_agents(view)
    _add_services(view)
    _add_alerts(view)
    _add_loads(view)
    view.planned = balanced_plan(view)
    _add_workflows(view)
    _add_cluster(view)
    return view


def _add_agents(view: MemoryView) -> None:
    agent = AgentRegistration
    usual, other = "4f0c2a9be871", "90be77d1c3aa"
    view.agent_list = [
        agent("orchestrator-pve1", load=0.12, node="pve1", role="orchestrator", timestamp=view.at, config_digest=usual),
        agent("specialist-pve2", load=0.55, status="busy", role="specialist", timestamp=view.at, config_digest=usual),
        agent("mcp-bridge-pve3", load=0.91, status="busy", role="mcp-bridge", timestamp=view.at),
        agent("monitor-pve2", status="draining", role="monitor", version="0.0.9", timestamp=view.ago(seconds=9)),
        agent("specialist-pve4", load=0.2, role="specialist", timestamp=view.ago(minutes=7), config_digest=other),
        agent("backup-script", timestamp=view.ago(seconds=21)),
    ]
    view.agent_list = [
        msgspec.structs.replace(found, version=found.version or "0.1.0") if found.role else found
        for found in view.agent_list
    ]


def _add_services(view: MemoryView) -> None:
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


def _add_alerts(view: MemoryView) -> None:
    view.resolved = [
        AlertSummary(
            "guest_memory",
            "VM 104 used 97 % of its memory",
            "critical",
            "cd34ef",
            "resolved",
            {"guest": "qemu/104"},
            view.ago(hours=3).timestamp(),
            view.ago(hours=2).timestamp(),
        ),
        AlertSummary("high_cpu", "pve1: CPU at 90 %", "warning", state="resolved", ended=view.ago(hours=5).timestamp()),
    ]
    view.alerts_stored = [Alert("high_cpu", "pve3: CPU at 86 % for 5 min", view.ago(minutes=4), "monitor-pve2")]


def _add_loads(view: MemoryView) -> None:
    """Add the load of three nodes over half an hour; of one node, six minutes are missing."""
    minute = int(view.at.timestamp()) // 60
    view.load_list = [
        NodeLoad(
            f"pve{number}",
            [
                LoadPoint(minute - 29 + place, 30.0 + number * 10 + place % 7, 60.0 + number * 5 - place / 3)
                for place in range(30)
                if number != 2 or not 9 < place < 16
            ],
        )
        for number in (1, 2, 3)
    ]


def balanced_plan(view: MemoryView) -> Planning:
    """Return a plan that moves two guests from pve3."""
    moves = [
        PlannedMove(
            vmid, name, "pve3", target, gib, f"VM {vmid} '{name}' moves from pve3 to {target} ({gib} GiB): {why}"
        )
        for vmid, name, target, gib, why in (
            (102, "web-02", "pve1", 8.5, "pve3 is at 91 % of its memory, pve1 at 42 %"),
            (
                105,
                "web-05",
                "pve2",
                4.0,
                "the HA rule web keeps web-02 and web-05 apart; pve2 is at 47 % of its memory",
            ),
        )
    ]
    left = [
        StayingGuest(100 + number, f"web-{number:02d}", f"pve{1 + number % 3}", reason)
        for number in range(24)
        if number not in (2, 5)
        for reason in ("it has the tag `pinned`" if number == 8 else "the cluster is balanced without its move",)
    ]
    plan = MovePlan(
        mode="rebalance",
        text="2 migrations of 12.5 GiB: the gap between the nodes goes from 49.0 to 6.1 % of memory",
        moves=moves,
        left=left,
        before=Distribution(1, 49.0, 91.0),
        after=Distribution(0, 6.1, 63.2),
        gib=12.5,
        approval=True,
        shares=[
            NodeShare("pve1", 42.0, 58.4, 7, 8),
            NodeShare("pve2", 47.0, 57.1, 8, 9),
            NodeShare("pve3", 91.0, 63.2, 9, 7),
        ],
    )
    return Planning(plan, view.ago(seconds=20))


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
