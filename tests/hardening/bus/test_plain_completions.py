"""A task is completed by the agent that has it: on its own subject, or where its queue is declared external."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from agentd.bus.setup import provision
from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import Outcome, TaskCompletion, Tier, WorkflowRequest
from agentd.wire.workflow import Status, TaskSpec, TaskStatus, Workflow
from fake_agent import QUEUE, orchestrators, task
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import Net

NAME = "words"
DONE = Outcome.COMPLETED


def plan(_: Any) -> list[TaskSpec]:
    """Return tasks of a queue of ours and of external agents that push and pull."""
    return [
        task("ours"),
        task("look", preview=True),
        TaskSpec("pulled", "count", NAME, Tier.READ),
        TaskSpec("pushed", "count", "pushy", Tier.READ),
        TaskSpec("looked", "count", NAME, Tier.READ, preview=True),
        TaskSpec("asks", "count", NAME, Tier.READ, approval="Go on?"),
    ]


@contextlib.asynccontextmanager
async def running(net: Net, bus: Bus) -> AsyncIterator[None]:
    """Run an orchestrator and a workflow whose tasks are assigned, with two queues of external agents."""
    part = net.directory / "conf.d" / "plain.toml"
    part.parent.mkdir(exist_ok=True)
    part.write_text(
        f'[[bus.queues]]\nname = "{NAME}"\nin_flight = 4\nexternal = "pull"\n'
        '[[bus.queues]]\nname = "pushy"\nin_flight = 4\nexternal = "push"\n'
    )
    await provision.provision(bus, queues=(await asyncio.to_thread(net.config)).bus.queues)
    async with orchestrators(net, plan):
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
        await eventually(lambda: queries.state(bus, "w1"), "w1 is there")
        yield


async def state(bus: Bus) -> Workflow:
    """Return the current workflow."""
    found = await queries.state(bus, "w1")
    assert found is not None
    return found


async def given_up(bus: Bus, number: int) -> None:
    """Wait until so many messages were given up."""

    async def so() -> bool:
        return len(await bus.every(subjects.DEAD, "ai.dead.given-up.>")) >= number

    await eventually(so, f"{number} dead letters")


def says(name: str, **more: Any) -> bytes:
    """Return the completion of a task."""
    return encode({"task_id": f"w1.{name}", "status": "completed", "attempt": 1} | more)


PLAIN: dict[str, bytes] = {
    "a task of ours": says("ours", service_id=QUEUE),
    "a task of ours, by its agent": says("ours", service_id=QUEUE, agent_id="specialist-pve1"),
    "a look of ours": says("look", service_id=QUEUE),
    "a look of ours, in its name": says("look", agent_id=QUEUE),
    "a look of an external agent": says("looked", service_id=NAME),
    "what waits for an approval": says("asks", service_id=NAME),
    "a pushed task by another": says("pushed", service_id="pushy", agent_id="mallory"),
}


async def test_the_plain_subject(quiet_net: Net, bus: Bus) -> None:
    """On the plain subject only assigned tasks of external queues are completed; every other is a dead letter."""
    async with running(quiet_net, bus):
        for data in PLAIN.values():
            await bus.store(subjects.TASK_COMPLETE, data)
        await given_up(bus, len(PLAIN))
        before = await state(bus)
        await bus.store(subjects.TASK_COMPLETE, says("pulled", service_id=NAME, agent_id="one"))
        await bus.store(subjects.TASK_COMPLETE, says("pushed", agent_id="pushy"))

        async def both() -> bool:
            found = await state(bus)
            return {found.tasks[name].status for name in ("pulled", "pushed")} == {TaskStatus.COMPLETED}

        await eventually(both, "those of external agents count")

    assert {item.status for item in before.tasks.values()} == {TaskStatus.ASSIGNED, TaskStatus.WAITING_APPROVAL}
    assert before.status is not Status.FAILED


async def test_a_started_task_has_one_agent(quiet_net: Net, bus: Bus) -> None:
    """Once an external agent has reported that it works on it, no other one completes that task."""
    async with running(quiet_net, bus):
        await bus.store(subjects.TASK_COMPLETE, says("pulled", service_id=NAME, agent_id="one", status="running"))

        async def begun() -> bool:
            return (await state(bus)).tasks["pulled"].agent == "one"

        await eventually(begun, "it is begun")
        await bus.store(subjects.TASK_COMPLETE, says("pulled", service_id=NAME, agent_id="mallory"))
        await given_up(bus, 1)
        before = await state(bus)
        await bus.store(subjects.TASK_COMPLETE, says("pulled", service_id=NAME, agent_id="one"))

        async def done() -> bool:
            return (await state(bus)).tasks["pulled"].status is TaskStatus.COMPLETED

        await eventually(done, "its own agent completes it")

    assert before.tasks["pulled"].status is TaskStatus.RUNNING


NAMED: dict[str, tuple[str, bytes]] = {
    "another task": ("ai.tasks.complete.a.w1.ours", says("look")),
    "another workflow": ("ai.tasks.complete.a.w1.ours", says("ours", workflow_id="w2")),
    "another agent": ("ai.tasks.complete.a.w1.ours", says("ours", agent_id="specialist-pve1")),
    "an external agent with a task of ours": (f"ai.tasks.complete.{NAME}.w1.ours", says("ours", service_id=QUEUE)),
    "an external agent with a look": (f"ai.tasks.complete.{NAME}.w1.looked", says("looked", service_id=NAME)),
    "an external agent with another's task": (f"ai.tasks.complete.{NAME}.w1.pushed", says("pushed")),
}


async def test_the_subject_of_an_agent(quiet_net: Net, bus: Bus) -> None:
    """A completion says what its subject says, and an external agent completes tasks of its own queue alone."""
    async with running(quiet_net, bus):
        for subject, data in NAMED.values():
            await bus.store(subject, data)
        await given_up(bus, len(NAMED))
        before = await state(bus)
        await bus.store(subjects.complete("specialist-pve1", "w1", "ours"), says("ours", service_id=QUEUE))
        await bus.store(subjects.complete(NAME, "w1", "pulled"), TaskCompletion("w1.pulled", DONE, "w1", 1))

        async def both() -> bool:
            found = await state(bus)
            return {found.tasks[name].status for name in ("ours", "pulled")} == {TaskStatus.COMPLETED}

        await eventually(both, "the right ones count")
        after = await state(bus)

    assert {item.status for item in before.tasks.values()} == {TaskStatus.ASSIGNED, TaskStatus.WAITING_APPROVAL}
    assert after.tasks["ours"].agent == "specialist-pve1"


async def test_a_first_attempt_has_no_number(quiet_net: Net, bus: Bus) -> None:
    """The assignment of a first attempt has no `attempt`, so a completion on the agent's own subject needs none."""
    async with running(quiet_net, bus):
        (assigned,) = await bus.every(subjects.WORKFLOWS, f"ai.tasks.assign.{NAME}.w1.pulled.1")
        echoed = {key: value for key, value in json.loads(assigned.data).items() if key in {"task_id", "attempt"}}
        await bus.store(subjects.complete(NAME, "w1", "pulled"), encode(echoed | {"status": "completed"}))

        async def done() -> bool:
            return (await state(bus)).tasks["pulled"].status is TaskStatus.COMPLETED

        await eventually(done, "it is completed")

    assert "attempt" not in echoed
