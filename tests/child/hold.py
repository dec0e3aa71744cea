"""Takes messages from a durable consumer, notes them in a journal and never answers; a test kills it.

hold.py NATS_URL STREAM DURABLE JOURNAL SLOTS
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agentd import logs, sections
from agentd.bus import Bus
from agentd.consumer import Consumer, Job
from agentd.journal import Journal


async def main(url: str, stream: str, durable: str, path: str, slots: str) -> None:
    """Hold what comes, and say so."""
    bus = Bus(sections.Bus(servers=(url,)), "holder", logs.get_logger())
    await bus.connect(wait=10)

    async def hold(job: Job) -> None:
        sys.stdout.write(f"{job.sequence}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    journal = Journal(Path(path))
    loop = Consumer(bus, stream, durable, hold, slots=int(slots), log=logs.get_logger(), journal=journal)
    await loop.run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
