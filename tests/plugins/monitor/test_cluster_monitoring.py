"""The role monitor with the simulated cluster: alerts about it are published once, and findings are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.requests import Request

from agentd.bus.jetstream import Bus
from agentd.bus.setup.provision import provision
from agentd.config.settings import Bus as BusSettings
from agentd.plugins.role import Context, Health
from agentd.telemetry import logs
from agentd.telemetry.metrics import Metrics
from agentd.wire import subjects
from agentd.wire.announcements import Alert
from agentd_monitor import role as at_work
from agentd_monitor.cluster import collector
from agentd_monitor.role import Monitor
from agentd_monitor.settings import MonitorSettings
from plugins.monitor.idle import idle
from proxmox_access import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.nats.subscriptions import Received
    from harness import NatsServer
    from pve.client import FakePve

POOL = {"name": "rpool", "size": 100, "free": 50, "alloc": 50, "frag": 1, "dedup": 1, "health": "DEGRADED"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the schedule and at the findings often."""
    monkeypatch.setattr(at_work, "TICK", 0.1)
    monkeypatch.setattr(at_work, "CLUSTER_EVERY", 0.1)
    monkeypatch.setattr(collector, "TICK", 0.05)
    monkeypatch.setattr(collector, "REBUILD", 0.1)


@contextlib.asynccontextmanager
async def monitor(url: str, lab: FakePve, name: str = "monitor-pve1") -> AsyncIterator[Monitor]:
    """Run a monitor that reads the simulated cluster."""
    bus, proxmox = Bus(BusSettings(servers=(url,)), name, logs.get_logger()), connect(lab)
    await bus.connect(wait=5)
    role = Monitor()
    context = SimpleNamespace(
        bus=bus,
        agent_id=name,
        **idle(),
        settings=MonitorSettings(api_calls_per_minute=120),
        metrics=Metrics(),
        log=logs.get_logger(),
        health=Health(),
        proxmox=proxmox,
        stopping=asyncio.Event(),
    )
    running = asyncio.create_task(role.run(cast("Context", context)))
    try:
        yield role
    finally:
        context.stopping.set()
        await running
        await bus.close()
        await proxmox.close()


async def findings(role: Monitor) -> list[dict[str, Any]]:
    """Return what the page of the checks shows; nothing while the role starts."""
    (route,) = role.routes
    response = await route.endpoint(Request({"type": "http"}))  # type: ignore[attr-defined]  # a Route has it
    found: list[dict[str, Any]] = json.loads(response.body) if response.status_code == 200 else []
    return found


async def test_a_degraded_pool(nats_server: NatsServer, lab: FakePve) -> None:
    """Two monitors publish the alert once, and another one after a restart does not publish it again."""
    lab.rule("GET", "/nodes/pve1/disks/zfs$", {"status": 200, "body": {"data": [POOL]}})
    heard: list[Alert] = []

    async def listen(received: Received) -> None:
        heard.append(received.decode(Alert))

    bus = Bus(BusSettings(servers=(nats_server.url,)), "test", logs.get_logger())
    await bus.connect(wait=5)
    await provision(bus)
    await bus.subscribe(subjects.ALL_ALERTS, listen)
    async with (
        monitor(nats_server.url, lab) as role,
        monitor(nats_server.url, lab, "monitor-pve2"),
        asyncio.timeout(40),
    ):
        while not any(alert.alert_type == "zfs_health" for alert in heard):  # noqa: ASYNC110 - a subscription receives
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        shown = await findings(role)
    async with monitor(nats_server.url, lab) as again, asyncio.timeout(40):
        while not any(finding["check"] == "zfs_health" for finding in await findings(again)):  # noqa: ASYNC110 - a page
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    await bus.close()

    assert [(alert.state, alert.labels) for alert in heard if alert.alert_type == "zfs_health"] == [
        ("firing", {"node": "pve1", "pool": "rpool"})
    ]
    (pool,) = [finding for finding in shown if finding["check"] == "zfs_health" and finding["labels"].get("pool")]
    assert pool["level"] == "critical"
    assert "rpool" in pool["text"]
