"""What no orchestrator can decide, plan or write is answered all the same, and a person is notified."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentd.bus.delivery import dead_letters
from agentd.client import queries
from agentd.wire import subjects
from agentd.wire.workflow import Status, TaskSpec, Workflow
from fake_agent import Nothing, ask, begin, ended, engine, orchestrators, task
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Net


async def test_an_input_that_cannot_be_decided_ends_the_workflow(bus: Bus) -> None:
    """An input that decide stumbles over comes again, twice; then the workflow ends, and a person is notified."""
    reported: list[dict[str, Any]] = []
    seen_messages = asyncio.Event()

    async def on_alarm(received: Any) -> None:
        reported.append(received.decode(dict))
        seen_messages.set()

    listening = await bus.subscribe(subjects.critical_error("*"), on_alarm)
    only = engine(bus)
    await only.feed("w1", begin(task("a"), task("b", "a", timeout=1e300), timeout=60.0))
    for delivered in (1, 2):
        with pytest.raises(OverflowError):
            await only.feed("w1", ended("a"), delivered=delivered)
    state = await only.feed("w1", ended("a"), delivered=3)
    answer = await queries.answer_of(bus, "w1")
    async with asyncio.timeout(10):
        await seen_messages.wait()
    await listening.stop()
    (letter,) = await eventually(lambda: dead_letters.letters(bus), "a dead letter") or []

    assert state is not None
    assert state.status is Status.FAILED
    assert state.error.startswith("deciding over AgentReport failed 3 times: ")
    assert answer is not None
    assert answer.error == state.error
    assert [message["error"] for message in reported] == [f"w1: {state.error}"]
    assert (letter.why, letter.subject, letter.reason) == ("broken", subjects.event("w1"), state.error)
    assert b'"task_id":"w1.a"' in (await dead_letters.read_body(bus, letter)).data


async def test_a_request_that_cannot_be_decided_is_answered(bus: Bus) -> None:
    """Even the first input may be the one: the requester gets an answer, and is not left waiting."""
    only = engine(bus)
    with pytest.raises(OverflowError):
        await only.feed("w1", begin(task("a", timeout=1e300)))
    state = await only.feed("w1", begin(task("a", timeout=1e300)), delivered=3)
    answer = await queries.answer_of(bus, "w1")

    assert state is not None
    assert answer is not None
    assert (answer.status, answer.error) == ("failed", state.error)
    assert answer.error.startswith("deciding over PlannedRequest failed 3 times: ")


async def test_a_plan_with_a_bug_is_answered(quiet_net: Net, bus: Bus) -> None:
    """A definition that raises costs its request, not the queue: the third time it is answered with the error."""

    def buggy(_: Nothing) -> list[TaskSpec]:
        raise KeyError("node")

    begun = time.monotonic()
    async with orchestrators(quiet_net, buggy):
        answer = await ask(bus)

    assert (answer.status, answer.error) == ("failed", "the plan of test cannot be made: KeyError: 'node'")
    assert time.monotonic() - begun < 30


async def test_a_workflow_that_outgrows_an_event_ends(bus: Bus) -> None:
    """Results that one event cannot carry end the workflow with the reason; before, it was stuck without a word."""
    only = engine(bus)
    names = [f"t{number}" for number in range(12)]
    await only.feed("w1", begin(*(task(name) for name in names)))
    state: Workflow | None = None
    for name in names:
        state = await only.feed("w1", ended(name, result="x" * 100_000))
        if state is None or state.over:
            break
    stored = await bus.last(subjects.WORKFLOWS, subjects.event("w1"))
    answer = await queries.answer_of(bus, "w1")

    assert stored is not None
    assert stored.decode(Workflow) == state
    assert answer is not None
    assert answer.status == "failed"
    assert answer.error.startswith("its state takes 10")
    assert answer.error.endswith("bytes, and one event carries 983040")
    assert [item["status"] for item in answer.result["tasks"].values()] == ["completed"] * 10 + ["cancelled"] * 2


async def test_a_plan_that_no_event_carries_is_answered(bus: Bus) -> None:
    """A plan that does not fit one event is refused before anything of it begins."""
    large = {"text": "x" * 100_000}
    plan = [task(f"t{number}", parameters=large) for number in range(20)]
    state = await engine(bus).feed("w1", begin(*plan))
    answer = await queries.answer_of(bus, "w1")

    assert state is not None
    assert (state.status, state.tasks) == (Status.REJECTED, {})
    assert answer is not None
    assert answer.error == state.error
    assert not await bus.every(subjects.WORKFLOWS, "ai.tasks.assign.>")
