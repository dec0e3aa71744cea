"""Reads a stream message by message: however long it is, a few hundred messages are in memory at once.

`Bus.every` and `last_many` return lists, which is simpler where a stream is short.  Messages that are stored while
this reads are read too; with `last`, a subject that changes meanwhile may come twice.
"""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.bus import Stored
from agentd.connection import status_of
from agentd.errors import BusUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus import Bus
    from agentd.connection import Delivery

BATCH = 256
"""Messages that are asked for at once."""
SIZE = "Nats-Msg-Size"
"""Header in which the server says how large the body is that it leaves out."""


async def scan(
    bus: Bus, stream: str, *filters: str, last: bool = False, headers_only: bool = False
) -> AsyncIterator[Stored]:
    """Yield the messages whose subject matches, the oldest first; with `last`, the last one of each subject.

    Raises BusUnavailable when NATS goes away in between: what was yielded until then is not all.
    """
    config = {
        "filter_subjects": list(filters),
        "deliver_policy": "last_per_subject" if last else "all",
        "ack_policy": "none",
        "headers_only": headers_only,
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 60_000_000_000,
    }
    made = await bus.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    left = int(made["num_pending"])
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    pull = await bus.pull("scan", arrived.put)
    ask = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made['name']}"
    asked = 0
    try:
        while left:
            if not asked:
                bus.send(ask, msgspec.json.encode({"batch": BATCH, "no_wait": True}), pull.inbox)
                asked = BATCH
            message = await _next(bus, stream, arrived)
            if message is None:
                return
            asked -= 1
            left = message.metadata.num_pending
            yield _stored(message)
    finally:
        await pull.cut()
        bus.send(f"$JS.API.CONSUMER.DELETE.{stream}.{made['name']}")


async def _next(bus: Bus, stream: str, arrived: asyncio.Queue[Delivery]) -> Delivery | None:
    """Return the next message; None if what was pending has been replaced meanwhile, and there is no more."""
    try:
        async with asyncio.timeout(bus.settings.timeout):
            message = await arrived.get()
    except TimeoutError as error:
        text = f"NATS stopped delivering {stream} ({bus.problem or 'connected'})"
        raise BusUnavailable(text) from error
    status = status_of(message)
    if status and status not in {"404", "408"}:
        text = f"NATS stopped delivering {stream}: status {status}"
        raise BusUnavailable(text)
    return None if status else message


def _stored(message: Delivery) -> Stored:
    meta = message.metadata
    headers: dict[str, Any] = dict(message.headers or {})
    return Stored(message.subject, meta.sequence.stream, message.data, meta.timestamp.astimezone(UTC), headers)
