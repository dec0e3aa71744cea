"""What tests of the work loop share: a running consumer, and handlers that record what they saw."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from agentd.bus.delivery.consumer import Consumer
from core.jetstream import Lines, Seen
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.delivery.job import Handle, Job
    from agentd.bus.jetstream import Bus


@contextlib.asynccontextmanager
async def running_consumer(
    bus: Bus, handle: Handle, *, slots: int = 4, log: Lines | None = None, drain: float = 0.0
) -> AsyncIterator[Consumer]:
    """Run a consumer of `w`; at the end it must stop by itself."""
    loop = Consumer(bus, "WORK", "w", handle, slots=slots, log=log or Lines(), journal=None)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(loop.run(stopping, drain=drain))
    try:
        yield loop
    finally:
        stopping.set()
        async with asyncio.timeout(drain + 15):
            await running


async def put(bus: Bus, count: int) -> list[bytes]:
    """Store `count` messages; return their bodies."""
    bodies = [b"%d" % number for number in range(count)]
    await asyncio.gather(*(bus.store("work.a", body) for body in bodies))
    return bodies


class Slow(Seen):
    """A handler that waits until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.changed = asyncio.Event()

    async def __call__(self, job: Job) -> None:
        """Wait for the release."""
        await super().__call__(job)
        self.running += 1
        self.most = max(self.most, self.running)
        self.changed.set()
        try:
            await self.release.wait()
        finally:
            self.running -= 1

    async def reach(self, number: int) -> None:
        """Wait until `number` handlers run."""

        async def reached() -> bool:
            return self.running >= number

        await eventually(reached, f"{number} handlers run")
