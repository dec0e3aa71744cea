"""The metric families of prometheus-pve-exporter 3.10, with its names, labels and values.  Pure.

Dashboards and rules for that exporter work with these metrics without a change.  The differences:

* All nodes are covered; the exporter's replication, onboot and subscription families cover the node that it asks.
* The state sets `pve_ha_state` and `pve_lock_state` have only the series of the present state: the full set has 20
  series for each guest, of which at most two are 1.  `full_state_sets` adds the series that are 0.
* The gauges that the exporter itself calls deprecated are only served with `legacy_gauges`.
* A reading that is too old, or a value that is not a finite number, has no series.
* `pve_subscription_next_due_timestamp_seconds` is midnight in UTC; the exporter uses the time zone of its process.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agentd_monitor.cluster.family import text
from agentd_monitor.cluster.readings import objects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_monitor.cluster.family import Page
    from agentd_monitor.cluster.readings import Snapshot

GUESTS: Final = frozenset({"qemu", "lxc"})
RESOURCE_GAUGES: Final = {
    "maxdisk": "pve_disk_size_bytes",
    "disk": "pve_disk_usage_bytes",
    "maxmem": "pve_memory_size_bytes",
    "mem": "pve_memory_usage_bytes",
    "cpu": "pve_cpu_usage_ratio",
    "maxcpu": "pve_cpu_usage_limit",
    "uptime": "pve_uptime_seconds",
    "shared": "pve_storage_shared",
}
RESOURCE_COUNTERS: Final = {
    "netout": "pve_network_transmit_bytes_total",
    "netin": "pve_network_receive_bytes_total",
    "diskwrite": "pve_disk_written_bytes_total",
    "diskread": "pve_disk_read_bytes_total",
}
LEGACY_GAUGES: Final = {
    "netout": "pve_network_transmit_bytes",
    "netin": "pve_network_receive_bytes",
    "diskwrite": "pve_disk_write_bytes",
    "diskread": "pve_disk_read_bytes",
}
COUNTERS: Final = frozenset(RESOURCE_COUNTERS.values())

_GUEST_HA: Final = (
    "stopped",
    "request_stop",
    "request_start",
    "request_start_balance",
    "started",
    "fence",
    "recovery",
    "migrate",
    "relocate",
    "freeze",
    "error",
)
HA_STATES: Final = {
    "qemu": _GUEST_HA,
    "lxc": _GUEST_HA,
    "node": ("online", "maintenance", "unknown", "fence", "gone"),
}
LOCKS: Final = (
    "backup",
    "clone",
    "create",
    "migrate",
    "rollback",
    "snapshot",
    "snapshot-delete",
    "suspended",
    "suspending",
)
SUBSCRIPTIONS: Final = ("new", "notfound", "active", "invalid", "expired", "suspended")
QDEVICE_LABELS: Final = {
    "model": "Model",
    "algorithm": "Algorithm",
    "qnetd_host": "QNetd host",
    "tie_breaker": "Tie-breaker",
    "state": "State",
}
REPLICATION: Final = {
    "duration": "pve_replication_duration_seconds",
    "last_sync": "pve_replication_last_sync_timestamp_seconds",
    "last_try": "pve_replication_last_try_timestamp_seconds",
    "next_sync": "pve_replication_next_sync_timestamp_seconds",
    "fail_count": "pve_replication_failed_syncs",
}

HELP: Final = {
    "pve_up": "1 if a node is online, a guest is running, a storage is available, or the cluster is quorate",
    "pve_disk_size_bytes": "Size of a storage, of a guest's first disk, or of the root file system of a node",
    "pve_disk_usage_bytes": "Used bytes of a storage, of a container's root disk, or of the root file system of a node",
    "pve_memory_size_bytes": "Memory of a node or guest",
    "pve_memory_usage_bytes": "Used memory of a node or guest",
    "pve_cpu_usage_ratio": "CPU utilisation of a node or guest, 0 to 1",
    "pve_cpu_usage_limit": "Number of CPUs of a node or guest",
    "pve_uptime_seconds": "Seconds since a node or guest was started",
    "pve_storage_shared": "1 if the nodes share a storage",
    "pve_network_transmit_bytes_total": "Bytes that a guest has sent since its start",
    "pve_network_receive_bytes_total": "Bytes that a guest has received since its start",
    "pve_disk_written_bytes_total": "Bytes that a guest has written since its start; not on every type of storage",
    "pve_disk_read_bytes_total": "Bytes that a guest has read since its start; not on every type of storage",
    "pve_network_transmit_bytes": "Deprecated: use pve_network_transmit_bytes_total",
    "pve_network_receive_bytes": "Deprecated: use pve_network_receive_bytes_total",
    "pve_disk_write_bytes": "Deprecated: use pve_disk_written_bytes_total",
    "pve_disk_read_bytes": "Deprecated: use pve_disk_read_bytes_total",
    "pve_ha_state": "1 for the HA state of a guest or node",
    "pve_lock_state": "1 for the lock in the configuration of a guest",
    "pve_guest_info": "1, with the node, name, type and tags of a guest",
    "pve_storage_info": "1, with the node, type and content types of a storage",
    "pve_node_info": "1, with the name, number and subscription level of a node",
    "pve_cluster_info": "1, with the number of nodes, the quorum and the configuration version of the cluster",
    "pve_version_info": "1, with the version of Proxmox VE",
    "pve_not_backed_up_total": "Number of guests that no backup job covers",
    "pve_not_backed_up_info": "1 for a guest that no backup job covers",
    "pve_qdevice_up": "1 if the QDevice is connected",
    "pve_qdevice_info": "1, with the model, host and state of the QDevice",
    "pve_onboot_status": "1 if a guest is started with its node",
    "pve_replication_duration_seconds": "Duration of the last run of a replication job",
    "pve_replication_last_sync_timestamp_seconds": "Time of the last successful run of a replication job",
    "pve_replication_last_try_timestamp_seconds": "Time of the last run of a replication job",
    "pve_replication_next_sync_timestamp_seconds": "Time of the next run of a replication job",
    "pve_replication_failed_syncs": "Number of failed runs of a replication job since the last successful one",
    "pve_replication_info": "1, with the source, target and guest of a replication job",
    "pve_subscription_info": "1, with the subscription level of a node",
    "pve_subscription_status": "1 for the subscription status of a node",
    "pve_subscription_next_due_timestamp_seconds": "Time when the subscription of a node is due",
}


def add_status(page: Page, snapshot: Snapshot) -> None:
    """Add the cluster, its nodes, and their state."""
    for entry in snapshot.entries("status"):
        if entry.get("type") == "cluster":
            cluster = f"cluster/{text(entry.get('name'))}"
            labels = {label: entry.get(label) for label in ("nodes", "quorate", "version")}
            page.add("pve_up", entry.get("quorate"), id=cluster)
            page.add("pve_cluster_info", 1, id=cluster, **labels)
        elif entry.get("type") == "node":
            page.add("pve_up", entry.get("online"), id=entry.get("id"))
            page.add("pve_node_info", 1, **{label: entry.get(label) for label in ("id", "level", "name", "nodeid")})


def add_resources(page: Page, snapshot: Snapshot, *, legacy_gauges: bool, full_state_sets: bool) -> None:
    """Add the figures and states of nodes, guests and storages."""
    figures = RESOURCE_GAUGES | RESOURCE_COUNTERS
    for entry in snapshot.entries("resources"):
        name, kind = text(entry.get("id")), text(entry.get("type"))
        for key, family in figures.items():
            page.add(family, entry.get(key), id=name)
        for key, family in LEGACY_GAUGES.items() if legacy_gauges else ():
            page.add(family, entry.get(key), id=name)
        for state, value in _states(HA_STATES.get(kind, ()), entry.get("hastate"), full=full_state_sets):
            page.add("pve_ha_state", value, id=name, state=state)
        if kind in GUESTS:
            for state, value in _states(LOCKS, entry.get("lock"), full=full_state_sets):
                page.add("pve_lock_state", value, id=name, state=state)
            labels = {label: entry.get(label) for label in ("id", "node", "name", "type", "template", "tags")}
            page.add("pve_up", entry.get("status") == "running", id=name)
            page.add("pve_guest_info", 1, **labels)
        elif kind == "storage":
            # Proxmox sends the types in a random order, which would be a new series each time.
            content = ",".join(sorted(text(entry.get("content")).split(",")))
            labels = {label: entry.get(label) for label in ("id", "node", "storage", "plugintype")}
            page.add("pve_up", entry.get("status") == "available", id=name)
            page.add("pve_storage_info", 1, **labels, content=content)


def _states(states: tuple[str, ...], present: object, *, full: bool) -> Iterator[tuple[str, bool]]:
    """Return the series of a state set: the state, and whether it is the present one."""
    return ((state, state == present) for state in states if full or state == present)


def add_version(page: Page, snapshot: Snapshot) -> None:
    """Add the version of Proxmox VE."""
    version = snapshot.get("version")
    if isinstance(version, dict):
        labels = {label: version[label] for label in ("release", "repoid", "version") if label in version}
        page.add("pve_version_info", 1, **labels)


def add_backup_coverage(page: Page, snapshot: Snapshot) -> None:
    """Add the guests that no backup job covers."""
    status = snapshot.entries("status")
    if snapshot.get("not_backed_up") is None or not status:
        return
    uncovered = snapshot.entries("not_backed_up")
    # On a single node without a cluster, the exporter uses the name of the node.
    page.add("pve_not_backed_up_total", len(uncovered), id=f"cluster/{text(status[0].get('name'))}")
    for entry in uncovered:
        page.add("pve_not_backed_up_info", 1, id=f"{text(entry.get('type'))}/{text(entry.get('vmid'))}")


def add_qdevice(page: Page, snapshot: Snapshot) -> None:
    """Add the QDevice, if the cluster has one."""
    qdevice = snapshot.get("qdevice")
    cluster = next((entry for entry in snapshot.entries("status") if entry.get("type") == "cluster"), None)
    if not isinstance(qdevice, dict) or not qdevice or cluster is None:
        return
    name = f"cluster/{text(cluster.get('name'))}"
    page.add("pve_qdevice_up", qdevice.get("State") == "Connected", id=name)
    page.add("pve_qdevice_info", 1, id=name, **{label: qdevice.get(key) for label, key in QDEVICE_LABELS.items()})


def add_onboot(page: Page, snapshot: Snapshot) -> None:
    """Add whether guests are started with their node."""
    nodes = {text(entry.get("id")): entry.get("node") for entry in snapshot.entries("resources")}
    for guest, config in snapshot.each("guest_config"):
        if isinstance(config, dict) and guest in nodes:
            page.add("pve_onboot_status", config.get("onboot"), id=guest, node=nodes[guest], type=guest.split("/")[0])


def add_replication(page: Page, snapshot: Snapshot) -> None:
    """Add the replication jobs.

    The node that runs a job reports it, so that no job appears twice.
    """
    for node, response in snapshot.each("replication"):
        for job in objects(response):
            if job.get("source", node) != node:
                continue
            name = text(job.get("id"))
            for key, family in REPLICATION.items():
                page.add(family, job.get(key), id=name)
            page.add(
                "pve_replication_info",
                1,
                id=name,
                type=job.get("type"),
                source=f"node/{node}",
                target=f"node/{text(job.get('target'))}",
                guest=f"{text(job.get('vmtype'))}/{text(job.get('guest'))}",
            )


def add_subscriptions(page: Page, snapshot: Snapshot) -> None:
    """Add the subscriptions of the nodes.

    The status is a full state set, as it is small.
    """
    for node, subscription in snapshot.each("subscription"):
        if not isinstance(subscription, dict):
            continue
        name = f"node/{node}"
        page.add("pve_subscription_info", 1, id=name, level=subscription.get("level", "unknown"))
        for status, value in _states(SUBSCRIPTIONS, subscription.get("status"), full=True):
            page.add("pve_subscription_status", value, id=name, status=status)
        page.add("pve_subscription_next_due_timestamp_seconds", due_time(subscription), id=name)


def due_time(subscription: dict[str, Any]) -> float | None:
    """Return the time when a subscription is due, in seconds since 1970.

    Return None if it is not known.
    """
    try:
        due = datetime.strptime(text(subscription.get("nextduedate")), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return due.timestamp()
