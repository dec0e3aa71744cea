"""Records that cannot be read.

They are skipped, counted, logged once, and shown until they were not seen for a while.  Any client that may write into
a stream may write invalid data, and another version may write messages that this one does not know.  Such a record
stops neither the agent nor the page or list that reads it; the status page and /readyz show it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentd.telemetry.logs import Logger

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

    def shown(self) -> list[str]:
        """Return a line for each record that was read within the last SHOWN seconds."""
        since = time.monotonic() - SHOWN
        return [
            f"{where} cannot be read and is skipped: {met.reason}"
            for where, met in self._records.items()
            if met.at > since
        ]
