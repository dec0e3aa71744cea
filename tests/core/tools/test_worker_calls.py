"""Calls between agents, and what is refused when the audit cannot be written."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.bus.delivery.journal import HELD, Journal
from agentd.bus.setup.provision import provision
from agentd.client import tool_calls
from agentd.client.tool_calls import call_tool
from agentd.errors import AgentdError, BusUnavailable, Denied, InvalidMessage, PermanentError, TaskFailed
from agentd.safety.policy import Policy
from agentd.tools import calls
from agentd.wire import subjects
from agentd.wire.messages import Outcome, Tier, ToolCall, ToolReply
from core.jetstream import Lines, all_acked, connected, make_consumer
from core.probe import SERVICE, Done, Probe, a_worker, assign, audit, completion, raising, record, serving
from core.running_consumer import Slow, put, running_consumer
from harness import NatsServer, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.delivery.consumer import Consumer
    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Call
    from agentd.tools.worker import Worker

KEY = "w.t.step"
EFFECT = "tester=w.t.step"


async def _call(bus: Bus, tool: str = "marked", *, seconds: float = 15.0, text: str = "", **more: Any) -> ToolReply:
    call = ToolCall(**{"parameters": {"text": text}, "key": KEY} | more)
    return await call_tool(bus, subjects.tool_call("tester", SERVICE, tool), call, seconds=seconds)


async def _ask(bus: Bus, tool: str, call: ToolCall) -> ToolReply:
    return await bus.request(subjects.tool_call("tester", SERVICE, tool), call, ToolReply, wait=5)


async def test_no_caller_may_use_the_key_of_an_undo(bus: Bus, probe: Probe) -> None:
    """The key of an undoing task lets a tool delete what the workflow made: only an orchestrator assigns it."""
    async with serving(a_worker(bus, probe)):
        with pytest.raises(Denied, match=r"undo-t.*: a part that begins with 'undo-' is an orchestrator's"):
            await _call(bus, key="w.undo-t")

    assert probe.steps == []


async def test_the_log_of_a_failed_task_reaches_the_caller(bus: Bus, probe: Probe) -> None:
    """What Proxmox wrote into the task's log is what says why."""
    probe.on_act = raising(TaskFailed("it failed", log=("no space left", "TASK ERROR")))
    async with serving(a_worker(bus, probe)):
        with pytest.raises(TaskFailed, match="it failed") as caught:
            await _call(bus)

    assert caught.value.log == ("no space left", "TASK ERROR")


# -- calls ------------------------------------------------------------------------------------------------------------


async def test_a_repeated_key_joins(bus: Bus, probe: Probe) -> None:
    """A call that is repeated while it runs, or after its end, is the same call: one act, one answer."""
    release = asyncio.Event()

    async def wait(_: Call) -> None:
        probe.at_work.set()
        await release.wait()

    probe.afterwards = wait
    async with serving(a_worker(bus, probe)):
        asked = [asyncio.create_task(_call(bus)) for _ in range(3)]
        await probe.at_work.wait()
        release.set()
        answers = await asyncio.gather(*asked)
        late = await _call(bus)

    assert (probe.checks, probe.acts) == (1, 1)
    assert {msgspec.json.encode(item) for item in [*answers, late]} == {msgspec.json.encode(late)}
    assert msgspec.convert(late.result, Done) == Done("UPID:tester=w.t.step:1")
    assert [item.phase for item in await audit(bus)] == ["before", "after"]


@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "after its end"])
async def test_a_key_of_another_call(bus: Bus, probe: Probe, running: bool) -> None:  # noqa: FBT001 - a case
    """A key that is another call's is refused, and the other call goes on."""
    release = asyncio.Event()
    if not running:
        release.set()

    async def wait(_: Call) -> None:
        probe.at_work.set()
        await release.wait()

    probe.afterwards = wait
    async with serving(a_worker(bus, probe)):
        first = asyncio.create_task(_call(bus, text="x"))
        await probe.at_work.wait()
        if not running:
            await first
        for tool, text in (("marked", "y"), ("probed", "y")):
            with pytest.raises(PermanentError, match="use another key"):
                await _call(bus, tool, text=text)
        release.set()
        answer = await first

    assert answer.result["text"] == "x"
    assert probe.acts == 1


async def test_a_long_call(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that takes long is answered with what it is doing, and with its result when it is asked again."""
    monkeypatch.setattr(calls, "CALL_WAIT", 0.2)
    release = asyncio.Event()

    async def wait(call: Call) -> None:
        call.progress("at work")
        await release.wait()
        call.warn("it took long")

    probe.afterwards = wait
    call = ToolCall({}, KEY)
    async with serving(a_worker(bus, probe)):
        early = await _ask(bus, "marked", call)
        waiting = asyncio.create_task(_call(bus))
        await asyncio.sleep(0.5)
        release.set()
        with pytest.raises(AgentdError):
            await waiting  # its parameters are others: `text` is named
        answer = await call_tool(bus, subjects.tool_call("tester", SERVICE, "marked"), call, seconds=10)

    assert (early.status, early.progress) == ("running", "at work")
    assert (answer.status, answer.warnings) == (Outcome.WARNINGS, ["it took long"])
    assert probe.acts == 1


async def test_a_call_waits_for_an_agent(bus: Bus, probe: Probe) -> None:
    """A call waits for an agent that offers the tool, as long as it has time."""
    waiting = asyncio.create_task(_call(bus))
    await asyncio.sleep(0.3)
    async with serving(a_worker(bus, probe)):
        answer = await waiting
    with pytest.raises(BusUnavailable, match="no answer on"):
        await _call(bus, seconds=0.5)

    assert answer.status == Outcome.COMPLETED


async def test_read_and_operate(bus: Bus, probe: Probe) -> None:
    """A read needs no key and leaves no record; what operates needs a key of the right form."""
    async with serving(a_worker(bus, probe)):
        read = await _call(bus, "read_it", text="x", key="")
        for key in ("", "w", "w.t.s.u", "w.*", "w.a b"):
            with pytest.raises(InvalidMessage, match="key"):
                await _call(bus, key=key)
        broken = await bus.request(subjects.tool_call("tester", SERVICE, "marked"), b"[", ToolReply, wait=5)

    assert read.result == {"upid": "", "text": "x"}
    assert broken.error is not None
    assert broken.error.code == "invalid"
    assert probe.steps == ["read"]
    assert await bus.last_many(subjects.EFFECTS, "ai.effects.>") == []


@pytest.mark.parametrize(("tool", "tier"), [("wipe", Tier.EXEC), ("shell", Tier.EXEC), ("marked", Tier.READ)])
async def test_policy(bus: Bus, probe: Probe, tool: str, tier: Tier) -> None:
    """The fence applies to calls as before assignments."""
    async with serving(a_worker(bus, probe, policy=Policy(default_tier=tier))):
        with pytest.raises(Denied):
            await _call(bus, tool)

    assert probe.steps == []


async def test_the_callee_is_killed(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to a killed agent is finished by the agent's next process at once, not after ack_wait."""
    monkeypatch.setattr(tool_calls, "CALL_WAIT", 0.3)
    probe.afterwards = probe.hang
    calling = asyncio.create_task(_call(bus))
    async with serving(a_worker(bus, probe)) as first:
        await probe.at_work.wait()
        for _, _, task in first.calls._running.values():  # noqa: SLF001 - as a kill would
            task.cancel()
    begun = time.monotonic()
    probe.afterwards = Probe().afterwards
    async with serving(a_worker(bus, probe)):
        answer = await calling

    assert time.monotonic() - begun < 10
    assert answer.status == Outcome.COMPLETED
    assert (probe.acts, (await record(bus, EFFECT)).epoch) == (1, 2)


async def test_another_agent_holds_it(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that comes to a second agent while the first is at it waits for the first one's end."""
    monkeypatch.setattr(calls, "CALL_WAIT", 0.2)
    release = asyncio.Event()

    async def wait(_: Call) -> None:
        probe.at_work.set()
        await release.wait()

    probe.afterwards = wait
    call = ToolCall({}, KEY)
    async with serving(a_worker(bus, probe)):
        await _ask(bus, "marked", call)
        await probe.at_work.wait()
        other = a_worker(bus, probe, "b")
        answers = await _both(bus, other, call, release)

    assert [answer.status for answer in answers] == ["running", "completed"]
    assert answers[0].progress.startswith("held by a/")
    assert probe.acts == 1


async def _both(bus: Bus, other: Worker, call: ToolCall, release: asyncio.Event) -> list[ToolReply]:
    """Ask the other worker itself, for NATS would choose one of the two; before and after the first one's end."""
    named = msgspec.structs.replace(call, key=EFFECT)
    _, task = other.calls._begin(other.tools["marked"], named, "tester")  # noqa: SLF001
    async with asyncio.timeout(10):
        before = await task
    release.set()

    async def done() -> ToolReply | None:
        reply = await _ask(bus, "marked", call)
        return reply if reply.status != "running" else None

    await eventually(done, "the first one's end")
    _, task = other.calls._begin(other.tools["marked"], named, "tester")  # noqa: SLF001
    return [before, await task]


async def test_a_large_result_of_a_repeated_call(bus: Bus, probe: Probe) -> None:
    """A large result comes back in full when a call is repeated, not as a reference that the caller cannot read."""
    text = "x" * 20_000
    async with serving(a_worker(bus, probe)):
        first = await _call(bus, text=text)
        again = await _call(bus, text=text)

    assert first.result["text"] == text
    assert again.result == first.result


# -- no audit, no act -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1], ids=["from the start", "later"])
async def test_no_audit_stream(bus: Bus, probe: Probe, before: int) -> None:
    """Without a place for the audit nothing operates, and reads go on."""
    async with serving(a_worker(bus, probe)):
        for number in range(before):
            await assign(bus, "marked", task=f"before{number}")
            await completion(bus, task=f"before{number}")
        await bus.api(f"STREAM.DELETE.{subjects.AUDIT}")
        await assign(bus, "marked")
        await assign(bus, "read_it", task="r")
        ended = await completion(bus)
        read = await completion(bus, task="r")

    assert isinstance(ended.error, msgspec.Struct)
    assert ended.error.code == "not_provisioned"
    assert "agentd provision" in ended.error.message
    assert read.status == Outcome.COMPLETED
    assert probe.acts == before


async def test_audit_denied(tmp_path: Path, probe: Probe) -> None:
    """An agent that may not write the audit may not act: it fails at once, and a redelivery does not act either."""
    users = (
        'authorization { users: [ {user: root, password: "p"}, '
        '{user: agent, password: "p", permissions: {publish: {deny: "ai.audit.>"}}} ] }'
    )
    password = tmp_path / "password"
    password.write_text("p")
    with NatsServer(tmp_path, extra=users) as server:
        async with (
            connected(server.url, user="root", password_file=str(password)) as bus,
            connected(server.url, agent="a", user="agent", password_file=str(password)) as ours,
        ):
            await provision(bus, [SERVICE])
            await assign(bus, "marked")
            async with serving(a_worker(ours, probe)):
                ended = await completion(bus)
            await assign(bus, "marked")
            async with serving(a_worker(bus, probe)):
                again = await completion(bus, number=2)

    assert isinstance(ended.error, msgspec.Struct)
    assert ended.error.code == "denied"
    assert again.error == ended.error
    assert probe.steps == []


# -- who has a message ------------------------------------------------------------------------------------------------


async def test_a_stale_delivery_is_not_handed_back(nats_server: NatsServer, work: Bus) -> None:
    """A process that was suspended for longer than ack_wait leaves its message: another process has it."""
    await make_consumer(work, "WORK", "w", ack_wait=1, max_ack_pending=10_000)
    slow, other, lines = Slow(), Slow(), Lines()

    async def sleep(job: Job) -> None:
        await slow(job)
        job.reported -= 60  # as if this process had been stopped for a minute
        raise BusUnavailable("it comes again", delay=0.0)

    await put(work, 1)
    async with (
        connected(nats_server.url, agent="other") as second,
        running_consumer(work, sleep, slots=1, log=lines) as first,
    ):
        await slow.reach(1)
        first.paused = True
        async with running_consumer(second, other, slots=4, drain=5):
            await other.reach(1)
            slow.release.set()
            await eventually(_no_more(first), "the first one's end")
            keeping = asyncio.create_task(_keep(second, other))
            await asyncio.sleep(0.7)
            keeping.cancel()
            seen = list(other.jobs)
            other.release.set()
            await all_acked(second, "WORK", "w")

    assert [job.delivered for job in seen] == [2]
    assert "not returned to the stream: another process may have it" in lines.events("warning")


async def _keep(bus: Bus, other: Slow) -> None:
    while True:
        bus.send(other.jobs[0].reply, b"+WPI")
        await asyncio.sleep(0.2)


def _no_more(loop: Consumer) -> Any:
    async def idle() -> bool:
        return loop.active == 0

    return idle


@pytest.mark.parametrize(("dead", "left"), [(0.0, ["reply"]), (HELD - 5, ["reply"]), (HELD + 1, []), (1e6, [])])
def test_deliveries_of_a_process_that_ended_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: float, left: list[str]
) -> None:
    """What a process had open is returned by the next one only while no other process can have got it."""
    real = time.time
    first = Journal(tmp_path / "j")
    monkeypatch.setattr(time, "time", lambda: real() - dead)
    first.add("reply")
    monkeypatch.setattr(time, "time", real)
    first.close()

    again = Journal(tmp_path / "j")
    assert again.left_open == left
    again.close()
