"""All checks, and running them on a snapshot.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd import Finding, Level
from agentd_monitor.alerting.book import AlertRule
from agentd_monitor.alerting.suppression import Condition
from agentd_monitor.cluster.family import text
from agentd_monitor.health import cluster_checks, guest_checks, node_checks, storage_checks
from agentd_monitor.health.finding import ORDER, ReadingCheck

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd_monitor.cluster.readings import Snapshot
    from agentd_monitor.health.finding import Moment

BUILT_IN: Final[tuple[ReadingCheck, ...]] = (
    *cluster_checks.CHECKS,
    *node_checks.CHECKS,
    *storage_checks.CHECKS,
    *guest_checks.CHECKS,
)

RULES: Final = [AlertRule(check.rule, check.group) for check in BUILT_IN]


def run_all(moment: Moment, checks: Iterable[ReadingCheck] = BUILT_IN) -> list[Finding]:
    """Return every finding, the worst first.

    A check that fails is itself unknown and does not stop the others.
    """
    found: list[Finding] = []
    for check in checks:
        try:
            found += check.run(moment)
        except Exception as error:  # noqa: BLE001 - a check may come from a foreign plugin
            sentence = f"the check failed: {error!r}"
            found.append(Finding(check.name, {}, Level.UNKNOWN, sentence, "This is a fault of the check: report it."))
    return worst_first(found)


def worst_first(found: Iterable[Finding]) -> list[Finding]:
    """Return findings, the worst first."""
    return sorted(found, key=lambda finding: (-ORDER[finding.level], finding.check, sorted(finding.labels.items())))


def facts(snapshot: Snapshot) -> list[Condition]:
    """Return the facts of the cluster that inhibit alerts.

    They are: lost nodes of guests, backups, nodes in maintenance.
    """
    lost = {text(entry.get("name")) for entry in snapshot.entries("status") if entry.get("online") == 0}
    found: list[Condition] = []
    for entry in snapshot.entries("resources"):
        kind, name, node = entry.get("type"), text(entry.get("id")), text(entry.get("node"))
        if kind == "node" and entry.get("hastate") == "maintenance":
            found.append(Condition("maintenance", {"node": node}))
        elif kind in ("qemu", "lxc"):
            if entry.get("lock") == guest_checks.BACKUP:
                found.append(Condition("backup_lock", {"guest": name}))
            if node in lost:
                found.append(Condition("node_lost", {"guest": name}))
    return found


def objects_of(snapshot: Snapshot) -> dict[str, set[str]]:
    """Return the guests and nodes that exist, by label.

    Return {} if the responses that list them are not usable.
    """
    guests = {str(entry.get("id")) for entry in snapshot.entries("resources") if entry.get("type") in ("qemu", "lxc")}
    nodes = {str(entry.get("name")) for entry in snapshot.entries("status") if entry.get("type") == "node"}
    # Without any entry, the token may have lost its privileges: it would then see an empty list.
    return ({"guest": guests} if guests else {}) | ({"node": nodes} if nodes else {})
