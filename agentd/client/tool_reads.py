"""What pages read by tools of tier read, from any agent that offers them: guests, alerts, findings of the checks.

All pages of a daemon share one reading for FRESH seconds, so that many viewers cost no more calls than one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentd.client.tool_calls import call_tool, offered_by
from agentd.client.views import AlertSummary, FindingSummary, GuestSummary
from agentd.wire import subjects
from agentd.wire.messages import ToolCall
from agentd.wire.tool_names import LIST_ALERTS, LIST_FINDINGS, LIST_GUESTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.bus.jetstream import Bus

T = TypeVar("T")

FRESH: Final = 5.0
"""Seconds for which a reading is shown; the tool's own answer may be older."""
WAIT: Final = 4.0
"""Seconds that one call may take."""
PAGE: Final = 500
"""Entries in one call, the most that these tools return."""


class _GuestPage(msgspec.Struct, frozen=True):
    guests: list[GuestSummary]
    next: str = ""


class _AlertPage(msgspec.Struct, frozen=True):
    alerts: list[AlertSummary]


class _FindingPage(msgspec.Struct, frozen=True):
    findings: list[FindingSummary]


class ToolReads:
    """The readings of one daemon; NATS allows every agent the calls of these tools (bus/setup/permissions.py)."""

    def __init__(self, agent_id: str) -> None:
        """Read as this agent."""
        self._agent_id = agent_id
        self._read: dict[str, tuple[float, Any]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def guests(self, bus: Bus) -> list[GuestSummary]:
        """Return all guests.

        Raises UsageError if no agent offers the tool, BusUnavailable.
        """

        async def read() -> list[GuestSummary]:
            found: list[GuestSummary] = []
            cursor = ""
            while True:
                page = await self._call(bus, LIST_GUESTS, {"limit": PAGE, "cursor": cursor}, _GuestPage)
                found += page.guests
                cursor = page.next
                if not cursor:
                    return found

        return await self._fresh(LIST_GUESTS, read)

    async def alerts(self, bus: Bus, state: str) -> list[AlertSummary]:
        """Return the alerts that are firing, or that were resolved in the last day; raises as `guests` does."""

        async def read() -> list[AlertSummary]:
            return (await self._call(bus, LIST_ALERTS, {"state": state, "limit": PAGE}, _AlertPage)).alerts

        return await self._fresh(f"{LIST_ALERTS} {state}", read)

    async def findings(self, bus: Bus) -> list[FindingSummary]:
        """Return what the checks found that is not in order, or cannot be read.

        Raises as `guests` does.
        """

        async def read() -> list[FindingSummary]:
            return (await self._call(bus, LIST_FINDINGS, {"limit": PAGE}, _FindingPage)).findings

        return await self._fresh(LIST_FINDINGS, read)

    async def _fresh(self, name: str, read: Callable[[], Awaitable[T]]) -> T:
        """Return what was read less than FRESH s ago, else read it, once for all callers."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            at, value = self._read.get(name, (0.0, None))
            if not at or time.monotonic() - at > FRESH:
                value = await read()
                self._read[name] = (time.monotonic(), value)
            found: T = value
            return found

    async def _call(self, bus: Bus, name: str, parameters: dict[str, Any], kind: type[T]) -> T:
        service, tool = await offered_by(bus, name)
        call = ToolCall(parameters=parameters, principal=self._agent_id)
        reply = await call_tool(bus, subjects.tool_step(self._agent_id, service, tool), call, seconds=WAIT)
        return msgspec.convert(reply.result, kind)
