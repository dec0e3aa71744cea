"""A day of load, replayed with the migrations that a strategy wants; guests that return are counted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agentd_specialist.balance.model import GIB, Landscape
from agentd_specialist.balance.plan import Budget, Goal, plan
from agentd_specialist.balance.problem import measure
from agentd_specialist.balance.reading import percentile

if TYPE_CHECKING:
    from agentd_specialist.balance.model import Guest

STEPS = 288
"""Samples of five minutes in a day."""
EVERY = 6
"""Samples between two plans: half an hour; also how far back a plan looks."""
Loads = list[dict[int, float]]
Strategy = Callable[[Landscape], dict[int, str]]
"""Takes the landscape, in which guests say where they came from, and returns their nodes."""


def day(guests: tuple[Guest, ...], seed: int = 7) -> Loads:
    """Return what guests use, by sample, as shares of their memory: most are calm, some follow the day, some jump."""
    rnd = random.Random(seed)  # noqa: S311 - no secret
    series: dict[int, list[float]] = {}
    for guest in guests:
        kind = rnd.random()
        level, wander = rnd.uniform(0.45, 0.75), 0.0
        swing = rnd.uniform(0.08, 0.2) if kind > 0.5 else 0.02
        phase = rnd.gauss(14, 2.5) if kind < 0.9 else rnd.uniform(0, 24)
        jumps = [rnd.randrange(STEPS) for _ in range(4)] if kind > 0.85 else []
        values = []
        for step in range(STEPS):
            wander = 0.9 * wander + rnd.gauss(0, 0.01)
            value = level + swing * math.cos((step / 12 - phase) / 24 * 2 * math.pi) + wander
            value += sum(0.25 for start in jumps if start <= step < start + 10)
            values.append(min(1.0, max(0.1, value)))
        series[guest.vmid] = values
    return [{vmid: values[step] for vmid, values in series.items()} for step in range(STEPS)]


@dataclass
class Replay:
    """What happened: moves as (sample, VMID, source, target), and the gap between the nodes at each sample."""

    guests: int
    moves: list[tuple[int, int, str, str]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    gib: float = 0.0

    @property
    def returned(self) -> set[int]:
        """The guests that came to a node that they had left on the same day."""
        left: dict[int, set[str]] = {}
        found = set()
        for _, vmid, source, target in self.moves:
            if target in left.get(vmid, ()):
                found.add(vmid)
            left.setdefault(vmid, set()).add(source)
        return found

    @property
    def rate(self) -> float:
        """Percent of the guests that returned."""
        return 100 * len(self.returned) / self.guests


def replay(start: Landscape, loads: Loads, strategy: Strategy) -> Replay:
    """Return what a strategy does on a day; it is asked every half hour."""
    there, found = start, Replay(len(start.guests))
    for step in range(STEPS):
        now = _with_loads(there, [loads[step]])
        if step and step % EVERY == 0:
            seen = _with_loads(there, loads[step - EVERY : step])
            where = strategy(seen)
            for guest in there.guests:
                if where[guest.vmid] != guest.node:
                    found.moves.append((step, guest.vmid, guest.node, where[guest.vmid]))
                    found.gib += guest.memory / GIB
            there = replace(there, guests=tuple(_moved(guest, where[guest.vmid]) for guest in there.guests))
        found.gaps.append(measure(now).gap)
    return found


def _moved(guest: Guest, node: str) -> Guest:
    return guest if node == guest.node else replace(guest, node=node, came_from=guest.came_from | {guest.node})


def _with_loads(there: Landscape, samples: Loads) -> Landscape:
    """Return the landscape with the 95th percentile of what guests used."""
    return replace(
        there,
        guests=tuple(
            replace(guest, load=int(guest.memory * percentile([sample[guest.vmid] for sample in samples])))
            for guest in there.guests
        ),
    )


def ours(there: Landscape) -> dict[int, str]:
    """Return where the plan of agentd puts the guests."""
    found = plan(there, Goal(), Budget(seconds=20.0, tries=20_000))
    return {guest.vmid: guest.node for guest in there.guests} | {move.vmid: move.target for move in found.moves}


def greedy(there: Landscape) -> dict[int, str]:
    """Move guests of the fullest node to the emptiest, the largest that fits first, until the gap is 10 points.

    That is how balancers without a plan work.
    """
    where = {guest.vmid: guest.node for guest in there.guests}
    size = {node.name: node.memory for node in there.nodes}
    used = {node.name: float(node.base_memory) for node in there.nodes}
    for guest in there.guests:
        used[guest.node] += guest.load
    for _ in range(len(there.guests)):
        names = sorted(size, key=lambda name: used[name] / size[name])
        low, high = names[0], names[-1]
        gap = used[high] / size[high] - used[low] / size[low]
        if gap <= 0.10:
            break
        fit = [
            guest
            for guest in there.guests
            if where[guest.vmid] == high and (used[low] + guest.load) / size[low] < used[high] / size[high]
        ]
        if not fit:
            break
        guest = max(fit, key=lambda one: (one.load, one.vmid))
        where[guest.vmid] = low
        used[high] -= guest.load
        used[low] += guest.load
    return where
