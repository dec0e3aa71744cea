"""Find what needs attention in the cluster.  Pure.

The input is lists of nodes, storages and guests, and what the checks of the monitor found; the output is findings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

CRITICAL: Final = "critical"
WARNING: Final = "warning"
UNKNOWN: Final = "unknown"
ORDER: Final = (CRITICAL, WARNING, UNKNOWN)


class Finding(msgspec.Struct, frozen=True):
    """One thing that needs attention: its severity, where it is, and what it is."""

    severity: str
    subject: str
    text: str


class HealthReport(msgspec.Struct, frozen=True):
    """A one-line verdict, the number of checked objects, and findings, worst first.

    checks  how old the findings of the monitor's checks are, or why they are missing
    """

    status: str
    verdict: str
    nodes: int
    storages: int
    guests: int
    findings: list[Finding] = []
    checks: str = ""


class CheckFinding(msgspec.Struct, frozen=True):
    """What a check of the monitor found about one object; the labels say which."""

    check: str
    labels: dict[str, str]
    level: str
    text: str
    advice: str = ""


class Checked(msgspec.Struct, frozen=True):
    """Result of list_findings: the findings of the monitor that are not ok, and their age in seconds."""

    age: float
    total: int
    findings: list[CheckFinding]


class NodeState(msgspec.Struct, frozen=True):
    """A node; memory in bytes, cpu in percent."""

    node: str
    status: str
    cpu: float = 0.0
    memory: int = 0
    memory_used: int = 0


class StorageState(msgspec.Struct, frozen=True):
    """A storage as one node sees it; bytes."""

    storage: str
    node: str
    status: str
    shared: bool = False
    total: int = 0
    used: int = 0


class GuestState(msgspec.Struct, frozen=True):
    """A guest in a list."""

    vmid: int
    name: str
    node: str
    status: str
    lock: str = ""
    onboot: bool = False


@dataclass(frozen=True)
class Limits:
    """Percentages above which a finding is reported.

    The limit for memory is that of the seed; the limits for storages are usual values of the field.
    """

    memory: float = 85.0
    cpu: float = 85.0
    storage: float = 85.0
    storage_critical: float = 95.0


def summarize(
    nodes: list[NodeState],
    storages: list[StorageState],
    guests: list[GuestState],
    *,
    quorate: bool | None = None,
    limits: Limits | None = None,
) -> HealthReport:
    """Return the health report; `quorate` is None if it is not known."""
    limits = limits or Limits()
    away = {node.node for node in nodes if node.status != "online"}
    findings = [
        *([Finding(CRITICAL, "cluster", "not quorate: nothing can be changed")] if quorate is False else []),
        *_nodes(nodes, limits),
        *_storages([storage for storage in storages if storage.node not in away], limits),
        *_guests([guest for guest in guests if guest.node not in away]),
    ]
    names = {storage.storage if storage.shared else f"{storage.node}/{storage.storage}" for storage in storages}
    return _report(HealthReport("", "", len(nodes), len(names), len(guests)), findings)


def _report(report: HealthReport, findings: list[Finding]) -> HealthReport:
    """Return the report with these findings, worst first, and the status and verdict that follow from them."""
    findings = sorted(findings, key=lambda finding: ORDER.index(finding.severity))
    count = f"{report.nodes} nodes, {report.storages} storages, {report.guests} guests"
    return msgspec.structs.replace(
        report,
        status=findings[0].severity if findings else "ok",
        verdict=f"{_counts_text(findings)}: {findings[0].text}" if findings else f"all well: {count}",
        findings=findings,
    )


def with_checks(report: HealthReport, checked: Checked) -> HealthReport:
    """Return the report with the findings of the monitor's checks.

    They have more sources, and the thresholds that the configuration sets.  Of the report's own findings only those are
    kept that are critical and that no check reports: the lists are newer.
    """
    found = [
        Finding(finding.level, ", ".join(finding.labels.values()) or finding.check, f"{finding.text}. {finding.advice}")
        for finding in checked.findings
    ]
    reported = [finding for finding in checked.findings if finding.level != UNKNOWN]
    named = {name for finding in reported for name in _subjects(finding)}
    newer = [finding for finding in report.findings if finding.severity == CRITICAL and finding.subject not in named]
    left = checked.total - len(checked.findings)
    text = f"checked by the monitor {checked.age:.0f} s ago" + (
        f"; {left} more findings: list_findings" if left else ""
    )
    return msgspec.structs.replace(_report(report, [*newer, *found]), checks=text)


def of_node(checked: Checked, node: str, storages: Iterable[StorageState], guests: Iterable[GuestState]) -> Checked:
    """Return the findings about a node, and about its storages and guests."""
    shared = {storage.storage for storage in storages}
    vmids = {str(guest.vmid) for guest in guests}

    def about(labels: dict[str, str]) -> bool:
        if "node" in labels:
            return labels["node"] == node
        return labels.get("storage") in shared or labels.get("guest", "").rpartition("/")[2] in vmids

    kept = [finding for finding in checked.findings if about(finding.labels)]
    return Checked(checked.age, len(kept), kept)


def _subjects(finding: CheckFinding) -> Iterable[str]:
    """Return the subjects that the report's own findings would have about the object of a check."""
    labels = finding.labels
    yield from (name.rpartition("/")[2] for name in labels.values())
    if "node" in labels and "storage" in labels:
        yield f"{labels['node']}/{labels['storage']}"
    if not labels:
        yield "cluster"


def _nodes(nodes: list[NodeState], limits: Limits) -> Iterable[Finding]:
    for node in nodes:
        if node.status != "online":
            yield Finding(CRITICAL, node.node, f"node {node.node} is {node.status}")
            continue
        memory = _percent(node.memory_used, node.memory)
        if memory > limits.memory:
            yield Finding(WARNING, node.node, f"node {node.node}: memory at {memory:.0f} %")
        if node.cpu > limits.cpu:
            yield Finding(WARNING, node.node, f"node {node.node}: CPU at {node.cpu:.0f} %")


def _storages(storages: list[StorageState], limits: Limits) -> Iterable[Finding]:
    """Check each storage; a full shared storage is reported once, not for every node."""
    reported: set[str] = set()
    for storage in storages:
        subject = storage.storage if storage.shared else f"{storage.node}/{storage.storage}"
        if storage.status != "available":
            yield Finding(
                CRITICAL, subject, f"storage {storage.storage} on {storage.node} is not active ({storage.status})"
            )
            continue
        used = _percent(storage.used, storage.total)
        if used > limits.storage and subject not in reported:
            reported.add(subject)
            severity = CRITICAL if used > limits.storage_critical else WARNING
            yield Finding(severity, subject, f"storage {subject}: {used:.0f} % full")


def _guests(guests: list[GuestState]) -> Iterable[Finding]:
    for guest in guests:
        who = f"{guest.vmid} {guest.name!r} on {guest.node}"
        if guest.lock:
            yield Finding(WARNING, str(guest.vmid), f"guest {who} is locked ({guest.lock})")
        if guest.onboot and guest.status == "stopped":
            yield Finding(WARNING, str(guest.vmid), f"guest {who} is stopped, and starts at boot")


def _percent(used: int, total: int) -> float:
    return 100 * used / total if total else 0.0


def _counts_text(findings: list[Finding]) -> str:
    counts = ((severity, sum(finding.severity == severity for finding in findings)) for severity in ORDER)
    return ", ".join(f"{count} {severity}" for severity, count in counts if count)
