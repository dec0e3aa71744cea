"""A reading principal uses no consumer: with exactly its rights it lists, submits and calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd.bus.jetstream import PAGE
from agentd.bus.setup import permissions
from agentd.bus.setup.provision import provision
from agentd.bus.stream_reader import SIZE, scan
from agentd.client import queries, requests
from agentd.errors import Denied
from agentd.safety.policy import Policy
from agentd.wire import subjects
from agentd.wire.messages import Tier, ToolCall, ToolReply, WorkflowRequest, WorkflowSignal
from core.jetstream import connected
from core.probe import SERVICE, Probe, a_worker, serving
from fake_agent import Agent, orchestrators, task
from harness import NatsServer, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from harness import Net


def rights(name: str) -> str:
    """Return a user with exactly the rights of a principal."""
    user = permissions.principal(name)
    listed = [", ".join(f'"{pattern}"' for pattern in given) for given in (user.publish, user.subscribe)]
    return (
        f'{{user: {name}, password: "p", permissions: {{publish: {{allow: [{listed[0]}]}}, '
        f"subscribe: {{allow: [{listed[1]}]}}}}}}"
    )


@pytest.fixture
def nats_server(tmp_path: Path) -> Any:
    """Run a server with the principal alice, and an administrator that the daemons of the test are too."""
    users = f'authorization {{ users: [ {{user: root, password: "p"}}, {rights("alice")} ] }}'
    (tmp_path / "password").write_text("p")
    with NatsServer(tmp_path, extra=users) as server:
        yield server


@pytest.fixture
def quiet_net(quiet_net: Net, tmp_path: Path) -> Net:
    """Let daemons log in."""
    quiet_net.settings["bus"] |= {"user": "root", "password_file": str(tmp_path / "password")}
    return quiet_net


async def test_a_principal_with_exactly_its_rights(quiet_net: Net, bus: Bus, nats_server: NatsServer) -> None:
    """It lists agents and workflows, submits, watches, controls and calls; nothing needs a consumer."""
    policy = Policy(principals={"alice": Tier.OPERATE})
    await provision(bus, [SERVICE])
    probe, agent, password = Probe(), Agent(bus), str(quiet_net.directory / "password")
    agent.hold.add("a")
    async with (
        connected(nats_server.url, agent="alice", user="alice", password_file=password) as alice,
        orchestrators(quiet_net, lambda _: [task("a")]),
        agent.working(),
        serving(a_worker(bus, probe, policy=policy)),
    ):
        await requests.submit(alice, "alice", WorkflowRequest("test", "w1"))
        await eventually(lambda: queries.states(alice), "w1 is listed")
        agents = await queries.agents(alice)
        reply = await requests.signal(alice, "alice", "w1", WorkflowSignal("pause"))
        await requests.signal(alice, "alice", "w1", WorkflowSignal("resume"))
        agent.release.set()
        answer = await queries.follow(alice, "w1", lambda _: None, wait=30)
        subject = subjects.tool_call("alice", SERVICE, "marked")
        called = await alice.request(subject, ToolCall({}, "c.one"), ToolReply, wait=10)
        for denied in (subjects.tool_call("bob", SERVICE, "marked"), subjects.tool_step("a", SERVICE, "marked")):
            with pytest.raises(Denied):
                await alice.request(denied, ToolCall({}, "c.two", "bob"), ToolReply, wait=5)
        for stream in (subjects.REQUESTS, subjects.INPUT):
            with pytest.raises(Denied):
                await alice.last(stream, ">")
        with pytest.raises(Denied):
            await alice.durables(subjects.WORKFLOWS)
        audited = await alice.every(subjects.AUDIT, ">")  # by single reads: principals may make no direct gets
        consumers = [await bus.durables(stream) for stream in (subjects.WORKFLOWS, f"KV_{subjects.LIVE}")]

    assert [item.agent_id for item in agents] == ["orchestrator0-pve1"]
    assert reply.done
    assert (answer.status, called.status) == ("completed", "completed")
    assert consumers[1] == set()
    assert len(audited) == len(await bus.every(subjects.AUDIT, ">")) > 0
    assert probe.acts == 1


async def test_more_than_a_page(bus: Bus) -> None:
    """Lists are whole, in order and with the last of each subject, however many pages they take."""
    subjects_ = [subjects.audit(f"a{number}") for number in range(2 * PAGE + 100)]
    for _ in range(2):
        await asyncio.gather(*(bus.store(subject, subject.encode()) for subject in subjects_))
    every = await bus.every(subjects.AUDIT, "ai.audit.*")
    last = await bus.last_many(subjects.AUDIT, "ai.audit.*")
    scanned = [stored async for stored in scan(bus, subjects.AUDIT, "ai.audit.*", headers_only=True)]
    one = await bus.every(subjects.AUDIT, "ai.audit.a7")

    assert len(subjects_) > PAGE
    assert [stored.seq for stored in every] == list(range(1, 2 * len(subjects_) + 1))
    assert [stored.seq for stored in last] == sorted(stored.seq for stored in last)
    assert {stored.subject for stored in last} == set(subjects_)
    assert min(stored.seq for stored in last) == len(subjects_) + 1
    assert all(stored.data == stored.subject.encode() for stored in last)
    assert [(stored.data, int(stored.headers[SIZE])) for stored in scanned] == [
        (b"", len(stored.data)) for stored in every
    ]
    assert [stored.subject for stored in one] == ["ai.audit.a7"] * 2
    assert await bus.every(subjects.AUDIT, "ai.audit.none") == await bus.last_many(subjects.AUDIT, "x") == []


async def test_headers_of_a_message_are_its_own(bus: Bus) -> None:
    """Headers that a sender puts on a message do not change where it was stored."""
    await bus.store(subjects.audit("a"), b"x", headers={"Nats-Subject": "ai.audit.b", "Nats-Sequence": "9", "X": "y"})
    (found,) = await bus.every(subjects.AUDIT, ">")
    (last,) = await bus.last_many(subjects.AUDIT, ">")

    assert (found.subject, found.seq, found.headers["X"]) == ("ai.audit.a", 1, "y")
    assert (last.subject, last.seq) == ("ai.audit.a", 1)
