"""10,000 alerts at once: each is published and stored once, also when another monitor takes over in the middle."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentd import Check, Finding, Level
from agentd.bus.jetstream import Bus
from agentd.bus.setup.provision import provision
from agentd.config.settings import Bus as BusSettings
from agentd.plugins.role import Context, Health
from agentd.telemetry import logs
from agentd.telemetry.metrics import Metrics
from agentd.wire import subjects
from agentd.wire.announcements import Alert
from agentd_monitor import role as at_work
from agentd_monitor.bucket import MonitorBucket
from agentd_monitor.role import Monitor
from agentd_monitor.settings import MonitorSettings
from harness import eventually
from plugins.monitor.idle import idle
from plugins.monitor.receiver import receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.nats.subscriptions import Received
    from harness import NatsServer

MANY = 10_000
CHECKS = 10


def flood(number: int) -> Check:
    """Return a check with a tenth of the findings, all bad."""

    async def run() -> list[Finding]:
        return [
            Finding(f"flood_{number}", {"disk": f"{number}-{place}"}, Level.CRITICAL, "broken", "Replace it.")
            for place in range(MANY // CHECKS)
        ]

    return Check(f"flood_{number}", "disks", run, every=5)


@contextlib.asynccontextmanager
async def monitor(url: str, name: str, settings: dict[str, Any]) -> AsyncIterator[Context]:
    """Run a monitor with these checks."""
    bus = Bus(BusSettings(servers=(url,)), name, logs.get_logger())
    await bus.connect(wait=5)
    parts = idle() | {"checks": [flood(number) for number in range(CHECKS)]}
    context = cast(
        "Context",
        SimpleNamespace(
            bus=bus,
            agent_id=name,
            **parts,
            settings=MonitorSettings(**settings),
            metrics=Metrics(),
            log=logs.get_logger(),
            health=Health(),
            proxmox=None,
            stopping=asyncio.Event(),
        ),
    )
    running = asyncio.create_task(Monitor().run(context))
    try:
        yield context
    finally:
        context.stopping.set()
        await running
        await bus.close()


@pytest.mark.timeout(300)
async def test_flood(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are published and stored once, with one writer, and a receiver gets every one."""
    monkeypatch.setattr(at_work, "TICK", 0.2)
    monkeypatch.setattr(at_work, "CLUSTER_EVERY", 1.0)
    heard: Counter[str] = Counter()

    async def listen(received: Received) -> None:
        heard[str(received.decode(Alert).labels)] += 1

    bus = Bus(BusSettings(servers=(nats_server.url,)), "test", logs.get_logger())
    await bus.connect(wait=5)
    await provision(bus)
    await bus.subscribe(subjects.ALL_ALERTS, listen)

    async def stored() -> bool:
        return len(await MonitorBucket(bus, "test").records()) == MANY

    async def half() -> bool:
        return len(heard) > MANY // 3

    with receiver(200) as hook:
        settings = {"observe_only": 0, "receivers": {"ops": {"type": "webhook", "url": hook.url}}}
        async with monitor(nats_server.url, "monitor-pve2", settings):
            async with monitor(nats_server.url, "monitor-pve1", settings):
                await eventually(half, "a third is published", 100)
            await eventually(stored, "all are stored", 200)

            async def delivered() -> bool:
                return len({headers["Idempotency-Key"] for headers, _ in hook.bodies}) == MANY

            await eventually(delivered, "all are delivered", 200)
    await bus.close()

    assert len(heard) == MANY
    assert set(heard.values()) == {1}
