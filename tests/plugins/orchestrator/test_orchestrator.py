"""What workflows can be, over a real JetStream with orchestrators of its own: children, approvals, pauses, retries."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from agentd.client import queries, requests
from agentd.errors import TemporaryError, UsageError
from agentd.wire import subjects
from agentd.wire.announcements import CriticalError
from agentd.wire.messages import (
    TaskAssignment,
    TaskCompletion,
    TaskError,
    Tier,
    WorkflowRequest,
    WorkflowResponse,
    WorkflowSignal,
)
from agentd.wire.workflow import Compensation, Status, TaskSpec, Workflow, result_of, template
from fake_agent import QUEUE, Agent, Nothing, ask, begin, completion, orchestrators, task
from harness import eventually
from plugins.flow import fold

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from harness import Net


async def until(bus: Bus, status: Status, name: str = "w1") -> Workflow:
    """Wait until a workflow has this status."""

    async def stands() -> Workflow | None:
        state = await queries.state(bus, name)
        return state if state is not None and state.status is status else None

    return await eventually(stands, f"{name} is {status}", 45)


async def follow(bus: Bus, name: str = "w1") -> WorkflowResponse:
    """Wait for the end of a workflow."""
    return await queries.follow(bus, name, lambda _: None, wait=45)


async def test_an_approval_by_another_principal(quiet_net: Net, bus: Bus) -> None:
    """The requester cannot approve, another principal can, and gets the result."""
    agent = Agent(bus)
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a", approval="Go on?")], 2), agent.working():
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
        await until(bus, Status.WAITING_APPROVAL)
        own = await requests.send_decision(bus, "tester", "w1", "", WorkflowSignal("approve"))
        with pytest.raises(UsageError, match="w1: a does not wait for an approval; what waits: b"):
            await requests.send_decision(bus, "boss", "w1", "a", WorkflowSignal("approve"))
        reply = await requests.send_decision(bus, "boss", "w1", "", WorkflowSignal("approve", "fine"))
        answer = await follow(bus)
        with pytest.raises(UsageError, match="workflow 'w1' has ended: completed"):
            await requests.signal(bus, "boss", "w1", WorkflowSignal("pause"))

    assert (own.done, own.message) == (False, "tester requested w1: another principal has to approve b")
    assert reply.done
    assert answer.status == "completed"


async def test_an_approval_outlives_every_process(quiet_net: Net, bus: Bus) -> None:
    """While no orchestrator runs a signal is stored; the next one carries it out."""
    plan = [task("a", approval="Go on?")]
    async with orchestrators(quiet_net, lambda _: plan):
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
        waiting = await until(bus, Status.WAITING_APPROVAL)
    approval = waiting.tasks["a"].approval
    assert approval is not None
    wanted = WorkflowSignal("approve", task="a", digest=approval.digest)
    await bus.store(subjects.signal("boss", "w1"), wanted)
    agent = Agent(bus)
    async with orchestrators(quiet_net, lambda _: plan), agent.working():
        answer = await follow(bus)

    assert answer.status == "completed"
    assert len(agent.given) == 1


async def test_a_signal_without_an_answer(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an orchestrator the client says that the signal is stored."""
    monkeypatch.setattr(requests, "ANSWERED", 0.3)
    state = fold(None, [begin(task("a"))], datetime.now(UTC))
    await bus.store(subjects.event("w1"), state, expect=0)

    with pytest.raises(TemporaryError, match="no orchestrator has answered within 0 s; pause is stored"):
        await requests.signal(bus, "boss", "w1", WorkflowSignal("pause"))


async def test_pause_and_resume(quiet_net: Net, bus: Bus) -> None:
    """A paused workflow finishes what runs and begins nothing until it is resumed."""
    agent = Agent(bus)
    agent.hold = {"a"}
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a")], 2), agent.working():
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))

        async def given() -> bool:
            return bool(agent.given)

        await eventually(given, "a is given")
        paused = await requests.signal(bus, "boss", "w1", WorkflowSignal("pause"))
        agent.release.set()

        async def a_done() -> bool:
            state = await queries.state(bus, "w1")
            return state is not None and state.tasks["a"].status == "completed"

        await eventually(a_done, "a is done")
        names = [assignment.task_id for assignment in agent.given]
        await requests.signal(bus, "boss", "w1", WorkflowSignal("resume"))
        answer = await follow(bus)

    assert paused.done
    assert names == ["w1.a"]
    assert answer.status == "completed"


def family(_: Nothing) -> list[TaskSpec]:
    """Return a plan with a workflow of its own for each of two names, and what takes their results."""
    child = TaskSpec(
        "each",
        "",
        subjects.ORCHESTRATOR,
        Tier.READ,
        workflow="child",
        for_each=["x", "y"],
        parameters={"n": template("{{ item }}")},
    )
    return [child, task("end", "each", parameters={"all": result_of("each")})]


async def test_a_workflow_of_workflows(quiet_net: Net, bus: Bus) -> None:
    """Children are started once each by any orchestrator, and report their end to their parent."""
    agent = Agent(bus)
    children = {"child": lambda p: [task("one", parameters={"n": p.n})]}
    async with orchestrators(quiet_net, family, 3, children), agent.working():
        answer = await ask(bus)
    end = next(assignment for assignment in agent.given if assignment.task_id == "w1.end")

    assert answer.status == "completed", answer
    assert sorted(assignment.task_id for assignment in agent.given) == ["w1--each-0.one", "w1--each-1.one", "w1.end"]
    assert [item["workflow_id"] for item in end.parameters["all"]] == ["w1--each-0", "w1--each-1"]


async def test_a_child_ends_with_its_parent(quiet_net: Net, bus: Bus) -> None:
    """Cancelling a workflow cancels those that it has started; nothing goes on behind its back."""
    agent = Agent(bus)
    agent.hold = {"one"}
    plan = [TaskSpec("c", "", subjects.ORCHESTRATOR, Tier.READ, workflow="child", parameters={"n": "x"})]
    changing = structs.replace(task("one"), tier=Tier.OPERATE)
    children = {"child": lambda _: [changing, task("two", "one")]}
    quiet_net.settings["policy"] = {"principals": {"tester": "operate"}}  # orchestrators themselves may but read
    async with orchestrators(quiet_net, lambda _: plan, 2, children), agent.working():
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
        await until(bus, Status.RUNNING, "w1--c")
        await requests.signal(bus, "tester", "w1", WorkflowSignal("cancel"))
        await until(bus, Status.CANCELLING, "w1--c")
        agent.release.set()
        answer = await follow(bus)
        child = await queries.state(bus, "w1--c")

    assert answer.status == "cancelled"
    assert child is not None
    assert child.status is Status.CANCELLED


@pytest.mark.parametrize(
    ("workflow", "text"),
    [("ghost", "task c: there is no workflow 'ghost'"), ("test", "more than 5 workflows have started one another")],
)
async def test_a_child_that_cannot_be(quiet_net: Net, bus: Bus, workflow: str, text: str) -> None:
    """An unknown kind is refused at once; workflows that start one another for ever are stopped."""
    plan = [TaskSpec("c", "", subjects.ORCHESTRATOR, Tier.READ, workflow=workflow)]
    async with orchestrators(quiet_net, lambda _: plan):
        answer = await ask(bus)

    assert answer.status in {"rejected", "failed"}
    assert text in answer.error


async def test_a_queue_that_does_not_exist(quiet_net: Net, bus: Bus) -> None:
    """A task that no agent could ever get is refused, with what to do."""
    plan = [TaskSpec("a", "a", "specialist+disk-pve1", Tier.READ)]
    async with orchestrators(quiet_net, lambda _: plan):
        answer = await ask(bus)

    assert (answer.status, answer.error) == (
        "rejected",
        "task a: there is no queue 'specialist+disk-pve1'; name it under [[bus.queues]] and run `agentd provision`",
    )


async def test_a_retry_continues_a_failed_workflow(quiet_net: Net, bus: Bus) -> None:
    """A retry is a workflow of its own that begins where the other one ended."""
    broken = [True]

    def how(given: TaskAssignment) -> TaskCompletion:
        bad = given.task_id.endswith(".b") and broken[0]
        return completion(given, TaskError("broken", "no disk") if bad else None)

    agent = Agent(bus, how)
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a")]), agent.working():
        first = await ask(bus)
        broken[0] = False
        again = WorkflowRequest("", "w2", retry_of="w1")
        await requests.submit(bus, "tester", again)
        second = await queries.follow(bus, "w2", lambda _: None, wait=45, requested=("tester", again))
        await requests.submit(bus, "tester", WorkflowRequest("", "w3", retry_of="w2"))
        third = await follow(bus, "w3")
        await requests.submit(bus, "tester", WorkflowRequest("", "w4", retry_of="ghost"))
        fourth = await follow(bus, "w4")

    assert (first.status, second.status) == ("failed", "completed")
    assert [assignment.task_id for assignment in agent.given] == ["w1.a", "w1.b", "w2.b"]
    assert (third.status, third.error) == (
        "rejected",
        "retry_of: w2 is completed: there is nothing to continue; request it again",
    )
    assert fourth.error == "retry_of: there is no workflow 'ghost'"


async def test_a_failed_undo_is_a_critical_error(quiet_net: Net, bus: Bus) -> None:
    """It is reported by a critical error, and the answer names what is left."""
    seen_messages: asyncio.Queue[CriticalError] = asyncio.Queue()

    async def on_error(received: Received) -> None:
        seen_messages.put_nowait(received.decode(CriticalError))

    await bus.subscribe(subjects.critical_error("orchestrator"), on_error)
    undo = Compensation("undo", QUEUE, Tier.READ, retries=0)
    plan = [task("a", compensation=undo), task("b", "a")]
    bad = {"w1.b", "w1.undo-a"}
    agent = Agent(bus, lambda given: completion(given, TaskError("x", "no") if given.task_id in bad else None))
    async with orchestrators(quiet_net, lambda _: plan), agent.working():
        answer = await ask(bus)
        async with asyncio.timeout(10):
            reported = await seen_messages.get()

    assert answer.status == "compensation_failed"
    assert reported.error == "w1: compensation_failed: b: no"


async def test_an_urgent_workflow_does_not_wait(quiet_net: Net, bus: Bus) -> None:
    """The tasks of an urgent workflow lie in a lane of their own."""
    async with orchestrators(quiet_net, lambda _: [task("a")]):
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1", priority=9))

        async def assigned() -> list[Any]:
            return await bus.every(subjects.WORKFLOWS, "ai.tasks.assign.>")

        found = await eventually(assigned, "it is assigned")
        await requests.submit(bus, "tester", WorkflowRequest("test", "w2", priority=11))
        wrong = await follow(bus, "w2")

    assert [item.subject for item in found] == [subjects.assign(subjects.urgent(QUEUE), "w1", "a", 1)]
    assert (wrong.status, wrong.error) == ("rejected", "priority: 11 is not 1 to 10")
