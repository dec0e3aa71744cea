"""The checks: readings become ok, warning, critical or unknown, with a sentence and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from agentd import Finding, Level
from agentd_monitor.alerting.book import AlertRule, AlertStates
from agentd_monitor.cluster.readings import SOURCES, Snapshot
from agentd_monitor.health.catalogue import BUILT_IN, facts, run_all
from agentd_monitor.health.finding import ORDER, Moment, observation
from agentd_monitor.health.thresholds import DEFAULTS, Thresholds

NOW = 1_800_000_000.0
DAY = 86_400
GIB = 2**30
OK, WARNING, CRITICAL, UNKNOWN = Level.OK, Level.WARNING, Level.CRITICAL, Level.UNKNOWN


def members(nodes: int = 3, online: int = 3, quorate: int = 1) -> list[dict[str, Any]]:
    """Return a response of /cluster/status."""
    cluster = {"type": "cluster", "name": "lab", "quorate": quorate, "nodes": nodes}
    return [
        cluster,
        *({"type": "node", "name": f"pve{place + 1}", "online": int(place < online)} for place in range(nodes)),
    ]


def moment(
    sources: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    *,
    status: list[dict[str, Any]] | None = None,
    problems: dict[str, dict[str, str]] | None = None,
) -> Moment:
    """Return a moment; a source of nodes is given as a response by node, one of the cluster as a list or {"": …}."""
    data = {"status": {"": status or members()}}
    data |= {name: held if isinstance(held, dict) else {"": held} for name, held in (sources or {}).items()}
    return Moment(Snapshot(data, problems or {}), Thresholds(overrides), NOW)


def found(check: str, seen: Moment, **labels: str) -> list[Finding]:
    """Return the findings of one check, about objects with given labels."""
    return [finding for finding in run_all(seen) if finding.check == check and labels.items() <= finding.labels.items()]


def level(check: str, seen: Moment, **labels: str) -> Level:
    """Return the level of the only finding of a check."""
    (finding,) = found(check, seen, **labels)
    assert finding.text
    assert finding.advice or finding.level is not CRITICAL
    return finding.level


def guest(**fields: Any) -> list[dict[str, Any]]:
    """Return a response of /cluster/resources with one running container."""
    base = {"id": "lxc/101", "type": "lxc", "vmid": 101, "node": "pve1", "name": "web", "status": "running"}
    return [{**base, **fields}]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (members(3, 3), OK),
        (members(3, 2), WARNING),
        (members(3, 1, quorate=0), CRITICAL),
        (members(5, 4), OK),
        (members(5, 3), WARNING),
        (members(2, 2), OK),
    ],
)
def test_quorum(status: list[dict[str, Any]], expected: Level) -> None:
    """Without a quorum it is critical, with no vote to spare a warning."""
    assert level("not_quorate", moment(status=status)) is expected


def test_single_node() -> None:
    """A node without a cluster has no finding about a quorum."""
    assert not found("not_quorate", moment(status=[{"type": "node", "name": "pve1", "online": 1}]))


def test_node_down() -> None:
    """A node that is offline is critical, and its own readings are no further findings."""
    seen = moment({"node_status": {}}, status=members(3, 2))

    assert level("node_down", seen, node="pve3") is CRITICAL
    assert level("node_down", seen, node="pve1") is OK
    assert not found("node_cpu", seen, node="pve3")


def test_unknown_says_why() -> None:
    """What cannot be read is unknown, with the reason and the privilege that the token needs; never ok."""
    seen = moment(problems={"zfs": {"pve1": "permission denied"}})
    (finding,) = found("zfs_health", seen, node="pve1")

    assert finding.level is UNKNOWN
    assert "permission denied" in finding.text
    assert "Sys.Audit" in finding.advice
    assert level("zfs_health", seen, node="pve2") is UNKNOWN


@pytest.mark.parametrize(
    ("check", "status", "expected"),
    [
        ("node_cpu", {"cpu": 0.5}, OK),
        ("node_cpu", {"cpu": 0.95}, WARNING),
        ("node_cpu", {}, UNKNOWN),
        ("node_iowait", {"wait": 0.3}, WARNING),
        ("node_memory", {"memory": {"total": 100, "used": 99, "available": 40}}, OK),
        ("node_memory", {"memory": {"total": 100, "used": 99, "available": 1}}, CRITICAL),
        ("node_memory", {"memory": {"total": 100, "used": 93}}, WARNING),
        ("node_rootfs", {"rootfs": {"total": 100, "used": 96}}, CRITICAL),
    ],
)
def test_node_figures(check: str, status: dict[str, Any], expected: Level) -> None:
    """Each figure of a node is compared with its thresholds; memory that is available does not count as used."""
    assert level(check, moment({"node_status": {"pve1": status}}), node="pve1") is expected


def test_node_without_swap() -> None:
    """A node without swap space has no finding about it."""
    assert not [
        finding
        for finding in found("node_swap", moment({"node_status": {"pve1": {"swap": {"total": 0, "used": 0}}}}))
        if finding.level is not UNKNOWN
    ]


def test_services() -> None:
    """An enabled service that does not run is a warning, an essential one critical, a disabled one nothing."""
    listed = [
        {"service": "chrony", "unit-state": "enabled", "state": "dead"},
        {"service": "pveproxy", "unit-state": "enabled", "state": "failed"},
        {"service": "pvestatd", "unit-state": "enabled", "state": "running"},
        {"service": "ksmtuned", "unit-state": "disabled", "state": "dead"},
    ]
    seen = moment({"services": {"pve1": listed}})

    assert level("service_down", seen, service="chrony") is WARNING
    assert level("service_down", seen, service="pveproxy") is CRITICAL
    assert level("service_down", seen, service="pvestatd") is OK
    assert not found("service_down", seen, service="ksmtuned")


@pytest.mark.parametrize(("days", "expected"), [(60, OK), (20, WARNING), (3, CRITICAL), (-1, CRITICAL)])
def test_certificates(days: int, expected: Level) -> None:
    """Few days are bad; an expired certificate is critical."""
    listed = [{"filename": "pve-ssl.pem", "notafter": NOW + days * DAY}]

    assert level("certificate", moment({"certificates": {"pve1": listed}}), filename="pve-ssl.pem") is expected


def test_disks() -> None:
    """A failed disk is critical, a worn one a warning; a disk without SMART has no finding."""
    listed = [
        {"devpath": "/dev/sda", "health": "FAILED", "wearout": "N/A"},
        {"devpath": "/dev/nvme0n1", "health": "PASSED", "wearout": 8},
        {"devpath": "/dev/sdb", "health": "UNKNOWN"},
    ]
    seen = moment({"disks": {"pve1": listed}})

    assert level("disk_health", seen, device="/dev/sda") is CRITICAL
    assert level("disk_wear", seen, device="/dev/nvme0n1") is WARNING
    assert not found("disk_health", seen, device="/dev/sdb")
    assert not found("disk_wear", seen, device="/dev/sda")


def test_pools() -> None:
    """A degraded pool is critical; metadata of a thin pool has lower thresholds than its data."""
    thin = {"vg": "pve", "lv": "data", "lv_size": 100, "used": 75, "metadata_size": 100, "metadata_used": 75}
    seen = moment(
        {
            "zfs": {"pve1": [{"name": "rpool", "health": "DEGRADED", "size": 100, "alloc": 10}]},
            "lvmthin": {"pve1": [thin]},
        }
    )

    assert level("zfs_health", seen, pool="rpool") is CRITICAL
    assert level("zfs_usage", seen, pool="rpool") is OK
    assert level("thin_pool_data", seen, pool="pve/data") is OK
    assert level("thin_pool_metadata", seen, pool="pve/data") is WARNING


def test_failed_tasks() -> None:
    """Three failed tasks of one type within an hour are a warning; warnings of a task, and old ones, do not count."""

    def task(status: str, age: float) -> dict[str, Any]:
        return {"type": "vzdump", "status": status, "endtime": NOW - age}

    bad = [task("job errors", 60 * place) for place in range(3)]
    good = [task("WARNINGS: 1", 60), task("WARNINGS: 2", 60), task("job errors", 60), task("job errors", 7200)]
    seen = moment({"failed_tasks": {"pve1": bad, "pve2": good}})

    assert level("task_failures", seen, node="pve1") is WARNING
    assert level("task_failures", seen, node="pve2") is OK


def test_storages() -> None:
    """A shared storage has one finding about its usage; one that is not available has no usage."""
    listed = [
        {
            "type": "storage",
            "storage": name,
            "node": node,
            "status": state,
            "shared": shared,
            "disk": 90,
            "maxdisk": 100,
        }
        for name, node, state, shared in (
            ("nfs", "pve1", "available", 1),
            ("nfs", "pve2", "available", 1),
            ("local", "pve1", "available", 0),
            ("local", "pve2", "unknown", 0),
        )
    ]
    seen = moment({"resources": listed})

    assert level("storage_usage", seen, storage="nfs") is WARNING
    assert level("storage_usage", seen, storage="local") is WARNING
    assert level("storage_inactive", seen, storage="local", node="pve2") is WARNING
    assert level("storage_inactive", seen, storage="nfs", node="pve2") is OK


def test_storage_of_an_offline_node() -> None:
    """The storages of a node that is offline are no findings of their own."""
    listed = [{"type": "storage", "storage": "local", "node": "pve3", "status": "unknown"}]

    assert not found("storage_inactive", moment({"resources": listed}, status=members(3, 2)), node="pve3")


def test_memory_of_vms() -> None:
    """The memory of a VM counts its page cache, so it is checked only with an override; that of a container is."""
    full = {"mem": 96, "maxmem": 100}
    vm = guest(id="qemu/101", type="qemu", **full)

    assert level("guest_memory", moment({"resources": guest(**full)})) is WARNING
    assert not found("guest_memory", moment({"resources": vm}))
    assert (
        level("guest_memory", moment({"resources": vm}, {"guest:101": {"guest_memory": {"enabled": True}}})) is WARNING
    )


def test_stopped_guests() -> None:
    """A stopped guest is a finding if HA or its node starts it; with an unknown status, so is the finding."""
    config = {"guest_config": {"lxc/101": {"onboot": 1}}}

    assert level("guest_stopped", moment({"resources": guest(status="stopped"), **config})) is WARNING
    assert level("guest_stopped", moment({"resources": guest(status="unknown"), **config})) is UNKNOWN
    assert level("guest_stopped", moment({"resources": guest(status="stopped", hastate="started")})) is WARNING
    assert not found("guest_stopped", moment({"resources": guest(status="stopped", hastate="stopped"), **config}))
    assert not found("guest_stopped", moment({"resources": guest(status="stopped")}))


def test_locks_and_backups() -> None:
    """A lock is a finding of its check; a backup has a check of its own, and is a fact that inhibits others."""
    seen = moment({"resources": guest(lock="backup")})

    assert level("guest_lock", seen) is OK
    assert level("backup_lock_stale", seen) is WARNING
    assert [(fact.name, fact.labels) for fact in facts(seen.snapshot)] == [("backup_lock", {"guest": "lxc/101"})]
    assert level("guest_lock", moment({"resources": guest(lock="migrate")})) is WARNING


def test_facts() -> None:
    """Guests of a node that is offline are lost with it, and a node in maintenance is a fact; others are none."""
    node = {"type": "node", "id": "node/pve1", "node": "pve1", "hastate": "maintenance"}
    listed = [node, *guest(id="qemu/1", type="qemu", node="pve3"), *guest()]
    seen = moment({"resources": listed}, status=members(3, 2))

    assert [(fact.name, fact.labels) for fact in facts(seen.snapshot)] == [
        ("maintenance", {"node": "pve1"}),
        ("node_lost", {"guest": "qemu/1"}),
    ]


def test_snapshots() -> None:
    """Old snapshots and many snapshots are findings; the present state is no snapshot."""
    listed = [{"name": "current"}, {"name": "old", "snaptime": NOW - 40 * DAY}]
    seen = moment({"resources": guest(), "snapshots": {"lxc/101": listed}})

    assert level("snapshot_age", seen) is CRITICAL
    assert level("snapshot_count", seen) is OK


def test_replication() -> None:
    """A job that fails is a warning, with the error of the last run."""
    job = {"id": "101-0", "guest": 101, "source": "pve1", "fail_count": 2, "last_sync": NOW - 60, "error": "no route"}
    seen = moment({"replication": {"pve1": [job]}})
    (finding,) = found("replication_failed", seen)

    assert finding.level is WARNING
    assert "no route" in finding.advice
    assert level("replication_age", seen) is OK


def test_ha() -> None:
    """An HA resource in error is critical; a manager whose state is old is a warning."""
    listed = [
        {"type": "service", "sid": "vm:100", "node": "pve1", "state": "error"},
        {"type": "service", "sid": "vm:101", "node": "pve1", "state": "started"},
        {"type": "lrm", "node": "pve1", "timestamp": NOW - 300},
        {"type": "lrm", "node": "pve2", "timestamp": NOW - 5},
    ]
    seen = moment({"ha": listed})

    assert level("ha_error", seen, service="vm:100") is CRITICAL
    assert level("ha_error", seen, service="vm:101") is OK
    assert level("ha_manager", seen, node="pve1") is WARNING
    assert level("ha_manager", seen, node="pve2") is OK


def test_failover() -> None:
    """If the guests do not fit on the nodes that are left, it is a warning."""
    nodes = [{"type": "node", "id": f"node/pve{place}", "status": "online", "maxmem": 64 * GIB} for place in (1, 2)]

    assert level("failover_memory", moment({"resources": [*nodes, *guest(maxmem=60 * GIB)]})) is OK
    assert level("failover_memory", moment({"resources": [*nodes, *guest(maxmem=65 * GIB)]})) is WARNING


def test_backup_coverage() -> None:
    """Guests without a backup job are named."""
    (finding,) = found("backup_coverage", moment({"not_backed_up": [{"vmid": 101, "type": "lxc"}]}))

    assert finding.level is WARNING
    assert "101" in finding.text


def test_worst_first() -> None:
    """The findings are sorted, the worst first."""
    order = [ORDER[finding.level] for finding in run_all(moment(status=members(3, 1, quorate=0)))]

    assert order == sorted(order, reverse=True)


def test_every_finding_has_a_rule() -> None:
    """Each threshold and each check has a rule of its name, so that its alerts can be decided."""
    names = [check.name for check in BUILT_IN]

    assert len(names) == len(set(names))
    assert set(DEFAULTS) <= set(names)
    assert all(check.rule.name == check.name and check.source in SOURCES for check in BUILT_IN)


def test_an_alert_from_readings() -> None:
    """A full storage fires after its time, and is resolved only below its lower threshold."""

    def full(percent: float) -> list[dict[str, Any]]:
        return [
            {
                "type": "storage",
                "storage": "local",
                "node": "pve1",
                "status": "available",
                "disk": percent,
                "maxdisk": 100,
            }
        ]

    alerts = AlertStates([AlertRule(check.rule, check.group) for check in BUILT_IN])
    sent = []
    for at, percent in ((0, 90), (60, 90), (120, 90), (180, 82), (240, 82), (360, 79), (420, 79), (480, 79)):
        for finding in run_all(moment({"resources": full(percent)})):
            alerts.observe(finding.check, finding.labels, observation(finding, at), finding.advice)
        sent += [
            (at, notification.reason)
            for notification in alerts.due(at)
            if notification.record.item.rule == "storage_usage"
        ]

    assert sent == [(120, "firing"), (480, "resolved")]


def test_a_check_that_fails() -> None:
    """A fault in one check makes its result unknown and does not stop the others."""

    def broken(_: Moment) -> list[Finding]:
        raise ZeroDivisionError

    findings = run_all(moment(), [BUILT_IN[0]._replace(name="mine", run=broken), *BUILT_IN])

    assert [finding.level for finding in findings if finding.check == "mine"] == [UNKNOWN]
    assert [finding for finding in findings if finding.check == "node_down"]
