"""Presence: agents on the seed's subjects and in the bucket `live`, and how they deregister."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentd.client import queries
from agentd.client.tool_calls import offered_by
from agentd.daemon import presence
from agentd.daemon.presence import Announcer
from agentd.errors import NoResponder, UsageError
from agentd.safety import lease
from agentd.wire import subjects
from agentd.wire.announcements import (
    AgentRegistration,
    ControlReply,
    ControlRequest,
    Heartbeat,
    MetricReport,
    Presence,
    ServiceRegistration,
)
from core.jetstream import Lines, answers, connected, kv_list
from harness import NatsServer, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received

AGENT = AgentRegistration("worker-pve1", capabilities=["vm"], node="pve1", role="specialist")
SERVICE = ServiceRegistration("specialist", "worker", tools=["place_vm"])
WE = Presence(AGENT, [SERVICE], {"load": 0.5})


async def control(action: str) -> str:
    """Carry out nothing."""
    return f"did {action}"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lease last two seconds and be renewed ten times as often as it would."""
    monkeypatch.setattr(presence, "RENEW", 0.5)
    monkeypatch.setattr(lease, "SECONDS", 2.0)


@contextlib.asynccontextmanager
async def announcing(bus: Bus) -> AsyncIterator[asyncio.Task[None]]:
    """Register; deregister at the end."""
    stopping = asyncio.Event()
    announcer = Announcer(bus, lambda: WE, control, Lines())  # type: ignore[arg-type]
    running = asyncio.create_task(announcer.run(stopping))
    try:
        yield running
    finally:
        stopping.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _is_live(bus: Bus) -> bool:
    return bool(await queries.presences(bus))


async def test_registered_and_listed(bus: Bus, nats_server: NatsServer) -> None:
    """An agent registers on the seed's subjects, and a reader of the bucket learns the same; then it deregisters."""
    seen_messages: list[tuple[str, object]] = []

    async def on_agent(received: Received) -> None:
        seen_messages.append(("agent", received.decode(AgentRegistration)))

    async def on_service(received: Received) -> None:
        seen_messages.append(("service", received.decode(ServiceRegistration)))

    async with connected(nats_server.url, agent="listener") as listener:
        await listener.subscribe(subjects.AGENT_REGISTER, on_agent)
        await listener.subscribe(subjects.SERVICE_REGISTER, on_service)
        await answers(listener)
        async with announcing(bus):
            await eventually(lambda: _is_live(listener), "the lease is there")
            live = await queries.presences(listener)
            agents, services = await queries.agents(listener), await queries.services(listener)
            heard_first = list(seen_messages)

        async def deregistered() -> bool:
            return ("agent", msgspec.structs.replace(AGENT, status="offline")) in seen_messages

        await eventually(deregistered, "the deregistration is received")
        left = await queries.presences(listener)
        beats = await listener.every(subjects.METRICS, subjects.heartbeat(AGENT.agent_id))
        reports = await queries.metrics(listener)

    assert [msgspec.structs.replace(item, process="") for item in live] == [WE]
    assert (agents, services) == ([AGENT], [SERVICE])
    assert sorted(heard_first, key=lambda message: message[0]) == [("agent", AGENT), ("service", SERVICE)]
    assert left == []
    assert [beat.decode(Heartbeat).status for beat in beats] == ["available", "offline"]
    assert [(report.metrics, report.tags) for report in reports] == [
        ({"load": 0.5}, {"node": "pve1", "role": "specialist"}),
    ]
    assert isinstance(reports[0], MetricReport)


@pytest.mark.parametrize("subject", [subjects.AGENT_DISCOVERY, subjects.SERVICE_DISCOVERY])
async def test_discovery(bus: Bus, nats_server: NatsServer, subject: str) -> None:
    """Every agent answers a discovery, whatever its content."""
    seen_messages = asyncio.Queue[AgentRegistration]()

    async def on_agent(received: Received) -> None:
        seen_messages.put_nowait(received.decode(AgentRegistration))

    async with connected(nats_server.url, agent="listener") as listener, announcing(bus):
        await eventually(lambda: _is_live(listener), "the lease is there")
        await listener.subscribe(subjects.AGENT_REGISTER, on_agent)
        await listener.publish(subject, b"not even JSON")
        async with asyncio.timeout(5):
            assert await seen_messages.get() == AGENT


async def test_control(bus: Bus) -> None:
    """An agent carries out a control request and confirms it; nonsense is answered, and the agent goes on."""
    async with announcing(bus):
        await eventually(lambda: _is_live(bus), "the lease is there")
        subject = subjects.control(AGENT.agent_id)

        drained = await bus.request(subject, ControlRequest("drain"), ControlReply)
        refused = await bus.request(subject, b"[]", ControlReply)

        assert drained == ControlReply("worker-pve1", done=True, message="did drain")
        assert (refused.done, refused.agent_id) == (False, "worker-pve1")
        assert "ControlRequest" in refused.message
    with pytest.raises(NoResponder):
        await bus.request(subject, ControlRequest("drain"), ControlReply)


@pytest.mark.usefixtures("quick")
async def test_the_lease(bus: Bus) -> None:
    """A lease is renewed while its agent runs, and expires after the agent was killed."""
    async with announcing(bus) as running:
        await eventually(lambda: _is_live(bus), "the lease is there")
        first = (await kv_list(bus, subjects.LIVE))[AGENT.agent_id].seq

        async def renewed_often() -> bool:
            return (await kv_list(bus, subjects.LIVE))[AGENT.agent_id].seq >= first + 6

        await eventually(renewed_often, "the lease is renewed")
        running.cancel()  # with deregistration, which is removed then, as after a kill
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await bus.kv_put(subjects.LIVE, AGENT.agent_id, WE, ttl=lease.SECONDS)
    assert await _is_live(bus)

    async def gone() -> bool:
        return not await _is_live(bus)

    await eventually(gone, "the lease has ended", 10)


@pytest.mark.usefixtures("quick")
async def test_after_an_outage(bus: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage of NATS the agent registers again by itself, and its lease is there again."""
    published: list[str] = []
    publish = bus.publish

    async def spy(subject: str, message: object) -> None:
        published.append(subject)
        await publish(subject, message)

    async def registered() -> bool:
        return subjects.AGENT_REGISTER in published

    async with announcing(bus):
        await eventually(lambda: _is_live(bus), "the lease is there")
        monkeypatch.setattr(bus, "publish", spy)
        nats_server.kill()
        await asyncio.sleep(1)  # a renewal fails meanwhile
        nats_server.start()
        await eventually(registered, "the agent registers again")
        await answers(bus)
        await eventually(lambda: _is_live(bus), "the lease is there again")


async def test_an_agent_that_is_not_there(bus: Bus) -> None:
    """A request for a tool that no agent offers gets the list of tools."""
    async with announcing(bus):
        await eventually(lambda: _is_live(bus), "the lease is there")
        assert await offered_by(bus, "place_vm") == ("specialist", "place_vm")
        with pytest.raises(UsageError, match="place_vm"):
            await offered_by(bus, "make_coffee")
