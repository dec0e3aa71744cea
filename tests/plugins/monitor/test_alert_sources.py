"""Alerts about schedules, dead letters, storage and audit chains, and how many agents can raise them."""

from __future__ import annotations

from agentd_monitor.alerts import WATCHED
from plugins.monitor.alert_book import at, beat, book, move, report, reported


def test_a_schedule_with_a_failed_last_run() -> None:
    """A scheduled run that fails raises one alert, however many fail; one that completes, by hand too, clears it."""
    seen = book()

    first = move(seen, 1, "failed", "cron-night-ly-7")
    second = move(seen, 2, "expired", "cron-night-ly-9")
    cancelled = move(seen, 3, "cancelled", "cron-night-ly-10")
    other = move(seen, 4, "completed", "cron-night-7")
    by_hand = move(seen, 5, "completed_with_warnings", "cron-night-ly-m3fa2")
    unscheduled = move(seen, 6, "failed", "w1") + move(seen, 7, "failed", "cron-x")

    assert reported(first) == [("schedule_failed", "night-ly", "firing")]
    assert first[0].message == "schedule night-ly: cron-night-ly-7 failed"
    assert second + cancelled + other + unscheduled == []
    assert reported(by_hand) == [("schedule_failed", "night-ly", "resolved")]


def test_an_agent_that_floods() -> None:
    """Registrations under ever new names fill neither memory nor alerts, and those before are still watched."""
    seen = book()
    beat(seen, 0, "known")
    for number in range(WATCHED + 100):
        beat(seen, 1, f"foreign{number}")
        report(seen, 1, f"foreign{number}", cpu_percent=99.0)

    lost = reported(seen.tick(at(200)))
    assert len(lost) == WATCHED
    assert ("agent_offline", "known", "firing") in lost


# -- dead letters and storage --------------------------------------------------------------------------------------


def test_dead_letters_are_reported_until_none_is_open() -> None:
    """One alert a stream, reported once however many letters come, and resolved when none is open any more."""
    seen = book()
    first = seen.observe_dead("AI_INPUT", 1, "a dead letter", at(0))
    more = seen.observe_dead("AI_INPUT", 5, "five", at(10))
    other = seen.observe_dead("AI_WORKFLOWS", 0, "none", at(10))
    gone = seen.observe_dead("AI_INPUT", 0, "none", at(20))

    assert reported(first) == [("dead_letters", "AI_INPUT", "firing")]
    assert (more, other) == ([], [])
    assert reported(gone) == [("dead_letters", "AI_INPUT", "resolved")]
    assert not seen.firing()


def test_storage_has_two_thresholds() -> None:
    """Full raises, eased clears, and what is between leaves all as it is."""
    seen = book()
    steps = [(False, True), (True, False), (True, False), (False, False), (False, True), (False, False)]
    changed = [
        reported(seen.observe_storage("AI_INPUT", "x", at(seconds), full=full, eased=eased))
        for seconds, (full, eased) in enumerate(steps)
    ]

    assert [item[0][2] if item else "" for item in changed] == ["", "firing", "", "", "resolved", ""]
    assert changed[1] == [("nats_storage", "AI_INPUT", "firing")]


def test_the_alarm_of_an_audit_chain() -> None:
    """A chain that is not as its agent wrote it is an alert until the agent reports that it was accepted."""
    seen = book()
    first = report(seen, 0, audit_broken=0.0)
    raised = report(seen, 30, audit_broken=1.0)
    again = report(seen, 60, audit_broken=1.0)
    omitted = report(seen, 90, cpu_percent=1.0)
    cleared = report(seen, 120, audit_broken=0.0)

    assert (first, again, omitted) == ([], [], [])
    assert reported(raised) == [("audit_broken", "monitor-pve1", "firing")]
    assert raised[0].severity == "critical"
    assert "agentd audit accept monitor-pve1" in raised[0].message
    assert reported(cleared) == [("audit_broken", "monitor-pve1", "resolved")]


def test_alarms_of_chains_are_bounded() -> None:
    """A client that reports for ever more agents fills neither memory nor bucket."""
    seen = book()
    raised = [alert for number in range(10 * WATCHED) for alert in report(seen, 0, f"a{number}", audit_broken=1.0)]

    assert len(raised) < 10 * WATCHED
