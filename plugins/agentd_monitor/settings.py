"""Settings of the section `[monitor]`: thresholds, with units and reasons."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from agentd import Settings
from agentd_monitor.alerts import Thresholds


class MonitorSettings(Settings):
    """Thresholds of the alerts.

    A change takes effect on reload, also for alerts that are firing.
    """

    host_trigger: float = Field(default=Thresholds.host_trigger, gt=0, le=100)
    """Percent of CPU or memory of a host at which high_cpu or high_memory is raised."""
    host_clear: float = Field(default=Thresholds.host_clear, ge=0, lt=100)
    """Percent below which the alert is cleared; the gap prevents flapping when a value varies around the trigger."""
    agent_trigger: float = Field(default=Thresholds.agent_trigger, gt=0, le=100)
    """Percent of CPU or memory used by an agent itself at which high_cpu or high_memory is raised."""
    agent_clear: float = Field(default=Thresholds.agent_clear, ge=0, lt=100)
    """Percent below which the alert is cleared."""
    min_duration: float = Field(default=Thresholds.min_duration, ge=0)
    """Seconds that readings must stay beyond a threshold; reports come every 30 s, so five in a row are enough."""
    min_readings: int = Field(default=Thresholds.min_readings, ge=2)
    """Consecutive readings beyond a threshold before an alert is raised or cleared; a single one proves nothing."""
    offline_after: float = Field(default=Thresholds.offline_after, gt=0)
    """Seconds without a heartbeat (sent every 30 s) after which an agent counts as lost."""
    stuck_after: float = Field(default=Thresholds.stuck_after, gt=0)
    """Seconds without a change after which a running workflow counts as stuck."""
    flap_limit: int = Field(default=Thresholds.flap_limit, ge=2)
    """Changes of one alert within `flap_window` from which on it counts as flapping and stays raised."""
    flap_window: float = Field(default=Thresholds.flap_window, gt=0)
    """Seconds over which changes are counted, and for which a flapping value must be calm before it is cleared."""
    resolved_retention: float = Field(default=86_400.0, ge=60)
    """Seconds for which a resolved alert stays in the bucket, so that it can still be read."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("host", "agent"):
            clear, trigger = getattr(self, f"{name}_clear"), getattr(self, f"{name}_trigger")
            if clear > trigger:
                message = f"{name}_clear ({clear:g}) must not be above {name}_trigger ({trigger:g})"
                raise ValueError(message)
        return self

    def thresholds(self) -> Thresholds:
        """Return the thresholds as a plain value for the pure module."""
        return Thresholds(**self.model_dump(exclude={"resolved_retention"}))
