"""Checks of what no message reports: dead letters, and the storage used in NATS."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from agentd import AgentdError, capacity, dead_letters, subjects

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from agentd import Alert, Context
    from agentd_monitor.alerts import AlertBook

EVERY: Final = 15.0
"""Seconds between two checks."""
REASON_SHOWN: Final = 200
"""Maximum characters of a dead letter's reason in an alert."""


class PeriodicChecks:
    """Checks periodically; `problem` is the reason why it cannot, or ""."""

    def __init__(self, context: Context, book: AlertBook, log_once: Callable[[list[Alert]], None]) -> None:
        """Use the bus of `context`, the alerts of `book`, and `tell` to pass alerts on."""
        self.problem = ""
        self._context = context
        self._alerts = book
        self._log_once = log_once
        self._due = 0.0
        self._seen: int | None = None
        self._state: dict[str, object] = {}

    def hurry(self) -> None:
        """Make the next check due at once."""
        self._due = 0.0

    async def run(self, at: datetime) -> None:
        """Check, if it is due; an error is kept in `problem`, and the next check retries."""
        if time.monotonic() < self._due or not self._context.bus.connected:
            return
        self._due = time.monotonic() + EVERY
        try:
            await self._check_dead_letters(at)
            await self._check_storage(at)
        except AgentdError as error:
            self.problem = f"dead letters and storage cannot be checked: {error}"
        else:
            self.problem = ""

    async def _check_dead_letters(self, at: datetime) -> None:
        state = (await self._context.bus.api(f"STREAM.INFO.{subjects.DEAD}"))["state"]
        # This also holds for an empty stream: the first check has handled the alerts from before a restart.
        if state == self._state:
            return
        found = await dead_letters.letters(self._context.bus)
        self._count(found)
        open_ = [letter for letter in found if letter.open]
        for stream in {*capacity.STREAMS, *(letter.stream for letter in open_)}:
            those = [letter for letter in open_ if letter.stream == stream]
            self._context.metrics.dead_letters_open.labels(stream).set(len(those))
            self._log_once(self._alerts.observe_dead(stream, len(those), _summary(stream, those), at))
        self._state = state

    def _count(self, found: list[dead_letters.Letter]) -> None:
        """Count the dead letters that are new since the last check.

        Dead letters from before the first check are not counted: they were counted when they were new.
        """
        newest = max((letter.number for letter in found), default=0)
        for letter in found if self._seen is not None else []:
            if letter.number > (self._seen or 0):
                self._context.metrics.dead_letters.labels(letter.stream).inc()
        self._seen = max(newest, self._seen or 0)

    async def _check_storage(self, at: datetime) -> None:
        uses, sizes = await capacity.all_limits(self._context.bus)
        for name, size in sizes.items():
            self._context.metrics.stream_bytes.labels(name).set(size)
        for use in uses:
            self._context.metrics.storage_share.labels(use.what).set(use.share)
            text = f"{use.text}; {capacity.advice(use, sizes)}"
            full, eased = use.share >= capacity.FULL, use.share < capacity.EASED
            self._log_once(self._alerts.observe_storage(use.what, text, at, full=full, eased=eased))


def _summary(stream: str, letters: list[dead_letters.Letter]) -> str:
    if not letters:
        return f"no dead letter of {stream} is open"
    last = letters[-1]
    what = last.subject or f"message {last.sequence}"
    many = f"{len(letters)} dead letters" if len(letters) > 1 else "a dead letter"
    return f"{many} of {stream}: {what}: {last.reason[:REASON_SHOWN]}; see `agentd dead-letters show {last.number}`"
