"""Generated clusters for the bench and the tests of the solver: skewed, with rules, reproducible by their seed."""

from __future__ import annotations

import random

from agentd_specialist.balance.model import GIB, Guest, Landscape, Limits, Node, Rule

SIZES = (128, 192, 256, 384, 512)
MEMORIES = (2, 4, 4, 8, 8, 16, 16, 32)


def generate(nodes: int, guests: int, seed: int = 7, fill: float = 0.62, band: float = 0.02) -> Landscape:
    """Return a cluster in which a few nodes are full and the others nearly empty."""
    rnd = random.Random(seed)  # noqa: S311 - no secret
    memory = [rnd.choice(SIZES) for _ in range(nodes)]
    demands = [rnd.choice(MEMORIES) for _ in range(guests)]
    scale = fill * sum(memory) / sum(demands)
    free = [0.98 * size - 4 for size in memory]
    order = sorted(range(nodes), key=lambda _: rnd.random())
    placed: list[Guest] = []
    for number, demand in enumerate(demands):
        gib = demand * scale
        node = next((at for at in order if free[at] >= gib), max(range(nodes), key=lambda at: free[at]))
        if rnd.random() < 0.15:
            node = rnd.choice([at for at in range(nodes) if free[at] >= gib] or [node])
        free[node] -= gib
        size = int(gib * GIB)
        placed.append(Guest(1000 + number, f"g{number}", f"n{node:02}", size, load=size, cpu=rnd.random()))
    return Landscape(
        nodes=tuple(Node(f"n{at:02}", size * GIB, 64.0, base_memory=2 * GIB) for at, size in enumerate(memory)),
        guests=tuple(placed),
        rules=tuple(_rules(rnd, placed, nodes)),
        limits=Limits(band=band, reserve=GIB),
    )


def _rules(rnd: random.Random, guests: list[Guest], nodes: int) -> list[Rule]:
    found = []
    for number in range(len(guests) // 30):
        some = frozenset(guest.vmid for guest in rnd.sample(guests, min(3, nodes, len(guests))))
        found.append(Rule("apart", f"group {number} is kept apart", some))
    return found
