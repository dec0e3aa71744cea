"""Checks of storages and pools.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd import Finding, Level
from agentd_monitor.alerting.state import Rule
from agentd_monitor.cluster.family import text
from agentd_monitor.cluster.readings import objects
from agentd_monitor.health.finding import Moment, ReadingCheck, graded, unknown
from agentd_monitor.health.node_checks import percent
from agentd_monitor.health.nodes import online_nodes, per_node

if TYPE_CHECKING:
    from collections.abc import Iterator


def _storages(moment: Moment) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Return each storage of a node that is online, with its labels."""
    online = set(online_nodes(moment))
    for entry in moment.snapshot.entries("resources"):
        if entry.get("type") != "storage" or text(entry.get("node")) not in online:
            continue
        labels = {"storage": text(entry.get("storage")), "node": text(entry.get("node"))}
        yield entry, labels


def active(moment: Moment) -> Iterator[Finding]:
    """Check that each storage is available on each node that uses it."""
    if moment.snapshot.get("resources") is None:
        yield unknown(moment, "storage_inactive", "resources")
    for entry, labels in _storages(moment):
        where = f"storage {labels['storage']} on {labels['node']}"
        status = text(entry.get("status"))
        if not moment.thresholds.enabled("storage_inactive", entry):
            continue
        if status == "available":
            yield Finding("storage_inactive", labels, Level.OK, f"{where} is available")
        else:
            advice = f"`pvesm status` on {labels['node']} shows it; check its server, mount point or disks."
            sentence = f"{where} is not available: {status or 'no status'}"
            yield Finding("storage_inactive", labels, Level.WARNING, sentence, advice)


def usage(moment: Moment) -> Iterator[Finding]:
    """Check how full the storages are; a shared storage has one finding, of the first node that reports it."""
    if moment.snapshot.get("resources") is None:
        yield unknown(moment, "storage_usage", "resources")
    seen: set[str] = set()
    for entry, labels in _storages(moment):
        if entry.get("status") != "available":
            continue
        name = labels["storage"]
        if entry.get("shared"):
            if name in seen:
                continue
            seen.add(name)
            labels.pop("node")
        limits = moment.thresholds.limits("storage_usage", entry)
        figure = percent(entry.get("disk"), entry.get("maxdisk"))
        if limits is None or figure is None:
            continue
        where = f"storage {name}" + (f" on {labels['node']}" if "node" in labels else "")
        sentence = f"{where}: {figure:.0f} % used"
        yield graded(
            "storage_usage", labels, figure, limits, sentence, advice="Delete what is not needed, or enlarge it."
        )


@per_node("zfs_health", "zfs")
def zfs(moment: Moment, node: str, response: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
    """Check the state and the usage of ZFS pools."""
    for pool in objects(response):
        name, health = text(pool.get("name")), text(pool.get("health"))
        labels = {"node": node, "pool": name}
        level = Level.OK if health == "ONLINE" else Level.CRITICAL
        advice = "" if level is Level.OK else f"`zpool status {name}` on {node} names the disk."
        sentence = f"ZFS pool {name} on {node} is {health or 'in no known state'}"
        yield Finding("zfs_health", labels, level, sentence, advice)
        limits = moment.thresholds.limits("zfs_usage", {"node": node, "type": "zfs"})
        figure = percent(pool.get("alloc"), pool.get("size"))
        if limits is not None and figure is not None:
            sentence = f"ZFS pool {name} on {node}: {figure:.0f} % used"
            yield graded("zfs_usage", labels, figure, limits, sentence, advice="A full pool becomes slow: free space.")


@per_node("thin_pool_data", "lvmthin")
def thin_pools(moment: Moment, node: str, response: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
    """Check the data and the metadata of LVM thin pools; with full metadata, the pool stops."""
    for pool in objects(response):
        name = f"{text(pool.get('vg'))}/{text(pool.get('lv'))}"
        labels = {"node": node, "pool": name}
        for check, what, used, size in (
            ("thin_pool_data", "data", "used", "lv_size"),
            ("thin_pool_metadata", "metadata", "metadata_used", "metadata_size"),
        ):
            limits = moment.thresholds.limits(check, {"node": node, "type": "lvmthin"})
            figure = percent(pool.get(used), pool.get(size))
            if limits is not None and figure is not None:
                sentence = f"thin pool {name} on {node}: {figure:.0f} % of its {what} used"
                option = "--poolmetadatasize" if what == "metadata" else "--size"
                advice = f"Enlarge it (`lvextend {option}`), or delete guests and snapshots."
                yield graded(check, labels, figure, limits, sentence, advice=advice)


CHECKS: Final = (
    ReadingCheck(
        "storage_inactive",
        "storages are available on their nodes",
        "storage",
        "resources",
        Rule("storage_inactive", pending_for=120, keep_firing_for=60),
        active,
    ),
    ReadingCheck(
        "storage_usage",
        "storages are not full",
        "storage",
        "resources",
        Rule("storage_usage", pending_for=120, keep_firing_for=120),
        usage,
    ),
    ReadingCheck("zfs_health", "ZFS pools are healthy", "storage", "zfs", Rule("zfs_health", stale_after=3600), zfs),
    # The findings of the next one, and of the last one, come with those of the check before.
    ReadingCheck(
        "zfs_usage", "ZFS pools are not full", "storage", "zfs", Rule("zfs_usage", stale_after=3600), lambda _: ()
    ),
    ReadingCheck(
        "thin_pool_data",
        "LVM thin pools are not full",
        "storage",
        "lvmthin",
        Rule("thin_pool_data", stale_after=3600),
        thin_pools,
    ),
    ReadingCheck(
        "thin_pool_metadata",
        "the metadata of LVM thin pools is not full",
        "storage",
        "lvmthin",
        Rule("thin_pool_metadata", stale_after=3600),
        lambda _: (),
    ),
)
