"""The engine over a real JetStream: several orchestrators work as one, and interrupted work is completed.

There is no Proxmox here: a task is done by an agent of the test's own, which reads assignments and answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentd.client import queries, requests
from agentd.errors import TemporaryError
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import TaskAssignment, TaskCompletion, TaskError, WorkflowRequest, WorkflowResponse
from agentd.wire.workflow import Status, TaskSpec, TaskStatus, Workflow
from core.jetstream import consumer_info
from fake_agent import QUEUE, Agent, Nothing, ask, begin, completion, ended, engine, orchestrators, task
from harness import eventually
from plugins.flow import fold

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Net


def diamond(_: Nothing) -> list[TaskSpec]:
    """Return six tasks, three of which wait for one, and one for all of them."""
    middle = [task(f"m{number}", "first") for number in range(3)]
    return [task("first"), *middle, task("last", "m0", "m1", "m2"), task("gate", "last")]


async def test_three_orchestrators_share_the_work(quiet_net: Net, bus: Bus) -> None:
    """Requests and completions twice each, three orchestrators: one chain of events, one assignment, one answer."""
    names = [f"w{number}" for number in range(8)]
    agent = Agent(bus, times=2)
    agent.hold = {"gate"}
    async with orchestrators(quiet_net, diamond, 3), agent.working():
        for name in names * 2:
            await bus.store(subjects.request("tester"), WorkflowRequest("test", name))

        async def at_the_gate() -> bool:
            return sum(assignment.task_id.endswith(".gate") for assignment in agent.given) == len(names)

        await eventually(at_the_gate, "all are at the gate", 60)
        events = {name: await bus.every(subjects.WORKFLOWS, subjects.event(name)) for name in names}
        agent.release.set()
        answers = [await queries.follow(bus, name, lambda _: None, wait=45) for name in names]
        responses = await bus.every(subjects.WORKFLOWS, subjects.response("*"))

    # Each event was written in the knowledge of the one before it, and only adds to that one.
    for chain in events.values():
        expected = [int(record.headers["Nats-Expected-Last-Subject-Sequence"]) for record in chain]
        assert expected[1:] == [record.seq for record in chain[:-1]]  # what was before the first one may be replaced
        lines = [record.decode(Workflow).timeline for record in chain]
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(lines))

    # Nothing was assigned twice, and every request is answered once.
    counted = Counter((assignment.task_id, assignment.attempt) for assignment in agent.given)
    assert set(counted.values()) == {1}
    assert len(counted) == 6 * len(names)
    assert [answer.status for answer in answers] == ["completed"] * len(names)
    assert sorted(response.subject for response in responses) == sorted(subjects.response(name) for name in names)


async def test_engines_that_race_commit_once(bus: Bus) -> None:
    """Two engines that are given the same input at the same time write one event of it, not two."""
    one, two = engine(bus, "o1"), engine(bus, "o2")
    plan = [task("a"), task("b", "a")]
    begun = await asyncio.gather(one.feed("w1", begin(*plan)), two.feed("w1", begin(*plan)))
    gone_on = await asyncio.gather(*(item.feed("w1", ended("a")) for item in (one, two, one, two)))
    events = await bus.every(subjects.WORKFLOWS, subjects.event("w1"))
    assigned = await bus.every(subjects.WORKFLOWS, "ai.tasks.assign.>")

    assert begun[0] is not None
    assert {item.tasks["b"].attempt for item in gone_on if item is not None} == {1}
    assert len(events) == 2
    assert [item.subject for item in assigned] == [
        subjects.assign(QUEUE, "w1", "a", 1),
        subjects.assign(QUEUE, "w1", "b", 1),
    ]


async def test_inputs_of_one_workflow_become_one_event(bus: Bus) -> None:
    """What comes while an event is on its way is decided over together: a fan-out costs few events."""
    only = engine(bus)
    names = [f"t{number}" for number in range(100)]
    await only.feed("w1", begin(*(task(name) for name in names)))
    states = await asyncio.gather(*(only.feed("w1", ended(name)) for name in names))
    stored = await bus.last(subjects.WORKFLOWS, subjects.event("w1"))

    assert {state.status for state in states if state is not None} <= {Status.RUNNING, Status.COMPLETED}
    assert stored is not None
    assert stored.decode(Workflow).status is Status.COMPLETED
    assert stored.seq - 102 - 1 <= 4, "100 assignments, one timer, the first event and an answer"


async def test_a_cut_emission_is_made_good(bus: Bus) -> None:
    """An event whose outbox was never sent is sent by the process that loads it, on any input, even a stray one."""
    state = fold(None, [begin(task("a"))], datetime.now(UTC))
    await bus.store(subjects.event("w1"), state, expect=0)
    before = await bus.every(subjects.WORKFLOWS, "ai.tasks.assign.>")
    await engine(bus).feed("w1", ended("foreign"))
    again = await engine(bus, "o2").feed("w1", begin(task("a")), delivered=2)
    assigned = await bus.every(subjects.WORKFLOWS, "ai.tasks.assign.>")
    timers = await bus.every(subjects.WORKFLOWS, subjects.timer("w1", "*", "*"))

    assert before == []
    assert again == state
    assert [item.subject for item in assigned] == [subjects.assign(QUEUE, "w1", "a", 1)]
    assert [timer.subject for timer in timers] == [subjects.timer("w1", "_", "1")]


async def test_a_cut_answer_is_made_good(bus: Bus) -> None:
    """A workflow that is over and was not answered is answered when its last input comes again, and once only."""
    state = fold(None, [begin(task("a")), ended("a", result=7)], datetime.now(UTC))
    await bus.store(subjects.event("w1"), state, expect=0)
    await asyncio.gather(*(engine(bus, f"o{number}").feed("w1", ended("a")) for number in range(3)))
    answers = await bus.every(subjects.WORKFLOWS, subjects.response("w1"))

    assert [answer.decode(WorkflowResponse).result for answer in answers] == [
        {"tasks": {"a": {"status": "completed", "result": 7}}}
    ]


async def test_a_newer_state_is_left_alone(bus: Bus) -> None:
    """A state that a newer orchestrator wrote is not touched: the input comes again later, perhaps to a newer one."""
    state = fold(None, [begin(task("a"))], datetime.now(UTC))
    newer = msgspec.json.decode(encode(state)) | {"v": 2, "unheard_of": True}
    seq = await bus.store(subjects.event("w1"), newer, expect=0)
    with pytest.raises(TemporaryError, match=r"w1: written by a newer orchestrator \(state version 2\)") as caught:
        await engine(bus).feed("w1", ended("a"))
    stored = await bus.last(subjects.WORKFLOWS, subjects.event("w1"))

    assert caught.value.delay == 10.0
    assert stored is not None
    assert stored.seq == seq
    assert not await bus.every(subjects.WORKFLOWS, "ai.tasks.assign.>"), "not even its outbox is sent"


async def test_a_retry_waits_for_its_timer(quiet_net: Net, bus: Bus) -> None:
    """An error that may pass is tried again by a schedule of JetStream, not before its time."""

    def second_time(given: TaskAssignment) -> TaskCompletion | None:
        return completion(given, TaskError("temporary", "not yet", retry=True) if given.attempt == 1 else None)

    agent = Agent(bus, second_time)
    async with orchestrators(quiet_net, lambda _: [task("a", backoff=1.0)]), agent.working():
        answer = await ask(bus)
        state = await queries.state(bus, "w1")

    assert answer.status == "completed"
    assert [assignment.attempt for assignment in agent.given] == [1, 2]
    assert state is not None
    at = {entry.what: entry.at for entry in state.timeline if entry.task}
    assert at["completed"] - at["failed, to be tried again: not yet"] >= timedelta(seconds=0.8), "a fifth is jitter"


async def test_after_the_deadline_another_agent_has_the_task(quiet_net: Net, bus: Bus) -> None:
    """An agent that never answers loses the task at its deadline; what it says later changes nothing."""
    agent = Agent(bus, lambda given: None if given.attempt == 1 else completion(given))
    async with orchestrators(quiet_net, lambda _: [task("a", timeout=1.0, backoff=0.1)]), agent.working():
        answer = await ask(bus)
        late = completion(agent.given[0], TaskError("broken", "late"))
        await bus.store(subjects.complete("fake", "w1", "a"), late)
        state = await queries.state(bus, "w1")

    assert answer.status == "completed", answer
    assert [assignment.attempt for assignment in agent.given] == [1, 2]
    assert state is not None
    assert "failed, to be tried again: no result within 1 s of attempt 1" in [entry.what for entry in state.timeline]
    assert state.tasks["a"].status is TaskStatus.COMPLETED


async def test_the_time_out_ends_the_workflow(quiet_net: Net, bus: Bus) -> None:
    """A workflow that is not done in its time is answered by the server's clock, agents or not."""
    async with orchestrators(quiet_net, lambda _: [task("a")]):
        request = WorkflowRequest("test", "w1", timeout=1.0)
        await requests.submit(bus, "tester", request)
        answer = await queries.follow(bus, "w1", lambda _: None, wait=45)

    assert (answer.status, answer.error) == ("failed", "not done within 1 s")


async def test_a_waiting_completion_moves_the_deadline(quiet_net: Net, bus: Bus) -> None:
    """A deadline that passes while the result waits to be read does not throw the work away."""
    agent = Agent(bus)
    async with orchestrators(quiet_net, lambda _: [task("a", timeout=2.0)]):
        # From here on completions are stored, and no orchestrator gets them.
        await _pause(bus, seconds=60)
        async with agent.working():
            asked = asyncio.create_task(ask(bus))

            async def put_off() -> bool:
                due = await consumer_info(bus, subjects.WORKFLOWS, subjects.ORCH_DUE)
                return bool(due["num_redelivered"])

            await eventually(put_off, "the deadline comes again")
            waiting = await engine(bus, "o2").reported("w1")
            await _pause(bus, seconds=0)
            answer = await asked
        state = await queries.state(bus, "w1")

    assert waiting
    assert not await engine(bus, "o3").reported("w1")
    assert answer.status == "completed"
    assert state is not None
    assert state.tasks["a"].attempt == 1


async def _pause(bus: Bus, *, seconds: float) -> None:
    until = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    await bus.api(f"CONSUMER.PAUSE.{subjects.INPUT}.{subjects.ORCH_INPUT}", {"pause_until": until} if seconds else {})
