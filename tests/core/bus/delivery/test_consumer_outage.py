"""The work loop in bad weather: a broken connection, a consumer that is gone, a server that is killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentd.bus.delivery import consumer
from agentd.bus.delivery.consumer import Consumer
from agentd.bus.nats.client import abort
from agentd.bus.setup.provision import provision
from agentd.errors import StaleWrite
from agentd.wire import subjects
from core.jetstream import Lines, Seen, all_acked, answers, connected, consumer_info, make_consumer, make_stream
from core.running_consumer import Slow, put, running_consumer
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus
    from harness import NatsServer


async def test_slots_over_a_lost_connection(work: Bus) -> None:
    """A connection that broke and came back does not let the same worker take twice its slots."""
    slow = Slow()
    async with running_consumer(work, slow, slots=4):

        async def waiting() -> bool:
            return bool((await consumer_info(work, "WORK", "w"))["num_waiting"])

        await eventually(waiting, "the consumer has asked")
        abort(work._nc)  # noqa: SLF001 - a broken socket, while the server stays up
        await eventually(_reconnected(work), "the connection is back")
        await put(work, 20)
        await slow.reach(4)
        info = await consumer_info(work, "WORK", "w")
        slow.release.set()
        await all_acked(work, "WORK", "w")

    assert slow.most == 4
    assert info["num_ack_pending"] == 4
    assert all(job.delivered == 1 for job in slow.jobs)


def _reconnected(bus: Bus) -> Callable[[], Awaitable[bool]]:
    async def reconnected() -> bool:
        return bus.counters["reconnects"] > 0 and bus.connected

    return reconnected


async def test_a_deleted_consumer(bus: Bus) -> None:
    """Trap 8: a missing consumer is reported with what to do; once provisioned again, work goes on by itself."""
    seen = Seen()
    loop = Consumer(bus, subjects.INPUT, subjects.ORCH_INPUT, seen, slots=2, log=Lines(), journal=None)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(loop.run(stopping))

    async def idle() -> bool:
        return bool((await consumer_info(bus, subjects.INPUT, subjects.ORCH_INPUT))["num_waiting"])

    await eventually(idle, "the consumer has asked")
    await bus.api(f"CONSUMER.DELETE.{subjects.INPUT}.{subjects.ORCH_INPUT}")

    async def reported() -> bool:
        return "agentd provision" in loop.problem

    await eventually(reported, "the problem is reported")
    assert subjects.ORCH_INPUT in loop.problem
    await provision(bus)
    await bus.store(subjects.complete("a", "w", "t"), b"{}")
    await all_acked(bus, subjects.INPUT, subjects.ORCH_INPUT)

    assert len(seen.bodies) == 1
    assert loop.problem == ""
    stopping.set()
    await running


async def test_a_problem_ends_without_work(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that is back says so although there is nothing to do."""
    monkeypatch.setattr(consumer, "EXPIRES", 1.0)
    loop = Consumer(bus, subjects.INPUT, "late", Seen(), slots=2, log=Lines(), journal=None)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(loop.run(stopping))

    async def reported() -> bool:
        return bool(loop.problem)

    async def over() -> bool:
        return not loop.problem

    await eventually(reported, "the problem is reported")
    await bus.api(f"CONSUMER.DELETE.{subjects.INPUT}.{subjects.ORCH_INPUT}")
    await make_consumer(bus, subjects.INPUT, "late")
    await eventually(over, "the problem is over")
    stopping.set()
    await running


async def test_a_killed_server_loses_and_repeats_no_message(nats_server: NatsServer, work: Bus) -> None:
    """After kill -9 and restart of NATS, twice, each of 600 messages has had its effect exactly once."""
    await make_stream(work, "DONE", "done.*")
    seen, again = Seen(), Seen()

    async def handle(job: Job) -> None:
        await asyncio.sleep(0.005)
        try:
            await work.store(f"done.{job.data.decode()}", b"", expect=0)
        except StaleWrite:
            await again(job)  # what was unanswered when the server died comes again
        await seen(job)

    async with connected(nats_server.url, agent="other") as second:
        bodies = await put(work, 600)
        async with running_consumer(work, handle, slots=2, drain=5), running_consumer(second, handle, slots=2, drain=5):
            for enough in (100, 300):
                await eventually(seen.at_least(enough), f"{enough} messages are handled")
                nats_server.kill()
                nats_server.start()
                await answers(work)
                await answers(second)
            await all_acked(work, "WORK", "w")

        effects = await work.every("DONE", "done.*")

    assert sorted(effect.subject for effect in effects) == sorted(f"done.{body.decode()}" for body in bodies)
    assert len(again.bodies) <= 16, "at most what ran when the server died, twice, comes again"
