"""Settings of the section `[monitor]`: thresholds, with units and reasons."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from agentd import Settings
from agentd_monitor.levels import Thresholds


class MonitorSettings(Settings):
    """Thresholds of the alerts.

    A change takes effect on reload, also for alerts that are firing.
    """

    host_trigger: float = Field(
        default=Thresholds.host_trigger,
        gt=0,
        le=100,
        description="percent of CPU or memory of a host from which on high_cpu or high_memory is raised",
    )
    host_clear: float = Field(
        default=Thresholds.host_clear,
        ge=0,
        lt=100,
        description="percent of CPU or memory of a host below which the alert is cleared; lower than host_trigger, so "
        "that an alert does not flap",
    )
    agent_trigger: float = Field(
        default=Thresholds.agent_trigger,
        gt=0,
        le=100,
        description="percent of CPU or memory used by one agent from which on high_cpu or high_memory is raised",
    )
    agent_clear: float = Field(
        default=Thresholds.agent_clear,
        ge=0,
        lt=100,
        description="percent of CPU or memory used by one agent below which the alert is cleared",
    )
    min_duration: float = Field(
        default=Thresholds.min_duration,
        ge=0,
        description="seconds for which readings must be beyond a threshold before an alert is raised or cleared; "
        "agents report every 30 s",
    )
    min_readings: int = Field(
        default=Thresholds.min_readings,
        ge=2,
        description="number of consecutive readings beyond a threshold before an alert is raised or cleared",
    )
    offline_after: float = Field(
        default=Thresholds.offline_after,
        gt=0,
        description="seconds without a heartbeat after which an agent is reported as lost; agents send one every 30 s",
    )
    stuck_after: float = Field(
        default=Thresholds.stuck_after,
        gt=0,
        description="seconds without a change after which a running workflow is reported as stuck",
    )
    flap_limit: int = Field(
        default=Thresholds.flap_limit,
        ge=2,
        description="number of changes of one alert within flap_window from which on it stays raised",
    )
    flap_window: float = Field(
        default=Thresholds.flap_window,
        gt=0,
        description="seconds in which changes are counted, and for which a flapping value must be normal before its "
        "alert is cleared",
    )
    resolved_retention: float = Field(
        default=86_400.0, ge=60, description="seconds for which a resolved alert can still be read"
    )

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
