"""An alert book for tests, and what agents and workflows report to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from agentd.wire.announcements import Alert, Heartbeat, MetricReport
from agentd_monitor.alerts import AlertBook, WorkflowView
from agentd_monitor.levels import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterable

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Return a moment after the start."""
    return START + timedelta(seconds=seconds)


def book(**thresholds: float) -> AlertBook:
    """Return an empty book."""
    return AlertBook(Thresholds(**{"min_duration": 20.0, "min_readings": 2, **thresholds}), START)  # type: ignore[arg-type]  # flap_limit is the one int


def reported(alerts: Iterable[Alert]) -> list[tuple[str, str, str]]:
    """Return what alerts say, short."""
    return [(alert.alert_type, alert.source, alert.state) for alert in alerts]


def report(
    seen: AlertBook,
    seconds: float,
    agent: str = "monitor-pve1",
    *,
    metrics: dict[str, float] | None = None,
    **named: float,
) -> list[Alert]:
    """Let an agent on pve1 report."""
    metrics = metrics or named
    return seen.observe_metrics(MetricReport(agent, at(seconds), metrics, {"node": "pve1"}), at(seconds))


def beat(seen: AlertBook, seconds: float, agent: str = "a1", status: str = "available") -> list[Alert]:
    """Let an agent beat."""
    return seen.observe_heartbeat(Heartbeat(agent, at(seconds), status), at(seconds))


def move(seen: AlertBook, seconds: float, status: str = "running", workflow: str = "w1") -> list[Alert]:
    """Let a workflow change."""
    return seen.observe_workflow(WorkflowView(workflow, status, "vm_deployment"), at(seconds))
