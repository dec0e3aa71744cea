"""Replies are published to inboxes only: a client cannot choose another subject."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.announcements import ControlReply
from agentd.wire.codec import encode
from agentd.wire.messages import ToolReply, WorkflowRequest, WorkflowSignal
from agentd.wire.names import is_inbox
from agentd.wire.workflow import Workflow
from core.jetstream import connected
from fake_agent import Agent, orchestrators, task
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from harness import NatsServer, Net

INBOXES = ["_INBOX.xyz", "_INBOX.tester.abc.1", "_INBOX.n-1_x.$SRV", "_INBOX.a" + ".b" * 100]
OTHERS = [
    "",
    "_INBOX",
    "_INBOX.",
    "_INBOX..x",
    "_INBOX.x.",
    "_INBOX.x.*",
    "_INBOX.>",
    "_INBOX.x y",
    "_INBOX.x\r\nPUB ai.audit.a 0",
    "_INBOX.x\x00",
    "_INBOX.ä",
    "_INBOX_tester.x",
    "_inbox.x",
    "X_INBOX.x",
    "_INBOX." + "x" * 600,
    "ai.workflows.event.w1",
    "ai.audit.a",
    "ai.effects.probe.w.t",
    "ai.tasks.complete.a.w.t",
    "ai.workflows.signal.boss.w1",
    "$KV.budget.x",
    "$JS.API.STREAM.DELETE.AI_AUDIT",
    "$JS.ACK.AI_WORKFLOWS.orch-due.1.1.1.1.0",
    "$SRV.PING",
]


@pytest.mark.parametrize("subject", INBOXES)
def test_an_inbox(subject: str) -> None:
    """An inbox is `_INBOX.` with at least one token, as any NATS client makes it."""
    assert is_inbox(subject)
    assert is_inbox(subject, "tester", {"tester", "boss"})


@pytest.mark.parametrize("subject", OTHERS)
def test_no_inbox(subject: str) -> None:
    """Every other subject, a wildcard and what is no subject at all are refused."""
    assert not is_inbox(subject)


def test_the_inbox_of_another_principal() -> None:
    """What one principal asked is not answered to the named inbox of another one."""
    assert not is_inbox("_INBOX.boss.abc.1", "tester", {"tester", "boss"})
    assert is_inbox("_INBOX.boss.abc.1", "boss", {"tester", "boss"})


async def test_answers_of_a_service(bus: Bus, nats_server: NatsServer) -> None:
    """An endpoint, a plain subscription and the service's own `$SRV` verbs answer inboxes and nothing else."""
    seen: list[str] = []

    async def answers(received: Received) -> None:
        seen.append(received.subject)
        await received.respond(ToolReply("completed"))

    async def fails(received: Received) -> None:
        seen.append(received.subject)
        await asyncio.sleep(0)
        raise ValueError("it failed")

    async with connected(nats_server.url) as daemon:
        await daemon.serve("probe", version="1.0.0", description="x", endpoints={"ask.good": answers, "ask.bad": fails})
        await daemon.subscribe("ask.plain", answers)
        await daemon.ask("$JS.API.INFO", b"")  # the server has the subscriptions
        for subject in ("ask.good", "ask.bad", "ask.plain", "$SRV.PING", "$SRV.INFO.probe", "$SRV.STATS"):
            for reply in ("ai.audit.a", "ai.workflows.event.w1", "ai.effects.probe.w.t", "$KV.budget.x"):
                bus.send(subject, b"{}", reply)
        good = await bus.request("ask.good", b"{}", ToolReply)
        plain = await bus.request("ask.plain", b"{}", ToolReply)
        ping = await bus.ask("$SRV.PING", b"")
        refused = daemon.counters["refused_replies"]

    assert (good.status, plain.status) == ("completed", "completed")
    assert b'"probe"' in ping.data
    assert len(seen) == 14
    assert refused == 24
    for stream in (subjects.AUDIT, subjects.WORKFLOWS, subjects.EFFECTS, f"KV_{subjects.BUDGET}"):
        assert await bus.every(stream, ">") == []


async def test_a_message_written_into_the_inbox_of_a_pull(bus: Bus, nats_server: NatsServer) -> None:
    """A message that another client sends to the inbox of a pull is not acknowledged to its reply subject."""
    async with connected(nats_server.url) as daemon:
        seen_messages: list[Any] = []

        async def on_message(message: Any) -> None:
            seen_messages.append(message)

        pull = await daemon.pull("x", on_message)
        await daemon.ask("$JS.API.INFO", b"")  # the server has the subscription
        for reply in ("ai.audit.a", "_INBOX.x", "$JS.API.STREAM.DELETE.AI_AUDIT"):
            bus.send(pull.inbox, b"{}", reply)

        async def three() -> bool:
            return len(seen_messages) == 3

        await eventually(three, "all have come")

    assert [message.reply for message in seen_messages] == ["", "", ""]


async def test_a_signal_that_names_where_to_write(quiet_net: Net, bus: Bus) -> None:
    """A signal's answer never replaces the state of a workflow nor ends an audit chain; the signal is carried out."""
    quiet_net.settings["policy"] = {"principals": {"boss": "operate", "tester": "operate"}}
    agent = Agent(bus)
    agent.hold.add("a")
    boss: list[Received] = []

    async def on_boss(received: Received) -> None:
        boss.append(received)

    await bus.subscribe("_INBOX.boss.secret", on_boss)
    async with orchestrators(quiet_net, lambda _: [task("a")]) as (daemon,), agent.working():
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
        await eventually(lambda: _state(bus), "w1 is there")
        for reply in ("ai.workflows.event.w1", "ai.audit.specialist-pve1", "_INBOX.boss.secret", "_INBOX.>", "x y"):
            await bus.store(subjects.signal("tester", "w1"), encode(WorkflowSignal("pause", reply=reply)))
        output = await requests.signal(bus, "tester", "w1", WorkflowSignal("resume"))
        await requests.signal(bus, "boss", "w1", WorkflowSignal("cancel"))
        answer = await queries.follow(bus, "w1", lambda _: None, wait=45)
        refused = daemon.bus.counters["refused_replies"]
        metrics = (await daemon.metrics.render()).decode()

    assert output.done
    assert answer.status == "cancelled"
    assert refused == 5
    assert "agentd_bus_refused_replies_total" in metrics
    assert await bus.every(subjects.AUDIT, ">") == []
    assert boss == []


async def _state(bus: Bus) -> Workflow | None:
    stored = await bus.last(subjects.WORKFLOWS, subjects.event("w1"))
    return None if stored is None else stored.decode(Workflow)


async def test_control_and_discovery(quiet_net: Net, bus: Bus) -> None:
    """The control subject answers inboxes only; discovery is answered on the registration subjects, as ever."""
    async with orchestrators(quiet_net, lambda _: [task("a")]) as (daemon,):
        agent = daemon.agent_id
        await eventually(lambda: queries.presences(bus), "it is announced")
        for subject in (subjects.control(agent), subjects.AGENT_DISCOVERY, subjects.SERVICE_DISCOVERY):
            bus.send(subject, b'{"action":"nothing"}', f"ai.audit.{agent}")
        reply = await bus.request(subjects.control(agent), b'{"action":"nothing"}', ControlReply)

    assert not reply.done
    assert await bus.every(subjects.AUDIT, ">") == []
