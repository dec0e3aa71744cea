"""Engines of two orchestrators over the same workflows, and inputs that wait for one another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from agentd.bus.setup.provision import provision
from agentd.errors import TemporaryError
from agentd.telemetry import logs
from agentd.telemetry.metrics import Metrics
from agentd.wire import subjects
from agentd.wire.messages import Outcome, TaskCompletion, Tier, WorkflowRequest
from agentd.wire.workflow import TaskSpec
from agentd_orchestrator.engine.executor import Engine
from agentd_orchestrator.state_machine.inputs import AgentReport, PlannedRequest
from core.jetstream import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer

PLAN = [
    TaskSpec(name="a", tool="a", queue="specialist", tier=Tier.READ),
    TaskSpec(name="b", tool="b", queue="specialist", tier=Tier.READ, after=["a"]),
]


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned."""
    async with connected(nats_server.url) as bus:
        await provision(bus, ["specialist"])
        yield bus


def _engine(bus: Bus, name: str) -> Engine:
    return Engine(bus, name, Metrics(), logs.get_logger())


def _begin() -> PlannedRequest:
    return PlannedRequest(WorkflowRequest("two", "w1"), PLAN, "tester", Tier.READ)


def _done(task: str) -> AgentReport:
    completion = TaskCompletion(f"w1.{task}", Outcome.COMPLETED, "w1", attempt=1, service_id="specialist")
    return AgentReport(task, completion)


async def test_a_completion_is_not_lost_on_an_older_state(bus: Bus) -> None:
    """An orchestrator with an outdated state reads it again before it drops an input."""
    first, second = _engine(bus, "first"), _engine(bus, "second")
    await first.feed("w1", _begin())
    await second.feed("w1", _done("a"))
    state = await first.feed("w1", _done("b"))

    assert state is not None
    assert state.status == "completed"


async def test_a_workflow_ended_by_another_orchestrator_does_not_stay_open(bus: Bus) -> None:
    """Workflows that ended elsewhere are forgotten when too many seem to be open: else requests would stop for ever."""
    first, second = _engine(bus, "first"), _engine(bus, "second")
    await first.feed("w1", _begin())
    await second.feed("w1", _done("a"))
    await second.feed("w1", _done("b"))
    remembered = first.open
    await first.refresh()

    assert (remembered, first.open, second.open) == (1, 0, 0)
    assert await first.ended("w1")


async def test_an_unchanged_workflow_stays_in_the_cache(bus: Bus) -> None:
    """A workflow that no other process has changed is remembered after a refresh, and is not taken for ended."""
    engine = _engine(bus, "first")
    await engine.feed("w1", _begin())
    await engine.refresh()

    assert engine.open == 1
    assert not await engine.ended("w1")


async def test_inputs_that_wait_for_a_cancelled_input_are_redelivered(bus: Bus, nats_server: NatsServer) -> None:
    """The deciding call may be cancelled: the inputs that waited for it are redelivered, none hangs or is lost."""
    engine = _engine(bus, "first")
    nats_server.pause()
    deciding = asyncio.create_task(engine.feed("w1", _begin()))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(engine.feed("w1", _done("a")))
    await asyncio.sleep(0)
    deciding.cancel()
    with pytest.raises(TemporaryError):
        await waiting
    nats_server.resume()
    state = await engine.feed("w1", _begin(), delivered=2)

    assert state is not None
    assert state.status == "running"
    assert await bus.last(subjects.WORKFLOWS, subjects.event("w1")) is not None
