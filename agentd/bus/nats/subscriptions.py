"""What one NATS connection receives: messages, subscriptions, pull inboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from agentd.bus.nats.client import ignore_closed
from agentd.wire import codec

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription as NatsSubscription

    from agentd.bus.nats.connection import Connection


M = TypeVar("M")
Delivery: TypeAlias = "Msg"
"""What a pull request delivers: a message of a stream, or a status without data."""
DRAIN: Final = 2.0
"""Seconds to wait for the server to confirm the end of a subscription or a connection."""


@dataclass(frozen=True)
class Received:
    """A message that was received over core NATS."""

    subject: str
    data: bytes
    reply: str
    bus: Connection

    def decode(self, kind: type[M]) -> M:
        """Return the message as `kind`; raises InvalidMessage."""
        return codec.decode(self.data, kind)

    async def respond(self, message: object, *, principal: str = "", others: Iterable[str] = ()) -> None:
        """Answer the message, as `Connection.answer` does.

        Without a reply subject nothing is sent.
        """
        if self.reply:
            await self.bus.answer(self.reply, message, principal=principal, others=others)


Handler = Callable[[Received], Awaitable[None]]


class Subscription:
    """A subscription or a service; `stop` ends it."""

    def __init__(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Use `stop` to end it."""
        self._stop = stop

    async def stop(self) -> None:
        """Receive no more messages."""
        await self._stop()


class Pull:
    """An inbox for the messages of pull requests; `stop` ends it."""

    def __init__(self, inbox: str, sub: NatsSubscription) -> None:
        """Use the subject `inbox` and its subscription."""
        self.inbox = inbox
        self._sub = sub

    async def stop(self) -> None:
        """Stop receiving.

        Messages that the server has already sent still arrive, if the server answers.
        """
        drain: Callable[[], Awaitable[None]] = self._sub.drain
        ending = asyncio.ensure_future(ignore_closed(drain()))
        await asyncio.wait([ending], timeout=DRAIN)  # not wait_for: cancelling its flush() kills the read loop

    async def cut(self) -> None:
        """Stop receiving; messages that have not arrived yet are dropped."""
        await ignore_closed(self._sub.unsubscribe())


def as_bytes(message: object) -> bytes:
    """Return `message` as it is sent over the wire."""
    return message if isinstance(message, bytes) else codec.encode(message)
