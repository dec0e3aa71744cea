"""The answers of the JetStream API, and the errors in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.bus.nats.client import status_of
from agentd.errors import BusError, BusFull, BusUnavailable, NotProvisioned, StaleWrite, TooManyWaiting

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator

    from agentd.bus.nats.subscriptions import Delivery as Msg

_STALE, _IN_PROGRESS, _NO_MESSAGE, _NO_STREAM, _NO_CONSUMER = 10071, 10164, 10037, 10059, 10014
_ROOM: Final = "JetStream has no room; raise max_file of its account, or make room: `agentd doctor` lists what uses it"
_NOT_STORED: Final = 10077
_TOO_MANY: Final = (
    "as many requests of this principal wait for an orchestrator as NATS stores, so this one was not stored; send it "
    "again, with the same id, once some of them have started; is an orchestrator running? see `agentd agents`"
)
_FULL: Final = {
    10002: _ROOM,
    10023: _ROOM,
    10047: _ROOM,
    _NOT_STORED: "the stream is full until what waits in it is worked off: is an orchestrator at work? see its /readyz",
    10122: _ROOM,
}


class ApiError(msgspec.Struct):
    """The error in an answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    seq: int = 0
    error: ApiError | None = None


_ack = msgspec.json.Decoder(_PubAck)


class NoMessage(BusError):
    """There is no message on the subject."""


def api_error(error: ApiError, subject: str) -> BusError:
    """Return the exception for the server's error answer to a message on `subject`."""
    text = f"{subject}: {error.description}"
    if error.err_code == _STALE:
        return StaleWrite(text)
    if error.err_code == _NO_MESSAGE:
        return NoMessage(text)
    if error.err_code in {_NO_STREAM, _NO_CONSUMER}:
        return NotProvisioned(f"{text}: run `agentd provision`")
    if error.err_code in _FULL:
        one = error.err_code == _NOT_STORED and "per subject" in error.description
        return TooManyWaiting(f"{text}: {_TOO_MANY}") if one else BusFull(f"{text}: {_FULL[error.err_code]}")
    if error.err_code == _IN_PROGRESS or error.code in {408, 503}:
        return BusUnavailable(text)
    return BusError(f"{text} ({error.err_code})")


class PendingStore:
    """A message that is being stored.

    Awaiting it returns its sequence, or raises what `store` raises.
    """

    __slots__ = ("_answer", "_subject")

    def __init__(self, answer: asyncio.Future[Msg], subject: str) -> None:
        """Wait on `answer`, the server's answer to the message on `subject`."""
        self._answer = answer
        self._subject = subject

    def __await__(self) -> Generator[Any, None, int]:
        """Wait until the server confirms that it has stored the message."""
        answer = yield from self._answer
        if status_of(answer):
            raise BusUnavailable(
                f"no stream takes {self._subject}: JetStream is starting, or `agentd provision` was not run"
            )
        ack = _ack.decode(answer.data)
        if ack.error is not None:
            raise api_error(ack.error, self._subject)
        return ack.seq
