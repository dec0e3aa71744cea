"""Workflows that alerts start, and alerts about what agentd itself changes: with orchestrator and exact permissions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import requests, tool_calls
from agentd.errors import ConfigError
from agentd.plugins import manager, starts
from agentd.wire import subjects
from agentd.wire.announcements import Alert
from agentd_monitor import role as at_work
from agentd_monitor.cluster import collector
from harness import Net, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.wire.workflow import Workflow
    from harness import NatsServer
    from pve.client import FakePve

POOL = {"name": "rpool", "size": 100, "free": 50, "alloc": 50, "frag": 1, "dedup": 1, "health": "DEGRADED"}
SERVICE = {"service": "chrony", "name": "chrony", "unit-state": "enabled", "state": "dead"}
LIST = """
description: List the guests of the node of a pool.
parameters:
  node: {type: string}
  pool: {type: string, required: true}
tasks:
  - name: find
    tool: list_guests
    with: {node: "{{ parameters.node }}"}
"""
STOP = """
description: Stop a guest.
parameters:
  node: {type: string}
tasks:
  - name: stop
    tool: stop_guest
    with: {vmid: 101}
"""


@pytest.fixture
def net(tmp_path: Path, nats_server: NatsServer, lab: FakePve, monkeypatch: pytest.MonkeyPatch) -> Net:
    """Return a network with a degraded pool, whose alert starts `look`, to which the policy consents."""
    monkeypatch.setattr(at_work, "TICK", 0.1)
    monkeypatch.setattr(at_work, "CLUSTER_EVERY", 0.2)
    monkeypatch.setattr(collector, "TICK", 0.05)
    lab.rule("GET", "/nodes/pve1/disks/zfs$", {"status": 200, "body": {"data": [POOL]}})
    made = Net(tmp_path, nats_server.url, lab, exact=True)
    (tmp_path / "workflows").mkdir(mode=0o755)
    (tmp_path / "workflows" / "look.yaml").write_text(LIST)
    (tmp_path / "workflows" / "stop.yaml").write_text(STOP)
    made.settings["orchestrator"] = {"workflows_dir": str(tmp_path / "workflows")}
    made.settings["policy"] = {"default_tier": "read", "principals": {"alerts": "read", "tester": "operate"}}
    action = {"workflow": "look", "labels": {"node": "node", "pool": "pool"}}
    made.settings["monitor"] = {"api_calls_per_minute": 120, "observe_only": 0, "actions": {"zfs_health": action}}
    made.settings["instances"] |= {
        "monitor": {"roles": ["monitor"]},
        "worker": {"roles": ["orchestrator", "mcp-bridge"]},
    }
    return made


async def pool(bus: Bus) -> dict[str, Any]:
    """Return the alert of the pool; {} while there is none."""
    try:
        found = await tool_calls.call(bus, "tester", "list_alerts", {"name": "zfs_health"}, seconds=20)
    except Exception:  # noqa: BLE001 - the monitor has not announced its tools yet
        return {}
    return next(iter(found.result["alerts"]), {})


async def until_status(bus: Bus, *statuses: str) -> dict[str, Any]:
    """Return the alert of the pool when its workflow has one of these statuses."""

    async def reached() -> dict[str, Any] | None:
        alert = await pool(bus)
        return alert if alert.get("workflow_status") in statuses else None

    return await eventually(reached, f"a workflow is {statuses}", 40)


async def workflows(bus: Bus) -> list[Workflow]:
    """Return the workflows that alerts have started."""
    found = [await requests.state_of(bus, name) for name in await requests.workflow_ids(bus)]
    return [workflow for workflow in found if workflow is not None and workflow.workflow_id.startswith("alert-")]


async def test_once(net: Net) -> None:
    """The workflow runs once, as its principal and with the labels, whatever restarts; the alert has its end."""
    async with net.client() as bus:
        async with net.here("monitor"):
            await until_status(bus, "requested")
        async with net.here("monitor"):  # it was requested already, and no orchestrator runs
            await until_status(bus, "requested")
            async with net.here("worker"):
                alert = await until_status(bus, "completed")
        async with net.here("worker"), net.here("monitor"):
            await until_status(bus, "completed")
            await asyncio.sleep(1)
        (workflow,) = await workflows(bus)

    assert workflow.workflow_id == alert["workflow"]
    assert (workflow.principal, workflow.requester_id) == ("alerts", "alert zfs_health")
    assert workflow.parameters == {"node": "pve1", "pool": "rpool"}


async def test_policy(net: Net) -> None:
    """A workflow beyond the tier of its principal is refused, and the alert says why."""
    net.settings["monitor"]["actions"]["zfs_health"] = {"workflow": "stop", "labels": {"node": "node"}}
    async with net.client() as bus, net.here("worker"), net.here("monitor"):
        alert = await until_status(bus, "rejected")

    assert "stop_guest needs tier operate; alerts has read" in alert["workflow_error"]


async def test_consent(net: Net) -> None:
    """Without the principal in the policy nothing is started, and the status page says so."""
    net.settings["policy"] = {"default_tier": "operate", "principals": {}}
    async with net.client() as bus, net.here("worker"), net.here("monitor") as monitor:

        async def alerted() -> bool:
            return bool(await pool(bus))

        await eventually(alerted, "the alert fires", 40)
        await asyncio.sleep(1)
        (running,) = monitor.running
        found = await workflows(bus)

    assert found == []
    assert running.context.health.warnings == [
        "monitor.actions.zfs_health starts nothing: alerts is not in [policy.principals]"
    ]


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        ({"workflow": "lok"}, "workflow: unknown 'lok'; did you mean look?"),
        ({"workflow": "look", "labels": {"nod": "node"}}, "parameters.nod: unknown; did you mean node?"),
        ({"workflow": "look", "labels": {"node": "node"}}, "parameters: look needs pool"),
        (
            {"workflow": "look", "parameters": {"node": "a", "pool": "b"}, "principal": "eve"},
            "principal: 'eve' is not in [policy.principals]",
        ),
    ],
)
def test_checked(net: Net, action: dict[str, Any], fault: str) -> None:
    """`agentd config check` finds a workflow, a parameter or a principal that there is not."""
    net.settings["monitor"]["actions"]["zfs_health"] = action
    config = net.config()

    with pytest.raises(ConfigError) as error:
        starts.check(config, manager.every_plugin(config))
    assert fault in str(error.value)


async def test_own_work(net: Net, lab: FakePve) -> None:
    """No alert about a node is published while a workflow that has acted on it runs, also after a restart."""
    lab.rule("GET", "/nodes/pve2/services$", {"status": 200, "body": {"data": [SERVICE]}})
    event = {"workflow_id": "w1", "workflow_type": "reboot", "status": "running", "principal": "alice"}
    effect = {"key": "w1.reboot", "phase": "done", "acted": ["reboot_node node/pve2"]}

    async with net.client() as bus:

        async def published() -> list[str]:
            found = await bus.kv_values(subjects.ALERTS, Alert)
            return [entry.value.alert_type for entry in found.values() if entry.value is not None]

        async def other() -> bool:
            return "zfs_health" in await published()

        async def service() -> bool:
            return "service_down" in await published()

        await bus.store(subjects.event("w1"), event)
        await bus.store(subjects.effect("mcp-proxmox", "w1.reboot"), effect)
        for _ in range(2):
            async with net.here("monitor"):
                await eventually(other, "another alert is published", 40)
                await asyncio.sleep(3)
        withheld = not await service()
        async with net.here("monitor"):
            await bus.store(subjects.event("w1"), event | {"status": "completed"})
            await eventually(service, "the alert is published after the end of the workflow", 40)

    assert withheld
