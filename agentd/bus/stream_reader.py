"""Reads a stream message by message: however long it is, a page is in memory at once.

`Bus.every` and `last_many` return lists, which is simpler where a stream is short.  All of them read by direct gets:
who only reads needs no right to make, read or delete consumers, with which it could take messages from others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus, Stored

SIZE: Final = "Nats-Msg-Size"
"""Header in which a message that is listed without its body says how large that is."""


async def scan(
    bus: Bus, stream: str, *filters: str, last: bool = False, headers_only: bool = False
) -> AsyncIterator[Stored]:
    """Yield the messages whose subject matches, the oldest first; with `last`, each subject's last one, in no order.

    Raises BusUnavailable when NATS goes away in between: what was yielded until then is not all.
    """
    for subject_filter in filters:
        if last:
            async for stored in bus.lasts(stream, subject_filter):
                yield stored
            continue
        async for stored in bus.walk(stream, subject_filter):
            yield _bodiless(stored) if headers_only else stored


def _bodiless(stored: Stored) -> Stored:
    return replace(stored, data=b"", headers=stored.headers | {SIZE: str(len(stored.data))})
