"""Which notifications are sent: one for each incident, none that is suppressed, and none twice after a restart."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd_monitor.alerting import book as at_work
from agentd_monitor.alerting.book import REPEAT, AlertRule, AlertStates
from agentd_monitor.alerting.state import Observation, Rule, State, Verdict
from agentd_monitor.alerting.suppression import GRAPH, Acknowledgement, Condition, Matcher, Silence
from agentd_monitor.alerts import fingerprint

if TYPE_CHECKING:
    from agentd_monitor.alerting.book import Notification

RULES = [
    AlertRule(Rule("guest_cpu", stale_after=100), "performance"),
    AlertRule(Rule("guest_stopped", stale_after=100), "guest"),
    AlertRule(Rule("node_down", pending_for=60, stale_after=100), "node"),
    AlertRule(Rule("disk_wear", stale_after=100_000), "node"),
    AlertRule(Rule("ha_error"), "ha"),
    AlertRule(Rule("not_quorate"), "quorum"),
]
GUEST = {"guest": "qemu/100", "node": "pve1"}
BAD, GOOD, UNKNOWN = Verdict.BAD, Verdict.GOOD, Verdict.UNKNOWN


def states(**options: float) -> AlertStates:
    """Return an empty book."""
    return AlertStates(RULES, **options)


def see(
    alerts: AlertStates,
    at: float,
    verdict: Verdict = BAD,
    name: str = "guest_cpu",
    labels: dict[str, str] = GUEST,
    severity: str = "warning",
) -> None:
    """Record an observation."""
    alerts.observe(name, labels, Observation(verdict, at, severity, name))


def reasons(notifications: list[Notification]) -> list[tuple[str, str]]:
    """Return what notifications say, short."""
    return [(notification.record.item.rule, notification.reason) for notification in notifications]


def test_once_for_each_incident() -> None:
    """An incident is notified when it begins and when it ends, however often it is observed."""
    alerts = states()
    found = []
    for at in range(0, 3600, 30):
        see(alerts, at, BAD if at < 1800 else GOOD)
        alerts.tick(at)
        found += reasons(alerts.due(at))

    assert found == [("guest_cpu", "firing"), ("guest_cpu", "resolved")]


def test_reminder() -> None:
    """A worn disk that is reported each hour for three days is notified every four hours, not each time."""
    alerts = states()
    found = []
    for at in range(0, 3 * 86_400, 3600):
        see(alerts, at, name="disk_wear")
        found += alerts.due(at)

    assert len(found) == 18


def test_acknowledged() -> None:
    """An acknowledged incident has no reminder, and is not notified when it begins again."""
    alerts = states()
    see(alerts, 0)
    assert alerts.due(0)
    alerts.acknowledge({fingerprint("guest_cpu", GUEST): Acknowledgement("alice", 10, 86_400)})
    see(alerts, 50)
    see(alerts, REPEAT + 60)

    assert not alerts.due(REPEAT + 60)

    see(alerts, REPEAT + 90, GOOD)
    assert reasons(alerts.due(REPEAT + 90)) == [("guest_cpu", "resolved")]
    see(alerts, REPEAT + 120)
    assert not alerts.due(REPEAT + 120)
    assert alerts.suppressed == {"acknowledged": 1}


def test_worse() -> None:
    """A warning that becomes critical is notified at once, a critical alert that becomes a warning is not."""
    alerts = states()
    found = []
    for at, severity in ((0, "warning"), (30, "critical"), (60, "warning"), (90, "critical")):
        see(alerts, at, severity=severity)
        found += reasons(alerts.due(at))

    assert found == [("guest_cpu", "firing"), ("guest_cpu", "worse")]


def test_observe_only() -> None:
    """During the first day nothing is notified; an alert that still fires afterwards is."""
    alerts = states(observe_until=86_400)
    see(alerts, 0)
    assert not alerts.due(0)
    assert alerts.suppressed == {"observe_only": 1}
    see(alerts, 86_380)

    assert reasons(alerts.due(86_400)) == [("guest_cpu", "firing")]


def test_backup_inhibits_performance() -> None:
    """During a backup a guest's CPU alert is withheld; it is sent if it still fires afterwards."""
    alerts = states()
    see(alerts, 0)
    locked = [Condition("backup_lock", {"guest": "qemu/100"})]

    assert not alerts.due(0, locked)
    assert alerts.suppressed == {"inhibited": 1}
    assert not alerts.due(0, [*locked, Condition("backup_lock", {"guest": "qemu/200"})])
    assert reasons(alerts.due(0, [Condition("backup_lock", {"guest": "qemu/200"})])) == [("guest_cpu", "firing")]


def test_node_inhibits_its_services() -> None:
    """A node that is about to be reported as down withholds the alerts about it, and about no other node."""
    alerts = states()
    see(alerts, 0, name="node_down", labels={"node": "pve1"})
    for node in ("pve1", "pve2"):
        see(alerts, 0, name="disk_wear", labels={"node": node})

    assert [notification.record.item.labels["node"] for notification in alerts.due(0)] == ["pve2"]

    see(alerts, 60, name="node_down", labels={"node": "pve1"})
    assert reasons(alerts.due(60)) == [("node_down", "firing")]


def test_lost_guests() -> None:
    """The alerts of guests whose node is down are withheld; that the node is down is one alert."""
    alerts = states()
    for guest in ("qemu/100", "qemu/101"):
        see(alerts, 0, name="guest_stopped", labels={"guest": guest})

    assert [
        notification.record.item.labels["guest"]
        for notification in alerts.due(0, [Condition("node_lost", {"guest": "qemu/100"})])
    ] == ["qemu/101"]


def test_quorum_inhibits_ha() -> None:
    """Without a quorum, HA alerts of the whole cluster are withheld."""
    alerts = states()
    see(alerts, 0, name="not_quorate", labels={})
    see(alerts, 0, name="ha_error", labels={"guest": "qemu/100"})

    assert reasons(alerts.due(0)) == [("not_quorate", "firing")]


def test_graph_has_no_cycle() -> None:
    """No alert that is a source of inhibition can inhibit itself through others."""
    groups = {rule.rule.name: rule.group for rule in RULES}
    below = {edge.source: {name for name, group in groups.items() if group in edge.groups} for edge in GRAPH}

    def reach(name: str, seen: frozenset[str]) -> None:
        assert name not in seen
        for other in below.get(name, set()) - {name}:
            reach(other, seen | {name})

    for name in below:
        reach(name, frozenset())


def test_silence() -> None:
    """A silence withholds what all its matchers fit, until it ends; the end of a notified incident is sent anyway."""
    alerts = states()
    web = Silence("s1", (Matcher("guest", "qemu/1*"), Matcher("severity", "critical", negate=True)), 0, 100, "alice")
    see(alerts, 0)
    assert not alerts.due(50, silences=[web])
    assert alerts.suppressed == {"silenced": 1}
    see(alerts, 60)
    assert reasons(alerts.due(100, silences=[web])) == [("guest_cpu", "firing")]
    see(alerts, 110, GOOD)

    assert reasons(alerts.due(110, silences=[Silence("s2", (Matcher("guest", "*"),), 0, 999, "bob")])) == [
        ("guest_cpu", "resolved")
    ]
    assert not Silence("s3", (), 0, 999, "bob").covers(GUEST, 1)


def test_restart() -> None:
    """After a restart nothing is notified again, missing data resolves nothing, and the end is notified."""
    alerts = states()
    see(alerts, 0)
    alerts.due(0)
    again = states()
    again.restore(alerts.records())
    again.tick(90)
    assert not again.due(90)
    again.tick(5000)
    (record,) = again.records().values()
    assert record.item.state is State.UNKNOWN
    assert not again.due(5000)
    see(again, 5010, GOOD)

    assert reasons(again.due(5010)) == [("guest_cpu", "resolved")]


def test_unknown_is_not_notified() -> None:
    """Twenty changes between missing and present data are one incident."""
    alerts = states()
    found = []
    for place in range(40):
        at = place * 200.0
        see(alerts, at, BAD if place % 2 == 0 else UNKNOWN)
        alerts.tick(at)
        found += reasons(alerts.due(at))

    assert found == [("guest_cpu", "firing")]


def test_removed_guest() -> None:
    """The alert of a guest that was deleted is resolved."""
    alerts = states()
    see(alerts, 0)
    alerts.due(0)
    alerts.end(lambda item: item.labels.get("guest") == "qemu/100", "the guest was deleted", 10)

    assert reasons(alerts.due(10)) == [("guest_cpu", "resolved")]


def test_removed_rule() -> None:
    """An alert of a rule that no longer exists is removed; an observation for an unknown rule is an error."""
    alerts = states()
    see(alerts, 0)
    alerts.adopt(RULES[1:], lambda _: BAD, 10)

    assert not alerts.records()
    with pytest.raises(KeyError, match="guest_cpu"):
        see(alerts, 20)


def test_retention() -> None:
    """A resolved alert is removed after a day; a firing one never is."""
    alerts = states()
    see(alerts, 0)
    see(alerts, 0, labels={"guest": "qemu/200"})
    see(alerts, 30, GOOD, labels={"guest": "qemu/200"})
    alerts.tick(2 * 86_400)

    assert [record.item.labels for record in alerts.records().values()] == [GUEST]


def test_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 alerts at once are decided in a few seconds; beyond the maximum, further ones are refused and counted."""
    monkeypatch.setattr(at_work, "MOST", 10_000)
    alerts = states()
    begin = time.perf_counter()
    for place in range(10_010):
        see(alerts, 0, labels={"guest": f"qemu/{place}", "node": f"pve{place % 40}"})
    for node in range(40):
        see(alerts, 0, name="node_down", labels={"node": f"pve{node}"})
    sent = alerts.due(0)

    assert time.perf_counter() - begin < 10
    assert (len(sent), alerts.refused) == (10_000, 50)


STEPS = st.lists(
    st.tuples(
        st.floats(1, 4000),
        st.sampled_from(list(Verdict)),
        st.sampled_from(["warning", "critical"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS)
def test_one_notification_in_each_interval(steps: list[tuple[float, Verdict, str, bool, bool]]) -> None:
    """Within an incident, two equal notifications are at least the interval apart; firing and resolved alternate."""
    alerts, at, sent = states(), 0.0, []
    for pause, verdict, severity, locked, restart in steps:
        at += pause
        see(alerts, at, verdict, severity=severity)
        alerts.tick(at)
        facts = [Condition("backup_lock", {"guest": "qemu/100"})] if locked else []
        sent += [(at, notification.reason) for notification in alerts.due(at, facts)]
        assert not alerts.due(at, facts)
        if restart:
            before, alerts = alerts, states()
            alerts.restore(before.records())
    last, running = 0.0, False
    for moment, reason in sent:
        assert (reason == "firing") is not running
        if reason == "reminder":
            assert moment - last >= REPEAT
        running, last = reason != "resolved", moment
