"""Reads the Proxmox cluster periodically, and keeps the metrics of the last readings for scrapes.

A scrape makes no API call: `collect` returns the families that were built after the last reading.  They are built in a
thread, because the families of 10,000 guests take a large part of a second.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from prometheus_client.registry import Collector

from agentd import one_line
from agentd_monitor.cluster.families import families
from agentd_monitor.cluster.readings import SOURCES, Readings, Snapshot
from agentd_monitor.cluster.schedule import Schedule
from agentd_monitor.health.catalogue import run_all
from agentd_monitor.health.finding import Moment
from agentd_monitor.health.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from agentd import Finding, Proxmox
    from agentd_monitor.cluster.readings import Request
    from agentd_monitor.settings import MonitorSettings

TICK: Final = 1.0
"""Seconds between two looks at the schedule."""
REBUILD: Final = 10.0
"""Seconds after which the families are built again: more often would cost more than it shows."""
PROBLEM_SHOWN: Final = 200
"""Maximum characters of the reason why a source cannot be read."""


class ClusterCollector(Collector):
    """The readings of the cluster, and their families for the page /metrics."""

    def __init__(self, settings: MonitorSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        self._readings = Readings()
        self._families: list[Metric] = []
        self._built = -REBUILD
        self._running: set[asyncio.Task[None]] = set()

    def collect(self) -> Iterable[Metric]:
        """Return the families that were built after the last reading."""
        return self._families

    def snapshot(self) -> Snapshot:
        """Return the readings that can be used now."""
        return self._readings.snapshot(self._clock())

    def findings(self, snapshot: Snapshot, at: float) -> list[Finding]:
        """Run the checks on the readings of `snapshot`.

        `at` is the time in seconds since 1970.
        """
        return run_all(Moment(snapshot, Thresholds(self.settings.overrides), at))

    async def run(self, proxmox: Proxmox) -> None:
        """Read until it is cancelled."""
        schedule = Schedule(self._readings, self.settings.api_calls_per_minute)
        try:
            while True:
                for request in schedule.due(self._clock()):
                    reading = asyncio.create_task(self._read(proxmox, schedule, request), name=request.path)
                    self._running.add(reading)
                    reading.add_done_callback(self._running.discard)
                if self._clock() - self._built >= REBUILD:
                    await self._build()
                await asyncio.sleep(TICK)
        finally:
            for reading in self._running:
                reading.cancel()
            self._families = []

    async def _read(self, proxmox: Proxmox, schedule: Schedule, request: Request) -> None:
        try:
            data = await proxmox.get(request.path, **dict(SOURCES[request.source].params))
        except Exception as error:  # noqa: BLE001 - a fault in one source must not stop the others
            self._readings.failed(request, one_line(str(error))[:PROBLEM_SHOWN], self._clock())
        else:
            self._readings.succeeded(request, data, self._clock())
        finally:
            schedule.ended(request)

    async def _build(self) -> None:
        self._built = self._clock()
        snapshot = self.snapshot()
        self._families = await asyncio.to_thread(
            families,
            snapshot,
            legacy_gauges=self.settings.legacy_gauges,
            full_state_sets=self.settings.full_state_sets,
        )
