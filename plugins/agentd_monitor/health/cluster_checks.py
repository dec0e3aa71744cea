"""Checks of the cluster as a whole: quorum, nodes, HA, Ceph, backup coverage, failover.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd import Finding, Level
from agentd_monitor.alerting.state import Rule
from agentd_monitor.cluster.family import number, text
from agentd_monitor.cluster.node_families import part
from agentd_monitor.health.finding import Moment, ReadingCheck, unknown
from agentd_monitor.health.nodes import node_entries, online_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator

HA_TROUBLE: Final = {"error": Level.CRITICAL, "fence": Level.CRITICAL, "recovery": Level.WARNING}
OLD_STAMP: Final = 120.0
"""Seconds after which the state of an HA manager is too old; it writes it every ten seconds."""
NAMES_SHOWN: Final = 5
"""Maximum number of guests that a sentence names."""


def quorum(moment: Moment) -> Iterator[Finding]:
    """Check the quorum, and whether one more lost node would end it."""
    if moment.snapshot.get("status") is None:
        yield unknown(moment, "not_quorate", "status")
        return
    cluster = next((entry for entry in moment.snapshot.entries("status") if entry.get("type") == "cluster"), None)
    if cluster is None:  # a single node without a cluster
        return
    nodes, online = len(node_entries(moment)), len(online_nodes(moment))
    if not cluster.get("quorate"):
        advice = "Start the missing nodes, or check the network of corosync: `pvecm status` on a node shows its links."
        sentence = f"the cluster has no quorum: {online} of {nodes} nodes are online"
        yield Finding("not_quorate", {}, Level.CRITICAL, sentence, advice)
    elif nodes > 2 and online == nodes // 2 + 1:  # noqa: PLR2004 - two nodes never have one to spare
        sentence = f"{online} of {nodes} nodes are online: without one more, the cluster has no quorum"
        yield Finding("not_quorate", {}, Level.WARNING, sentence, "Start the missing nodes.")
    else:
        yield Finding("not_quorate", {}, Level.OK, f"the cluster has quorum: {online} of {nodes} nodes are online")


def nodes_down(moment: Moment) -> Iterator[Finding]:
    """Check that each node is online."""
    if moment.snapshot.get("status") is None:
        yield unknown(moment, "node_down", "status")
    for entry in node_entries(moment):
        node = str(entry["name"])
        if entry.get("online"):
            yield Finding("node_down", {"node": node}, Level.OK, f"node {node} is online")
        else:
            advice = "Check its power and network; HA starts its HA guests on other nodes after about two minutes."
            yield Finding("node_down", {"node": node}, Level.CRITICAL, f"node {node} is offline", advice)


def qdevice(moment: Moment) -> Iterator[Finding]:
    """Check the QDevice, if the cluster has one."""
    found = moment.snapshot.get("qdevice")
    if isinstance(found, dict) and found:
        state = text(found.get("State"))
        level = Level.OK if state == "Connected" else Level.WARNING
        advice = "" if level is Level.OK else "Check the host of the QDevice: `pvecm qdevice status`."
        yield Finding("qdevice", {}, level, f"the QDevice is {state or 'in no known state'}", advice)


def ha(moment: Moment) -> Iterator[Finding]:
    """Check the HA resources and the HA managers of the nodes."""
    if moment.snapshot.get("ha") is None:
        yield unknown(moment, "ha_error", "ha")
    for entry in moment.snapshot.entries("ha"):
        kind, node = entry.get("type"), text(entry.get("node"))
        if kind == "service":
            name, state = text(entry.get("sid")), text(entry.get("state"))
            level = HA_TROUBLE.get(state, Level.OK)
            advice = "" if level is Level.OK else f"Read the log of {node}, then disable and enable {name} in HA."
            sentence = f"HA resource {name} on {node} is in the state {state}"
            yield Finding("ha_error", {"service": name, "node": node}, level, sentence, advice)
        elif kind in ("lrm", "master"):
            stamp = number(entry.get("timestamp"))
            old = stamp is not None and moment.at - stamp > OLD_STAMP
            what = "local resource manager" if kind == "lrm" else "cluster resource manager"
            labels = {"manager": text(kind), "node": node}
            if old and node in online_nodes(moment):
                sentence = f"the {what} of {node} has not written its state for {moment.at - (stamp or 0):.0f} s"
                unit = "pve-ha-lrm" if kind == "lrm" else "pve-ha-crm"
                yield Finding("ha_manager", labels, Level.WARNING, sentence, f"Restart the service {unit} on {node}.")
            else:
                yield Finding("ha_manager", labels, Level.OK, f"the {what} of {node} works")


def ceph(moment: Moment) -> Iterator[Finding]:
    """Check the health of Ceph; a cluster without Ceph has no finding."""
    status = moment.snapshot.get("ceph")
    if isinstance(status, dict):
        health = text(part(status, "health", "status"))
        levels = {"HEALTH_OK": Level.OK, "HEALTH_WARN": Level.WARNING, "HEALTH_ERR": Level.CRITICAL}
        level = levels.get(health, Level.UNKNOWN)
        advice = "" if level is Level.OK else "`ceph health detail` on a node names the causes."
        yield Finding("ceph_health", {}, level, f"Ceph reports {health or 'no health'}", advice)


def backup_coverage(moment: Moment) -> Iterator[Finding]:
    """Check that each guest is part of a backup job."""
    if moment.snapshot.get("not_backed_up") is None:
        yield unknown(moment, "backup_coverage", "not_backed_up")
        return
    guests = sorted(text(entry.get("vmid")) for entry in moment.snapshot.entries("not_backed_up"))
    if not guests:
        yield Finding("backup_coverage", {}, Level.OK, "each guest is part of a backup job", value=0)
        return
    shown = ", ".join(guests[:NAMES_SHOWN]) + (", …" if len(guests) > NAMES_SHOWN else "")
    sentence = f"{len(guests)} guests are part of no backup job: {shown}"
    yield Finding("backup_coverage", {}, Level.WARNING, sentence, "Add them to a backup job.", len(guests))


def failover(moment: Moment) -> Iterator[Finding]:
    """Check that the running guests fit into the memory of the other nodes if the largest node fails."""
    entries = moment.snapshot.entries("resources")
    if not entries:
        yield unknown(moment, "failover_memory", "resources")
        return
    sizes = [
        number(entry.get("maxmem")) or 0.0
        for entry in entries
        if entry.get("type") == "node" and entry.get("status") == "online"
    ]
    if len(sizes) < 2:  # noqa: PLR2004 - there is no other node
        return
    running = (entry for entry in entries if entry.get("type") in ("qemu", "lxc") and entry.get("status") == "running")
    needed, left = sum(number(entry.get("maxmem")) or 0.0 for entry in running), sum(sizes) - max(sizes)
    sentence = (
        f"the running guests have {needed / 2**30:.0f} GiB, the nodes without the largest one {left / 2**30:.0f} GiB"
    )
    if needed > left:
        advice = "If that node fails, some of its guests cannot start. Add memory, or stop or shrink guests."
        yield Finding("failover_memory", {}, Level.WARNING, sentence, advice, needed)
    else:
        yield Finding("failover_memory", {}, Level.OK, sentence, value=needed)


CHECKS: Final = (
    ReadingCheck(
        "not_quorate", "the cluster has a quorum, and would keep it", "quorum", "status", Rule("not_quorate"), quorum
    ),
    ReadingCheck("node_down", "each node is online", "node", "status", Rule("node_down", pending_for=60), nodes_down),
    ReadingCheck(
        "qdevice", "the QDevice is connected", "quorum", "qdevice", Rule("qdevice", 120, stale_after=3600), qdevice
    ),
    ReadingCheck("ha_error", "HA resources are in a good state", "ha", "ha", Rule("ha_error", keep_firing_for=60), ha),
    # Its findings come with those of ha_error: the same response shows both.
    ReadingCheck("ha_manager", "the HA managers write their state", "ha", "ha", Rule("ha_manager", 120), lambda _: ()),
    ReadingCheck(
        "ceph_health", "Ceph is healthy", "storage", "ceph", Rule("ceph_health", 600, 300, stale_after=900), ceph
    ),
    ReadingCheck(
        "backup_coverage",
        "each guest is part of a backup job",
        "backup",
        "not_backed_up",
        Rule("backup_coverage", pending_for=3600, stale_after=3600),
        backup_coverage,
    ),
    ReadingCheck(
        "failover_memory",
        "the guests fit on the other nodes if the largest node fails",
        "node",
        "resources",
        Rule("failover_memory", pending_for=1800, keep_firing_for=600),
        failover,
    ),
)
