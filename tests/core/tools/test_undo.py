"""The state before a change is recorded before it, so that it can be undone after any crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agentd.client.tool_calls import call_tool
from agentd.errors import UnknownOutcome
from agentd.tools import effects
from agentd.wire import subjects
from agentd.wire.codec import digest, now, plain
from agentd.wire.messages import Inverse, Preview, ToolCall
from agentd.wire.records import EffectRecord
from core.probe import SERVICE, Probe, a_worker, assign, completion, raising, record, serving

if TYPE_CHECKING:
    import pytest

    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Call

BACK = Inverse("probed", {"number": 7})


def notes(probe: Probe, number: int = 7) -> None:
    """Let the probe say how it is taken back, each time with another number."""
    numbers = iter(range(number, number + 100))

    async def check_first(call: Call) -> None:
        call.inverse("probed", {"number": next(numbers)})

    probe.on_check = check_first


async def test_it_is_written_down_before_the_act(bus: Bus, probe: Probe) -> None:
    """While the tool acts its record says already how that is taken back; the answer says that it can be."""
    notes(probe)
    before = []

    async def act(_: Call) -> None:
        before.append((await record(bus, "tester=w.t.step")).undo)

    probe.on_act = act
    async with serving(a_worker(bus, probe)):
        call = ToolCall({}, "w.t.step")
        reply = await call_tool(bus, subjects.tool_call("tester", SERVICE, "marked"), call, seconds=15)

    assert before == [BACK]
    assert reply.undo == "tester=w.t.step"
    assert (await record(bus, "tester=w.t.step")).undo == BACK


async def test_a_dry_run_shows_the_inverse(bus: Bus, probe: Probe) -> None:
    """A dry run shows the inverse call; nothing is recorded."""
    notes(probe)
    async with serving(a_worker(bus, probe)):
        call = ToolCall({}, "w.t.step", dry_run=True)
        reply = await call_tool(bus, subjects.tool_call("tester", SERVICE, "marked"), call, seconds=15)

    assert reply.result == plain(Preview("marked", undo=BACK))
    assert reply.undo == ""


async def test_the_first_word_counts(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the act is tried again the world may have been changed by us already: the first undo stays."""
    monkeypatch.setattr(effects, "UNSETTLED", 0.5)
    notes(probe)
    probe.on_act = raising(UnknownOutcome("no answer", delay=0.1), times=1)
    async with serving(a_worker(bus, probe)):
        await assign(bus, "idempotent")
        done = await completion(bus)

    assert done.status == "completed"
    assert probe.acts == 2
    assert (await record(bus)).undo == BACK


async def test_a_takeover_keeps_the_inverse(bus: Bus, probe: Probe) -> None:
    """After the agent that recorded the inverse was killed, the next one does not replace it."""
    notes(probe, 8)
    left = EffectRecord("w.t", "marked", 1, "dead/1", "claimed", now(), digest=digest({}), acting=True, undo=BACK)
    await bus.store("ai.effects.probe.w.t", replace(left, upid="UPID:x"))
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked")
        await completion(bus)

    assert (await record(bus)).undo == BACK


async def test_without_a_change_there_is_no_inverse(bus: Bus, probe: Probe) -> None:
    """Without an act there is nothing to undo."""
    probe.inventory["w.t"] = "UPID"
    async with serving(a_worker(bus, probe)):
        await assign(bus, "probed")
        await completion(bus)

    assert (await record(bus)).undo is None
