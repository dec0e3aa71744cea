"""Settings of the section `[monitor]`, with units and reasons."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from agentd import Settings, Start, suggestion
from agentd_monitor.actions import ActionSettings
from agentd_monitor.alerts import KINDS
from agentd_monitor.delivery.receivers import ReceiverSettings
from agentd_monitor.health.catalogue import BUILT_IN
from agentd_monitor.health.thresholds import problems
from agentd_monitor.levels import Thresholds


class MonitorSettings(Settings):
    """Thresholds of the alerts, and what is read of the Proxmox cluster.

    A change takes effect on reload, also for alerts that are firing; `cluster_metrics` and `api_calls_per_minute` take
    effect after a restart.
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

    observe_only: float = Field(
        default=86_400.0,
        ge=0,
        description="seconds after the start of the first monitor in which no receiver is notified, so that thresholds "
        "can be adapted first; alerts are shown and published on the bus",
    )
    receivers: dict[Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,31}$")], ReceiverSettings] = Field(
        default={}, description="who is notified of alerts, by a name of your choice"
    )
    actions: dict[str, ActionSettings] = Field(
        default={}, description="workflows that alerts start, by the name of the alert"
    )
    page_url: str = Field(
        default="",
        pattern="^(https?://[^ ]+)?$",
        description="address of a status page as the receivers of notifications reach it; notifications link to it",
    )
    cluster_metrics: bool = Field(
        default=True,
        description="read the Proxmox cluster and serve its metrics; needs the section [proxmox]. Each monitor reads "
        "for itself, so set it to false on all but one or two of them",
    )
    api_calls_per_minute: int = Field(
        default=10,
        ge=6,
        le=120,
        description="maximum API calls a minute to one node of Proxmox; with fewer, the configurations of guests are "
        "read less often",
    )
    legacy_gauges: bool = Field(
        default=False,
        description="also serve the gauges that prometheus-pve-exporter calls deprecated, such as "
        "pve_network_transmit_bytes, for old dashboards",
    )
    full_state_sets: bool = Field(
        default=False,
        description="serve also the series of pve_ha_state and pve_lock_state that are 0: up to 20 more series for "
        "each guest",
    )

    overrides: dict[str, dict[str, dict[str, float | bool]]] = Field(
        default={},
        description="other thresholds of checks for some objects, by key and check: "
        '`[monitor.overrides."guest:101".guest_cpu]` with `warning`, `clear`, `critical`, `pending_for` (seconds) '
        "and `enabled`. Keys, the most "
        "specific first: guest:VMID, tag:TAG, node:NODE, type:TYPE",
    )

    @field_validator("overrides")
    @classmethod
    def _known_overrides(cls, value: dict[str, dict[str, dict[str, float | bool]]]) -> Any:  # noqa: ANN401 - unchanged
        found = problems(value, frozenset(check.name for check in BUILT_IN))
        if found:
            raise ValueError("; ".join(found))
        return value

    @field_validator("actions")
    @classmethod
    def _known_alerts(cls, value: dict[str, ActionSettings]) -> dict[str, ActionSettings]:
        known = [*KINDS, *(check.name for check in BUILT_IN)]
        for name in value:
            if name not in known:
                raise ValueError(f"no alert has the name {name}{suggestion(name, known, shown=len(known))}")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("host", "agent"):
            clear, trigger = getattr(self, f"{name}_clear"), getattr(self, f"{name}_trigger")
            if clear > trigger:
                raise ValueError(f"{name}_clear ({clear:g}) must not be above {name}_trigger ({trigger:g})")
        return self

    def thresholds(self) -> Thresholds:
        """Return the thresholds as a plain value for the pure module."""
        return Thresholds(**self.model_dump(include={field.name for field in fields(Thresholds)}))

    def starts(self) -> list[Start]:
        """Return the workflows that alerts start."""
        return [
            Start(
                f"monitor.actions.{name}",
                action.workflow,
                action.principal,
                frozenset({*action.parameters, *action.labels}),
            )
            for name, action in self.actions.items()
        ]
