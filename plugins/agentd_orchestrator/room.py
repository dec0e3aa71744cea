"""Whether NATS has room for new work: from 70 % of a limit on, requests wait, so that what runs can end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentd import storage
from agentd.errors import BusError, Denied

if TYPE_CHECKING:
    from agentd.bus import Bus

EVERY = 5.0
"""Seconds between two looks at how full NATS is."""


class Room:
    """Looks every now and then; `problem` says why nothing new may begin."""

    def __init__(self, bus: Bus) -> None:
        """Begin with room."""
        self.problem = ""
        self._bus = bus
        self._due = 0.0

    async def look(self) -> None:
        """Look, if it is time; what cannot be seen says nothing."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        try:
            rooms = await storage.for_events(self._bus)
        except (BusError, Denied):
            return
        limit = storage.EASED if self.problem else storage.FULL
        tight = [each for each in rooms if each.share >= limit]
        self.problem = f"no new requests are taken: {tight[0].text}" if tight else ""
