"""All alerts of the network: what is published, whatever the findings and a restart bring."""

from __future__ import annotations

from datetime import UTC, datetime

from agentd import Finding, Level
from agentd.wire.announcements import Alert
from agentd_monitor.alerting.network_alerts import NetworkAlerts, alert_of
from agentd_monitor.alerting.suppression import Condition
from agentd_monitor.alerts import KINDS, fingerprint_of
from agentd_monitor.health.catalogue import BUILT_IN, RULES

LABELS = {"node": "pve1", "pool": "rpool"}
OFFLINE = Alert("agent_offline", "a1 is silent", datetime.fromtimestamp(1000, UTC), "a1", "critical", {"agent": "a1"})


def pool(level: Level) -> list[Finding]:
    """Return the finding about a pool."""
    return [Finding("zfs_health", LABELS, level, f"rpool is {level}", "Look at it." if level is not Level.OK else "")]


class Network:
    """The alerts, and what is published of them."""

    def __init__(self) -> None:
        """Start with none."""
        self.alerts = NetworkAlerts(RULES)
        self.published: dict[str, tuple[str, str]] = {}
        self.heard: list[Alert] = []

    def restart(self) -> None:
        """Continue with what is stored."""
        before, self.alerts = self.alerts, NetworkAlerts(RULES)
        self.alerts.restore(before.records())

    def publish(self, at: float, *facts: Condition) -> list[tuple[str, str, str]]:
        """Publish what is not published yet; return it, short."""
        self.alerts.tick(at)
        found = {key: alert_of(record) for key, record in self.alerts.unpublished(self.published, facts).items()}
        self.published |= {key: (alert.state, alert.severity) for key, alert in found.items()}
        self.heard += found.values()
        return [(alert.alert_type, alert.state, alert.severity) for alert in found.values()]


def test_fires_and_is_resolved() -> None:
    """An alert is published when it fires, with what to do, and when it is resolved; not in between."""
    network = Network()
    network.alerts.observe_findings(pool(Level.CRITICAL), 1000)

    assert network.publish(1000) == [("zfs_health", "firing", "critical")]
    assert (network.heard[0].message, network.heard[0].source) == ("rpool is critical. Look at it.", "pve1")
    network.alerts.observe_findings(pool(Level.UNKNOWN), 1015)
    assert not network.publish(1015)
    assert not network.publish(90_000)
    assert network.alerts.firing() == ["zfs_health"]
    network.alerts.observe_findings(pool(Level.OK), 90_015)
    assert network.publish(90_015) == [("zfs_health", "resolved", "critical")]
    assert not network.alerts.firing()


def test_severity() -> None:
    """A change of the severity of a firing alert is published: it is not another alert."""
    network = Network()
    found = []
    for at, level in enumerate((Level.WARNING, Level.CRITICAL, Level.CRITICAL, Level.WARNING)):
        network.alerts.observe_findings(pool(level), 1000 + 15 * at)
        found += network.publish(1000 + 15 * at)

    assert [severity for _, _, severity in found] == ["warning", "critical", "warning"]
    assert len(network.published) == 1


def test_restart() -> None:
    """After a restart an alert is not published again, and its end is."""
    network = Network()
    network.alerts.observe_findings(pool(Level.CRITICAL), 1000)
    network.publish(1000)
    network.restart()
    network.alerts.observe_findings(pool(Level.CRITICAL), 1100)

    assert not network.publish(1100)
    network.alerts.observe_findings(pool(Level.OK), 1200)
    assert network.publish(1200) == [("zfs_health", "resolved", "critical")]


def test_removed() -> None:
    """The alert of a node that was removed is resolved; while the list of nodes cannot be read, it is not."""
    network = Network()
    network.alerts.observe_findings(pool(Level.CRITICAL), 1000)
    network.publish(1000)
    network.alerts.end_removed({}, 1010)
    network.alerts.end_removed({"node": {"pve1"}, "guest": set()}, 1010)
    assert not network.publish(1010)
    network.alerts.end_removed({"node": {"pve2"}}, 1020)

    assert network.publish(1020) == [("zfs_health", "resolved", "critical")]


def test_inhibited() -> None:
    """The alert of a guest is withheld while its node is down."""
    network = Network()
    locked = [Finding("guest_lock", {"guest": "qemu/1"}, Level.WARNING, "it is locked")]
    for at in range(0, 1000, 100):
        network.alerts.observe_findings(locked, at)
        assert not network.publish(at, Condition("node_lost", {"guest": "qemu/1"}))

    network.alerts.observe_findings(locked, 1000)
    assert network.publish(1000) == [("guest_lock", "firing", "warning")]


def test_changed_threshold() -> None:
    """An alert whose value is good under a changed threshold ends at once; without the change it waits."""
    busy = Finding("guest_cpu", {"guest": "qemu/1"}, Level.WARNING, "busy")
    calm = Finding("guest_cpu", {"guest": "qemu/1"}, Level.OK, "calm")
    for adopt, expected in ((False, []), (True, [("guest_cpu", "resolved", "warning")])):
        network = Network()
        for at in range(0, 1200, 15):
            network.alerts.observe_findings([busy], at)
        network.publish(1200)
        network.alerts.observe_findings([calm], 1215, adopt=adopt)

        assert network.publish(1215) == expected


def test_healthy_objects_need_no_memory() -> None:
    """Findings that are ok leave no record."""
    alerts = NetworkAlerts(RULES)
    alerts.observe_findings([Finding("guest_cpu", {"guest": f"qemu/{vmid}"}, Level.OK, "ok") for vmid in range(9)], 0)

    assert not alerts.records()


def test_own_alerts() -> None:
    """An alert about agentd fires as long as its book says so, also after a restart, and ends with the reason."""
    network = Network()
    network.alerts.observe_own([OFFLINE], {}, 1000)
    assert network.publish(1000) == [("agent_offline", "firing", "critical")]
    network.restart()
    network.alerts.observe_own([OFFLINE], {}, 50_000)
    assert not network.publish(50_000)
    network.alerts.observe_own([], {fingerprint_of(OFFLINE): "a1 is back"}, 50_005)

    assert network.publish(50_005) == [("agent_offline", "resolved", "critical")]
    assert network.heard[-1].message == "a1 is back"


def test_types_are_distinct() -> None:
    """No check has the name of an alert about agentd itself."""
    assert not {check.name for check in BUILT_IN} & set(KINDS)
