"""What a worker reports of a task that it does not, cannot or may not do, and of what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.errors import BusUnavailable
from agentd.wire import subjects
from agentd.wire.messages import Outcome, Tier
from core.jetstream import Lines, all_acked
from core.probe import SERVICE, Probe, a_worker, assign, completion, completions, nothing, raising, record, serving
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus


async def test_deadline(bus: Bus, probe: Probe) -> None:
    """What is not done by its deadline is stopped and failed; the next attempt knows the UPID, for it may still run."""
    probe.afterwards = probe.hang
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked", seconds=1.5)
        first = await completion(bus)
        probe.afterwards = nothing
        await assign(bus, "marked", attempt=2)
        second = await completion(bus, number=2)

    assert first.error is not None
    assert not isinstance(first.error, str)
    assert (first.error.code, first.error.retry) == ("deadline", True)
    assert second.status == Outcome.COMPLETED
    assert (probe.acts, probe.used) == (1, ["UPID:w.t:1", "UPID:w.t:1"])


async def test_too_late(bus: Bus, probe: Probe) -> None:
    """An assignment after its deadline is neither started nor answered: the orchestrator's timer decides."""
    lines = Lines()
    await assign(bus, "marked", seconds=-1)
    async with serving(a_worker(bus, probe, log=lines)):
        await all_acked(bus, subjects.WORKFLOWS, SERVICE)

    assert probe.steps == []
    assert await completions(bus) == 0
    assert lines.events("warning") == ["too late, not started"]


async def test_unknown_tool(bus: Bus, probe: Probe) -> None:
    """A tool that does not exist is an answer that names those that do."""
    await assign(bus, "nonsense")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert isinstance(reported.error, msgspec.Struct)
    assert reported.error.code == "unknown_tool"
    assert "'nonsense'; there are idempotent, marked, probed" in reported.error.message


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"\xff\xfe", b'{"task_id": 1}'])
async def test_malformed_assignment(bus: Bus, probe: Probe, body: bytes) -> None:
    """An assignment that cannot be understood becomes a dead letter; no failure is reported in its place."""
    await bus.store(subjects.assign(SERVICE, "w", "t", 3), body)
    async with serving(a_worker(bus, probe)):
        letter = await eventually(lambda: bus.last(subjects.DEAD, "ai.dead.broken.>"), "the dead letter")

    assert letter.data == body
    assert await bus.last(subjects.INPUT, "ai.tasks.complete.>") is None


@pytest.mark.parametrize("requested", [{"number": "four"}, {"colour": "red"}])
async def test_wrong_parameters(bus: Bus, probe: Probe, requested: dict[str, Any]) -> None:
    """Parameters that the tool does not take are refused before anything is claimed, with the field."""
    await assign(bus, "marked", requested)
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert isinstance(reported.error, msgspec.Struct)
    assert reported.error.code == "invalid"
    assert next(iter(requested)) in reported.error.message
    assert await bus.last(subjects.EFFECTS, subjects.effect(SERVICE, "w.t")) is None


async def test_other_parameters(bus: Bus, probe: Probe) -> None:
    """A key that was used with other parameters is refused: the first effect stays the only one."""
    await assign(bus, "marked", {"text": "x"})
    async with serving(a_worker(bus, probe)):
        await completion(bus)
        await assign(bus, "marked", {"text": "y"}, attempt=2)
        reported = await completion(bus, number=2)

    assert isinstance(reported.error, msgspec.Struct)
    assert "with other parameters" in reported.error.message
    assert probe.acts == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), TimeoutError("x"), KeyError("x")])
@pytest.mark.parametrize("tool", ["marked", "read_it"])
async def test_a_bug(bus: Bus, probe: Probe, tool: str, error: Exception) -> None:
    """A tool with a bug fails alone, with the traceback in the log; the worker goes on."""
    lines = Lines()
    probe.afterwards = raising(error, times=1)
    async with serving(a_worker(bus, probe, log=lines)):
        await assign(bus, tool)
        reported = await completion(bus)
        await assign(bus, tool, task="u")
        second = await completion(bus, task="u")

    assert isinstance(reported.error, msgspec.Struct)
    assert (reported.error.code, reported.error.message) == ("bug", f"{type(error).__name__}: {error}")
    assert lines.events("error") == ["a tool has a bug"]
    assert second.status == Outcome.COMPLETED


async def test_nats_is_unreachable_for_a_tool(bus: Bus, probe: Probe) -> None:
    """A tool that cannot reach the bus has failed at nothing: its assignment comes again."""
    probe.afterwards = raising(BusUnavailable("away", delay=0.1), times=1)
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert reported.status == Outcome.COMPLETED
    assert (probe.acts, (await record(bus)).epoch) == (1, 2)


async def test_a_large_result(bus: Bus, probe: Probe) -> None:
    """A large result goes by reference; the next task gets it, or a field of it, in full."""
    text = "x" * 20_000
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked", {"text": text})
        first = await completion(bus)
        await assign(bus, "read_it", {"text": first.result | {"field": "text"}}, task="u")
        second = await completion(bus, task="u")
        await assign(bus, "marked", {"text": text})
        again = await completion(bus, number=2)
    whole = await bus.kv_get(subjects.RESULTS, "tester.w.u")

    assert first.result.keys() == {"$stored", "bytes"}
    assert first.result["$stored"] == "tester.w.t"
    assert again.result == first.result
    assert second.result["$stored"] == "tester.w.u"
    assert whole is not None
    assert msgspec.json.decode(whole.data)["text"] == text


async def test_a_reader_that_acts(bus: Bus, probe: Probe) -> None:
    """A tool of tier read has no claim, so it cannot touch the world."""
    await assign(bus, "touch_it")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert reported.status == Outcome.FAILED
    assert probe.steps == []


@pytest.mark.parametrize(
    ("tool", "tier", "code"),
    [("wipe", Tier.EXEC, "needs_plan"), ("shell", Tier.EXEC, "needs_plan"), ("marked", Tier.READ, "denied")],
)
async def test_policy(bus: Bus, probe: Probe, tool: str, tier: Tier, code: str) -> None:
    """Nothing destroys or executes without an approval, for any principal; nothing operates for tier read."""
    await assign(bus, tool, tier=tier)
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert isinstance(reported.error, msgspec.Struct)
    assert reported.error.code == code
    assert probe.steps == []
