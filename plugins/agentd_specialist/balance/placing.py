"""Reasons for and against each node for a guest that is not there yet; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from agentd_specialist.balance.failover import gaps
from agentd_specialist.balance.problem import measure
from agentd_specialist.balance.steps import Ledger, Step
from agentd_specialist.model import names_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentd_specialist.balance.model import Guest, Landscape

PRESSED: Final = 0.1
"""Share of the time in which tasks may wait for memory or CPU before that counts against a node."""


class Suggestion(msgspec.Struct, frozen=True):
    """A node for a guest: whether it can take it, and the reasons for and against it.

    storage, bridge  what a new VM would use there ("": that of its template, or not known)
    load             percent of the node's memory that is in use with the guest
    """

    node: str
    fits: bool
    storage: str
    bridge: str
    load: float
    pro: list[str]
    con: list[str]


def obstacles(landscape: Landscape, guest: Guest) -> dict[str, str]:
    """Return why nodes cannot take the guest: rules, maintenance, memory; nodes that can are left out."""
    ledger = Ledger(_with(landscape, guest))
    found = {node.name: ledger.objection(Step(guest.vmid, node.name)) for node in landscape.nodes}
    return {name: reason for name, reason in found.items() if reason and name != guest.node}


def cautions(landscape: Landscape, guest: Guest) -> dict[str, list[str]]:
    """Return the disadvantages of nodes, which prevent nothing."""
    before = set(gaps(landscape))
    found: dict[str, list[str]] = {}
    for node in landscape.nodes:
        if node.closed:
            continue
        after = gaps(_with(landscape, replace(guest, node=node.name)))
        new = sorted(set(after) - before)
        lines = [f"if {name} fails, the other nodes have no room for {_names(after[name])}" for name in new]
        if node.pressure > PRESSED:
            lines.append(f"tasks of {node.name} wait for memory, CPU or disks {100 * node.pressure:.0f} % of the time")
        found[node.name] = lines
    return found


def suggestions(
    landscape: Landscape, guest: Guest, offers: Mapping[str, tuple[str, str] | list[str]]
) -> list[Suggestion]:
    """Return all nodes, the best first.

    offers  storage and bridge of each node, or what is against it
    """
    against, soft = obstacles(landscape, guest), cautions(landscape, guest)
    ledger = Ledger(landscape)
    found = []
    for node in landscape.nodes:
        offer = offers.get(node.name, ("", ""))
        hard = list(offer) if isinstance(offer, list) else []
        if against.get(node.name) and not (hard and "room" in against[node.name]):
            hard.append(against[node.name])
        own = guest.load if guest.node == node.name else 0
        used = 100 * (ledger.used[node.name] - own + guest.load) / node.memory if node.memory else 100.0
        storage, bridge = offer if isinstance(offer, tuple) else ("", "")
        pro = [] if hard else _pro(landscape, guest, node.name, used, storage)
        found.append(
            Suggestion(node.name, not hard, storage, bridge, round(used, 1), pro, hard + soft.get(node.name, []))
        )
    return sorted(found, key=lambda one: (not one.fits, len(one.con), one.load, one.node))


def _pro(landscape: Landscape, guest: Guest, node: str, used: float, storage: str) -> list[str]:
    mean = measure(landscape)
    lines = [f"{used:.0f} % of its memory would be in use; the fullest node is at {mean.fullest:.0f} %"]
    if storage:
        lines.append(f"storage {storage} has room")
    for rule in landscape.rules:
        if guest.vmid not in rule.guests:
            continue
        if rule.kind == "together" and any(g.node == node for g in landscape.guests if g.vmid in rule.guests):
            lines.append(f"{rule.text}: they are there")
        if rule.kind == "on" and node in rule.nodes:
            lines.append(rule.text)
    if not gaps(_with(landscape, replace(guest, node=node))):
        lines.append("whichever node fails, the others have room for its guests")
    return lines


def _with(landscape: Landscape, guest: Guest) -> Landscape:
    others = tuple(other for other in landscape.guests if other.vmid != guest.vmid)
    return replace(landscape, guests=(*others, guest))


def _names(guests: Sequence[Guest]) -> str:
    return names_of(guest.title for guest in guests)
