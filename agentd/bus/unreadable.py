"""Records that cannot be read.

They are skipped, counted, logged once, and shown until they were not seen for a while.  Any client that may write into
a stream may write invalid data, and another version may write messages that this one does not know.  Such a record
stops neither the agent nor the page or list that reads it; the status page and /readyz show it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from agentd.bus.stored import Newest, Stored
from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.telemetry.logs import Logger

M = TypeVar("M")

SHOWN: Final = 600.0
"""Seconds for which a record is shown after it was last read."""
KEPT: Final = 1000
"""Largest number of remembered records; the oldest are dropped."""


@dataclass
class _Record:
    reason: str
    at: float


class Unreadable:
    """The records that this process could not read."""

    def __init__(self, log: Logger) -> None:
        """Start with no records."""
        self.count = 0
        self._log = log
        self._records: dict[str, _Record] = {}

    def note(self, where: str, reason: str) -> None:
        """Remember that the record at `where` cannot be read; count and log it once.

        `where` is its subject and sequence.
        """
        known = self._records.pop(where, None)
        if known is None:
            self.count += 1
            self._log.warning("a record cannot be read and is skipped", record=where, reason=reason)
        self._records[where] = _Record(reason, time.monotonic())
        if len(self._records) > KEPT:
            del self._records[next(iter(self._records))]

    def note_stored(self, stored: Stored, reason: str) -> None:
        """Remember a message of a stream, as `note` does."""
        self.note(f"{stored.subject} ({stored.seq})", reason)

    def decoded(self, stored: Stored, kind: type[M], mine: Callable[[M], bool] | None) -> tuple[Newest[M] | None, str]:
        """Return a message as `kind`, or None and why it is unreadable or not `mine`.

        For an answer of the server there is no reason.
        """
        if stored.gone:
            return Newest(stored.seq), ""
        try:
            value = stored.decode(kind)
        except InvalidMessage as error:
            reason = str(error)
        else:
            if mine is None or mine(value):
                return Newest(stored.seq, value, stored.time), ""
            reason = f"{kind.__name__}: it belongs elsewhere"
        self.note_stored(stored, reason)
        return None, "" if stored.answered else reason

    def shown(self) -> list[str]:
        """Return a line for each record that was read within the last SHOWN seconds."""
        since = time.monotonic() - SHOWN
        return [
            f"{where} cannot be read and is skipped: {met.reason}"
            for where, met in self._records.items()
            if met.at > since
        ]
