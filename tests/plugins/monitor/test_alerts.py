"""When alerts about hosts, agents and workflows are raised and cleared: limits, missing data and flapping."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd.wire.announcements import AgentRegistration, Alert
from agentd_monitor.alerts import AlertBook, fingerprint, fingerprint_of
from agentd_monitor.levels import Thresholds
from agentd_monitor.settings import MonitorSettings
from plugins.monitor.alert_book import START, at, beat, book, move, report, reported

# -- high_cpu, high_memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "limit", "kind", "source", "labels"),
    [
        ("host_cpu_percent", 85, "high_cpu", "pve1", {"node": "pve1"}),
        ("host_memory_percent", 85, "high_memory", "pve1", {"node": "pve1"}),
        ("cpu_percent", 90, "high_cpu", "monitor-pve1", {"agent": "monitor-pve1"}),
        ("memory_percent", 90, "high_memory", "monitor-pve1", {"agent": "monitor-pve1"}),
    ],
)
def test_a_value_at_its_limit_is_reported_once(
    metric: str, limit: float, kind: str, source: str, labels: dict[str, str]
) -> None:
    """A host at 85 % and an agent itself at 90 % are reported with the second report, and not again."""
    seen = book()
    below, limit_reached, above = ({metric: item} for item in (limit - 0.1, limit, 99.0))
    just_below = [report(seen, seconds, metrics=below) for seconds in (0, 30)]
    seeded = report(seen, 60, metrics=limit_reached)
    raised = report(seen, 90, metrics=limit_reached)
    repeated = [report(seen, seconds, metrics=above) for seconds in (120, 150)]

    assert just_below == [[], []]
    assert seeded == []
    assert reported(raised) == [(kind, source, "firing")]
    assert raised[0].labels == labels
    assert raised[0].severity == "warning"
    assert repeated == [[], []]


def test_a_value_is_cleared_below_another_limit() -> None:
    """Between the two thresholds an alert neither comes nor goes."""
    seen = book()
    for seconds in (0, 30):
        report(seen, seconds, host_cpu_percent=90)
    between = [report(seen, seconds, host_cpu_percent=80) for seconds in (60, 90, 120)]
    seeded = report(seen, 150, host_cpu_percent=79.9)
    cleared = report(seen, 180, host_cpu_percent=79.9)

    assert between == [[], [], []]
    assert seeded == []
    assert reported(cleared) == [("high_cpu", "pve1", "resolved")]
    assert seen.firing() == []


def test_one_reading_raises_no_alert() -> None:
    """A spike between calm readings is not reported, however often it comes."""
    seen = book()

    assert not any(report(seen, 30 * tick, host_cpu_percent=99 if tick % 2 else 10) for tick in range(40))


def test_two_agents_of_a_host_raise_one_alert() -> None:
    """The same labels are the same alert, whichever agent reports."""
    seen = book()
    report(seen, 0, "a-pve1", host_cpu_percent=95)
    raised = report(seen, 25, "b-pve1", host_cpu_percent=95)

    assert reported(raised) == [("high_cpu", "pve1", "firing")]
    assert report(seen, 55, "a-pve1", host_cpu_percent=95) == []


def test_missing_data_clears_no_alert() -> None:
    """An alert stays while no message arrives, and while reports leave its metric out."""
    seen = book()
    for seconds in (0, 30):
        report(seen, seconds, host_cpu_percent=99)
    silent = seen.tick(at(86_400)) + report(seen, 86_400, host_memory_percent=1)

    assert [item for item in silent if item.state == "resolved"] == []
    assert reported(seen.firing()) == [("high_cpu", "pve1", "firing")]


def test_a_value_around_its_limit_makes_one_alert() -> None:
    """The gap between the thresholds keeps a trembling value quiet."""
    seen = book()
    changes = [item for tick in range(200) for item in report(seen, 30 * tick, host_cpu_percent=80 + tick % 10)]

    assert reported(changes) == [("high_cpu", "pve1", "firing")]


def test_a_flapping_alert_stays_raised() -> None:
    """After five changes in ten minutes the alert waits for ten calm minutes, and says that it flaps."""
    seen = book()
    values = [99, 99, 10, 10] * 30
    changes = [item for tick, value in enumerate(values) for item in report(seen, 30 * tick, host_cpu_percent=value)]
    end = 30 * len(values)
    steady = [item for tick in range(30) for item in report(seen, end + 30 * tick, host_cpu_percent=10)]

    assert [change.state for change in changes] == ["firing", "resolved", "firing", "resolved", "firing"]
    assert changes[-1].message == "host pve1: CPU at 99 %, flapping"
    assert reported(steady) == [("high_cpu", "pve1", "resolved")]
    assert steady[0].timestamp - at(end) >= timedelta(minutes=9)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 300)), max_size=60))
def test_states_alternate_and_changes_are_bounded(readings: list[tuple[float, float]]) -> None:
    """For any readings an alert is raised before it is cleared, and never earlier than allowed."""
    seen = book()
    seconds = 0.0
    changes: list[Alert] = []
    for value, pause in readings:
        seconds += pause
        changes += report(seen, seconds, host_cpu_percent=value)

    assert [change.state for change in changes] == (["firing", "resolved"] * len(changes))[: len(changes)]
    pauses = [later.timestamp - former.timestamp for former, later in pairwise(changes)]
    assert all(item >= timedelta(seconds=20) for item in pauses)
    assert bool(seen.firing()) == (len(changes) % 2 == 1)


def test_a_raised_threshold_ends_the_alert_that_it_made() -> None:
    """A reload judges what is firing at once."""
    seen = book()
    for seconds in (0, 30):
        report(seen, seconds, host_cpu_percent=87)

    assert seen.adopt(Thresholds(host_trigger=90, host_clear=86), at(40)) == []
    assert reported(seen.adopt(Thresholds(host_trigger=95, host_clear=90), at(41))) == [
        ("high_cpu", "pve1", "resolved")
    ]


# -- agent_offline -------------------------------------------------------------------------------------------------


def test_an_agent_is_lost_after_two_minutes_and_found_again() -> None:
    """It is reported once when it is lost and once when it is back."""
    seen = book()
    beat(seen, 0)

    assert seen.tick(at(119.9)) == []
    lost = seen.tick(at(120))
    assert reported(lost) == [("agent_offline", "a1", "firing")]
    assert lost[0].severity == "critical"
    assert "no heartbeat since 2026-11-22 12:00:00 UTC" in lost[0].message
    assert seen.tick(at(125)) == seen.tick(at(9999)) == []
    assert reported(beat(seen, 10_000)) == [("agent_offline", "a1", "resolved")]


def test_an_agent_that_deregisters_raises_no_alert() -> None:
    """No alert for an agent that went on purpose, and none of its own values stays raised."""
    seen = book()
    beat(seen, 0)
    for seconds in (0, 30):
        report(seen, seconds, "a1", memory_percent=95)
    gone = beat(seen, 60, status="offline")

    assert reported(gone) == [("high_memory", "a1", "resolved")]
    assert seen.tick(at(9999)) == []


def test_a_registration_is_a_sign_of_life() -> None:
    """A plain agent that only registers is known, and missed when it falls silent."""
    seen = book()
    seen.observe_registration(AgentRegistration("plain", load=0.1), at(10))

    assert reported(seen.tick(at(130))) == [("agent_offline", "plain", "firing")]
    assert reported(seen.observe_registration(AgentRegistration("plain"), at(140))) == [
        ("agent_offline", "plain", "resolved")
    ]


def test_a_pause_of_the_monitor_is_no_silence_of_agents() -> None:
    """After a pause of the monitor every agent gets the whole time again."""
    seen = book()
    beat(seen, 0)
    seen.resume(at(1000))

    assert seen.tick(at(1000)) == []
    assert seen.tick(at(1119)) == []
    assert reported(seen.tick(at(1120))) == [("agent_offline", "a1", "firing")]


def test_readings_on_both_sides_of_a_pause_do_not_count_together() -> None:
    """What was read before the monitor paused proves nothing after it."""
    seen = book()
    report(seen, 0, host_cpu_percent=99)
    seen.resume(at(1000))

    assert report(seen, 1001, host_cpu_percent=99, rss_bytes=1e9) == []
    assert reported(report(seen, 1031, host_cpu_percent=99)) == [("high_cpu", "pve1", "firing")]


def test_no_agent_is_lost_before_the_start() -> None:
    """A heartbeat from before the start does not make an agent lost at once."""
    seen = book()
    beat(seen, -3600)

    assert seen.tick(at(119)) == []
    assert reported(seen.tick(at(120))) == [("agent_offline", "a1", "firing")]


# -- workflow_stuck ------------------------------------------------------------------------------------------------


def test_a_workflow_is_stuck_after_half_an_hour() -> None:
    """It is reported once, and cleared by the next change."""
    seen = book()
    move(seen, 0)

    assert seen.tick(at(1799.9)) == []
    stuck = seen.tick(at(1800))
    assert reported(stuck) == [("workflow_stuck", "w1", "firing")]
    assert stuck[0].message == "workflow w1 (vm_deployment): running, and no change since 2026-11-22 12:00:00 UTC"
    assert seen.tick(at(1900)) == []
    assert reported(move(seen, 2000)) == [("workflow_stuck", "w1", "resolved")]
    assert reported(seen.tick(at(3800))) == [("workflow_stuck", "w1", "firing")]


@pytest.mark.parametrize("status", ["waiting_approval", "paused"])
def test_a_workflow_that_waits_for_a_person_is_not_stuck(status: str) -> None:
    """People may take as long as they need."""
    seen = book()
    move(seen, 0, status)

    assert seen.tick(at(86_400)) == []


@pytest.mark.parametrize(
    "status",
    ["completed", "completed_with_warnings", "failed", "cancelled", "compensated", "compensation_failed", "rejected"],
)
def test_a_workflow_that_is_over_is_forgotten(status: str) -> None:
    """The end of a workflow clears its alert, and none follows."""
    seen = book()
    move(seen, 0)
    seen.tick(at(1800))

    assert reported(move(seen, 1900, status)) == [("workflow_stuck", "w1", "resolved")]
    assert seen.tick(at(86_400)) == []


# -- identity, restarts, settings ----------------------------------------------------------------------------------


def test_an_alert_is_its_labels() -> None:
    """The order of labels does not matter, the type does."""
    assert fingerprint("x", {"a": "1", "b": "2"}) == fingerprint("x", {"b": "2", "a": "1"})
    assert fingerprint("x", {"a": "1"}) != fingerprint("y", {"a": "1"})


def test_a_restart_neither_repeats_nor_forgets() -> None:
    """What was firing before is not reported again, and is cleared when its cause ends."""
    before = book()
    beat(before, 0)
    move(before, 0)
    for seconds in (0, 30):
        report(before, seconds, host_cpu_percent=95)
    before.tick(at(1800))
    after = AlertBook(Thresholds(min_duration=20.0, min_readings=2), at(2000))
    after.restore([*before.firing(), Alert("high_cpu", "old", START, "x", labels={"node": "x"}, state="resolved")])

    assert len(after.firing()) == 3
    assert {fingerprint_of(alert) for alert in after.firing()} == {fingerprint_of(alert) for alert in before.firing()}
    again = [report(after, seconds, host_cpu_percent=95) for seconds in (2010, 2040)] + [after.tick(at(9000))]
    assert again == [[], [], []]
    ended = beat(after, 9001) + move(after, 9001, "completed")
    ended += [item for seconds in (9010, 9040) for item in report(after, seconds, host_cpu_percent=5)]
    assert {item.state for item in ended} == {"resolved"}
    assert after.firing() == []


def test_older_messages_do_not_clear_an_alert() -> None:
    """A stream still holds the last heartbeat and event from before; only the end of a workflow counts in any case."""
    before = book()
    beat(before, 0)
    move(before, 0)
    before.tick(at(1800))
    after = AlertBook(Thresholds(min_duration=20.0, min_readings=2), at(1900))
    after.restore(before.firing())

    assert beat(after, 0) == move(after, 0) == []
    assert reported(move(after, 10, "completed")) == [("workflow_stuck", "w1", "resolved")]
    assert reported(beat(after, 1901)) == [("agent_offline", "a1", "resolved")]


def test_agents_are_counted_by_status() -> None:
    """A lost agent is lost for any last status."""
    seen = book()
    beat(seen, 0, "a1")
    beat(seen, 0, "a2", "offline")
    beat(seen, 100, "a3", "busy")
    seen.tick(at(130))

    assert seen.agents() == {"lost": 1, "offline": 1, "busy": 1}


def test_settings_are_checked_and_reach_the_book() -> None:
    """A clear threshold above its trigger is refused; the defaults are the seed's."""
    assert MonitorSettings().thresholds() == Thresholds()
    assert MonitorSettings(host_trigger=70, host_clear=60).thresholds().band("host") == (70, 60)
    with pytest.raises(ValidationError, match="host_clear"):
        MonitorSettings(host_trigger=70)
    with pytest.raises(ValidationError, match="agent_clear"):
        MonitorSettings(agent_clear=95)
