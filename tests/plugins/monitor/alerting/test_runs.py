"""Which workflows alerts start: once an incident, after its notification, within the limits, none that is withheld."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentd_monitor.actions import ActionSettings
from agentd_monitor.alerting import runs
from agentd_monitor.alerting.book import AlertRule, AlertStates
from agentd_monitor.alerting.state import Observation, Rule, Verdict
from agentd_monitor.alerting.suppression import Acknowledgement, Condition, Matcher, Silence
from agentd_monitor.alerts import fingerprint
from agentd_monitor.settings import MonitorSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

FULL = "storage_usage"
RULES = [AlertRule(Rule(FULL), "storage"), AlertRule(Rule("node_down"), "node")]
ACTIONS = {FULL: ActionSettings(workflow="clean_up", labels={"storage": "storage"})}


def see(alerts: AlertStates, at: float, verdict: Verdict = Verdict.BAD, storage: str = "local") -> None:
    """Record an observation of a storage."""
    alerts.observe(FULL, {"storage": storage}, Observation(verdict, at, "critical", "full"))


def started(
    alerts: AlertStates,
    at: float,
    facts: Iterable[Condition] = (),
    silences: Iterable[Silence] = (),
    actions: dict[str, ActionSettings] = ACTIONS,
) -> list[runs.Run]:
    """Notify what is due, then start and record what is due."""
    facts, silences = list(facts), list(silences)
    alerts.due(at, facts, silences)
    found = runs.due(alerts.wanting(actions, at, facts, silences), alerts.records().values(), actions, at)
    for key, run in found.items():
        alerts.record_run(key, run)
    return list(found.values())


def end(alerts: AlertStates) -> None:
    """Let every workflow end."""
    for key, record in list(alerts.records().items()):
        if record.run is not None:
            alerts.record_run(key, msgspec.structs.replace(record.run, status="completed"))


def test_once_for_each_incident() -> None:
    """An incident starts one workflow, with the labels as parameters; the next incident another one, an hour later."""
    alerts = AlertStates(RULES)
    found: dict[str, int] = {}
    for at in range(0, 3 * 3600, 300):
        see(alerts, at, Verdict.GOOD if at == 1800 else Verdict.BAD)
        found |= {run.workflow_id: at for run in started(alerts, at)}
        end(alerts)
    (record,) = alerts.records().values()

    assert list(found.values()) == [0, 3600]
    assert runs.parameters(record, ACTIONS[FULL]) == {"storage": "local"}


def test_limit() -> None:
    """All objects of an alert together start `per_hour` workflows; the others start later, the oldest first."""
    alerts = AlertStates(RULES)
    two = {FULL: ActionSettings(workflow="clean_up", per_hour=2)}
    for number in range(5):
        see(alerts, number, storage=f"s{number}")
    first = started(alerts, 10, actions=two)
    end(alerts)
    early = started(alerts, 3000, actions=two)
    later = started(alerts, 3700, actions=two)

    assert [run.incident for run in first] == [0, 1]
    assert early == []
    assert [run.incident for run in later] == [2, 3]


def test_withheld() -> None:
    """Nothing starts in the first day, for a silenced, inhibited or acknowledged alert, or for a lesser severity."""
    silence = Silence("s", (Matcher("storage", "local"),), 0, 1000, "alice")
    running = Condition("workflow_running", {"storage": "local"})
    cases: dict[str, AlertStates] = {
        name: AlertStates(RULES) for name in ("silence", "inhibited", "acknowledged", "severity", "label", "none")
    }
    cases["observe"] = AlertStates(RULES, observe_until=1000)
    for alerts in cases.values():
        see(alerts, 0)
    cases["acknowledged"].acknowledge({fingerprint(FULL, {"storage": "local"}): Acknowledgement("alice", 0, 1000)})
    cases["severity"].observe(FULL, {"storage": "local"}, Observation(Verdict.BAD, 1, "warning", "full"))
    wrong = {FULL: ActionSettings(workflow="clean_up", labels={"node": "node"})}

    assert started(cases["silence"], 2, silences=[silence]) == []
    assert started(cases["inhibited"], 2, facts=[running]) == []
    assert started(cases["acknowledged"], 2) == []
    assert started(cases["severity"], 2) == []
    assert started(cases["observe"], 2) == []
    assert [run.error for run in started(cases["label"], 2, actions=wrong)] == ["the alert has no label node"]
    assert len(started(cases["none"], 2)) == 1
    assert len(started(cases["silence"], 1001)) == 1


@given(st.lists(st.tuples(st.integers(-100, 5000), st.sampled_from([Verdict.BAD, Verdict.GOOD])), max_size=40))
def test_never_too_many(seen: list[tuple[int, Verdict]]) -> None:
    """However readings come and clocks step, an object starts at most one workflow an hour, none while one runs."""
    alerts = AlertStates(RULES)
    at, found = 0.0, []
    for step, verdict in seen:
        at += step
        see(alerts, at, verdict)
        found += started(alerts, at)

    assert len(found) <= 1  # it never ends here


def test_restored() -> None:
    """After a restart the same incident starts nothing, and its id is the same if it was not stored."""
    alerts, again = AlertStates(RULES), AlertStates(RULES)
    see(alerts, 0)
    stored_before = dict(alerts.records())
    (first,) = started(alerts, 1)
    again.restore(alerts.records())
    lost = AlertStates(RULES)
    lost.restore(stored_before)
    (same,) = started(lost, 5)

    assert started(again, 2) == []
    assert same.workflow_id == first.workflow_id


def test_settings() -> None:
    """The name of an alert that there is not is an error that offers the nearest one."""
    with pytest.raises(ValidationError, match="no alert has the name storage_uses; did you mean storage_usage"):
        MonitorSettings.model_validate({"actions": {"storage_uses": {"workflow": "x"}}})
