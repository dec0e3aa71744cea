"""A value that is compared with a threshold, and the thresholds.  Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

HIGH_CPU: Final = "high_cpu"
HIGH_MEMORY: Final = "high_memory"

SPACING: Final = 10.0
"""Seconds within which readings of one value count as one; less where `min_duration` is short."""

READINGS: Final = {
    "host_cpu_percent": (HIGH_CPU, "host"),
    "host_memory_percent": (HIGH_MEMORY, "host"),
    "cpu_percent": (HIGH_CPU, "agent"),
    "memory_percent": (HIGH_MEMORY, "agent"),
}
"""Metrics that are checked: of the host (tag `node`), and of the agent itself (the names that external agents use)."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds, in percent and seconds; settings.py gives the reasons."""

    host_trigger: float = 85.0
    host_clear: float = 80.0
    agent_trigger: float = 90.0
    agent_clear: float = 85.0
    min_duration: float = 110.0
    min_readings: int = 3
    offline_after: float = 120.0
    stuck_after: float = 1800.0
    flap_limit: int = 5
    flap_window: float = 600.0

    @property
    def spacing(self) -> float:
        """Return the seconds within which readings of one value count as one."""
        return min(SPACING, self.min_duration / self.min_readings)

    def band(self, scope: str) -> tuple[float, float]:
        """Return the thresholds to raise and to clear, in percent.

        scope  `host` or `agent`
        """
        return (self.host_trigger, self.host_clear) if scope == "host" else (self.agent_trigger, self.agent_clear)


@dataclass
class Level:
    """One value that is compared with a threshold.

    since     time of the first of the readings in a row that support a change; None if there is none
    """

    kind: str
    scope: str
    source: str
    value: float = 0.0
    since: datetime | None = None
    readings: int = 0
    counted: datetime | None = None
    flapping: bool = False
    changes: deque[datetime] = field(default_factory=deque)

    @property
    def labels(self) -> dict[str, str]:
        """Return the label with the name of the host or agent."""
        return {"node" if self.scope == "host" else "agent": self.source}

    @property
    def text(self) -> str:
        """Return the value as a text for people."""
        what = "CPU" if self.kind == HIGH_CPU else "memory"
        flapping = ", flapping" if self.flapping else ""
        return f"{self.scope} {self.source}: {what} at {self.value:.0f} %{flapping}"

    def note(self, value: float, at: datetime, spacing: float, *, beyond: bool) -> None:
        """Store a reading.

        beyond   whether the reading supports a change of the alert
        spacing  seconds before another reading counts
        """
        self.value = value
        if not beyond:
            self.forget()
        else:
            self.since = self.since or at
            if self.counted is None or at - self.counted >= timedelta(seconds=spacing):
                self.readings, self.counted = self.readings + 1, at

    def forget(self) -> None:
        """Restart the count of readings."""
        self.since, self.readings, self.counted = None, 0, None

    def proven(self, at: datetime, seconds: float, readings: int) -> bool:
        """Return whether enough readings, over a long enough time, support a change."""
        return self.since is not None and self.readings >= readings and at - self.since >= timedelta(seconds=seconds)

    def turn(self, at: datetime, limit: int, window: float) -> None:
        """Record a change, and whether there were too many within `window` seconds."""
        self.forget()
        self.changes.append(at)
        while self.changes and at - self.changes[0] > timedelta(seconds=window):
            self.changes.popleft()
        self.flapping = len(self.changes) >= limit
