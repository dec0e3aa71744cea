"""The monitor on a real NATS server: messages become alerts, published once, whichever monitor watches."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from agentd.bus.delivery import dead_letters
from agentd.bus.jetstream import Bus
from agentd.bus.setup.provision import provision
from agentd.config.settings import Bus as BusSettings
from agentd.plugins.role import Context, Health
from agentd.telemetry import logs
from agentd.telemetry.metrics import Metrics
from agentd.wire import subjects
from agentd.wire.announcements import Alert, Heartbeat, MetricReport
from agentd.wire.codec import now
from agentd.wire.records import DeadLetter
from agentd_monitor import checks
from agentd_monitor import role as at_work
from agentd_monitor.alerting.book import Record
from agentd_monitor.alerting.suppression import Acknowledgement
from agentd_monitor.bucket import MonitorBucket, Writer
from agentd_monitor.role import Monitor
from agentd_monitor.settings import MonitorSettings
from core.jetstream import kv_list
from plugins.monitor.idle import idle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentd.bus.nats.subscriptions import Received
    from harness import NatsServer

QUICK = MonitorSettings(min_duration=0, min_readings=2, offline_after=0.4, stuck_after=0.4)


class Network:
    """A NATS server with streams, and the alerts that were published on it."""

    def __init__(self, url: str) -> None:
        """Keep the address."""
        self.url = url
        self.seen_messages: list[Alert] = []
        self.bus: Bus

    async def connect(self, name: str) -> Bus:
        """Return a connection."""
        bus = Bus(BusSettings(servers=(self.url,)), name, logs.get_logger())
        await bus.connect(wait=5)
        return bus

    async def listen(self, received: Received) -> None:
        """Keep an alert."""
        self.seen_messages.append(received.decode(Alert))

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(10):
            while not what():  # noqa: ASYNC110 - anything may make it so
                await asyncio.sleep(0.02)

    def states(self) -> list[tuple[str, str]]:
        """Return the alerts that were received, in short form."""
        return [(message.alert_type, message.state) for message in self.seen_messages]

    @contextlib.asynccontextmanager
    async def monitor(self, settings: MonitorSettings = QUICK, name: str = "monitor-pve1") -> AsyncIterator[Context]:
        """Run a monitor."""
        bus = await self.connect(name)
        context = SimpleNamespace(
            bus=bus,
            agent_id=name,
            **idle(),
            settings=settings,
            metrics=Metrics(),
            log=logs.get_logger(),
            health=Health(),
            proxmox=None,
            stopping=asyncio.Event(),
        )
        running = asyncio.create_task(Monitor().run(cast("Context", context)))
        await self.until(lambda: context.health.ready or running.done())
        yield cast("Context", context)
        context.stopping.set()
        await running
        await bus.close()


@pytest.fixture
async def network(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    """Provision a server; monitors tick fast."""
    monkeypatch.setattr(at_work, "TICK", 0.05)
    found = Network(nats_server.url)
    found.bus = await found.connect("test")
    await provision(found.bus)
    await found.bus.subscribe(subjects.ALL_ALERTS, found.listen)
    yield found
    await found.bus.close()


def beat(status: str = "available") -> Heartbeat:
    """Return a heartbeat of now."""
    return Heartbeat("a1", now(), status)


async def test_the_alert_of_a_lost_agent_stays_until_it_is_back(network: Network) -> None:
    """The alert is published once, is in the bucket, is counted, and is resolved by a heartbeat."""
    async with network.monitor() as context:
        await network.bus.publish(subjects.heartbeat("a1"), beat())
        await network.until(lambda: bool(network.seen_messages))
        await asyncio.sleep(0.3)
        stored = await kv_list(network.bus, subjects.ALERTS)
        counted = (await context.metrics.render()).decode()
        await network.bus.publish(subjects.heartbeat("a1"), beat("offline"))
        await network.until(lambda: len(network.seen_messages) > 1)

    assert network.states() == [("agent_offline", "firing"), ("agent_offline", "resolved")]
    assert [item.decode(Alert) for item in stored.values()] == network.seen_messages[:1]
    assert 'agentd_alerts_firing{type="agent_offline"} 1' in counted
    assert 'agentd_agents{status="lost"} 1' in counted
    (after,) = (await kv_list(network.bus, subjects.ALERTS)).values()
    assert after.decode(Alert).state == "resolved"


async def test_two_monitors_publish_an_alert_once(network: Network) -> None:
    """The monitor that writes the bucket first publishes; the other is silent."""
    async with network.monitor(), network.monitor(name="monitor-pve2"):
        for _ in range(2):
            report = MetricReport("a1", now(), {"host_cpu_percent": 99.0}, {"node": "pve1"})
            await network.bus.publish(subjects.metrics("a1"), report)
            await asyncio.sleep(0.1)
        await network.until(lambda: bool(network.seen_messages))
        await asyncio.sleep(0.5)

    assert network.states() == [("high_cpu", "firing")]


async def test_a_restart_publishes_no_alert_again(network: Network) -> None:
    """What was firing is taken over from the bucket, and ends when its cause does."""
    async with network.monitor():
        await network.bus.publish(subjects.heartbeat("a1"), beat())
        await network.until(lambda: bool(network.seen_messages))
    async with network.monitor():
        await asyncio.sleep(0.8)
        before = network.states()
        await network.bus.publish(subjects.heartbeat("a1"), beat())
        await network.until(lambda: len(network.seen_messages) > 1)

    assert before == [("agent_offline", "firing")]
    assert network.states()[:2] == [("agent_offline", "firing"), ("agent_offline", "resolved")]


async def test_an_agent_that_stopped_before_the_monitor_started(network: Network) -> None:
    """Heartbeats and workflows of before the start come from the streams."""
    await network.bus.store(subjects.heartbeat("a1"), beat())
    event = {"workflow_id": "w1", "workflow_type": "health_check", "status": "running"}
    await network.bus.store(subjects.event("w1"), event)
    await network.bus.store(subjects.event("w2"), event | {"workflow_id": "w2", "status": "completed"})
    async with network.monitor():
        await network.until(lambda: len(network.seen_messages) > 1)
        await network.bus.store(subjects.event("w1"), event | {"status": "completed"})
        await network.until(lambda: ("workflow_stuck", "resolved") in network.states())

    assert sorted(network.states()) == [
        ("agent_offline", "firing"),
        ("workflow_stuck", "firing"),
        ("workflow_stuck", "resolved"),
    ]


async def test_a_monitor_starts_after_a_restart_of_nats(network: Network, nats_server: NatsServer) -> None:
    """A restart of the only NATS server loses no stream and no heartbeat that a monitor needs to start."""
    await network.bus.store(subjects.heartbeat("a1"), beat())
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.start)
    async with network.monitor():
        await network.until(lambda: bool(network.seen_messages))

    assert network.states() == [("agent_offline", "firing")]


async def test_a_message_of_unknown_form_is_skipped(network: Network) -> None:
    """What cannot be understood stops nothing."""
    async with network.monitor():
        await network.bus.publish(subjects.heartbeat("a1"), b"not JSON")
        await network.bus.publish(subjects.metrics("a1"), b'{"agent_id": 3}')
        await network.bus.publish(subjects.heartbeat("a1"), beat())
        await network.until(lambda: bool(network.seen_messages))

    assert network.states() == [("agent_offline", "firing")]


async def test_new_thresholds_take_effect_at_once(network: Network) -> None:
    """A reload ends an alert that the new threshold would not make."""
    bus = await network.connect("monitor-pve1")
    monitor = Monitor()
    context: Any = SimpleNamespace(
        bus=bus,
        agent_id="monitor-pve1",
        **idle(),
        settings=QUICK,
        metrics=Metrics(),
        log=logs.get_logger(),
        health=Health(),
        proxmox=None,
        stopping=asyncio.Event(),
    )
    running = asyncio.create_task(monitor.run(context))
    await network.until(lambda: context.health.ready)
    for _ in range(2):
        await network.bus.publish(subjects.metrics("a1"), MetricReport("a1", now(), {"cpu_percent": 91.0}))
        await asyncio.sleep(timedelta(milliseconds=50).total_seconds())
    await network.until(lambda: bool(network.seen_messages))
    monitor.reload(MonitorSettings(agent_trigger=99, agent_clear=95))
    await network.until(lambda: len(network.seen_messages) > 1)
    context.stopping.set()
    await running
    await bus.close()

    assert network.states() == [("high_cpu", "firing"), ("high_cpu", "resolved")]


async def test_dead_letters_are_reported_and_counted(network: Network) -> None:
    """A letter is reported at once and counted; dropped, its alert ends; a restart neither repeats nor forgets it."""

    async def store_dead_letter(number: int) -> None:
        letter = DeadLetter(subjects.INPUT, number, "ai.tasks.complete.a.w.t", "not JSON", "o1", now())
        await dead_letters.store_dead_letter(network.bus, dead_letters.GIVEN_UP, subjects.ORCH_INPUT, letter, b"x")

    async with network.monitor() as context:
        await store_dead_letter(1)
        await network.until(lambda: bool(network.seen_messages))
        counted = (await context.metrics.render()).decode()
        await store_dead_letter(2)
    async with network.monitor() as context:
        for item in await dead_letters.letters(network.bus):
            await dead_letters.close(network.bus, item, "alice")
        await network.until(lambda: len(network.seen_messages) > 1)
        after = (await context.metrics.render()).decode()

    assert network.states() == [("dead_letters", "firing"), ("dead_letters", "resolved")]
    assert network.seen_messages[0].message == (
        "a dead letter of AI_INPUT: ai.tasks.complete.a.w.t: not JSON; see `agentd dead-letters show 1`"
    )
    assert 'agentd_dead_letters_open{stream="AI_INPUT"} 1' in counted
    assert 'agentd_dead_letters_total{stream="AI_INPUT"} 1' in counted
    assert 'agentd_dead_letters_open{stream="AI_INPUT"} 0' in after


async def test_a_stream_that_fills_up_is_reported(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 70 % of its limit a stream is reported with what to do, and resolved once it has room; sizes are metrics."""
    monkeypatch.setattr(checks, "EVERY", 0.05)
    config = (await network.bus.api(f"STREAM.INFO.{subjects.INPUT}"))["config"]
    await network.bus.api(f"STREAM.UPDATE.{subjects.INPUT}", config | {"max_bytes": 1 << 20})
    async with network.monitor() as context:
        for _ in range(8):
            await network.bus.store(subjects.complete("a", "w", "t"), b"x" * 95_000)
        await network.until(lambda: bool(network.seen_messages))
        shown = (await context.metrics.render()).decode()
        await network.bus.api(f"STREAM.PURGE.{subjects.INPUT}")
        await network.until(lambda: len(network.seen_messages) > 1)

    assert network.states() == [("nats_storage", "firing"), ("nats_storage", "resolved")]
    assert network.seen_messages[0].message == (
        "AI_INPUT is 73% full (0.7 of 1 MiB); completions and signals wait: is an orchestrator at work? see its /readyz"
    )
    assert network.seen_messages[0].severity == "critical"
    assert 'agentd_storage_share{what="AI_INPUT"} 0.7' in shown
    assert 'agentd_stream_bytes{stream="AI_INPUT"} 76' in shown


async def test_a_monitor_without_permission_to_read(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AI_DEAD the monitor reports that it cannot check dead letters, and continues."""
    monkeypatch.setattr(checks, "EVERY", 0.05)
    await network.bus.api(f"STREAM.DELETE.{subjects.DEAD}")
    bus = await network.connect("monitor-pve1")
    context: Any = SimpleNamespace(
        bus=bus,
        agent_id="monitor-pve1",
        **idle(),
        settings=QUICK,
        metrics=Metrics(),
        log=logs.get_logger(),
        health=Health(),
        proxmox=None,
        stopping=asyncio.Event(),
    )
    running = asyncio.create_task(Monitor().run(context))
    await network.until(lambda: "cannot be checked" in context.health.reason)
    await network.bus.publish(subjects.heartbeat("a1"), beat())
    await network.until(lambda: bool(network.seen_messages))
    reason = context.health.reason
    await provision(network.bus)
    await network.until(lambda: context.health.ready)
    context.stopping.set()
    await running
    await bus.close()

    assert network.states() == [("agent_offline", "firing")]
    assert reason.endswith("run `agentd provision`")


async def test_hand_over(network: Network) -> None:
    """When the monitor that writes the alerts stops, the other one goes on with what is stored."""
    async with network.monitor(name="monitor-pve2"):
        async with network.monitor():
            await network.bus.publish(subjects.heartbeat("a1"), beat())
            await network.until(lambda: bool(network.seen_messages))
        await asyncio.sleep(0.3)
        await network.bus.publish(subjects.heartbeat("a1"), beat("offline"))
        await network.until(lambda: len(network.seen_messages) > 1)
        writer = await network.bus.kv_read(subjects.MONITOR, "writer", Writer)

    assert network.states() == [("agent_offline", "firing"), ("agent_offline", "resolved")]
    assert writer.value == Writer("monitor-pve2")


async def test_a_monitor_that_died(network: Network) -> None:
    """While another monitor may be the writer, nothing is published; once its lease has ended, everything is."""
    await network.bus.kv_put(subjects.MONITOR, "writer", Writer("monitor-dead"), ttl=2)
    async with network.monitor():
        await network.bus.publish(subjects.heartbeat("a1"), beat())
        await asyncio.sleep(1)
        before = network.states()
        await network.until(lambda: bool(network.seen_messages))

    assert before == []
    assert network.states() == [("agent_offline", "firing")]


async def test_a_writer_that_was_suspended(network: Network) -> None:
    """A writer whose alerts another monitor changed meanwhile reads what is stored, and repeats nothing."""
    async with network.monitor() as context:
        await network.bus.publish(subjects.heartbeat("a1"), beat())
        await network.until(lambda: bool(network.seen_messages))
        await asyncio.sleep(0.3)
        other = MonitorBucket(network.bus, "monitor-pve2")
        ((key, record),) = (await other.records()).items()
        acknowledged = msgspec.structs.replace(record, ack=Acknowledgement("alice", 0, 1))
        place = f"alert.{key}"
        newest = await network.bus.kv_read(subjects.MONITOR, place, Record)
        await network.bus.kv_put(subjects.MONITOR, place, acknowledged, expect=newest.seq)
        await network.bus.publish(subjects.heartbeat("a1"), beat("offline"))
        await network.until(lambda: len(network.seen_messages) > 1)
        await asyncio.sleep(0.3)
        stored = await MonitorBucket(network.bus, "monitor-pve3").records()

    assert context.health.ready
    assert network.states() == [("agent_offline", "firing"), ("agent_offline", "resolved")]
    assert stored[key].ack == acknowledged.ack
    assert not stored[key].item.open
