"""The workflow health_check with the checks of the monitor: alone, of one node, and without a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentd.client import requests
from agentd.wire.messages import WorkflowRequest
from agentd_monitor import role as at_work
from agentd_monitor.cluster import collector
from agentd_specialist.summary import (
    Checked,
    CheckFinding,
    GuestState,
    NodeState,
    StorageState,
    of_node,
    summarize,
    with_checks,
)
from harness import Net, eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from agentd.bus.jetstream import Bus
    from harness import NatsServer
    from pve.client import FakePve

POOL = {"name": "rpool", "size": 100, "free": 50, "alloc": 50, "frag": 1, "dedup": 1, "health": "DEGRADED"}
NODES = [NodeState("pve1", "online", memory=100, memory_used=90), NodeState("pve2", "offline")]
STORAGES = [StorageState("local", "pve1", "unknown"), StorageState("nfs", "pve1", "available", shared=True)]
GUESTS = [GuestState(101, "db", "pve1", "running", lock="backup")]
CHECKED = Checked(
    12,
    5,
    [
        CheckFinding("zfs_health", {"node": "pve1", "pool": "rpool"}, "critical", "rpool is DEGRADED", "Replace it."),
        CheckFinding("storage_inactive", {"storage": "local", "node": "pve1"}, "warning", "local is not there", "x"),
        CheckFinding("guest_cpu", {"guest": "qemu/101"}, "warning", "db: CPU 99 %", "x"),
        CheckFinding("storage_usage", {"storage": "nfs"}, "warning", "nfs: 90 %", "x"),
        CheckFinding("disk_health", {"node": "pve2"}, "unknown", "not known", "x"),
    ],
)


def test_checks_replace_the_lists() -> None:
    """The checks decide, with their thresholds; a critical finding of the newer lists that they do not have is kept."""
    without = summarize(NODES, STORAGES, GUESTS)
    found = with_checks(summarize([*NODES, NodeState("pve3", "offline")], STORAGES, GUESTS), CHECKED)

    assert {finding.subject for finding in without.findings} >= {"pve1", "pve2", "101"}
    assert [(finding.severity, finding.subject) for finding in found.findings] == [
        ("critical", "pve2"),
        ("critical", "pve3"),
        ("critical", "pve1, rpool"),
        ("warning", "local, pve1"),
        ("warning", "qemu/101"),
        ("warning", "nfs"),
        ("unknown", "pve2"),
    ]
    assert found.verdict == "3 critical, 3 warning, 1 unknown: node pve2 is offline"
    assert found.checks == "checked by the monitor 12 s ago"


def test_unknown_is_not_well() -> None:
    """If a check cannot read something, the cluster is not reported as healthy."""
    found = with_checks(summarize([NODES[0]], [], []), Checked(1, 700, CHECKED.findings[4:]))

    assert found.status == "unknown"
    assert found.checks == "checked by the monitor 1 s ago; 699 more findings: list_findings"


def test_one_node() -> None:
    """Of one node only its findings count, with those of its guests and storages."""
    kept = of_node(CHECKED, "pve1", STORAGES, GUESTS).findings

    assert [finding.check for finding in kept] == ["zfs_health", "storage_inactive", "guest_cpu", "storage_usage"]


async def health(bus: Bus, number: int) -> dict[str, Any]:
    """Run the workflow; return its summary."""
    name = f"health-{number}"
    await requests.submit(bus, "tester", WorkflowRequest("health_check", name))
    state = await requests.wait_until_ended(bus, name, wait=60)
    assert state.status == "completed", state
    return dict(state.tasks["summarize_health"].result)


async def test_workflow(tmp_path: Path, nats_server: NatsServer, lab: FakePve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a monitor, the summary has what its checks found; without one, it says that they are missing."""
    monkeypatch.setattr(at_work, "TICK", 0.1)
    monkeypatch.setattr(at_work, "CLUSTER_EVERY", 0.2)
    monkeypatch.setattr(collector, "TICK", 0.05)
    lab.rule("GET", "/nodes/pve1/disks/zfs$", {"status": 200, "body": {"data": [POOL]}})
    net = Net(tmp_path, nats_server.url, lab, exact=True)
    net.settings["monitor"] = {"api_calls_per_minute": 120}
    net.settings["instances"] |= {
        "worker": {"roles": ["orchestrator", "specialist", "mcp-bridge"]},
        "monitor": {"roles": ["monitor"]},
    }
    async with net.client() as bus, net.here("worker"):
        alone = await health(bus, 0)
        async with net.here("monitor"):
            numbers = iter(range(1, 100))

            async def found() -> dict[str, Any] | None:
                report = await health(bus, next(numbers))
                return report if any("rpool" in finding["text"] for finding in report["findings"]) else None

            checked = await eventually(found, "the checks are part of the summary", 60)

    assert alone["checks"] == "the monitor's checks are missing: no monitor answers"
    assert checked["status"] == "critical"
    assert checked["checks"].startswith("checked by the monitor")
    assert msgspec.json.encode(checked)
