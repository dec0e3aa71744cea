"""A task that is to end while it runs, and one that reports that it runs."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.tools import effects
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import Outcome, TaskAssignment, TaskCompletion, TaskError, Tier
from core.jetstream import all_acked
from core.probe import SERVICE, Probe, a_worker, assign, audit, completion, record, serving
from harness import eventually

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Call
    from agentd.tools.worker import Worker


def halting(worker: Worker, halted: list[str]) -> Worker:
    """Return the worker with tools whose Proxmox tasks end when they are stopped."""

    async def halt(upid: str) -> str:
        halted.append(upid)
        return "stopped: unexpected status"

    worker.tools |= {name: replace(tool, halt=halt) for name, tool in worker.tools.items()}
    return worker


async def stop(bus: Bus) -> bool:
    """Let an orchestrator end the task `w.t`; return whether it was not started."""
    return await effects.write_tombstone(bus, SERVICE, "w.t", "o1", now(), stop=True)


async def stop_received(worker: Worker) -> None:
    """Wait until the worker has received that its task must end."""

    async def reported() -> bool:
        return any(claim.stop.is_set() for claim in worker.runner._claims.values())  # noqa: SLF001

    await eventually(reported, "the stop is received")


async def test_a_stopped_task_ends_its_proxmox_task(bus: Bus, probe: Probe) -> None:
    """The agent that runs a task is stopped at once, ends what it started in Proxmox, and reports what it left."""
    halted: list[str] = []
    probe.afterwards = probe.hang
    async with serving(halting(a_worker(bus, probe), halted)):
        await assign(bus, "marked")
        await probe.at_work.wait()
        async with asyncio.timeout(5):
            started_before = not await stop(bus)
            reported = await completion(bus)
    again = effects.ClaimRequest(SERVICE, "w.t", "marked", "", attempt=1, owner="b/2", takeover=True)

    assert started_before
    assert reported.status is Outcome.CANCELLED
    assert isinstance(reported.error, TaskError)
    assert reported.error.message == "w.t: was ended while it ran; UPID:w.t:1 ended: stopped: unexpected status"
    assert halted == ["UPID:w.t:1"]
    assert probe.steps == ["look", "act", "cancelled"]
    assert (await record(bus)).phase == effects.CANCELLED
    assert effects.decide(await record(bus), again, age=0.0) is effects.ClaimDecision.CANCELLED
    assert [(item.phase, item.outcome) for item in await audit(bus)] == [("before", ""), ("after", "cancelled")]


async def test_a_stop_waits_for_the_answer_of_a_write(bus: Bus, probe: Probe) -> None:
    """Between a write to Proxmox and its UPID nothing is interrupted: the UPID would be lost, and its task run on."""
    halted: list[str] = []
    released = asyncio.Event()

    async def act(_: Any) -> None:
        probe.at_work.set()
        await released.wait()

    probe.on_act = act
    probe.afterwards = probe.hang
    async with serving(halting(a_worker(bus, probe), halted)) as worker:
        await assign(bus, "marked")
        await probe.at_work.wait()
        await stop(bus)
        await stop_received(worker)
        released.set()
        reported = await completion(bus)

    assert reported.status is Outcome.CANCELLED
    assert halted == ["UPID:w.t:1"]


async def test_a_stop_interrupts_a_write_without_a_trace(bus: Bus, probe: Probe) -> None:
    """What a write does for long and without a trace, as sending a file, is ended at once, though its tool is not."""

    async def act(call: Call) -> None:
        with call.allow_stop():
            await probe.hang(call)

    probe.on_act = act
    async with serving(a_worker(bus, probe)):
        await assign(bus, "probed")
        await probe.at_work.wait()
        async with asyncio.timeout(5):
            await stop(bus)
            reported = await completion(bus)

    assert reported.status is Outcome.CANCELLED
    assert isinstance(reported.error, TaskError)
    assert reported.error.message == (
        "w.t: was ended while it ran; it had started no task in Proxmox, or a short one that has ended"
    )


async def test_a_change_that_cannot_be_interrupted_is_completed(bus: Bus, probe: Probe) -> None:
    """A tool that cannot be ended cleanly goes on once it has begun; before, it is not begun."""
    released, halted = asyncio.Event(), list[str]()

    async def afterwards(_: Any) -> None:
        probe.at_work.set()
        await released.wait()

    probe.afterwards = afterwards
    async with serving(halting(a_worker(bus, probe), halted)) as worker:
        await assign(bus, "probed")
        await probe.at_work.wait()
        await stop(bus)
        await stop_received(worker)
        released.set()
        reported = await completion(bus)

    assert reported.status is Outcome.COMPLETED
    assert halted == []


async def test_a_takeover_of_a_stopped_task_ends_it(bus: Bus, probe: Probe) -> None:
    """A stop outlives the agent that ran the task: the next one does not go on with it, and ends what was begun."""
    halted: list[str] = []
    probe.afterwards = probe.hang
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked")
        await probe.at_work.wait()
    await stop(bus)
    async with serving(halting(a_worker(bus, probe, "b"), halted)):
        reported = await completion(bus, "b")

    assert reported.status is Outcome.CANCELLED
    assert halted == ["UPID:w.t:1"]
    assert probe.acts == 1


async def test_a_cancelled_task_is_not_started(bus: Bus, probe: Probe) -> None:
    """A tombstone replaces the claim: the agent that takes the assignment reports that it was cancelled."""
    buried = await stop(bus)
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked")
        reported = await completion(bus)

    assert buried
    assert reported.status is Outcome.CANCELLED
    assert probe.steps == []


async def test_an_ended_task_is_not_stopped(bus: Bus, probe: Probe) -> None:
    """A stop that comes too late changes no record: the result stays."""
    async with serving(a_worker(bus, probe)):
        await assign(bus, "marked")
        await completion(bus)
    await stop(bus)

    assert (await record(bus)).phase == effects.DONE


# -- telling that it runs -----------------------------------------------------------------------------------------


async def _assigned(bus: Bus, tool: str = "read_it", **more: Any) -> None:
    deadline = bus.server_time() + timedelta(seconds=60)
    message = TaskAssignment("w.t", "w", tool, SERVICE, {}, deadline, tier=Tier.OPERATE, principal="tester", **more)
    await bus.store(subjects.assign(SERVICE, "w", "t", 1), message)


async def _completions(bus: Bus) -> list[TaskCompletion]:
    stored = await bus.api(f"STREAM.INFO.{subjects.INPUT}", {"subjects_filter": subjects.complete("a", "w", "t")})
    first = max(1, int(stored["state"]["first_seq"]))
    found = []
    for number in range(first, int(stored["state"]["last_seq"]) + 1):
        message = (await bus.api(f"STREAM.MSG.GET.{subjects.INPUT}", {"seq": number}))["message"]
        found.append(_decoded(message["data"]))
    return found


def _decoded(data: str) -> TaskCompletion:

    return msgspec.json.decode(base64.b64decode(data), type=TaskCompletion)


async def test_heartbeats_from_start_to_end(bus: Bus, probe: Probe) -> None:
    """With a heartbeat the orchestrator receives the start, and heartbeats until the end."""
    probe.afterwards = probe.hang
    async with serving(a_worker(bus, probe)):
        await _assigned(bus, heartbeat=0.3, start_by=bus.server_time() + timedelta(seconds=30))

        async def several() -> bool:
            return len(await _completions(bus)) >= 3

        await eventually(several, "it says so three times")
    answer = await _completions(bus)

    assert {(text.status, text.attempt, text.agent_id, text.service_id) for text in answer} == {
        (Outcome.RUNNING, 1, "a", SERVICE)
    }


async def test_too_late_to_begin(bus: Bus, probe: Probe) -> None:
    """An attempt that no agent started in time is not begun later: the orchestrator has given it up."""
    await _assigned(bus, start_by=bus.server_time() - timedelta(seconds=1))
    async with serving(a_worker(bus, probe)):
        await all_acked(bus, subjects.WORKFLOWS, SERVICE)

    assert probe.steps == []
    assert await _completions(bus) == []


async def test_the_time_of_a_task_counts_from_its_beginning(bus: Bus, probe: Probe) -> None:
    """`seconds` bound the run itself, however long it waited in its queue."""
    probe.afterwards = probe.hang
    async with serving(a_worker(bus, probe)):
        await _assigned(bus, seconds=0.2)
        reported = await completion(bus)

    assert isinstance(reported.error, TaskError)
    assert reported.error.code == "deadline"
