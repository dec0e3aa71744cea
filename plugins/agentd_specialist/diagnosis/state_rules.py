"""Causes by the present state of guests, nodes, storages and HA; pure.

The facts are those that `diagnosis_tools` gathers; a fact that is not known is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd import Cause, Evidence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd import Situation

FULL: Final = 95.0
NEARLY: Final = 85.0
"""Percent of memory or storage."""


def _state(text: str) -> list[Evidence]:
    return [Evidence("present state", text)]


def cluster_causes(situation: Situation) -> Iterator[Cause]:
    """Return causes that concern the cluster and the node."""
    facts = situation.facts
    if facts.get("quorate") is False:
        text = "the cluster has no quorum, so nothing can be changed"
        advice = "bring nodes back online; `pvecm status` shows the votes"
        yield Cause(text, 1.0, _state("the cluster is not quorate"), advice)
    node, status = facts.get("node"), facts.get("node_status")
    if node and status and status != "online":
        advice = "check power and network of the node; guests under HA start elsewhere by themselves"
        yield Cause(f"the node {node} is {status}", 0.98, _state(f"{node} is {status}"), advice)
    memory = facts.get("node_memory")
    if node and memory is not None and memory > NEARLY:
        advice = "move guests to other nodes"
        text, likelihood = f"the memory of {node} is nearly used up", 0.7 if memory > FULL else 0.45
        lines = _state(f"{memory:.0f} % of the memory of {node} is in use")
        yield Cause(text, likelihood, lines, advice, "resource_optimization")


def guest_causes(situation: Situation) -> Iterator[Cause]:
    """Return causes that concern a guest."""
    facts = situation.facts
    lock, running = facts.get("lock"), facts.get("running_tasks") or []
    if lock and running:
        text = f"the guest is locked ({lock}) by an operation that runs"
        yield Cause(text, 0.9, _state("; ".join(running)), "wait for its end; stop_task ends it by force")
    elif lock:
        text = f"the guest is locked ({lock}), and no task runs that could hold the lock"
        lines = _state(f"lock {lock}, no running task of the guest on {facts.get('node')}")
        advice = (
            "an interrupted operation has left it: check its task log, then remove the lock (qm unlock, pct unlock)"
        )
        yield Cause(text, 0.92, lines, advice)
    ha = str(facts.get("ha_state") or "")
    if ha in {"error", "fence", "recovery"}:
        text = f"HA has the guest in the state {ha}"
        advice = "set its requested state to disabled, correct the cause, then to started again (update_ha_resource)"
        yield Cause(text, 0.9, _state(f"HA state {ha}"), advice)
    if facts.get("status") == "stopped" and facts.get("onboot") and not lock:
        lines = _state("it is stopped, and its configuration says that it starts at boot")
        yield Cause("the guest was stopped", 0.4, lines, "start it (start_guest), if it should run", "tool_call")


def storage_causes(situation: Situation) -> Iterator[Cause]:
    """Return causes that concern storages: facts `storages` is a list of (name, status, percent used)."""
    for name, status, used in situation.facts.get("storages") or []:
        if status not in {"available", ""}:
            text = "a storage that the guest needs is not available on the node"
            advice = "check the storage's server and network; get_storage_status shows its state"
            yield Cause(text, 0.9, _state(f"storage {name} is {status}"), advice)
        elif used > NEARLY:
            likelihood = 0.85 if used > FULL else 0.4
            advice = "delete old snapshots, backups or unused disks, or move disks to another storage"
            yield Cause(
                "a storage is full",
                likelihood,
                _state(f"storage {name}: {used:.0f} % used"),
                advice,
                "snapshot_cleanup",
            )
