"""Name the smallest set of rules that cannot all be kept; pure.

The sizes of guests and nodes are facts, not rules.  A set is minimal: without any one of its rules the others can be
kept.  Several minimal sets are looked for, and the smallest is returned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from agentd_specialist.balance.model import Guest, Landscape, Rule

TRIES: Final = 20_000
"""Placements to try; a set that is not shown to conflict by then counts as one that can be kept."""
ORDERS: Final = 3


class _TooMany(Exception):
    """The placements to try are too many."""


def smallest_conflict(landscape: Landscape, closed: Collection[str] = ()) -> list[str]:
    """Return the texts of the smallest set of conflicting rules found, or []."""
    closed = {*closed, *(node.name for node in landscape.nodes if node.closed)}
    rules = [rule for rule in landscape.rules if len(rule.guests) > 1 or rule.kind == "on"]
    for guest in (guest for guest in landscape.guests if guest.node in closed):
        if guest.fixed:
            return [f"{guest.title} stays on {guest.node}: {guest.fixed}", f"{guest.node} is to be empty"]
        if (alone := _too_large(landscape, closed, guest)) is not None:
            return [alone]
    best: list[Rule] | None = None
    for turn in range(ORDERS):
        shift = turn * len(rules) // ORDERS
        found = _minimal(landscape, closed, [*rules[shift:], *rules[:shift]])
        if found is not None and (best is None or len(found) < len(best)):
            best = found
    if best is None:
        return _no_room(landscape, closed)
    open_again = replace(landscape, nodes=tuple(replace(node, closed="") for node in landscape.nodes))
    fixed = [
        f"{guest.title} stays on {guest.node}: {guest.fixed}"
        for guest in landscape.guests
        if guest.fixed and any(guest.vmid in rule.guests for rule in best)
    ]
    emptied = [f"{name} is to be empty" for name in sorted(closed)]
    return [*(rule.text for rule in best), *fixed, *(emptied if _can_keep(open_again, (), best) else [])]


def _too_large(landscape: Landscape, closed: Collection[str], guest: Guest) -> str | None:
    rooms = [
        node.memory - node.base_memory - landscape.limits.reserve
        for node in landscape.nodes
        if node.name not in closed and not node.closed
    ]
    if rooms and guest.memory <= max(rooms):
        return None
    largest = max(rooms, default=0) / 2**30
    return f"{guest.title} has {guest.memory / 2**30:.1f} GiB of memory, and the largest other node has {largest:.1f}"


def _no_room(landscape: Landscape, closed: Collection[str]) -> list[str]:
    """Return the sentence that says that the guests to be moved need more memory than there is, or []."""
    leaving = [guest for guest in landscape.guests if guest.node in closed]
    need = sum(guest.load for guest in leaving)
    free = 0
    for node in landscape.nodes:
        if node.name not in closed and not node.closed:
            used = node.base_memory + sum(guest.load for guest in landscape.guests if guest.node == node.name)
            free += max(0, node.memory - landscape.limits.reserve - used)
    if not leaving or need <= free:
        return []
    names = ", ".join(sorted(closed))
    return [f"the guests of {names} use {need / 2**30:.1f} GiB, and the other nodes have {free / 2**30:.1f} GiB free"]


def _minimal(landscape: Landscape, closed: Collection[str], rules: Sequence[Rule]) -> list[Rule] | None:
    """Return a minimal set that cannot be kept, or None if all can."""
    if _can_keep(landscape, closed, rules):
        return None
    kept = list(rules)
    for rule in rules:
        fewer = [other for other in kept if other is not rule]
        if not _can_keep(landscape, closed, fewer):
            kept = fewer
    return kept


def _can_keep(landscape: Landscape, closed: Collection[str], rules: Sequence[Rule]) -> bool:
    """Return whether some placement keeps all of these rules, each guest on a node that is large enough."""
    vmids = {vmid for rule in rules for vmid in rule.guests}
    guests = {guest.vmid: guest for guest in landscape.guests if guest.vmid in vmids}
    domains = {vmid: _domain(landscape, closed, guest, rules) for vmid, guest in guests.items()}
    room = {node.name: node.memory - node.base_memory - landscape.limits.reserve for node in landscape.nodes}
    try:
        return _Placing(domains, rules, {vmid: guest.load for vmid, guest in guests.items()}, room).possible({})
    except _TooMany:
        return True


def _domain(landscape: Landscape, closed: Collection[str], guest: Guest, rules: Sequence[Rule]) -> list[str]:
    if guest.fixed:
        names = [guest.node]
    else:
        names = [
            node.name
            for node in landscape.nodes
            if node.name not in closed
            and not node.closed
            and guest.load <= node.memory - node.base_memory - landscape.limits.reserve
        ]
    for rule in rules:
        if rule.kind == "on" and guest.vmid in rule.guests:
            names = [name for name in names if name in rule.nodes]
    return names


class _Placing:
    """Tries to place guests so that rules are kept and no node is too small for those that the rules name."""

    def __init__(
        self, domains: Mapping[int, list[str]], rules: Sequence[Rule], loads: Mapping[int, int], room: Mapping[str, int]
    ) -> None:
        self.domains, self.rules, self.loads, self.room = domains, rules, loads, dict(room)
        self.tries = 0

    def possible(self, at: dict[int, str]) -> bool:
        """Place the guest with the fewest possible nodes, then the others; backtrack."""
        rest = [vmid for vmid in self.domains if vmid not in at]
        if not rest:
            return True
        options = {vmid: [name for name in self.domains[vmid] if self._fits(vmid, name, at)] for vmid in rest}
        vmid = min(rest, key=lambda number: (len(options[number]), number))
        for name in options[vmid]:
            self.tries += 1
            if self.tries > TRIES // max(1, len(rest)):
                raise _TooMany
            self.room[name] -= self.loads[vmid]
            if self.possible(at | {vmid: name}):
                return True
            self.room[name] += self.loads[vmid]
        return False

    def _fits(self, vmid: int, name: str, at: Mapping[int, str]) -> bool:
        return self.loads[vmid] <= self.room[name] and _fits(vmid, name, at, self.rules)


def _fits(vmid: int, name: str, at: Mapping[int, str], rules: Sequence[Rule]) -> bool:
    for rule in rules:
        if vmid not in rule.guests:
            continue
        others = [at[other] for other in rule.guests if other != vmid and other in at]
        if rule.kind == "apart" and name in others:
            return False
        if rule.kind == "together" and any(other != name for other in others):
            return False
    return True
