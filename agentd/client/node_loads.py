"""The load of each node in the last half hour, from the metric reports of its agents.

A daemon keeps one value a minute and node, and continues each reading of the stream after the last one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.wire import subjects
from agentd.wire.announcements import MetricReport

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

MINUTES: Final = 30
FRESH: Final = 10.0
"""Seconds between two readings of the stream."""
FIRST: Final = 6000
"""Messages of the stream, heartbeats among them, that the first reading goes back: half an hour of 50 agents."""
MINUTE: Final = 60


class LoadPoint(msgspec.Struct, frozen=True):
    """CPU and memory of a node in percent, in a minute (of those since 1970); None if not reported."""

    minute: int
    cpu: float | None
    memory: float | None


class NodeLoad(msgspec.Struct, frozen=True):
    """The load of a node, the oldest minute first."""

    node: str
    points: list[LoadPoint]


class NodeLoads:
    """The loads of all nodes, as one daemon has read them."""

    def __init__(self) -> None:
        self._points: dict[str, dict[int, LoadPoint]] = {}
        self._next = 0
        self._at = 0.0
        self._lock = asyncio.Lock()

    async def read(self, bus: Bus) -> list[NodeLoad]:
        """Return the loads of the last half hour; raises BusError."""
        async with self._lock:
            if not self._at or time.monotonic() - self._at > FRESH:
                await self._continue(bus)
                self._at = time.monotonic()
        oldest = int(time.time()) // MINUTE - MINUTES
        found = []
        for node, points in sorted(self._points.items()):
            for minute in [minute for minute in points if minute <= oldest]:
                del points[minute]
            if points:
                found.append(NodeLoad(node, [points[minute] for minute in sorted(points)]))
        return found

    async def _continue(self, bus: Bus) -> None:
        info = await bus.api(f"STREAM.INFO.{subjects.METRICS}")
        last = int(info["state"]["last_seq"])
        if not 0 < self._next <= last + 1:  # the first reading, or the stream was created again
            self._points.clear()
            self._next = max(1, last - FIRST)
        async for stored in bus.walk(subjects.METRICS, subjects.ALL_METRICS, since=self._next):
            for report in bus.readable([stored], MetricReport):
                self.add(report)
        self._next = last + 1

    def add(self, report: MetricReport) -> None:
        """Take a report: of several in a minute, by several agents of a node, the last one counts."""
        node = report.tags.get("node", "")
        cpu, memory = (report.metrics.get(f"host_{name}_percent") for name in ("cpu", "memory"))
        if node and (cpu is not None or memory is not None):
            minute = int(report.timestamp.timestamp()) // MINUTE
            self._points.setdefault(node, {})[minute] = LoadPoint(minute, cpu, memory)
