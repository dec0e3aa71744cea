"""What users of other monitors complain about, replayed: readings over hours become notifications, or none.

Each test is one complaint.  Those that need a running monitor or a real receiver have their test elsewhere: the API
calls a minute and the memory of the monitor in cluster/test_schedule.py and tests/bench/bench_monitor.py, a hung mount
in test_plugin_checks.py, a receiver that is down in test_receivers.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from agentd_monitor.alerting.network_alerts import NetworkAlerts
from agentd_monitor.alerting.state import State
from agentd_monitor.alerting.suppression import Acknowledgement
from agentd_monitor.alerts import fingerprint
from agentd_monitor.cluster.readings import Snapshot
from agentd_monitor.health.catalogue import RULES, facts, run_all
from agentd_monitor.health.finding import Moment
from agentd_monitor.health.thresholds import Thresholds

MINUTE, HOUR, DAY = 60, 3600, 86_400
STATUS = [
    {"type": "cluster", "name": "lab", "quorate": 1, "nodes": 1},
    {"type": "node", "name": "pve1", "online": 1, "local": 1},
]


class Replay:
    """A monitor whose readings the test gives; `sent` has what was notified, as (time, alert, reason)."""

    def __init__(self, overrides: dict[str, Any] | None = None) -> None:
        self.alerts = NetworkAlerts(RULES)
        self.overrides = overrides or {}
        self.sent: list[tuple[int, str, str]] = []

    def read(self, at: int, *, adopt: bool = False, **sources: Any) -> None:
        """Check readings: those of nodes are given as a response of pve1, `resources` as a list."""
        data = {"status": {"": STATUS}}
        for name, response in sources.items():
            data[name] = {"" if name == "resources" else "pve1": response}
        snapshot = Snapshot(data)
        findings = run_all(Moment(snapshot, Thresholds(self.overrides), float(at)))
        self.alerts.observe_findings(findings, at, adopt=adopt)
        self.alerts.tick(at)
        self.sent += [(at, sent.record.item.rule, sent.reason) for sent in self.alerts.due(at, facts(snapshot))]

    def about(self, name: str) -> list[tuple[int, str]]:
        """Return the notifications about one alert, as (time, reason)."""
        return [(at, reason) for at, rule, reason in self.sent if rule == name]

    def state(self, name: str) -> State:
        """Return the state of the only alert of a name."""
        (found,) = [record.item.state for record in self.alerts.records().values() if record.item.rule == name]
        return found


def guest(vmid: int = 101, **fields: Any) -> dict[str, Any]:
    """Return a running container, which needs little."""
    base = {"id": f"lxc/{vmid}", "type": "lxc", "vmid": vmid, "node": "pve1", "name": "web", "status": "running"}
    return {**base, "cpu": 0.1, "maxcpu": 1, "mem": 10, "maxmem": 100, **fields}


def storage(used: float, status: str = "available") -> dict[str, Any]:
    """Return a storage."""
    return {
        "type": "storage",
        "storage": "pbs",
        "node": "pve1",
        "status": status,
        "disk": used,
        "maxdisk": 100,
        "shared": 1,
    }


def test_minutes_for_each_guest() -> None:
    """A guest with its own duration is not notified during a build that takes longer than the default."""
    replay = Replay({"guest:101": {"guest_cpu": {"pending_for": 30 * MINUTE}}})
    for at in range(0, 40 * MINUTE, 20):
        replay.read(at, resources=[guest(101, cpu=0.99 if at < 29 * MINUTE else 0.1), guest(102, cpu=0.99)])

    assert [labels for _, labels in guests_of(replay, "guest_cpu")] == ["lxc/102"]


def guests_of(replay: Replay, name: str) -> list[tuple[str, str]]:
    """Return the guests with an incident of an alert, by state."""
    return [
        (record.item.state, record.item.labels["guest"])
        for record in replay.alerts.records().values()
        if record.item.rule == name and record.item.begun is not None
    ]


def test_ignored_by_tag() -> None:
    """A tag switches a check off for its guests, one guest has it on again; the order of the keys is irrelevant."""
    off, on = {"guest_cpu": {"enabled": False}}, {"guest_cpu": {"enabled": True}}
    for overrides in ({"tag:lab": off, "guest:102": on}, {"guest:102": on, "tag:lab": off}):
        replay = Replay(overrides)
        for at in range(0, HOUR, 20):
            replay.read(at, resources=[guest(vmid, cpu=0.99, tags="a;lab") for vmid in (101, 102)])

        assert [labels for _, labels in guests_of(replay, "guest_cpu")] == ["lxc/102"]


def test_threshold_raised_while_firing() -> None:
    """An alert ends as soon as its threshold is above its value."""
    replay = Replay()
    for at in range(0, 10 * MINUTE, 20):
        replay.read(at, resources=[storage(90)])
    replay.overrides = {"type:storage": {"storage_usage": {"warning": 94, "clear": 93}}}
    replay.read(10 * MINUTE, adopt=True, resources=[storage(90)])

    assert replay.about("storage_usage") == [(2 * MINUTE, "firing"), (10 * MINUTE, "resolved")]


def test_stuck_until_restart() -> None:
    """An alert without data is unknown, not firing, and is resolved by the next good data without a restart."""
    replay = Replay()
    for at in range(0, 10 * MINUTE, 20):
        replay.read(at, resources=[storage(90)])
    for at in range(10 * MINUTE, 6 * HOUR, 20):
        replay.read(at)
    unknown = replay.state("storage_usage")
    for at in range(6 * HOUR, 6 * HOUR + 5 * MINUTE, 20):
        replay.read(at, resources=[storage(50)])

    assert unknown is State.UNKNOWN
    assert [reason for _, reason in replay.about("storage_usage")] == ["firing", "resolved"]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_one_worn_disk(*, acknowledged: bool) -> None:
    """In three days a worn disk is notified once and every four hours, not with each reading; acknowledged, once."""
    replay = Replay()
    worn = [{"devpath": "/dev/sda", "health": "PASSED", "wearout": 8}]
    key = fingerprint("disk_wear", {"node": "pve1", "device": "/dev/sda"})
    for at in range(0, 3 * DAY, 15 * MINUTE):
        replay.read(at, disks=worn)
        if acknowledged:
            replay.alerts.acknowledge({key: Acknowledgement("alice", at, at + DAY)})
    reasons = [reason for _, reason in replay.about("disk_wear")]

    assert reasons == ["firing"] + ["reminder"] * (0 if acknowledged else 17)


def test_daily_fire_again() -> None:
    """A value that is bad each night is one incident a night; acknowledged for a week, it is not notified again."""
    replay = Replay()
    key = fingerprint("storage_usage", {"storage": "pbs"})
    for at in range(0, 5 * DAY, 5 * MINUTE):
        replay.read(at, resources=[storage(90 if at % DAY < 2 * HOUR else 50)])
        if at == HOUR:
            replay.alerts.acknowledge({key: Acknowledgement("alice", at, at + 7 * DAY)})
    reasons = [reason for _, reason in replay.about("storage_usage")]

    assert reasons == ["firing", "resolved"]


def test_backup_server_offline() -> None:
    """A backup server that comes and goes every minute for an hour is one incident, or few, not thirty."""
    replay = Replay()
    for at in range(0, HOUR, 20):
        replay.read(at, resources=[storage(50, "unknown" if at // MINUTE % 5 < 3 else "available")])
    firing = [reason for _, reason in replay.about("storage_inactive") if reason == "firing"]

    assert len(firing) <= 3


def test_missing_data_in_turns() -> None:
    """Data that is missing every other minute makes one incident of one."""
    replay = Replay()
    for at in range(0, 6 * HOUR, 20):
        if at > 5 * MINUTE and at // MINUTE % 2:
            replay.read(at)
        else:
            replay.read(at, resources=[storage(90)])

    assert [reason for _, reason in replay.about("storage_usage")] == ["firing", "reminder"]


def test_stopped_at_start() -> None:
    """Guests that were stopped before the monitor started are no alerts; one that stops later is."""
    replay = Replay()
    for at in range(0, HOUR, 20):
        running = "running" if at < 30 * MINUTE else "stopped"
        stopped = [guest(vmid, status="stopped", hastate="started") for vmid in (101, 102, 103)]
        replay.read(at, resources=[*stopped, guest(104, status=running, hastate="started")])

    assert [labels for _, labels in guests_of(replay, "guest_stopped")] == ["lxc/104"]


def test_backups_each_night() -> None:
    """While a backup holds its lock, the load of the guest is not notified; afterwards it is, if it stays."""
    replay = Replay()
    for at in range(0, 3 * HOUR, 20):
        replay.read(at, resources=[guest(cpu=0.99, lock="backup" if at < 2 * HOUR else "")])
    ((first, _),) = replay.about("guest_cpu")

    assert first == 2 * HOUR
    assert replay.about("guest_lock") == []


def test_page_cache_of_a_vm() -> None:
    """A VM whose page cache fills its memory is no alert; a node whose page cache is large is none, either."""
    replay = Replay()
    memory = {"total": 100, "used": 97, "free": 3, "available": 60}
    for at in range(0, HOUR, 20):
        replay.read(at, resources=[guest(type="qemu", id="qemu/101", mem=99)], node_status={"memory": memory})

    assert replay.about("guest_memory") == replay.about("node_memory") == []


@pytest.mark.parametrize(
    ("name", "source", "response"),
    [
        ("zfs_health", "zfs", [{"name": "rpool", "health": "DEGRADED", "size": 100, "alloc": 1}]),
        ("disk_health", "disks", [{"devpath": "/dev/sda", "health": "FAILED"}]),
        ("thin_pool_metadata", "lvmthin", [{"vg": "pve", "lv": "data", "metadata_used": 90, "metadata_size": 100}]),
        ("replication_failed", "replication", [{"id": "101-0", "fail_count": 1, "error": "no route"}]),
    ],
)
def test_storage_faults(name: str, source: str, response: Any) -> None:
    """A degraded pool, a failed disk, full metadata and a replication that fails are notified once."""
    replay = Replay()
    for at in range(0, HOUR, MINUTE):
        replay.read(at, **{source: response})

    assert [reason for _, reason in replay.about(name)] == ["firing"]


def test_warnings_of_backups() -> None:
    """Backups that end with warnings have not failed; three that failed within an hour are notified, older ones not."""
    warned, failed = Replay(), Replay()
    for at in range(DAY, DAY + 2 * HOUR, MINUTE):
        ended = [DAY - 60 * number for number in range(1, 4)]
        warned.read(at, failed_tasks=[{"type": "vzdump", "status": "WARNINGS: 1", "endtime": end} for end in ended])
        failed.read(at, failed_tasks=[{"type": "vzdump", "status": "job errors", "endtime": end} for end in ended])

    assert warned.about("task_failures") == []
    assert [reason for _, reason in failed.about("task_failures")] == ["firing", "resolved"]
