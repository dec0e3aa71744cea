"""A busy moment raises no alert: high_cpu and high_memory need readings over minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agentd.wire.announcements import MetricReport
from agentd_monitor.alerts import AlertBook
from agentd_monitor.settings import MonitorSettings

START = datetime(2026, 11, 22, 12, tzinfo=UTC)


def fired(*readings: tuple[float, str, float]) -> list[tuple[str, float]]:
    """Return what was raised when, of readings (second, agent, percent) with the default settings."""
    book, found = AlertBook(MonitorSettings().thresholds(), START), []
    for second, agent, value in readings:
        at = START + timedelta(seconds=second)
        report = MetricReport(agent, at, {"host_cpu_percent": value}, {"node": "pve1"})
        found += [(alert.alert_type, second) for alert in book.observe_metrics(report, at)]
    return found


@pytest.mark.parametrize(
    "readings",
    [
        ((1, "a", 100.0),),
        ((1, "a", 100.0), (31, "a", 100.0)),
        # Four agents of one node, each with its first report: still one busy moment.
        tuple((second, name, 100.0) for second, name in ((1, "a"), (2, "b"), (3, "c"), (4, "d"), (31, "a"), (32, "b"))),
        # Busy again and again, with calm between.
        tuple((30.0 * count, "a", 100.0 if count % 3 else 20.0) for count in range(20)),
    ],
)
def test_a_busy_moment_is_no_alert(readings: tuple[tuple[float, str, float], ...]) -> None:
    """One reading, two, or many at once of the same moment raise nothing."""
    assert fired(*readings) == []


def test_minutes_of_load_are_one() -> None:
    """A host that stays busy is reported once, after about two minutes."""
    assert fired(*((30.0 * count, "a", 99.0) for count in range(20))) == [("high_cpu", 120.0)]
