"""How often a node is read while it is waited for, and which states keep guests away from it."""

from __future__ import annotations

from agentd_specialist.maintenance_tools import ServiceView, node_faults, pause


def test_a_day_of_waiting_is_a_bounded_number_of_looks() -> None:
    """A node that is held for a day is read less than 3000 times, and the hold ends on time."""
    held, looks = 86_400.0, 0
    while held > 0:
        looks += 1
        held -= pause(looks, held, 1e6)

    assert looks < 3000
    assert -0.1 <= held <= 0


def test_looks_become_rarer_and_end_before_the_deadline() -> None:
    """A reboot is noticed within seconds at first; the last pause does not go beyond the deadline."""
    pauses = [pause(looks, 0.0, 1e6) for looks in range(1, 100)]

    assert pauses[0] == 2.0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 15.0
    assert pause(50, 0.0, 3.0) == 3.0
    assert pause(50, 600.0, 3.0) == 3.0
    assert pause(1, 0.0, -5.0) > 0


def test_faults_of_a_node() -> None:
    """Every fault is named; a service that is switched off on purpose is none."""
    services = [
        ServiceView("pveproxy", "dead", "enabled"),
        ServiceView("corosync", "dead", "disabled"),
        ServiceView("spiceproxy", "dead", "enabled"),
    ]
    storages = [{"storage": "local", "status": "available"}, {"storage": "nfs", "status": "unknown"}]

    assert node_faults({"status": "online"}, services, storages) == [
        "the service pveproxy is dead",
        "storage nfs is unknown",
    ]
    assert node_faults({}, (), ()) == ["it is unknown"]
