"""What an operator may set under `[monitor]`: thresholds, each with its unit and its reason."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from agentd.plugins.role import Settings
from agentd_monitor.alerts import Thresholds


class MonitorSettings(Settings):
    """Thresholds of the alerts; a change takes effect on reload, for alerts that are firing too."""

    host_trigger: float = Field(default=Thresholds.host_trigger, gt=0, le=100)
    """Percent of CPU or memory of a host at which high_cpu or high_memory is raised."""
    host_clear: float = Field(default=Thresholds.host_clear, ge=0, lt=100)
    """Percent below which it is cleared; the gap keeps a value that trembles around the trigger from flapping."""
    agent_trigger: float = Field(default=Thresholds.agent_trigger, gt=0, le=100)
    """Percent of CPU or memory that an agent itself uses at which high_cpu or high_memory is raised."""
    agent_clear: float = Field(default=Thresholds.agent_clear, ge=0, lt=100)
    """Percent below which it is cleared."""
    hold: float = Field(default=Thresholds.hold, ge=0)
    """Seconds that readings must stay beyond a threshold; reports come every 30 s, so five of them in a row suffice."""
    readings: int = Field(default=Thresholds.readings, ge=2)
    """Readings beyond a threshold, one after the other, before an alert is raised or cleared; one proves nothing."""
    offline_after: float = Field(default=Thresholds.offline_after, gt=0)
    """Seconds without a heartbeat (they come every 30 s) after which an agent counts as lost."""
    stuck_after: float = Field(default=Thresholds.stuck_after, gt=0)
    """Seconds without a change after which a running workflow counts as stuck."""
    flap_limit: int = Field(default=Thresholds.flap_limit, ge=2)
    """Changes of one alert within `flap_window` after which it counts as flapping and stays raised."""
    flap_window: float = Field(default=Thresholds.flap_window, gt=0)
    """Seconds over which changes are counted, and for which a flapping value must be calm to be cleared."""
    resolved_for: float = Field(default=86_400.0, ge=60)
    """Seconds for which a resolved alert stays in the bucket, for whoever looks later."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("host", "agent"):
            clear, trigger = getattr(self, f"{name}_clear"), getattr(self, f"{name}_trigger")
            if clear > trigger:
                message = f"{name}_clear ({clear:g}) must not be above {name}_trigger ({trigger:g})"
                raise ValueError(message)
        return self

    def thresholds(self) -> Thresholds:
        """Return what the pure part needs."""
        return Thresholds(**self.model_dump(exclude={"resolved_for"}))
