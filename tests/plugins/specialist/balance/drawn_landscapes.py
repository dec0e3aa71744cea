"""Random clusters and goals: unequal nodes, contradictory rules, fixed guests, full nodes, no guests."""

from __future__ import annotations

from hypothesis import strategies as st

from agentd_specialist.balance.model import GIB, Guest, Landscape, Limits, Mode, Node, Rule
from agentd_specialist.balance.plan import Goal

MODES: tuple[Mode, ...] = ("rebalance", "drain", "fill", "pack")
NAMES = ("a", "b", "c", "d", "e")


@st.composite
def landscapes(draw: st.DrawFn) -> Landscape:
    """Draw clusters of unequal nodes, with contradictory rules, fixed guests, full nodes and no guests."""
    count = draw(st.integers(1, len(NAMES)))
    names = NAMES[:count]
    sizes = draw(st.lists(st.sampled_from([0, 16, 32, 64, 128]), min_size=count, max_size=count))
    nodes = tuple(
        Node(
            name,
            size * GIB,
            8.0,
            base_memory=min(size, 2) * GIB,
            closed=draw(st.sampled_from(["", "", "", "is offline"])),
        )
        for name, size in zip(names, sizes, strict=True)
    )
    guests = tuple(
        Guest(
            100 + number,
            f"g{number}",
            draw(st.sampled_from(names)),
            memory=draw(st.integers(1, 40)) * GIB,
            load=draw(st.integers(1, 40)) * GIB,
            cpu=draw(st.sampled_from([0.0, 0.1, 1.0, 4.0])),
            fixed=draw(st.sampled_from(["", "", "", "it is locked (backup)"])),
        )
        for number in range(draw(st.integers(0, 14)))
    )
    vmids = [guest.vmid for guest in guests] or [99]
    rules = tuple(
        Rule(
            draw(st.sampled_from(["apart", "together", "on"])),
            f"rule {number}",
            frozenset(draw(st.lists(st.sampled_from(vmids), min_size=1, max_size=4))),
            frozenset(draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))),
        )
        for number in range(draw(st.integers(0, 4)))
    )
    return Landscape(nodes, guests, rules, Limits(band=draw(st.sampled_from([0.0, 0.02, 0.1]))))


@st.composite
def goals(draw: st.DrawFn) -> Goal:
    """Draw goals."""
    mode: Mode = draw(st.sampled_from(MODES))
    nodes = frozenset() if mode == "rebalance" else frozenset({draw(st.sampled_from(NAMES))})
    return Goal(mode, nodes)
