"""The work loop: which process gets a message, and what happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from agentd.bus.delivery import consumer
from agentd.bus.delivery.consumer import Consumer
from agentd.errors import BusUnavailable, GiveUp, TemporaryError
from agentd.wire import subjects
from core.jetstream import Lines, Seen, all_acked, connected, consumer_info, make_consumer
from core.running_consumer import Slow, put, running_consumer
from harness import eventually

if TYPE_CHECKING:
    import pytest

    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus
    from harness import NatsServer


async def test_every_message_is_handled_once(work: Bus) -> None:
    """A thousand messages are handled once each, and the job says what the server knows of it."""
    seen = Seen()
    bodies = await put(work, 1000)
    async with running_consumer(work, seen, slots=16):
        await all_acked(work, "WORK", "w")

    assert sorted(seen.bodies) == sorted(bodies)
    first = min(seen.jobs, key=lambda job: job.sequence)
    assert (first.sequence, first.delivered, first.subject) == (1, 1, "work.a")
    assert abs(time.time() - first.stored.timestamp()) < 30


async def test_never_more_than_slots(work: Bus) -> None:
    """At most `slots` handlers run, and no message is taken that has no slot: another worker could have it."""
    slow = Slow()
    await put(work, 30)
    async with running_consumer(work, slow, slots=3) as loop:
        await slow.reach(3)
        info = await consumer_info(work, "WORK", "w")
        active = loop.active
        slow.release.set()
        await all_acked(work, "WORK", "w")

    assert active == 3
    assert info["num_ack_pending"] == 3
    assert slow.most == 3
    assert len(slow.bodies) == 30


async def test_a_slow_handler_blocks_no_other(work: Bus) -> None:
    """Trap 10: while one message takes long, the others are handled."""
    release, seen = asyncio.Event(), Seen()

    async def handle(job: Job) -> None:
        if job.data == b"0":
            await release.wait()
        await seen(job)

    await put(work, 10)
    async with running_consumer(work, handle, slots=2, drain=5):

        async def others() -> bool:
            return len(seen.bodies) == 9

        await eventually(others, "the others are handled")
        release.set()
        await all_acked(work, "WORK", "w")


async def test_an_outage_of_nats_counts_no_deliveries(work: Bus) -> None:
    """While NATS does not answer, a message stays with its process: extra deliveries would count as poison."""
    seen = Seen()

    async def handle(job: Job) -> None:
        await seen(job)
        if len(seen.jobs) <= 12:
            raise BusUnavailable("JetStream is electing a leader", delay=0.01)

    await put(work, 1)
    async with running_consumer(work, handle):
        await all_acked(work, "WORK", "w")

    assert len(seen.jobs) == 13
    assert {item.delivered for item in seen.jobs} == {1}


async def test_an_exception_is_logged_and_retried(work: Bus) -> None:
    """A handler's bug is logged, and the message comes again after a pause that grows; it is never thrown away."""
    lines, at = Lines(), []

    async def handle(job: Job) -> None:
        at.append(time.monotonic())
        if job.delivered < 3:
            raise ZeroDivisionError

    await put(work, 1)
    async with running_consumer(work, handle, log=lines):
        await all_acked(work, "WORK", "w")

    assert lines.events("exception") == ["a message was not handled"] * 2
    assert at[1] - at[0] > 0.9
    assert at[2] - at[1] > 1.9


async def test_temporary_error(work: Bus) -> None:
    """TemporaryError says when the message comes again, and is no error in the log."""
    lines, at = Lines(), []

    async def handle(job: Job) -> None:
        at.append(time.monotonic())
        if job.delivered == 1:
            raise TemporaryError("not yet", delay=0.5)

    await put(work, 1)
    async with running_consumer(work, handle, log=lines):
        await all_acked(work, "WORK", "w")

    assert 0.4 < at[1] - at[0] < 5
    assert lines.events("error", "exception") == []


async def test_give_up_keeps_a_dead_letter(bus: Bus) -> None:
    """GiveUp ends a message for good; the server's advisory with the reason is stored in AI_DEAD."""
    lines = Lines()

    async def handle(_: Job) -> None:
        raise GiveUp("it is not JSON")

    sequence = await bus.store(subjects.request("me"), b"nonsense")
    loop = Consumer(bus, subjects.REQUESTS, subjects.ORCH_REQUESTS, handle, slots=1, log=lines, journal=None)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(loop.run(stopping))
    await all_acked(bus, subjects.REQUESTS, subjects.ORCH_REQUESTS)

    async def buried() -> bool:
        return bool(await bus.every(subjects.DEAD, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>"))

    await eventually(buried, "the advisory is stored")
    stopping.set()
    await running
    (dead,) = await bus.every(subjects.DEAD, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")
    advisory = dead.decode(dict)

    assert (advisory["stream"], advisory["stream_seq"]) == (subjects.REQUESTS, sequence)
    assert "it is not JSON" in advisory["reason"]
    assert lines.events("error") == ["gave up a message"]


async def test_a_long_job_keeps_its_message(
    nats_server: NatsServer, work: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes longer than ack_wait is reported as in progress: no other process gets it."""
    monkeypatch.setattr(consumer, "PROGRESS", 0.5)
    await make_consumer(work, "WORK", "w", ack_wait=2, max_ack_pending=10_000)
    slow, other = Slow(), Seen()
    await put(work, 1)
    async with running_consumer(work, slow, drain=5), connected(nats_server.url, agent="other") as second:
        await slow.reach(1)
        async with running_consumer(second, other):
            with contextlib.suppress(AssertionError):
                await eventually(other.at_least(1), "the other one gets it", 6)
            slow.release.set()
            await all_acked(work, "WORK", "w")

    assert other.bodies == []
    assert [job.delivered for job in slow.jobs] == [1]


async def test_after_its_deadline_it_is_not_kept(work: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job past its deadline is no longer reported: a handler that hangs does not hold its message for ever."""
    monkeypatch.setattr(consumer, "PROGRESS", 0.5)
    await make_consumer(work, "WORK", "w", ack_wait=2, max_ack_pending=10_000)
    again = asyncio.Event()

    async def hang(job: Job) -> None:
        job.until = time.monotonic()
        if job.delivered > 1:
            again.set()
            return
        await asyncio.Event().wait()

    await put(work, 1)
    async with running_consumer(work, hang), asyncio.timeout(15):
        await again.wait()


async def test_drain_hands_back(nats_server: NatsServer, work: Bus) -> None:
    """What is not done when the time to stop is over goes to another worker at once, not after ack_wait."""
    slow, other = Slow(), Seen()
    await put(work, 3)
    async with running_consumer(work, slow, slots=2, drain=0.2):
        await slow.reach(2)
    stopped = time.monotonic()
    async with connected(nats_server.url, agent="other") as second, running_consumer(second, other):
        await all_acked(second, "WORK", "w")
    took = time.monotonic() - stopped

    assert took < 5
    assert sorted(other.bodies) == [b"0", b"1", b"2"]
    assert slow.running == 0, "the handlers were cancelled"


async def test_drain_finishes(work: Bus) -> None:
    """What is done within the time to stop is acknowledged; nothing new is begun."""
    slow = Slow()
    await put(work, 5)
    async with running_consumer(work, slow, slots=1, drain=10):
        await slow.reach(1)
        asyncio.get_running_loop().call_later(0.5, slow.release.set)

    async def acknowledged() -> bool:
        return not (await consumer_info(work, "WORK", "w"))["num_ack_pending"]

    await eventually(acknowledged, "what was begun is acknowledged", 10)
    assert slow.bodies == [b"0"]
    assert (await consumer_info(work, "WORK", "w"))["num_pending"] == 4


async def test_a_stopped_worker_pulls_no_message(nats_server: NatsServer, work: Bus) -> None:
    """Trap 9: after a stop no open pull swallows a message."""
    seen = Seen()
    for _ in range(5):
        async with running_consumer(work, seen):
            await put(work, 1)
    async with connected(nats_server.url, agent="other") as second, running_consumer(second, seen):
        begun = time.monotonic()
        await put(work, 20)
        await all_acked(work, "WORK", "w")

    assert time.monotonic() - begun < 10
    assert len(seen.bodies) == 25


async def test_pause(work: Bus) -> None:
    """A paused consumer takes nothing more, and goes on when it is resumed."""
    seen = Seen()
    async with running_consumer(work, seen, slots=1) as loop:
        await put(work, 1)
        await all_acked(work, "WORK", "w")
        await loop.pause()
        await put(work, 10)
        with contextlib.suppress(AssertionError):
            await eventually(seen.at_least(2), "something is taken", 1)
        taken = len(seen.bodies)
        loop.resume()
        await all_acked(work, "WORK", "w")

    assert taken == 1, "a pull request that is open counts no more"
    assert len(seen.bodies) == 11
