"""The metric families beyond those of prometheus-pve-exporter: nodes, pools, disks, certificates, readings.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd_monitor.cluster.family import number, text
from agentd_monitor.cluster.readings import SOURCES, objects

if TYPE_CHECKING:
    from agentd_monitor.cluster.family import Page
    from agentd_monitor.cluster.readings import Snapshot

CEPH_HEALTH: Final = {"HEALTH_OK": 0, "HEALTH_WARN": 1, "HEALTH_ERR": 2}
LOADS: Final = ("pve_node_load1", "pve_node_load5", "pve_node_load15")
PERCENT: Final = 100.0

HELP: Final = {
    "pve_memory_host_usage_bytes": "Memory of the node that a VM uses, with the overhead of QEMU",
    "pve_node_load1": "Load average of a node over one minute",
    "pve_node_load5": "Load average of a node over five minutes",
    "pve_node_load15": "Load average of a node over fifteen minutes",
    "pve_node_iowait_ratio": "Part of the time in which the CPUs of a node wait for I/O, 0 to 1",
    "pve_node_memory_available_bytes": "Memory of a node that is available to a new process",
    "pve_node_swap_size_bytes": "Swap space of a node",
    "pve_node_swap_usage_bytes": "Used swap space of a node",
    "pve_node_rootfs_size_bytes": "Size of the root file system of a node",
    "pve_node_rootfs_usage_bytes": "Used bytes of the root file system of a node",
    "pve_node_ksm_shared_bytes": "Memory of a node that KSM shares between guests",
    "pve_node_clock_offset_seconds": "How far the clock of a node is ahead of the median of all nodes",
    "pve_service_up": "1 if a service of a node that is enabled is running",
    "pve_zfs_pool_up": "1 if the state of a ZFS pool is ONLINE",
    "pve_zfs_pool_size_bytes": "Size of a ZFS pool",
    "pve_zfs_pool_usage_bytes": "Allocated bytes of a ZFS pool",
    "pve_zfs_pool_fragmentation_ratio": "Fragmentation of the free space of a ZFS pool, 0 to 1",
    "pve_thin_pool_size_bytes": "Size of an LVM thin pool",
    "pve_thin_pool_usage_bytes": "Used bytes of an LVM thin pool",
    "pve_thin_pool_metadata_size_bytes": "Size of the metadata volume of an LVM thin pool",
    "pve_thin_pool_metadata_usage_bytes": "Used bytes of the metadata volume of an LVM thin pool",
    "pve_physical_disk_healthy": "1 if SMART reports a disk of a node as healthy",
    "pve_physical_disk_wear_remaining_ratio": "Part of the endurance of an SSD that is left, 0 to 1",
    "pve_certificate_expiry_timestamp_seconds": "Time when a certificate of a node expires",
    "pve_guest_snapshots": "Number of snapshots of a guest",
    "pve_guest_oldest_snapshot_timestamp_seconds": "Time of the oldest snapshot of a guest",
    "pve_ceph_health": "Health of Ceph: 0 HEALTH_OK, 1 HEALTH_WARN, 2 HEALTH_ERR",
    "pve_reading_age_seconds": "Seconds since the last response of a source; of the oldest, for a source of guests",
    "pve_reading_failures": "Number of nodes or guests for which the last read of a source failed",
}


def add_nodes(page: Page, snapshot: Snapshot) -> None:
    """Add the figures in the status of each node."""
    for node, status in snapshot.each("node_status"):
        if not isinstance(status, dict):
            continue
        name = f"node/{node}"
        loads = status.get("loadavg")
        for family, load in zip(LOADS, loads if isinstance(loads, list) else (), strict=False):
            page.add(family, load, id=name)
        page.add("pve_node_iowait_ratio", status.get("wait"), id=name)
        page.add("pve_node_memory_available_bytes", part(status, "memory", "available"), id=name)
        page.add("pve_node_ksm_shared_bytes", part(status, "ksm", "shared"), id=name)
        for what in ("swap", "rootfs"):
            page.add(f"pve_node_{what}_size_bytes", part(status, what, "total"), id=name)
            page.add(f"pve_node_{what}_usage_bytes", part(status, what, "used"), id=name)


def part(status: dict[str, Any], group: str, key: str) -> Any:  # noqa: ANN401 - any JSON from Proxmox
    """Return a field of an object in a response; None if it is missing."""
    held = status.get(group)
    return held.get(key) if isinstance(held, dict) else None


def add_guests(page: Page, snapshot: Snapshot) -> None:
    """Add the memory that VMs use on their nodes, and the snapshots of guests."""
    for entry in snapshot.entries("resources"):
        page.add("pve_memory_host_usage_bytes", entry.get("memhost"), id=entry.get("id"))
    for guest, response in snapshot.each("snapshots"):
        times = snapshot_times(response)
        page.add("pve_guest_snapshots", len(times), id=guest)
        page.add("pve_guest_oldest_snapshot_timestamp_seconds", min(times, default=None), id=guest)


def snapshot_times(response: Any) -> list[float]:  # noqa: ANN401 - any JSON from Proxmox
    """Return when the snapshots of a guest were taken.

    The entry `current` is the guest itself.
    """
    times = [number(entry.get("snaptime")) for entry in objects(response) if entry.get("name") != "current"]
    return [time for time in times if time is not None]


def add_services(page: Page, snapshot: Snapshot) -> None:
    """Add the services that are enabled."""
    for node, response in snapshot.each("services"):
        for service in enabled_services(response):
            page.add("pve_service_up", is_running(service), id=f"node/{node}", service=service.get("service"))


def enabled_services(response: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON from Proxmox
    """Return the services of a node that should be running."""
    return [service for service in objects(response) if service.get("unit-state") == "enabled"]


def is_running(service: dict[str, Any]) -> bool:
    """Return whether a service is running.

    A unit of type oneshot has exited after its work.
    """
    return service.get("state") in ("running", "exited")


def add_pools(page: Page, snapshot: Snapshot) -> None:
    """Add the ZFS pools and the LVM thin pools."""
    for node, response in snapshot.each("zfs"):
        for pool in objects(response):
            name = f"zfs/{node}/{text(pool.get('name'))}"
            page.add("pve_zfs_pool_up", pool.get("health") == "ONLINE", id=name)
            page.add("pve_zfs_pool_size_bytes", pool.get("size"), id=name)
            page.add("pve_zfs_pool_usage_bytes", pool.get("alloc"), id=name)
            page.add("pve_zfs_pool_fragmentation_ratio", share(pool.get("frag")), id=name)
    for node, response in snapshot.each("lvmthin"):
        for pool in objects(response):
            name = f"thin/{node}/{text(pool.get('vg'))}/{text(pool.get('lv'))}"
            page.add("pve_thin_pool_size_bytes", pool.get("lv_size"), id=name)
            page.add("pve_thin_pool_usage_bytes", pool.get("used"), id=name)
            page.add("pve_thin_pool_metadata_size_bytes", pool.get("metadata_size"), id=name)
            page.add("pve_thin_pool_metadata_usage_bytes", pool.get("metadata_used"), id=name)


def share(percent: Any) -> float | None:  # noqa: ANN401 - any JSON from Proxmox
    """Return a percentage as a number from 0 to 1.

    Return None if it is not a number, such as `N/A`.
    """
    figure = number(percent)
    return None if figure is None else figure / PERCENT


def add_disks(page: Page, snapshot: Snapshot) -> None:
    """Add the physical disks of which SMART is readable, and the certificates."""
    for node, response in snapshot.each("disks"):
        for disk in objects(response):
            labels = {"id": f"node/{node}", "device": disk.get("devpath"), "model": disk.get("model")}
            health = disk.get("health")
            if health not in (None, "", "UNKNOWN"):
                page.add("pve_physical_disk_healthy", health in ("PASSED", "OK"), **labels)
            page.add("pve_physical_disk_wear_remaining_ratio", share(disk.get("wearout")), **labels)
    for node, response in snapshot.each("certificates"):
        for certificate in objects(response):
            page.add(
                "pve_certificate_expiry_timestamp_seconds",
                certificate.get("notafter"),
                id=f"node/{node}",
                filename=certificate.get("filename"),
            )


def add_clocks(page: Page, snapshot: Snapshot) -> None:
    """Add how far the clocks of the nodes differ."""
    for node, offset in clock_offsets(snapshot).items():
        page.add("pve_node_clock_offset_seconds", offset, id=f"node/{node}")


def clock_offsets(snapshot: Snapshot) -> dict[str, float]:
    """Return by how many seconds the clock of each node is ahead of the median.

    A response has the time of its moment, so its age is added.  The API has whole seconds, and the moment of the
    response is known to about a second: less than two seconds is no difference.
    """
    ages = snapshot.ages.get("time", {})
    present = {
        node: figure + ages.get(node, 0.0)
        for node, response in snapshot.each("time")
        if isinstance(response, dict) and (figure := number(response.get("time"))) is not None
    }
    if not present:
        return {}
    median = sorted(present.values())[(len(present) - 1) // 2]
    return {node: time - median for node, time in present.items()}


def add_ceph(page: Page, snapshot: Snapshot) -> None:
    """Add the health of Ceph, if the cluster has it."""
    status = snapshot.get("ceph")
    if isinstance(status, dict):
        page.add("pve_ceph_health", CEPH_HEALTH.get(text(part(status, "health", "status"))))


def add_readings(page: Page, snapshot: Snapshot) -> None:
    """Add how old the readings are, and how many could not be read."""
    for source in SOURCES.values():
        ages = snapshot.ages.get(source.name, {})
        problems = snapshot.problems.get(source.name, {})
        if source.scope == "guest":
            page.add("pve_reading_age_seconds", max(ages.values(), default=None), source=source.name, node="")
        else:
            for node, age in sorted(ages.items()):
                page.add("pve_reading_age_seconds", age, source=source.name, node=node)
        page.add("pve_reading_failures", len(problems), source=source.name)
