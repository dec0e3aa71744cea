"""The metric families of the cluster: names, labels and values of prometheus-pve-exporter, from given readings."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.telemetry.metrics import Metrics
from agentd_monitor.cluster.families import HELP, families
from agentd_monitor.cluster.node_families import clock_offsets
from agentd_monitor.cluster.readings import SOURCES, Snapshot

STATUS = [
    {"type": "cluster", "name": "lab", "id": "cluster", "nodes": 2, "quorate": 1, "version": 7},
    {"type": "node", "name": "pve1", "id": "node/pve1", "online": 1, "level": "c", "nodeid": 1, "local": 1},
    {"type": "node", "name": "pve2", "id": "node/pve2", "online": 0, "level": "", "nodeid": 2, "local": 0},
]
GUEST = {
    "id": "qemu/100",
    "type": "qemu",
    "vmid": 100,
    "node": "pve1",
    "name": "web",
    "status": "running",
    "template": 0,
    "tags": "prod",
    "cpu": 0.25,
    "maxcpu": 4,
    "mem": 10,
    "maxmem": 20,
    "netin": 1,
    "netout": 2,
    "diskread": 3,
    "diskwrite": 4,
    "uptime": 60,
    "hastate": "started",
    "lock": "backup",
}
STORAGE = {
    "id": "storage/pve1/local",
    "type": "storage",
    "node": "pve1",
    "storage": "local",
    "status": "available",
    "plugintype": "dir",
    "content": "vztmpl,backup,iso",
    "disk": 5,
    "maxdisk": 50,
    "shared": 0,
}

Labels = tuple[tuple[str, str], ...]


def samples(snapshot: Snapshot, **options: bool) -> dict[tuple[str, Labels], float]:
    """Return the value of each series."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(snapshot, **options)
        for sample in family.samples
    }


def of(found: dict[tuple[str, Labels], float], name: str) -> dict[Labels, float]:
    """Return the series of one name."""
    return {labels: value for (held, labels), value in found.items() if held == name}


def cluster(*resources: dict[str, Any], **sources: dict[str, Any]) -> Snapshot:
    """Return a snapshot with the two nodes, with resources, and with responses by source and key."""
    return Snapshot({"status": {"": STATUS}, "resources": {"": list(resources)}, **sources})


def test_up_of_everything() -> None:
    """A node that is offline has 0; cluster, guest and storage have ids as the exporter writes them."""
    stopped = {**GUEST, "id": "lxc/101", "type": "lxc", "status": "stopped"}

    assert of(samples(cluster(GUEST, stopped, STORAGE)), "pve_up") == {
        (("id", "cluster/lab"),): 1,
        (("id", "node/pve1"),): 1,
        (("id", "node/pve2"),): 0,
        (("id", "qemu/100"),): 1,
        (("id", "lxc/101"),): 0,
        (("id", "storage/pve1/local"),): 1,
    }


def test_figures_of_a_guest() -> None:
    """Each figure of the API has its family; traffic is a counter with the suffix _total, and no gauge beside it."""
    found = samples(cluster(GUEST))
    values = {name: value for (name, labels), value in found.items() if labels == (("id", "qemu/100"),)}

    assert values == {
        "pve_up": 1,
        "pve_cpu_usage_ratio": 0.25,
        "pve_cpu_usage_limit": 4,
        "pve_memory_usage_bytes": 10,
        "pve_memory_size_bytes": 20,
        "pve_uptime_seconds": 60,
        "pve_network_receive_bytes_total": 1,
        "pve_network_transmit_bytes_total": 2,
        "pve_disk_read_bytes_total": 3,
        "pve_disk_written_bytes_total": 4,
    }


def test_legacy_gauges() -> None:
    """The deprecated gauges appear with their switch only, with the same values."""
    found = samples(cluster(GUEST), legacy_gauges=True)

    assert of(found, "pve_network_receive_bytes") == {(("id", "qemu/100"),): 1}
    assert of(found, "pve_disk_write_bytes") == {(("id", "qemu/100"),): 4}


def test_info_labels() -> None:
    """The info series have the labels of the exporter; content types are sorted, so that the series stays the same."""
    found = samples(cluster(GUEST, STORAGE, version={"": {"version": "9.1.4", "release": "9.1", "repoid": "ab"}}))

    assert of(found, "pve_guest_info") == {
        (
            ("id", "qemu/100"),
            ("name", "web"),
            ("node", "pve1"),
            ("tags", "prod"),
            ("template", "0"),
            ("type", "qemu"),
        ): 1
    }
    assert of(found, "pve_storage_info") == {
        (
            ("content", "backup,iso,vztmpl"),
            ("id", "storage/pve1/local"),
            ("node", "pve1"),
            ("plugintype", "dir"),
            ("storage", "local"),
        ): 1
    }
    assert of(found, "pve_cluster_info") == {
        (("id", "cluster/lab"), ("nodes", "2"), ("quorate", "1"), ("version", "7")): 1
    }
    assert of(found, "pve_version_info") == {(("release", "9.1"), ("repoid", "ab"), ("version", "9.1.4")): 1}


def test_state_sets() -> None:
    """By default a state has one series; the full set has every state of the exporter."""
    short, full = samples(cluster(GUEST)), samples(cluster(GUEST), full_state_sets=True)

    assert of(short, "pve_ha_state") == {(("id", "qemu/100"), ("state", "started")): 1}
    assert of(short, "pve_lock_state") == {(("id", "qemu/100"), ("state", "backup")): 1}
    assert len(of(full, "pve_ha_state")) == 11
    assert len(of(full, "pve_lock_state")) == 9
    assert sum(of(full, "pve_ha_state").values()) == sum(of(full, "pve_lock_state").values()) == 1


def test_replication_of_all_nodes() -> None:
    """A job appears once, from the node that runs it, also if the target reports it too."""
    job = {
        "id": "100-0",
        "type": "local",
        "source": "pve1",
        "target": "pve2",
        "guest": 100,
        "vmtype": "qemu",
        "fail_count": 2,
        "last_sync": 1000,
        "duration": 1.5,
    }
    found = samples(cluster(replication={"pve1": [job], "pve2": [{**job, "fail_count": 0}]}))

    assert of(found, "pve_replication_failed_syncs") == {(("id", "100-0"),): 2}
    assert of(found, "pve_replication_info") == {
        (
            ("guest", "qemu/100"),
            ("id", "100-0"),
            ("source", "node/pve1"),
            ("target", "node/pve2"),
            ("type", "local"),
        ): 1
    }


def test_subscription() -> None:
    """The status is a full state set; a date becomes a time; a missing or broken date has no series."""
    found = samples(
        cluster(subscription={"pve1": {"status": "active", "level": "c", "nextduedate": "2027-01-01"}, "pve2": {}})
    )

    assert of(found, "pve_subscription_next_due_timestamp_seconds") == {(("id", "node/pve1"),): 1798761600}
    assert of(found, "pve_subscription_status")[("id", "node/pve1"), ("status", "active")] == 1
    assert of(found, "pve_subscription_status")[("id", "node/pve2"), ("status", "active")] == 0
    assert of(found, "pve_subscription_info")[("id", "node/pve2"), ("level", "unknown")] == 1


def test_backup_coverage_and_qdevice() -> None:
    """The number of guests without a backup job is 0 and not missing; a cluster without QDevice has no series of it."""
    found = samples(cluster(not_backed_up={"": []}, qdevice={"": {}}))

    assert of(found, "pve_not_backed_up_total") == {(("id", "cluster/lab"),): 0}
    assert not of(found, "pve_qdevice_up")


@pytest.mark.parametrize("value", [math.nan, math.inf, "NaN", "much", None, [], {}])
def test_absurd_values(value: Any) -> None:
    """A value that is not a finite number has no series; the other values of the guest stay."""
    found = samples(cluster({**GUEST, "mem": value}))

    assert not of(found, "pve_memory_usage_bytes")
    assert of(found, "pve_memory_size_bytes") == {(("id", "qemu/100"),): 20}


VALUES = st.none() | st.booleans() | st.floats() | st.sampled_from(["node", "qemu", "storage", "NaN", "x", [1], {}])
ENTRIES = st.dictionaries(st.sampled_from([*GUEST, "time", "health", "snaptime"]), VALUES, max_size=6)
JSON = VALUES | ENTRIES | st.lists(ENTRIES | VALUES, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(sorted(SOURCES)), st.dictionaries(st.sampled_from(["", "pve1"]), JSON, max_size=2), max_size=4
    )
)
def test_any_response(data: dict[str, dict[str, Any]]) -> None:
    """No response, whatever its form, stops the page; every sample is finite."""
    found = samples(Snapshot(data), legacy_gauges=True, full_state_sets=True)

    assert all(math.isfinite(value) for value in found.values())


async def test_text_of_the_page() -> None:
    """The page has each name once, counters as counters, and the gauge that ends in _total as a gauge."""
    metrics = Metrics()
    snapshot = cluster(GUEST, not_backed_up={"": []})

    class Fixed:
        """A collector with one snapshot."""

        def collect(self) -> Any:
            """Return its families."""
            return families(snapshot)

    metrics.attach(Fixed())
    lines = (await metrics.render()).decode().splitlines()
    types = [line.split(maxsplit=2)[2] for line in lines if line.startswith("# TYPE pve_")]

    assert len(types) == len({line.split()[0] for line in types})
    assert "pve_network_receive_bytes_total counter" in types
    assert "pve_not_backed_up_total gauge" in types
    assert 'pve_network_receive_bytes_total{id="qemu/100"} 1.0' in lines


def test_every_family_has_a_help_text() -> None:
    """Each help text is one line, and each name begins as the exporter's."""
    assert all(name.startswith("pve_") and "\n" not in text for name, text in HELP.items())


def test_clock_offsets() -> None:
    """A reading that is older is not a clock that is behind."""
    snapshot = Snapshot(
        {"time": {"pve1": {"time": 1000}, "pve2": {"time": 1060}, "pve3": {"time": 1100}}},
        ages={"time": {"pve1": 60.0, "pve2": 0.0, "pve3": 0.0}},
    )

    assert clock_offsets(snapshot) == {"pve1": 0, "pve2": 0, "pve3": 40}
