"""A landscape as plain lists of numbers, which the search can evaluate fast; pure.

Guests that a rule keeps together and that may move form one unit: they move together or not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agentd_specialist.balance.model import GIB, Landscape, Measure, NodeShare

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from agentd_specialist.balance.model import Guest

PER_MOVE: Final = 0.25
"""GiB that a migration counts beside what it sends: a few large ones are better than many small ones."""


@dataclass
class Unit:
    """One or more guests that move together; GiB and cores.

    on   GiB that need not be sent, by node index: members that are there
    """

    members: list[Guest]
    allowed: list[int]
    memory: float
    cpu: float
    gib: float
    on: dict[int, float] = field(default_factory=dict)
    home: int = -1
    groups: list[int] = field(default_factory=list)

    def sent(self, node: int) -> float:
        """Return the GiB that are sent, and the migrations, if it is on the node."""
        return self.gib - self.on.get(node, 0.0)


@dataclass
class Problem:
    """What a search needs.

    names, capacity, cpus, base, base_cpu, open   by node index; capacity is memory without the reserve, size with it
    fixed                    units that stay are part of base; groups count them in `taken`
    """

    landscape: Landscape
    names: list[str]
    size: list[float]
    capacity: list[float]
    cpus: list[float]
    base: list[float]
    base_cpu: list[float]
    counted: list[bool]
    units: list[Unit]
    start: list[int]
    taken: list[list[int]]
    mean: float
    band: float


def build(
    landscape: Landscape,
    *,
    closed: Collection[str] = (),
    movable: Collection[int] | None = None,
    targets: Mapping[int, Collection[str]] | None = None,
) -> Problem:
    """Return the problem of a landscape.

    closed   nodes that must become empty; movable: VMIDs that may move (default all); targets: nodes by VMID
    """
    index = {node.name: number for number, node in enumerate(landscape.nodes)}
    guests = [guest for guest in landscape.guests if guest.node in index]
    shut = {node.name for node in landscape.nodes if node.closed} | set(closed)
    apart = [rule for rule in landscape.rules if rule.kind == "apart"]
    units: list[Unit] = []
    limits = landscape.limits
    for members in _clusters(guests, landscape):
        free = [guest for guest in members if not guest.fixed and (movable is None or guest.vmid in movable)]
        stay = {guest.node for guest in members if guest not in free}
        for part in [free] if free else []:
            allowed = _allowed(part, landscape, shut, targets or {})
            allowed = [name for name in allowed if not stay or name in stay] or allowed
            units.append(_unit(part, [index[name] for name in allowed or [part[0].node]], index))
        units += [_unit([guest], [index[guest.node]], index) for guest in members if guest not in free]
    number_of = {guest.vmid: number for number, unit in enumerate(units) for guest in unit.members}
    for group, rule in enumerate(apart):
        for vmid in sorted(rule.guests):
            if vmid in number_of and group not in units[number_of[vmid]].groups:
                units[number_of[vmid]].groups.append(group)
    counted = [node.name not in shut for node in landscape.nodes]
    base = [node.base_memory / GIB for node in landscape.nodes]
    size = [node.memory / GIB for node in landscape.nodes]
    total = sum(unit.memory for unit in units) + sum(base[n] for n in range(len(base)) if counted[n])
    room = sum(size[n] for n in range(len(size)) if counted[n])
    return Problem(
        landscape=landscape,
        names=[node.name for node in landscape.nodes],
        size=size,
        capacity=[max(0.0, node.memory - limits.reserve) / GIB for node in landscape.nodes],
        cpus=[node.cpus * limits.cpu for node in landscape.nodes],
        base=base,
        base_cpu=[node.base_cpu for node in landscape.nodes],
        counted=counted,
        units=units,
        start=[unit.home for unit in units],
        taken=[[0] * len(index) for _ in apart],
        mean=total / room if room else 0.0,
        band=limits.band,
    )


def _clusters(guests: list[Guest], landscape: Landscape) -> Iterable[list[Guest]]:
    """Return the guests in groups that rules keep together."""
    root = {guest.vmid: guest.vmid for guest in guests}

    def find(vmid: int) -> int:
        while root[vmid] != vmid:
            vmid = root[vmid]
        return vmid

    for rule in landscape.rules:
        known = sorted(rule.guests & root.keys())
        for other in known[1:] if rule.kind == "together" else []:
            root[find(other)] = find(known[0])
    found: dict[int, list[Guest]] = {}
    for guest in guests:
        found.setdefault(find(guest.vmid), []).append(guest)
    return found.values()


def _allowed(
    members: list[Guest], landscape: Landscape, shut: Collection[str], targets: Mapping[int, Collection[str]]
) -> list[str]:
    """Return the nodes on which all members may be; what would leave no node does not count."""
    names = [node.name for node in landscape.nodes if node.name not in shut]
    for guest in members:
        if guest.vmid in targets:
            names = [name for name in names if name in targets[guest.vmid] or name == guest.node]
    for rule in landscape.rules:
        if rule.kind == "on" and any(guest.vmid in rule.guests for guest in members):
            names = [name for name in names if name in rule.nodes] or names
    for guest in members:
        names = [name for name in names if name not in guest.came_from or name == guest.node] or names
    return names


def _unit(members: list[Guest], allowed: list[int], index: Mapping[str, int]) -> Unit:
    unit = Unit(
        members=members,
        allowed=allowed,
        memory=sum(guest.load for guest in members) / GIB,
        cpu=sum(guest.cpu for guest in members),
        gib=sum((guest.memory + guest.disk) / GIB + PER_MOVE for guest in members),
    )
    for guest in members:
        at = index[guest.node]
        unit.on[at] = unit.on.get(at, 0.0) + (guest.memory + guest.disk) / GIB + PER_MOVE
    unit.home = max(unit.on, key=lambda node: unit.on[node])
    return unit


def measure(landscape: Landscape, where: Mapping[int, str] | None = None, closed: Collection[str] = ()) -> Measure:
    """Return how well the guests are distributed, at their nodes or at those of `where`."""
    at = {guest.vmid: (where or {}).get(guest.vmid, guest.node) for guest in landscape.guests}
    shut = {node.name for node in landscape.nodes if node.closed} | set(closed)
    memory = {node.name: float(node.base_memory) for node in landscape.nodes}
    cpu = {node.name: node.base_cpu for node in landscape.nodes}
    for guest in landscape.guests:
        if at[guest.vmid] in memory:
            memory[at[guest.vmid]] += guest.load
            cpu[at[guest.vmid]] += guest.cpu
    limits, over = landscape.limits, 0.0
    for node in landscape.nodes:
        over += max(0.0, memory[node.name] - (node.memory - limits.reserve)) / node.memory if node.memory else 0.0
        over += max(0.0, cpu[node.name] / (node.cpus * limits.cpu) - 1) if node.cpus else 0.0
    open_nodes = [node for node in landscape.nodes if node.name not in shut and node.memory]
    shares = [memory[node.name] / node.memory for node in open_nodes]
    total = sum(memory[node.name] for node in open_nodes) + sum(
        guest.load for guest in landscape.guests if at[guest.vmid] in shut
    )
    room = sum(node.memory for node in open_nodes)
    mean = total / room if room else 0.0
    average = sum(shares) / len(shares) if shares else 0.0
    deviation = math.sqrt(sum((share - average) ** 2 for share in shares) / len(shares)) if shares else 0.0
    return Measure(
        broken=_broken(landscape, at, shut),
        over=over,
        gap=100 * (max(shares) - min(shares)) if shares else 0.0,
        fullest=100 * max(shares, default=0.0),
        excess=100 * sum(max(0.0, abs(share - mean) - limits.band) for share in shares),
        deviation=100 * deviation,
        index=_index(deviation, average, len(shares)),
    )


def shares(landscape: Landscape, where: Mapping[int, str] | None = None) -> list[NodeShare]:
    """Return what each node has in use, with the guests where they are and at the nodes of `where`."""
    at = {guest.vmid: (where or {}).get(guest.vmid, guest.node) for guest in landscape.guests}
    found = []
    for node in landscape.nodes:
        before = [guest.load for guest in landscape.guests if guest.node == node.name]
        after = [guest.load for guest in landscape.guests if at[guest.vmid] == node.name]
        percent = [
            round(100 * (node.base_memory + sum(loads)) / node.memory, 1) if node.memory else 0.0
            for loads in (before, after)
        ]
        found.append(NodeShare(node.name, percent[0], percent[1], len(before), len(after)))
    return found


def _index(deviation: float, average: float, count: int) -> float:
    """Return the coefficient of variation divided by its largest value, as the HA manager computes it."""
    return min(1.0, deviation / average / math.sqrt(count - 1)) if average and count > 1 else 0.0


def _broken(landscape: Landscape, at: Mapping[int, str], closed: Collection[str]) -> int:
    """Count what breaks a rule, and guests on nodes that take none."""
    count = sum(place in closed for place in at.values())
    for rule in landscape.rules:
        places = [at[vmid] for vmid in rule.guests if vmid in at]
        if rule.kind == "apart":
            count += len(places) - len(set(places))
        elif rule.kind == "together":
            count += max(0, len(set(places)) - 1)
        else:
            count += sum(place not in rule.nodes for place in places)
    return count
