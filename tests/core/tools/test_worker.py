"""The worker: an effect once although any process is killed at any time, and a reply to every assignment.

A small service `probe` (probe.py) on a real nats-server; a worker that is stopped with no time to drain represents a
process that died, and its successor for the next one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd.errors import GuestLocked, NoQuorum, PermanentError, ProxmoxUnavailable, UnknownOutcome, VmidTaken
from agentd.tools import effects
from agentd.wire import subjects
from agentd.wire.codec import digest, now
from agentd.wire.messages import Outcome, TaskCompletion, Tier
from agentd.wire.records import EffectRecord
from core.jetstream import consumer_info
from core.probe import (
    SERVICE,
    Probe,
    a_worker,
    assign,
    audit,
    completion,
    completions,
    nothing,
    raising,
    record,
    serving,
)
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Call


def _spy(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Note what the worker stores among what its tool does."""
    real = bus.store

    async def store(subject: str, message: Any, **more: Any) -> int:
        sequence = await real(subject, message, **more)
        if isinstance(message, EffectRecord):
            probe.steps.append(f"record {message.phase}{' with UPID' if message.upid else ''}")
        elif subject.startswith("ai.audit."):
            probe.steps.append(f"audit {message.phase}")
        elif isinstance(message, TaskCompletion):
            info = await consumer_info(bus, subjects.WORKFLOWS, SERVICE)
            probe.steps.append(f"completion, {info['num_ack_pending']} not acknowledged")
        return sequence

    monkeypatch.setattr(bus, "store", store)


async def _other_takes(bus: Bus, **settled: Any) -> effects.Claim:
    """Let another process claim the effect of `w.t`, as one does that got the assignment again."""
    wanted = effects.ClaimRequest(SERVICE, "w.t", "marked", digest({}), attempt=1, owner="other/1", takeover=True)
    claim = await effects.claim(bus, wanted, now())
    assert isinstance(claim, effects.Claim)
    if settled:
        await claim.settle(**settled)
    return claim


async def _dies_while(bus: Bus, probe: Probe, name: str = "a") -> None:
    """Let a worker take what is assigned, and die while its tool hangs."""
    async with serving(a_worker(bus, probe, name)):
        await probe.at_work.wait()
    probe.at_work.clear()


async def test_the_five_steps(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim, check, apply and record the UPID, record the result, report, and only then acknowledge."""
    async with serving(a_worker(bus, probe)):
        _spy(bus, probe, monkeypatch)
        await assign(bus, "marked", {"text": "x"})
        reported = await completion(bus)

    assert probe.steps == [
        "record claimed",
        "audit before",
        "look",
        "record claimed",
        "act",
        "record claimed with UPID",
        "record done with UPID",
        "audit after",
        "completion, 1 not acknowledged",
    ]
    assert (reported.status, reported.attempt, reported.task_id, reported.service_id) == (
        Outcome.COMPLETED,
        1,
        "w.t",
        SERVICE,
    )
    assert reported.result == {"upid": "UPID:w.t:1", "text": "x"}


async def test_two_lines_of_audit(bus: Bus, probe: Probe) -> None:
    """A change is audited with its principal before and after; a read leaves no line."""
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked", {"text": "x"})
        await assign(bus, "read_it", task="r")
        await completion(bus)
        await completion(bus, task="r")
    before, after = await audit(bus)

    assert (before.phase, before.principal, before.tool, before.key) == ("before", "tester", "marked", "w.t")
    assert (before.tier, before.outcome, before.upid) == (Tier.OPERATE, "", "")
    assert (after.phase, after.key, after.outcome, after.upid) == ("after", "w.t", "completed", "UPID:w.t:1")


@pytest.mark.parametrize("status", ["done", "failed"])
async def test_redelivered_when_over(bus: Bus, probe: Probe, status: str) -> None:
    """An assignment that comes again after its end is answered from the record, by another worker as well."""
    if status == "failed":
        probe.on_check = raising(VmidTaken("another guest has it"))
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        first = await completion(bus)
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe, "b")):
        again = await completion(bus, "b")

    assert probe.checks == 1
    assert (await record(bus)).epoch == 1, "it was not claimed again"
    assert (again.status, again.result, again.error) == (first.status, first.result, first.error)
    assert (again.error is None) is (status == "done")


async def test_a_failed_attempt_and_the_next(bus: Bus, probe: Probe) -> None:
    """A failure is the answer of its own attempt, and the next attempt starts again."""
    probe.on_act = raising(PermanentError("no"), times=1)
    async with serving(a_worker(bus, probe)):
        await assign(bus, "idempotent")
        first = await completion(bus)
        await assign(bus, "idempotent", attempt=2)
        second = await completion(bus, number=2)

    assert first.error is not None
    assert (first.status, first.attempt) == (Outcome.FAILED, 1)
    assert (second.status, second.attempt, second.error) == (Outcome.COMPLETED, 2, None)
    assert probe.acts == 2


async def test_an_old_attempt_is_redelivered_late(bus: Bus, probe: Probe) -> None:
    """An attempt that comes again while the next one runs takes nothing over, and is not answered."""
    probe.on_act = raising(PermanentError("no"), times=1)
    probe.afterwards = probe.hang
    async with serving(a_worker(bus, probe)):
        await assign(bus, "idempotent")
        await completion(bus)
        await assign(bus, "idempotent", attempt=2)
        await probe.at_work.wait()
        claimed = await record(bus)
        async with serving(a_worker(bus, probe, "b")):
            await assign(bus, "idempotent")
            await assign(bus, "idempotent")

            async def acknowledged() -> bool:
                info = await consumer_info(bus, subjects.WORKFLOWS, SERVICE)
                return bool(info["num_ack_pending"] == 1 and not info["num_pending"])

            await eventually(acknowledged, "the late ones are acknowledged")

        assert await record(bus) == claimed
    assert (claimed.attempt, claimed.epoch, probe.acts) == (2, 2, 2)
    assert await completions(bus, "b") == 0


@pytest.mark.parametrize(
    ("tool", "acts", "status"),
    [
        ("idempotent", 2, Outcome.COMPLETED),
        ("marked", 1, Outcome.COMPLETED),
        ("probed", 1, Outcome.COMPLETED),
        ("unsafe", 1, Outcome.FAILED),
    ],
)
async def test_killed_before_the_upid_is_known(
    bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch, tool: str, acts: int, status: Outcome
) -> None:
    """A takeover checks first: an existing effect is adopted; a doubtful one is left to a person."""
    monkeypatch.setattr(effects, "UNSETTLED", 1.0)
    probe.on_act = probe.hang
    await assign(bus, tool)
    await _dies_while(bus, probe)
    probe.on_act = nothing
    async with serving(a_worker(bus, probe, "b")):
        reported = await completion(bus, "b")

    assert (probe.acts, reported.status) == (acts, status)
    if tool == "unsafe":
        assert reported.error is not None
        assert "its result is not known: check what it did, then call it again" in str(reported.error)
    elif acts == 1:
        assert probe.used == ["UPID:w.t:1"]


@pytest.mark.parametrize("tool", ["idempotent", "marked", "probed", "unsafe"])
async def test_the_upid_of_an_interrupted_run(bus: Bus, probe: Probe, tool: str) -> None:
    """A takeover after the UPID was recorded waits for that task: it neither checks nor applies."""
    probe.afterwards = probe.hang
    await assign(bus, tool)
    await _dies_while(bus, probe)
    probe.afterwards = nothing
    async with serving(a_worker(bus, probe, "b")):
        reported = await completion(bus, "b")

    assert reported.status == Outcome.COMPLETED
    assert (probe.checks, probe.acts) == (1, 1)
    assert probe.used == ["UPID:w.t:1", "UPID:w.t:1"]
    assert (await record(bus)).epoch == 2


async def test_an_answer_was_lost(bus: Bus, probe: Probe) -> None:
    """A change without an answer is searched for, and adopted if it happened."""
    probe.on_act = raising(UnknownOutcome("cut", delay=0.1), times=1)
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert reported.status == Outcome.COMPLETED
    assert (probe.checks, probe.acts, probe.used) == (2, 1, ["UPID:w.t:1"])


async def test_an_act_was_lost(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """An act that was not answered and is not to be found is repeated only once it would be to be found."""
    monkeypatch.setattr(effects, "UNSETTLED", 1.5)
    at: list[float] = []

    async def act(call: Call) -> None:
        at.append(asyncio.get_running_loop().time())
        if len(at) == 1:
            del probe.inventory[call.key]
            raise UnknownOutcome("lost", delay=0.1)

    probe.on_act = act
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert reported.status == Outcome.COMPLETED
    assert (probe.acts, len(at)) == (2, 2)
    assert at[1] - at[0] >= 1.5
    assert probe.checks > 2


@pytest.mark.parametrize(
    ("error", "acts"),
    [(GuestLocked("locked", delay=0.1), 2), (NoQuorum("none", delay=0.1), 2), (ProxmoxUnavailable("away"), 1)],
    ids=["locked", "no quorum", "away"],
)
async def test_a_temporary_failure(bus: Bus, probe: Probe, error: Exception, acts: int) -> None:
    """A task that did nothing (a lock, no quorum) is forgotten and begun again; any other is waited for."""
    probe.afterwards = raising(error, times=1)
    await assign(bus, "idempotent")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert reported.status == Outcome.COMPLETED
    assert probe.acts == acts
    assert probe.used == ["UPID:w.t:1", f"UPID:w.t:{acts}"]


async def test_fenced_while_it_runs(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose effect another process has claimed is stopped, writes nothing and answers nothing."""
    monkeypatch.setattr(effects, "PROGRESS", 0.1)
    probe.afterwards = probe.hang
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        await probe.at_work.wait()
        await _other_takes(bus, phase=effects.DONE, result={"upid": "other's"})

        async def stopped() -> bool:
            return "cancelled" in probe.steps

        await eventually(stopped, "the run is stopped")
        reported = await completion(bus)

    assert probe.steps == ["look", "act", "cancelled"]
    assert reported.result == {"upid": "other's"}, "the assignment came again, and the other's result was found"
    assert (await record(bus)).owner == "other/1"


async def test_a_request_that_is_still_on_its_way(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover from a process killed during apply waits first: a late effect is then found."""
    monkeypatch.setattr(effects, "UNSETTLED", 3.0)
    left = EffectRecord("w.t", "marked", 1, "dead/1", effects.CLAIMED, now(), digest=digest({}), acting=True)
    await bus.store(subjects.effect(SERVICE, "w.t"), left)

    async def arrives(_: Call) -> None:
        asyncio.get_running_loop().call_later(1.0, probe.inventory.setdefault, "w.t", "UPID:late")

    probe.on_check = arrives
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked")
        done = await completion(bus)

    assert done.status == Outcome.COMPLETED
    assert (probe.acts, probe.used) == (0, ["UPID:late"])


async def test_fenced_before_it_acts(bus: Bus, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long check the claim is verified before apply: another process may have taken over."""
    monkeypatch.setattr(effects, "ACK_WAIT", 0.4)

    async def stopped_for_a_while(_: Call) -> None:
        await asyncio.sleep(0.3)
        await _other_takes(bus, phase=effects.DONE, result={"upid": "other's"})

    probe.on_check = stopped_for_a_while
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert probe.steps == ["look"]
    assert reported.result == {"upid": "other's"}


async def test_a_renewal_meets_a_upid(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that begins while the UPID is on its way does not write it away again."""
    claim = await _other_takes(bus)
    real, arrived, go = bus.store, asyncio.Event(), asyncio.Event()

    async def store(subject: str, message: Any, **more: Any) -> int:
        sequence = await real(subject, message, **more)
        if message.upid and not arrived.is_set():
            arrived.set()
            await go.wait()
        return sequence

    monkeypatch.setattr(bus, "store", store)
    settling = asyncio.create_task(claim.settle(upid="UPID:x"))
    await arrived.wait()
    renewing = asyncio.create_task(claim.renew())
    await asyncio.wait([renewing], timeout=0.5)
    go.set()
    await asyncio.gather(settling, renewing)

    assert ((await record(bus)).upid, claim.record.upid) == ("UPID:x", "UPID:x")


async def test_cancelled_before_the_start(bus: Bus, probe: Probe) -> None:
    """A task with a tombstone is not begun; the orchestrator gets its cancellation."""
    assert await effects.write_tombstone(bus, SERVICE, "w.t", "orchestrator", now())
    await assign(bus, "marked")
    async with serving(a_worker(bus, probe)):
        reported = await completion(bus)

    assert reported.status == Outcome.CANCELLED
    assert probe.steps == []
