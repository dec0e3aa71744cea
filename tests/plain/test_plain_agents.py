"""Plain agents: any client of NATS that uses the seed's messages works, in any language, and can break nothing.

`agent.mjs` is the whole of one, on the npm NATS client; the others are core NATS publishes by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.bus.setup import provision
from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.announcements import Heartbeat
from agentd.wire.codec import encode, now
from agentd.wire.messages import TaskAssignment, Tier, WorkflowRequest
from agentd.wire.workflow import Definition, TaskSpec, result_of
from agentd_orchestrator.external_agents import KNOWN
from harness import Net, eventually
from plain.node import NotInstalled, PlainAgent, installed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.wire.messages import WorkflowResponse
    from harness import NatsServer

NAME = "words"


class Text(msgspec.Struct, frozen=True):
    """What is counted."""

    text: str = "one"


def counting(**more: Any) -> TaskSpec:
    """Return the task of the plain agent."""
    return TaskSpec("count", "count_words", NAME, Tier.READ, **{"timeout": 60.0} | more)


def plan(requested: Text) -> list[TaskSpec]:
    """Return a task for the plain agent and one of ours that uses its result."""
    listed = {"limit": result_of("count", "words")}
    return [
        counting(parameters={"text": requested.text}),
        TaskSpec("list", "list_guests", "mcp-proxmox", Tier.READ, parameters=listed, after=["count"]),
    ]


@pytest.fixture(scope="session")
def node() -> Path:
    """Return where Node.js and the npm NATS client lie."""
    try:
        return installed()
    except NotInstalled as error:
        pytest.skip(f"no Node.js with the npm NATS client: {error}")


@pytest.fixture
def quiet_net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return the configuration of a network without Proxmox."""
    return Net(tmp_path, nats_server.url)


@contextlib.asynccontextmanager
async def prepared(net: Net, how: str = "pull", policy: str = "") -> AsyncIterator[Bus]:
    """Yield a connection to a network that has a queue for the plain agent, and no daemon yet."""
    part = net.directory / "conf.d" / "plain.toml"
    part.parent.mkdir(exist_ok=True)
    part.write_text(f'[[bus.queues]]\nname = "{NAME}"\nin_flight = 4\nexternal = "{how}"\n{policy}')
    net.settings["instances"]["orchestrator"] = {"roles": ["orchestrator"]}
    async with net.client() as bus:
        queues = (await asyncio.to_thread(net.config)).bus.queues
        await provision.provision(bus, queues=queues)
        assert await provision.provision(bus, queues=queues) == []
        yield bus


@contextlib.asynccontextmanager
async def daemons(net: Net, tasks: Any, name: str = "orchestrator") -> AsyncIterator[None]:
    """Run an instance that knows the workflow `text`."""
    async with net.here(name) as daemon:
        daemon.workflows["text"] = Definition("text", "Count words.", Text, tasks)
        yield


async def submitted(bus: Bus, name: str, wait: float = 60) -> WorkflowResponse:
    """Ask for the workflow and wait for its end."""
    await requests.submit(bus, "tester", WorkflowRequest("text", name, timeout=60.0))
    return await queries.follow(bus, name, lambda _: None, wait=wait)


async def listed(bus: Bus) -> set[str]:
    """Return the ids of the agents that are listed."""
    return {agent.agent_id for agent in await queries.agents(bus)}


async def until_listed(bus: Bus, *, here: bool = True) -> None:
    """Wait until the plain agent is listed, or no longer."""

    async def so() -> bool:
        return (NAME in await listed(bus)) is here

    await eventually(so, f"the plain agent is listed: {here}")


async def asking(bus: Bus) -> bool:
    """Return whether the plain agent has asked for a task."""
    return bool((await bus.api(f"CONSUMER.INFO.{subjects.WORKFLOWS}.{NAME}"))["num_waiting"])


async def held(bus: Bus) -> bool:
    """Return whether the plain agent holds a task that it has not acknowledged."""
    return bool((await bus.api(f"CONSUMER.INFO.{subjects.WORKFLOWS}.{NAME}"))["num_ack_pending"])


# -- at work ----------------------------------------------------------------------------------------------------------


async def test_a_node_agent_joins_works_and_leaves(net: Net, node: Path) -> None:
    """An agent of forty lines of JavaScript is seen, does its task, hands the result to one of ours, and goes."""
    async with prepared(net) as bus:
        with PlainAgent(node, net.directory, net.nats_url, NAME) as agent:
            async with daemons(net, plan, "all"):
                await until_listed(bus)
                answer = await submitted(bus, "first")
                offered = {service.service_id: service.tools for service in await queries.services(bus)}
                code = await asyncio.to_thread(agent.stop)
                await until_listed(bus, here=False)

    assert code == 0, agent.log.read_text()
    assert answer.status == "completed", answer
    assert answer.result["tasks"]["count"]["result"] == {"words": 1}
    assert len(answer.result["tasks"]["list"]["result"]["guests"]) == 1
    assert offered[NAME] == ["count_words"]


async def test_a_node_agent_is_killed_with_its_task(quiet_net: Net, node: Path) -> None:
    """An agent that is killed with a task in its hands delays no others: the deadline passes and another does it."""

    def tasks(requested: Text) -> list[TaskSpec]:
        return [counting(parameters={"text": requested.text}, timeout=3.0, backoff=0.1)]

    async with prepared(quiet_net) as bus, daemons(quiet_net, tasks):
        with PlainAgent(node, quiet_net.directory, quiet_net.nats_url, NAME) as agent:
            await eventually(lambda: asking(bus), "the agent asks for work")
            agent.freeze()  # it has asked for work, and what it is given now it will not do
            await requests.submit(bus, "tester", WorkflowRequest("text", "first", timeout=60.0))
            await eventually(lambda: held(bus), "the frozen agent was given the task")
            agent.kill()
            with agent:
                answer = await queries.follow(bus, "first", lambda _: None, wait=60)
        state = await queries.state(bus, "first")

    assert answer.status == "completed", answer
    assert state is not None
    assert state.tasks["count"].attempt == 2


async def test_a_task_that_a_node_agent_did_not_acknowledge(quiet_net: Net, node: Path) -> None:
    """What an agent took and did not acknowledge is delivered to the next one, in the same attempt."""

    def tasks(requested: Text) -> list[TaskSpec]:
        return [counting(parameters={"text": requested.text})]

    async with prepared(quiet_net) as bus, daemons(quiet_net, tasks):
        config = (await bus.api(f"CONSUMER.INFO.{subjects.WORKFLOWS}.{NAME}"))["config"]
        sooner = {"stream_name": subjects.WORKFLOWS, "config": config | {"ack_wait": 2_000_000_000}}
        await bus.api(f"CONSUMER.DURABLE.CREATE.{subjects.WORKFLOWS}.{NAME}", sooner)
        with PlainAgent(node, quiet_net.directory, quiet_net.nats_url, NAME) as agent:
            await eventually(lambda: asking(bus), "the agent asks for work")
            agent.freeze()
            await requests.submit(bus, "tester", WorkflowRequest("text", "first"))
            await eventually(lambda: held(bus), "the frozen agent was given the task")
            agent.kill()
            with agent:
                answer = await queries.follow(bus, "first", lambda _: None, wait=60)
        state = await queries.state(bus, "first")

    assert answer.status == "completed", answer
    assert state is not None
    assert state.tasks["count"].attempt == 1


async def test_core_nats_is_enough(quiet_net: Net) -> None:
    """A client without JetStream is pushed even the task that came before it did, and completes it as the seed says."""
    async with prepared(quiet_net, "push") as bus, daemons(quiet_net, lambda _: [counting()]):
        await requests.submit(bus, "tester", WorkflowRequest("text", "first"))

        async def assigned() -> bool:
            return await queries.state(bus, "first") is not None

        await eventually(assigned, "it is assigned while no agent listens")
        given: list[TaskAssignment] = []

        async def work(received: Received) -> None:
            given.append(received.decode(TaskAssignment))
            done = {"task_id": given[-1].task_id, "status": "completed", "result": 3, "agent_id": NAME}
            await bus.publish(subjects.TASK_COMPLETE, done | {"timestamp": "2026-11-23T01:00:00Z"})

        listening = await bus.subscribe(subjects.assign_plain(NAME), work)
        answer = await queries.follow(bus, "first", lambda _: None, wait=60)
        await listening.stop()

    assert answer.status == "completed", answer
    assert [assignment.attempt for assignment in given] == [1]


async def test_only_reads(quiet_net: Net) -> None:
    """A plan that gives a plain agent more than reads is refused, with how it is allowed; then it is carried out."""

    def tasks(_: Text) -> list[TaskSpec]:
        return [TaskSpec("count", "count_words", NAME, Tier.OPERATE)]

    async with prepared(quiet_net) as bus:
        async with daemons(quiet_net, tasks):
            refused = await submitted(bus, "first")
        trusting = f'\n[policy.external_agents]\n{NAME} = "operate"\n'
        async with prepared(quiet_net, policy=trusting), daemons(quiet_net, tasks):
            await requests.submit(bus, "tester", WorkflowRequest("text", "second"))

            async def assigned() -> bool:
                return await queries.state(bus, "second") is not None

            await eventually(assigned, "it is assigned")
            done = {"task_id": "second.count", "status": "completed", "service_id": NAME}
            await bus.store(subjects.TASK_COMPLETE, encode(done))
            answer = await queries.follow(bus, "second", lambda _: None, wait=60)

    assert refused.status == "rejected"
    assert refused.error == (
        "task count: needs tier operate, and the plain agent words may be given read; "
        'if it can be trusted to do nothing twice: [policy.external_agents] words = "operate"'
    )
    assert answer.status == "completed", answer


# -- bad input --------------------------------------------------------------------------------------------------------

GOOD = {"task_id": "first.count", "status": "completed", "service_id": NAME, "result": 3}
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"done!", "TaskCompletion: JSON is malformed"),
    "no object": (["done"], "TaskCompletion: expected object, got array"),
    "no status": ({"task_id": "first.count"}, "missing required field status"),
    "unknown status": (GOOD | {"status": "done"}, "TaskCompletion.status: invalid enum value 'done'"),
    "attempt as text": (GOOD | {"attempt": "1"}, "TaskCompletion.attempt: expected int, got str"),
    "no task id": ({"status": "completed"}, "missing required field task_id"),
    "half a task id": (GOOD | {"task_id": "count"}, "TaskCompletion.task_id: 'count' is not <workflow>.<task>"),
    "wild task id": (GOOD | {"task_id": "*.count"}, "TaskCompletion.task_id: '*' is not an id"),
    "unknown workflow": (GOOD | {"task_id": "no.count"}, "TaskCompletion.task_id: there is no task 'no.count'"),
    "unknown task": (GOOD | {"task_id": "first.no"}, "TaskCompletion.task_id: there is no task 'first.no'"),
    "of another agent": (GOOD | {"service_id": "mine"}, "TaskCompletion.service_id: 'mine' was not given first.count"),
    "of no agent": (GOOD | {"service_id": ""}, "TaskCompletion.agent_id: '' was not given first.count"),
    "above its tier": (
        GOOD | {"task_id": "first.act", "service_id": "specialist"},
        "first.act is for the queue 'specialist'",
    ),
}


async def test_bad_completions(quiet_net: Net, capfd: pytest.CaptureFixture[str]) -> None:
    """What a plain agent completes wrongly is kept as a dead letter, logged with its field, and changes nothing."""

    def tasks(_: Text) -> list[TaskSpec]:
        return [counting(), TaskSpec("act", "act", "specialist", Tier.OPERATE)]

    async with prepared(quiet_net) as bus, daemons(quiet_net, tasks):
        await requests.submit(bus, "tester", WorkflowRequest("text", "first"))

        async def assigned() -> bool:
            return await queries.state(bus, "first") is not None

        await eventually(assigned, "it is assigned")
        for data, _ in BAD.values():
            await bus.store(subjects.TASK_COMPLETE, data if isinstance(data, bytes) else encode(data))

        async def dead() -> bool:
            return len(await bus.every(subjects.DEAD, "$JS.EVENT.ADVISORY.>")) == len(BAD)

        await eventually(dead, "dead letters")
        before = await queries.state(bus, "first")
        old = GOOD | {"attempt": 7}
        for data in (old, GOOD, GOOD):  # of no attempt that there was; the right one; the right one again
            await bus.store(subjects.TASK_COMPLETE, encode(data))

        async def counted() -> bool:
            state = await queries.state(bus, "first")
            return state is not None and state.tasks["count"].status == "completed"

        await eventually(counted, "the good one counts")
        state = await queries.state(bus, "first")
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    reasons = [item["reason"] for item in logged if item["event"] == "gave up a message"]

    assert before is not None
    assert {task.status for task in before.tasks.values()} == {"assigned"}
    assert state is not None
    assert [entry.what for entry in state.timeline].count("completed") == 1
    for name, (_, reply) in BAD.items():
        assert any(reply in reason for reason in reasons), (name, reasons)


async def test_nonsense_and_floods(quiet_net: Net, capfd: pytest.CaptureFixture[str]) -> None:
    """Registrations of nonsense, too many or in another's name harm neither the network, nor its list, nor its log."""
    async with prepared(quiet_net, "push") as bus, daemons(quiet_net, lambda _: [counting()]):

        async def up() -> bool:
            return "orchestrator-pve1" in await listed(bus)

        await eventually(up, "the orchestrator is listed")
        await bus.publish(subjects.AGENT_REGISTER, {"agent_id": "orchestrator-pve1", "status": "offline"})
        await bus.publish(subjects.AGENT_REGISTER, {"agent_id": "orchestrator-pve1", "capabilities": ["mine"]})
        for number in range(3000):
            await bus.publish(subjects.AGENT_REGISTER, {"agent_id": f"foreign{number}"})
            await bus.publish(subjects.AGENT_REGISTER, b"\xff nonsense")
            await bus.publish(subjects.SERVICE_REGISTER, {"service_id": "mcp-proxmox", "service_type": "mine"})
            await bus.publish(subjects.heartbeat("x"), Heartbeat("a.b.*", now()))

        async def work(received: Received) -> None:
            done = {"task_id": received.decode(TaskAssignment).task_id, "status": "completed", "agent_id": NAME}
            await bus.publish(subjects.TASK_COMPLETE, done)

        listening = await bus.subscribe(subjects.assign_plain(NAME), work)
        answer = await submitted(bus, "first")
        await listening.stop()

        async def full() -> bool:
            return len(await listed(bus)) >= KNOWN

        await eventually(full, "as many foreign agents are listed as the limit allows")
        agents = {agent.agent_id: agent for agent in await queries.agents(bus)}
        services = await queries.services(bus)
    lines = [line for line in capfd.readouterr().err.splitlines() if '"warning"' in line]

    assert answer.status == "completed", answer
    assert agents["orchestrator-pve1"].version
    assert agents["orchestrator-pve1"].capabilities != ["mine"]
    assert len(agents) <= KNOWN + 1
    assert services == []
    assert len(lines) < 20, lines[:20]
