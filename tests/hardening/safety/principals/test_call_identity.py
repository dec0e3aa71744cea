"""The caller is in the subject, its tier in the agent's policy; a key is valid for its owner only."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from agentd.bus.setup.provision import provision
from agentd.client.tool_calls import call_tool
from agentd.errors import Denied, InvalidMessage, NeedsPlan, NoResponder, PermanentError, TemporaryError
from agentd.safety import marks
from agentd.safety.policy import Policy
from agentd.tools import effects
from agentd.tools.declaration import by_name, collect, tool
from agentd.tools.definition import Call, Repeat, Tool
from agentd.tools.effects import ClaimDecision, ClaimRequest, decide
from agentd.wire import names, subjects
from agentd.wire.codec import now
from agentd.wire.messages import Outcome, Tier, ToolCall, ToolReply
from agentd.wire.records import EffectRecord
from core.jetstream import connected
from core.probe import SERVICE, Done, Parameters, Probe, a_worker, assign, audit, completion, record, serving
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from agentd.tools.worker import Worker
    from harness import NatsServer

POLICY = Policy(
    default_tier=Tier.READ,
    anonymous_tier=Tier.READ,
    principals={"alice": Tier.OPERATE, "bob": Tier.EXEC, "oscar": Tier.OPERATE},
)
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned, and a queue of the service `probe`."""
    async with connected(nats_server.url) as bus:
        await provision(bus, [SERVICE])
        yield bus


@pytest.fixture
def probe() -> Probe:
    """Return tools that record what happens to them."""
    return Probe()


async def call(bus: Bus, principal: str, name: str, key: str = "c.one", **more: Any) -> ToolReply:
    """Call a tool as a principal."""
    parameters = more.pop("parameters", {})
    message = ToolCall(parameters, key, **more)
    return await call_tool(bus, subjects.tool_call(principal, SERVICE, name), message, seconds=15)


async def step(bus: Bus, principal: str, name: str, key: str = "w.t.step", **more: Any) -> ToolReply:
    """Call a tool as an agent does inside a task."""
    message = ToolCall(more.pop("parameters", {}), key, principal, **more)
    return await call_tool(bus, subjects.tool_step("specialist-pve1", SERVICE, name), message, seconds=15)


async def raw(bus: Bus, subject: str, body: bytes) -> ToolReply:
    """Send a call as it is, once the subject is served."""
    while True:
        try:
            return await bus.request(subject, body, ToolReply)
        except NoResponder:
            await asyncio.sleep(0.05)


# -- the tier ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("principal", ["eve", "plain", "cron"])
async def test_a_message_with_a_forged_principal(bus: Bus, probe: Probe, principal: str) -> None:
    """A call that claims another principal or a tier of its own is judged by the principal of its subject."""
    body = msgspec.json.encode(
        {"parameters": {}, "key": "c.one", "principal": "bob", "tier": "exec", "approved_by": "bob"}
    )
    async with serving(a_worker(bus, probe, policy=POLICY)):
        reply = await raw(bus, subjects.tool_call(principal, SERVICE, "marked"), body)

    assert reply.error is not None
    assert reply.error.code == "denied"
    assert f"{principal} has read" in reply.error.message
    assert probe.steps == []


async def test_the_audit_names_the_caller(bus: Bus, probe: Probe) -> None:
    """The audit names the principal of the subject, not one that a message claims."""
    body = msgspec.json.encode({"parameters": {}, "key": "c.one", "principal": "bob"})
    async with serving(a_worker(bus, probe, policy=POLICY)):
        await raw(bus, subjects.tool_call("alice", SERVICE, "marked"), body)

    assert {(line.principal, line.key) for line in await audit(bus)} == {("alice", "alice=c.one")}


@pytest.mark.parametrize(
    ("principal", "tier"), [("eve", "read"), ("", "read"), ("plain", "read"), ("alice", "operate")]
)
async def test_the_tier_of_a_step(bus: Bus, probe: Probe, principal: str, tier: str) -> None:
    """A step has the tier that the called agent's own policy gives the principal of the task."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        read = await step(bus, principal, "read_it", key="")
        needed = "wipe" if tier == "operate" else "marked"
        with pytest.raises(Denied, match=f"has {tier}"):
            await step(bus, principal, needed)

    assert read.status == Outcome.COMPLETED
    assert probe.acts == 0


async def test_a_step_destroys_nothing(bus: Bus, probe: Probe) -> None:
    """The destructive step was not approved."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        with pytest.raises(NeedsPlan):
            await step(bus, "bob", "wipe")

    assert probe.steps == []


@pytest.mark.parametrize("principal", ["tester", "plain", ""])
async def test_the_tier_of_an_assignment(bus: Bus, probe: Probe, principal: str) -> None:
    """An assignment that states a higher tier than the agent's policy grants its principal is refused."""
    policy = Policy(default_tier=Tier.READ, anonymous_tier=Tier.READ)
    async with serving(a_worker(bus, probe, policy=policy)):
        await assign(bus, "marked", tier=Tier.EXEC, principal=principal)
        reported = await completion(bus)
        await assign(bus, "read_it", task="r", tier=Tier.EXEC, principal=principal)
        read = await completion(bus, task="r")

    assert isinstance(reported.error, msgspec.Struct)
    assert reported.error.code == "denied"
    assert read.status == Outcome.COMPLETED
    assert probe.acts == 0


async def test_a_lower_tier_than_the_policy_counts(bus: Bus, probe: Probe) -> None:
    """What an orchestrator grants less than the agent's policy is what counts."""
    async with serving(a_worker(bus, probe, policy=Policy(default_tier=Tier.EXEC))):
        await assign(bus, "marked", tier=Tier.READ)
        reported = await completion(bus)

    assert isinstance(reported.error, msgspec.Struct)
    assert reported.error.code == "denied"


# -- tools that call others -------------------------------------------------------------------------------------------


class Caller:
    """A service `caller` whose tool calls `marked` of the service `probe`."""

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="calling")
    async def ask(self, call: Call, p: Parameters) -> Done:
        """Have another agent do it."""
        return await call.use(SERVICE, "marked", {"text": p.text}, Done, step="made")

    def worker(self, bus: Bus) -> Worker:
        """Return a worker that serves it."""
        worker = a_worker(bus, Probe(), "caller-pve1", policy=POLICY)
        worker.tools |= by_name(item for item in collect(self, service="caller") if isinstance(item, Tool))
        return worker


async def test_a_tool_that_calls_another_one(bus: Bus, probe: Probe) -> None:
    """A step names its principal on the subject of the calling agent; its key is below that of the call."""
    seen_messages: list[str] = []

    async def on_step(received: Any) -> None:
        seen_messages.append(received.subject)

    await bus.subscribe("ai.tools.step.>", on_step)
    caller = Caller().worker(bus)
    stopping = asyncio.Event()
    await provision(bus, ["caller"])
    running = asyncio.create_task(caller.serve("caller", stopping, drain=0.0))
    async with serving(a_worker(bus, probe, policy=POLICY)):
        await eventually(lambda: _there(caller), "it serves")
        subject = subjects.tool_call("alice", "caller", "ask")
        reply = await call_tool(bus, subject, ToolCall({"text": "x"}, "c.one"), seconds=15)
        with pytest.raises(Denied, match="eve has read"):
            await call_tool(bus, subjects.tool_call("eve", "caller", "ask"), ToolCall({}, "c.one"), seconds=15)
        made = await record(bus, "alice=c.one.made")
    stopping.set()
    await running

    assert reply.result["text"] == "x"
    assert seen_messages == [f"ai.tools.step.caller-pve1.{SERVICE}.marked"]
    assert (made.tool, made.phase) == ("marked", effects.DONE)
    assert [line.principal for line in await audit(bus)] == ["alice", "alice"]


async def _there(worker: Worker) -> bool:
    return bool(worker.consumers)


# -- keys -------------------------------------------------------------------------------------------------------------


@given(principal=IDS, key=st.lists(IDS, min_size=2, max_size=3), other=IDS, task=st.lists(IDS, min_size=2, max_size=3))
def test_keys_of_calls_are_apart(principal: str, key: list[str], other: str, task: list[str]) -> None:
    """The key of a call is never that of a task or a step, nor of a call of another principal."""
    made = subjects.call_key(principal, ".".join(key))

    assert made != ".".join(task)
    assert principal == other or made != subjects.call_key(other, ".".join(task))
    assert not names._ID.match(made.split(".")[0])  # noqa: SLF001 - what an id is


@pytest.mark.parametrize(
    "key",
    ["w.undo-t", "undo-a.b", "a.b.undo-c", "evil4.undo-a.b", "a.undo-.c", "undo-x.undo-y"],
)
async def test_the_key_of_an_undo_is_not_for_callers(bus: Bus, probe: Probe, key: str) -> None:
    """No part of a caller's key may begin as that of an undoing task does."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        with pytest.raises(Denied, match="orchestrator"):
            await call(bus, "alice", "marked", key)

    assert probe.steps == []


@pytest.mark.parametrize(
    "key", ["", "a", "a.b.c.d", "bob=a.b", "a=b.c", "a.b=c", "a/b.c", "*.b", "a.>", "a. b", "a..b", "ä.b", "a.b\n"]
)
async def test_invalid_keys(bus: Bus, probe: Probe, key: str) -> None:
    """A caller's key is two or three words; it cannot name another principal."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        with pytest.raises(InvalidMessage, match="key"):
            await call(bus, "alice", "marked", key)

    assert probe.steps == []


@pytest.mark.parametrize(
    "key", ["w.t", "w", "w.t.s.u", "bob=c.one.step", "alice=c.step", "a=alice=c.one.step", "w.t.*"]
)
async def test_invalid_keys_of_steps(bus: Bus, probe: Probe, key: str) -> None:
    """The key of a step is never that of a task itself, nor below another principal's call."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        with pytest.raises(InvalidMessage, match="key"):
            await step(bus, "alice", "marked", key)

    assert probe.steps == []


async def test_a_key_taken_before_the_task(bus: Bus, probe: Probe) -> None:
    """A call under the key of a task that is still to come keeps the task from nothing, and answers nothing for it."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        await call(bus, "oscar", "marked", "w.t")
        await call(bus, "alice", "marked", "w.t")
        await assign(bus, "marked", principal="alice")
        reported = await completion(bus)

    assert reported.status == Outcome.COMPLETED
    assert probe.acts == 3
    assert {key: (await record(bus, key)).phase for key in ("w.t", "oscar=w.t", "alice=w.t")} == dict.fromkeys(
        ("w.t", "oscar=w.t", "alice=w.t"), effects.DONE
    )


async def test_the_same_key_with_another_tool(bus: Bus, probe: Probe) -> None:
    """A key is the same call only with the same tool and the same parameters."""
    async with serving(a_worker(bus, probe, policy=POLICY)):
        await call(bus, "alice", "marked")
        for name, parameters in (("probed", {}), ("marked", {"text": "y"}), ("probed", {"text": "y"})):
            with pytest.raises(PermanentError, match=r"alice=c\.one: was used before .* use another key"):
                await call(bus, "alice", name, parameters=parameters)
        again = await call(bus, "alice", "marked")

    assert again.status == Outcome.COMPLETED
    assert probe.acts == 1


def _record(phase: str, tool_name: str = "marked", digest: str = "d", attempt: int = 1) -> EffectRecord:
    return EffectRecord("w.t", tool_name, 1, "other/1", phase, now() - timedelta(hours=1), attempt, digest)


@pytest.mark.parametrize("phase", [effects.DONE, effects.FAILED, effects.CLAIMED])
@pytest.mark.parametrize("age", [0.0, 1e6])
@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("takeover", [True, False])
def test_a_record_of_another_tool(phase: str, age: float, attempt: int, takeover: bool) -> None:  # noqa: FBT001
    """A record of another tool is a conflict in every phase, at every age and for every attempt."""
    wanted = ClaimRequest(SERVICE, "w.t", "marked", "d", attempt, "me/1", takeover)

    assert decide(_record(phase, "probed"), wanted, age=age) is ClaimDecision.CONFLICT
    later = phase == effects.FAILED and attempt == 2
    assert decide(_record(phase, digest="e"), wanted, age=age) is (
        ClaimDecision.TAKE if later else ClaimDecision.CONFLICT
    )
    assert decide(_record(phase), wanted, age=age) is not ClaimDecision.CONFLICT


def test_a_tombstone_is_of_no_tool() -> None:
    """A cancelled task does not start, for any tool."""
    assert decide(_record(effects.CANCELLED, ""), ClaimRequest(SERVICE, "w.t", "x", "e", 2, "me/1", True), age=0.0) is (  # noqa: FBT003
        ClaimDecision.CANCELLED
    )


@pytest.mark.parametrize("key", ["alice=c.one", "alice=c.one.made", "w.t", "w.t.step"])
def test_the_mark_of_a_call(key: str) -> None:
    """What a call made has its key, and no caller may write such a mark."""
    assert marks.key_of(marks.mark(key)) == key
    for text in (marks.mark(key), f"x {marks.mark(key)} y", marks.mark(key).replace("=", "%3D")):
        with pytest.raises(InvalidMessage, match="callers may not write"):
            marks.refuse_marks("update_vm", {"description": text})


# -- how many at once -------------------------------------------------------------------------------------------------


async def test_so_many_calls_at_once(bus: Bus, probe: Probe) -> None:
    """One principal runs so many calls at a time; the next is refused with the setting, others are not."""
    release = asyncio.Event()

    async def wait(_: Call) -> None:
        await release.wait()

    probe.afterwards = wait
    policy = Policy(default_tier=Tier.OPERATE, max_concurrent_calls=3)
    worker = a_worker(bus, probe, policy=policy)
    async with serving(worker):
        held = [asyncio.create_task(call(bus, "alice", "marked", f"c.n{number}")) for number in range(3)]
        await eventually(lambda: _acts(probe, 3), "three are at work")
        with pytest.raises(
            TemporaryError, match=r"alice has 3 calls under way at a, .*\[policy\] max_concurrent_calls"
        ):
            await call(bus, "alice", "read_it", "")
        joined = asyncio.create_task(call(bus, "alice", "marked", "c.n0"))
        other = asyncio.create_task(call(bus, "bob", "marked"))
        await eventually(lambda: _acts(probe, 4), "another principal's call is at work")
        release.set()
        done = await asyncio.gather(*held, joined, other)
        free = await call(bus, "alice", "marked", "c.later")

    assert {reply.status for reply in [*done, free]} == {Outcome.COMPLETED}
    assert probe.acts == 5


async def _acts(probe: Probe, number: int) -> bool:
    return probe.acts == number
