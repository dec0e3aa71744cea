"""Read a stream message by message.

However long the stream is, only one page is in memory.  `Bus.every` and `last_many` return lists, which is simpler for
a short stream.  None of them uses a consumer: a client that only reads needs no permission to create, read or delete
consumers, which would let it take messages from others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored

SIZE: Final = "Nats-Msg-Size"
"""Header with the size of the body of a message that is listed without it."""


async def scan(
    bus: Bus, stream: str, *filters: str, last: bool = False, headers_only: bool = False
) -> AsyncIterator[Stored]:
    """Yield the messages with a matching subject, the oldest first.

    With `last`, only the last message of each subject, in no order.

    Raises BusUnavailable if NATS becomes unavailable meanwhile: the messages yielded until then are not complete.
    """
    for subject_filter in filters:
        if last:
            async for stored in bus.lasts(stream, subject_filter):
                yield stored
            continue
        async for stored in bus.walk(stream, subject_filter):
            yield _has_no_body(stored) if headers_only else stored


def _has_no_body(stored: Stored) -> Stored:
    return replace(stored, data=b"", headers=stored.headers | {SIZE: str(len(stored.data))})
