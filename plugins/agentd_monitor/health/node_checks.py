"""Checks of nodes: load, memory, services, clock, certificates, subscription, disks, pools, tasks.  Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from agentd import Finding, Level
from agentd_monitor.alerting.state import Rule
from agentd_monitor.cluster.exporter_families import due_time
from agentd_monitor.cluster.family import number, text
from agentd_monitor.cluster.node_families import clock_offsets, enabled_services, is_running, part
from agentd_monitor.cluster.readings import objects
from agentd_monitor.health.finding import Moment, ReadingCheck, graded, unknown
from agentd_monitor.health.nodes import online_nodes, per_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ESSENTIAL: Final = frozenset({"pve-cluster", "corosync", "pveproxy", "pvedaemon"})
DAY: Final = 86_400.0
HOUR: Final = 3600.0


def percent(used: Any, total: Any) -> float | None:  # noqa: ANN401 - any JSON from Proxmox
    """Return a part of a whole in percent; None if one of them is no number, or the whole is 0."""
    one, all_ = number(used), number(total)
    return None if one is None or not all_ else 100 * one / all_


def _status_check(
    check: str, what: str, advice: str, value: Callable[[dict[str, Any]], float | None], *, optional: bool = False
) -> Callable[[Moment], Iterator[Finding]]:
    """Return a check of one percentage in the status of each node; an optional one may be missing."""

    @per_node(check, "node_status")
    def run(moment: Moment, node: str, status: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
        limits = moment.thresholds.limits(check, {"node": node, "type": "node"})
        figure = value(status) if isinstance(status, dict) else None
        if limits is not None and not (optional and figure is None):
            sentence = f"node {node}: {what} {'not read' if figure is None else f'{figure:.0f} %'}"
            yield graded(check, {"node": node}, figure, limits, sentence, advice=advice)

    return run


def _memory(status: dict[str, Any]) -> float | None:
    """Return the memory in use; what is available to a new process, such as the page cache, is not in use."""
    total, available = number(part(status, "memory", "total")), number(part(status, "memory", "available"))
    used = part(status, "memory", "used") if available is None or total is None else total - available
    return percent(used, total)


def _ratio(key: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda status: percent(status.get(key), 1)


@per_node("service_down", "services")
def services(_: Moment, node: str, response: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
    """Check that the enabled services run."""
    for service in enabled_services(response):
        name = text(service.get("service"))
        labels = {"node": node, "service": name}
        if is_running(service):
            yield Finding("service_down", labels, Level.OK, f"node {node}: the service {name} is running")
        else:
            level = Level.CRITICAL if name in ESSENTIAL else Level.WARNING
            sentence = f"node {node}: the service {name} is {text(service.get('state')) or 'not running'}"
            yield Finding("service_down", labels, level, sentence, f"`journalctl -u {name}` on {node} shows why.")


def clocks(moment: Moment) -> Iterator[Finding]:
    """Check that the clocks of the nodes agree."""
    offsets = clock_offsets(moment.snapshot)
    for node in online_nodes(moment):
        limits = moment.thresholds.limits("clock", {"node": node, "type": "node"})
        if limits is None or len(online_nodes(moment)) == 1:
            continue
        if node not in offsets:
            yield unknown(moment, "clock", "time", node, node=node)
            continue
        sentence = f"node {node}: its clock differs by {offsets[node]:+.0f} s from the median of the nodes"
        advice = f"`chronyc tracking` on {node} shows its time sources."
        yield graded("clock", {"node": node}, abs(offsets[node]), limits, sentence, advice=advice)


@per_node("certificate", "certificates")
def certificates(moment: Moment, node: str, response: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
    """Check how long the certificates are valid."""
    limits = moment.thresholds.limits("certificate", {"node": node, "type": "node"})
    for certificate in objects(response) if limits else []:
        ends, name = number(certificate.get("notafter")), text(certificate.get("filename"))
        days = None if ends is None else (ends - moment.at) / DAY
        sentence = f"node {node}: the certificate {name} is valid for {0 if days is None else days:.0f} days"
        advice = f"Renew it: `pvenode acme cert renew`, or `pvecm updatecerts --force` for {name} of the cluster."
        labels = {"node": node, "filename": name}
        if limits is not None:
            yield graded("certificate", labels, days, limits, sentence, advice=advice)


def subscriptions(moment: Moment) -> Iterator[Finding]:
    """Check when the subscription is due; a node without a subscription has no finding."""
    for node, subscription in moment.snapshot.each("subscription"):
        if not isinstance(subscription, dict) or subscription.get("status") in (None, "notfound", "new"):
            continue
        limits = moment.thresholds.limits("subscription", {"node": node, "type": "node"})
        status, due = text(subscription.get("status")), due_time(subscription)
        if limits is None:
            continue
        if status != "active":
            sentence = f"node {node}: its subscription is {status}"
            yield Finding(
                "subscription", {"node": node}, Level.WARNING, sentence, "Check the key in the shop of Proxmox."
            )
            continue
        days = None if due is None else (due - moment.at) / DAY
        sentence = f"node {node}: its subscription is due in {0 if days is None else days:.0f} days"
        yield graded("subscription", {"node": node}, days, limits, sentence, advice="Renew the subscription.")


@per_node("disk_health", "disks")
def disks(moment: Moment, node: str, response: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
    """Check the health and the wear of disks, as SMART reports them."""
    limits = moment.thresholds.limits("disk_wear", {"node": node, "type": "node"})
    for disk in objects(response):
        device, health = text(disk.get("devpath")), text(disk.get("health"))
        labels = {"node": node, "device": device}
        if health not in ("", "UNKNOWN"):
            level = Level.OK if health in ("PASSED", "OK") else Level.CRITICAL
            advice = "" if level is Level.OK else f"Replace it: `smartctl -a {device}` on {node} shows the values."
            sentence = f"node {node}: SMART reports {device} as {health}"
            yield Finding("disk_health", labels, level, sentence, advice)
        left = number(disk.get("wearout"))
        if left is not None and limits is not None:
            sentence = f"node {node}: {device} has {left:.0f} % of its endurance left"
            yield graded("disk_wear", labels, left, limits, sentence, advice="Plan its replacement.")


@per_node("task_failures", "failed_tasks")
def failed_tasks(moment: Moment, node: str, response: Any) -> Iterator[Finding]:  # noqa: ANN401 - any JSON from Proxmox
    """Check whether tasks of one type fail repeatedly within an hour; a task with warnings has not failed."""
    limits = moment.thresholds.limits("task_failures", {"node": node, "type": "node"})
    if limits is None:
        return
    count = Counter(
        text(task.get("type"))
        for task in objects(response)
        if moment.at - (number(task.get("endtime")) or 0.0) <= HOUR
        and not text(task.get("status")).startswith(("OK", "WARNINGS"))
    )
    kind, times = max(count.items(), key=lambda item: item[1], default=("", 0))
    sentence = f"node {node}: " + (f"{times} tasks of type {kind} failed within an hour" if times else "no task failed")
    advice = f"The logs of these tasks on {node} show why."
    yield graded("task_failures", {"node": node}, times, limits, sentence, advice=advice)


def _node_check(name: str, about: str, run: Callable[[Moment], Iterator[Finding]], minutes: float) -> ReadingCheck:
    rule = Rule(name, pending_for=60 * minutes, keep_firing_for=120, readings=3)
    return ReadingCheck(name, about, "node", "node_status", rule, run)


def _slow_check(
    name: str, about: str, source: str, run: Callable[[Moment], Iterator[Finding]], group: str
) -> ReadingCheck:
    """Return a check of a source that is read every ten minutes, or every six hours."""
    return ReadingCheck(name, about, group, source, Rule(name, stale_after=24 * HOUR), run)


_CPU_ADVICE: Final = "Move guests to other nodes, or find the busy one."
CHECKS: Final = (
    _node_check("node_cpu", "CPU of nodes", _status_check("node_cpu", "CPU", _CPU_ADVICE, _ratio("cpu")), 10),
    _node_check(
        "node_iowait",
        "time that CPUs of nodes wait for I/O",
        _status_check("node_iowait", "I/O wait", "Check its storages and disks.", _ratio("wait")),
        10,
    ),
    _node_check("node_memory", "memory of nodes", _status_check("node_memory", "memory", _CPU_ADVICE, _memory), 5),
    _node_check(
        "node_swap",
        "swap space of nodes",
        _status_check(
            "node_swap",
            "swap",
            "More memory is assigned to guests than the node has.",
            lambda status: percent(part(status, "swap", "used"), part(status, "swap", "total")),
            optional=True,  # a node may have no swap
        ),
        30,
    ),
    _node_check(
        "node_rootfs",
        "root file system of nodes",
        _status_check(
            "node_rootfs",
            "root file system",
            "Remove old kernels, logs and ISO images.",
            lambda status: percent(part(status, "rootfs", "used"), part(status, "rootfs", "total")),
        ),
        5,
    ),
    ReadingCheck(
        "service_down",
        "enabled services of nodes are running",
        "service",
        "services",
        Rule("service_down", stale_after=1200),
        services,
    ),
    ReadingCheck("clock", "the clocks of nodes agree", "node", "time", Rule("clock", stale_after=3600), clocks),
    _slow_check("certificate", "certificates of nodes are valid", "certificates", certificates, "node"),
    _slow_check("subscription", "subscriptions of nodes are not due", "subscription", subscriptions, "node"),
    _slow_check("disk_health", "SMART reports disks as healthy", "disks", disks, "storage"),
    # Its findings come with those of disk_health: the same response shows both.
    _slow_check("disk_wear", "endurance that SSDs have left", "disks", lambda _: iter(()), "storage"),
    _slow_check("task_failures", "tasks of one type do not fail repeatedly", "failed_tasks", failed_tasks, "node"),
)
