"""Requests that wait for an answer.

All of them share one table and one sweep, instead of one timer per request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from agentd.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Callable

A = TypeVar("A")

SWEEP: Final = 0.2
"""Seconds between two checks for requests that have waited too long."""


@dataclass(slots=True)
class _Waiting(Generic[A]):
    answer: asyncio.Future[A]
    until: float
    subject: str


class Pending(Generic[A]):
    """Requests that are not answered yet, by token."""

    def __init__(self, timed_out: Callable[[str], Exception]) -> None:
        """Use `timed_out` to make the error for a subject that was not answered in time."""
        self._timed_out = timed_out
        self._waiting: dict[str, _Waiting[A]] = {}
        self._last = 0
        self._sweeping = False
        self._loop: asyncio.AbstractEventLoop | None = None  # stored: get_running_loop() costs a getpid()

    def drop(self, token: str) -> None:
        """Forget a request whose answer is no longer needed."""
        self._waiting.pop(token, None)

    def add(self, subject: str, seconds: float) -> tuple[str, asyncio.Future[A]]:
        """Return a token for a request to `subject`, and the future of its answer."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        self._last += 1
        token = str(self._last)
        self._waiting[token] = _Waiting(answer, time.monotonic() + seconds, subject)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP, self._sweep)
        return token, answer

    def settle(self, token: str, answer: A) -> None:
        """Set the answer of a request, if it still waits."""
        waiting = self._waiting.pop(token, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(answer)

    def fail(self, token: str, error: Exception) -> None:
        """Fail a request that still waits with `error`."""
        waiting = self._waiting.pop(token, None)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_exception(error)

    def deny(self, text: str, agent: str) -> None:
        """Fail the requests to the subject that the server's error `text` names.

        The server sends no other answer to them.
        """
        for token, waiting in list(self._waiting.items()):
            if f'"{waiting.subject.lower()}"' in text.lower():
                self.fail(token, Denied(f"NATS does not allow {agent} to publish {waiting.subject}"))

    def _sweep(self) -> None:
        now = time.monotonic()
        for token, waiting in list(self._waiting.items()):
            if waiting.answer.done():
                del self._waiting[token]
            elif waiting.until < now:
                self.fail(token, self._timed_out(waiting.subject))
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            asyncio.get_running_loop().call_later(SWEEP, self._sweep)
