"""Takes messages from a durable consumer, notes them in a journal and never answers; a test kills it.

hold.py NATS_URL STREAM DURABLE JOURNAL SLOTS
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.bus.delivery.consumer import Consumer
from agentd.bus.delivery.journal import Journal
from agentd.bus.jetstream import Bus
from agentd.config import settings
from agentd.telemetry import logs

if TYPE_CHECKING:
    from agentd.bus.delivery.job import Job


async def main(url: str, stream: str, durable: str, path: str, slots: str) -> None:
    """Hold what comes, and say so."""
    bus = Bus(settings.Bus(servers=(url,)), "holder", logs.get_logger())
    await bus.connect(wait=10)

    async def hold(job: Job) -> None:
        sys.stdout.write(f"{job.sequence}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    journal = Journal(Path(path))
    loop = Consumer(bus, stream, durable, hold, slots=int(slots), log=logs.get_logger(), journal=journal)
    await loop.run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
