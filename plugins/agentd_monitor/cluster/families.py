"""All metric families of the Proxmox cluster, from one snapshot of the readings.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd_monitor.cluster import exporter_families, node_families
from agentd_monitor.cluster.family import Page

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from agentd_monitor.cluster.readings import Snapshot

HELP: Final = exporter_families.HELP | node_families.HELP
"""The help text of every family, by name."""
_ADD: Final = (
    exporter_families.add_status,
    exporter_families.add_version,
    exporter_families.add_backup_coverage,
    exporter_families.add_qdevice,
    exporter_families.add_onboot,
    exporter_families.add_replication,
    exporter_families.add_subscriptions,
    node_families.add_nodes,
    node_families.add_guests,
    node_families.add_services,
    node_families.add_pools,
    node_families.add_disks,
    node_families.add_clocks,
    node_families.add_ceph,
    node_families.add_readings,
)


def families(snapshot: Snapshot, *, legacy_gauges: bool = False, full_state_sets: bool = False) -> list[Metric]:
    """Return every family that has samples.

    legacy_gauges    also the gauges that prometheus-pve-exporter calls deprecated
    full_state_sets  also the series of HA states and locks that are 0
    """
    page = Page(HELP, exporter_families.COUNTERS)
    exporter_families.add_resources(page, snapshot, legacy_gauges=legacy_gauges, full_state_sets=full_state_sets)
    for add in _ADD:
        add(page, snapshot)
    return page.families()
