"""A message that kills its process is given up; the messages beside it are handled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentd.bus.delivery import consumer, dead_letters
from agentd.bus.setup.provision import provision
from agentd.errors import TemporaryError
from core.jetstream import all_acked, consumer_info
from core.running_consumer import running_consumer

if TYPE_CHECKING:
    import pytest

    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus


class Process:
    """A process that the message `poison` kills; each `life` is a new process."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.deaths = 0
        self.died = asyncio.Event()

    async def __call__(self, job: Job) -> None:
        """Handle a message: the poison kills at once, the others take a while."""
        if job.data == b"poison":
            self.deaths += 1
            self.died.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.1)
        self.done.append(job.data)

    async def life(self, bus: Bus) -> bool:
        """Work until the poison kills the process; return whether it did."""
        self.died.clear()
        async with running_consumer(bus, self, slots=4):
            ended = asyncio.create_task(_all_done(bus))
            died = asyncio.create_task(self.died.wait())
            await asyncio.wait([ended, died], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            died.cancel()
        return self.died.is_set()


async def _all_done(bus: Bus) -> None:
    while True:
        info = await consumer_info(bus, "WORK", "w")
        if not info["num_pending"] and not info["num_ack_pending"]:
            return
        await asyncio.sleep(0.05)


async def test_a_returned_message_is_not_poisoned(work: Bus) -> None:
    """A message that no process can take yet is returned until one can; it kills no process and is never lost."""
    deliveries: list[int] = []

    async def handle(job: Job) -> None:
        deliveries.append(job.delivered)
        if job.delivered <= consumer.SUSPECT + consumer.BEGINS + 4:
            raise TemporaryError("not yet", delay=0.001)

    await provision(work)
    await work.store("work.a", b"1")
    async with running_consumer(work, handle):
        await all_acked(work, "WORK", "w")

    assert deliveries == list(range(1, consumer.SUSPECT + consumer.BEGINS + 6))
    assert await dead_letters.letters(work) == []


async def test_messages_beside_a_poisoned_one(work: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it kills, those beside it are done once each; it is given up after BEGINS begins, and kept."""
    await provision(work)
    process = Process()
    survived = consumer.Consumer._clear_start  # noqa: SLF001

    def unless_dead(self: consumer.Consumer, job: Job, *, done: bool) -> None:
        if not process.died.is_set():  # the dead write nothing
            survived(self, job, done=done)

    monkeypatch.setattr(consumer.Consumer, "_clear_start", unless_dead)
    for body in (b"1", b"poison", b"2", b"3"):
        await work.store("work.a", body)
    async with asyncio.timeout(60):
        while await process.life(work):
            assert process.deaths < 20
    (letter,) = await dead_letters.letters(work)

    assert sorted(process.done) == [b"1", b"2", b"3"]
    assert process.deaths == consumer.SUSPECT + consumer.BEGINS + 1
    assert letter.reason == f"started {consumer.BEGINS + 1} times, never finished: the process that handles it crashes"


async def test_poisoned_between_returns(work: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poison is given up although it is handed back between two deaths: while the claim of a dead process counts.

    What is handed back is not begun again and again: only the begins that had no end are counted.
    """
    await provision(work)
    monkeypatch.setattr(consumer, "SUSPECT", 1)
    deaths = 0
    died = asyncio.Event()
    survived = consumer.Consumer._clear_start  # noqa: SLF001

    def unless_dead(self: consumer.Consumer, job: Job, *, done: bool) -> None:
        if not died.is_set():  # the dead write nothing
            survived(self, job, done=done)

    async def handle(job: Job) -> None:
        nonlocal deaths
        if job.delivered % 2:
            raise TemporaryError("another agent has it", delay=0.001)
        deaths += 1
        died.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(consumer.Consumer, "_clear_start", unless_dead)
    await work.store("work.a", b"poison")
    async with asyncio.timeout(60):
        while not await dead_letters.letters(work):
            assert deaths < 20
            died.clear()
            async with running_consumer(work, handle):
                ended = asyncio.create_task(_all_done(work))
                dying = asyncio.create_task(died.wait())
                await asyncio.wait([ended, dying], return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                dying.cancel()

    assert deaths == consumer.BEGINS + 1
