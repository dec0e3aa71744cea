"""Say what in the cluster needs attention.  Pure: lists of nodes, storages and guests go in, findings come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

CRITICAL: Final = "critical"
WARNING: Final = "warning"
ORDER: Final = (CRITICAL, WARNING)


class Finding(msgspec.Struct, frozen=True):
    """One thing that needs attention: how badly, where, and what it is."""

    severity: str
    subject: str
    text: str


class HealthReport(msgspec.Struct, frozen=True):
    """The verdict in a line, how much was looked at, and the findings, the worst first."""

    status: str
    verdict: str
    nodes: int
    storages: int
    guests: int
    findings: list[Finding] = []


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
    """Percent from which something is told; the seed's for memory, the field's for storages."""

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
    """Return what needs attention; `quorate` is None where it is not known."""
    limits = limits or Limits()
    away = {each.node for each in nodes if each.status != "online"}
    findings = [
        *([Finding(CRITICAL, "cluster", "not quorate: nothing can be changed")] if quorate is False else []),
        *_nodes(nodes, limits),
        *_storages([each for each in storages if each.node not in away], limits),
        *_guests([each for each in guests if each.node not in away]),
    ]
    findings.sort(key=lambda each: ORDER.index(each.severity))
    names = {each.storage if each.shared else f"{each.node}/{each.storage}" for each in storages}
    count = f"{len(nodes)} nodes, {len(names)} storages, {len(guests)} guests"
    status = findings[0].severity if findings else "ok"
    verdict = f"{_tally(findings)}: {findings[0].text}" if findings else f"all well: {count}"
    return HealthReport(status, verdict, len(nodes), len(names), len(guests), findings)


def _nodes(nodes: list[NodeState], limits: Limits) -> Iterable[Finding]:
    for each in nodes:
        if each.status != "online":
            yield Finding(CRITICAL, each.node, f"node {each.node} is {each.status}")
            continue
        memory = _percent(each.memory_used, each.memory)
        if memory > limits.memory:
            yield Finding(WARNING, each.node, f"node {each.node}: memory at {memory:.0f} %")
        if each.cpu > limits.cpu:
            yield Finding(WARNING, each.node, f"node {each.node}: CPU at {each.cpu:.0f} %")


def _storages(storages: list[StorageState], limits: Limits) -> Iterable[Finding]:
    """Judge each storage; a shared one is as full on every node, and told once."""
    told: set[str] = set()
    for each in storages:
        subject = each.storage if each.shared else f"{each.node}/{each.storage}"
        if each.status != "available":
            yield Finding(CRITICAL, subject, f"storage {each.storage} on {each.node} is not active ({each.status})")
            continue
        used = _percent(each.used, each.total)
        if used > limits.storage and subject not in told:
            told.add(subject)
            severity = CRITICAL if used > limits.storage_critical else WARNING
            yield Finding(severity, subject, f"storage {subject}: {used:.0f} % full")


def _guests(guests: list[GuestState]) -> Iterable[Finding]:
    for each in guests:
        who = f"{each.vmid} {each.name!r} on {each.node}"
        if each.lock:
            yield Finding(WARNING, str(each.vmid), f"guest {who} is locked ({each.lock})")
        if each.onboot and each.status == "stopped":
            yield Finding(WARNING, str(each.vmid), f"guest {who} is stopped, and starts at boot")


def _percent(used: int, total: int) -> float:
    return 100 * used / total if total else 0.0


def _tally(findings: list[Finding]) -> str:
    counts = ((severity, sum(each.severity == severity for each in findings)) for severity in ORDER)
    return ", ".join(f"{count} {severity}" for severity, count in counts if count)
