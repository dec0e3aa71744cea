"""The guests of the cluster, for pages: read by a tool of tier read from any agent that offers it.

All pages of a daemon share one reading for FRESH seconds, so that many viewers cost no more calls than one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.client.tool_calls import call_tool, offered_by
from agentd.client.views import GuestSummary
from agentd.wire import subjects
from agentd.wire.messages import ToolCall
from agentd.wire.tool_names import LIST_GUESTS

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

FRESH: Final = 5.0
"""Seconds for which a reading is shown; the tool's own answer may be 10 s old."""
WAIT: Final = 4.0
"""Seconds that one page of guests may take."""
PAGE: Final = 500
"""Guests in one call, the most that the tool returns."""


class _GuestPage(msgspec.Struct, frozen=True):
    guests: list[GuestSummary]
    next: str = ""


class ClusterGuests:
    """Reads the guests for one daemon; NATS allows every agent this one call (bus/permissions.py)."""

    def __init__(self, agent_id: str) -> None:
        """Read as this agent."""
        self._agent_id = agent_id
        self._read = 0.0
        self._guests: list[GuestSummary] = []
        self._lock = asyncio.Lock()

    async def read(self, bus: Bus) -> list[GuestSummary]:
        """Return all guests; raises UsageError if no agent offers the tool, BusUnavailable."""
        async with self._lock:
            if time.monotonic() - self._read > FRESH or not self._read:
                self._guests = await self._all(bus)
                self._read = time.monotonic()
            return self._guests

    async def _all(self, bus: Bus) -> list[GuestSummary]:
        service, tool = await offered_by(bus, LIST_GUESTS)
        subject = subjects.tool_step(self._agent_id, service, tool)
        found: list[GuestSummary] = []
        cursor = ""
        while True:
            parameters = {"limit": PAGE, "cursor": cursor}
            call = ToolCall(parameters=parameters, principal=self._agent_id)
            reply = await call_tool(bus, subject, call, seconds=WAIT)
            page = msgspec.convert(reply.result, _GuestPage)
            found += page.guests
            cursor = page.next
            if not cursor:
                return found
