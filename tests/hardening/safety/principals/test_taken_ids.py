"""No principal takes the place of a workflow that a task or a schedule starts, by using its id before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import schedules
from agentd.client import queries, requests
from agentd.config.settings import Schedule
from agentd.errors import InvalidMessage
from agentd.wire import subjects
from agentd.wire.messages import Tier, WorkflowRequest, request_digest
from agentd.wire.names import check_own_id
from agentd.wire.workflow import TaskSpec
from agentd_orchestrator.state_machine.outgoing import child_id
from fake_agent import Agent, orchestrators, task
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Net

CHILD = {"child": lambda _: [task("one")]}
NIGHTLY = Schedule.model_validate({"workflow": "test", "cron": "* * * * * *", "overlap": "allow"})


def _parent(_: object) -> list[TaskSpec]:
    return [TaskSpec("c", "", subjects.ORCHESTRATOR, Tier.READ, workflow="child", parameters={"n": "x"})]


async def _taken(bus: Bus, *ids: str) -> None:
    """Ask for workflows of these ids as rita, past the check of her client."""
    for name in ids:
        await bus.store(subjects.request("rita"), WorkflowRequest("test", name))
        await bus.store(subjects.request("rita"), WorkflowRequest("child", name, {"n": "x"}))


async def test_of_a_task(quiet_net: Net, bus: Bus) -> None:
    """A task that is a workflow is done though another principal has asked for one with each id that it can have."""
    long = "x" * 60
    agent = Agent(bus)
    async with orchestrators(quiet_net, _parent, 1, CHILD), agent.working():
        await _taken(bus, "w1--c", "w1--c-2", child_id(long, "c", 1), child_id(long, "c", 2))
        for name in ("w1", long):
            await requests.submit(bus, "alice", WorkflowRequest("test", name))
        answers = [await queries.follow(bus, name, lambda _: None, wait=30) for name in ("w1", long)]

    assert [answer.status for answer in answers] == ["completed", "completed"]
    state = await requests.state_of(bus, "w1--c")
    assert state is not None
    assert (state.principal, state.parent and state.parent.workflow_id) == ("alice", "w1")


async def test_of_a_schedule(quiet_net: Net, bus: Bus) -> None:
    """A schedule runs though another principal has asked for workflows with the ids of its next firings."""
    agent = Agent(bus)
    async with orchestrators(quiet_net, lambda _: [task("a")]), agent.working():
        await schedules.provision(bus, {"tick": NIGHTLY.model_copy(update={"cron": "0 0 1 1 *"})})
        await _taken(bus, *(f"cron-tick-{number}" for number in range(1, 150)))
        await requests.submit(bus, "rita", WorkflowRequest("test", "cron-tick-mine"))
        await queries.follow(bus, "cron-tick-mine", lambda _: None, wait=60)
        await schedules.provision(bus, {"tick": NIGHTLY})

        async def run() -> bool:
            events = await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS)
            names = [event.subject.rpartition(".")[2] for event in events]
            states = [await requests.state_of(bus, name) for name in names if subjects.firing_of(name)]
            assert all(state.principal == NIGHTLY.principal for state in states if state is not None)
            return bool(states)

        await eventually(run, "a firing became a workflow", 30)


@pytest.mark.parametrize("name", ["a--b", "w1--c-2", "--", "a-" * 2 + "-b", child_id("x" * 64, "a", 1)])
def test_a_taken_id_is_refused_at_once(name: str) -> None:
    """The client says which ids may be used, before anything is sent."""
    with pytest.raises(InvalidMessage, match="is an id of workflows that tasks start; use one without `--`"):
        check_own_id(name)


@pytest.mark.parametrize("kind", ["a--b", "tool_call-", "x" * 39 + "-", "-", "health_check"])
def test_new_ids_can_be_used(kind: str) -> None:
    """An id that agentd chooses is never refused, for any name of the workflow."""
    assert check_own_id(requests.new_id(kind))


@pytest.mark.parametrize("length", range(1, 65))
def test_every_id_of_a_child_is_known(length: int) -> None:
    """For any ids of workflow and task, of any length."""
    for attempt in (1, 2, 1000):
        with pytest.raises(InvalidMessage):
            check_own_id(child_id("w" * length, "t" * (65 - length), attempt))


async def test_of_another_principal(quiet_net: Net, bus: Bus) -> None:
    """The same request under an id that another principal has used is a conflict, not that principal's workflow."""
    agent = Agent(bus)
    mine, digest = WorkflowRequest("test", "mine"), request_digest(WorkflowRequest("test", "mine"))
    async with orchestrators(quiet_net, lambda _: [task("a")]), agent.working():
        await requests.submit(bus, "rita", mine)
        first = await queries.follow(bus, "mine", lambda _: None, wait=30, requested=("rita", mine))
        await requests.submit(bus, "alice", mine)
        second = await queries.follow(bus, "mine", lambda _: None, wait=30, requested=("alice", mine))
        await requests.submit(bus, "rita", mine)
        again = await queries.follow(bus, "mine", lambda _: None, wait=30, requested=("rita", mine))
        found = await queries.answer_of(bus, "mine", subjects.conflict("mine", digest))

    assert (first.status, second.status, again.status) == ("completed", "conflict", "completed")
    assert second.error == "workflow_id: 'mine' is a test of another principal (completed); use another id"
    assert found == second
