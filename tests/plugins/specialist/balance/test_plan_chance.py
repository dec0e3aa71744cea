"""Whatever the cluster: a plan is never worse than doing nothing, and no node is overfilled on the way."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agentd_specialist.balance.model import GIB, Guest, Landscape, Limits, Mode, Node, Rule
from agentd_specialist.balance.plan import Budget, Goal, Plan, plan
from agentd_specialist.balance.problem import measure

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


def after(landscape: Landscape, found: Plan) -> Landscape:
    """Return the landscape after the moves; each one is checked against the sizes of the nodes, source and target."""
    at = {guest.vmid: guest for guest in landscape.guests}
    for move in found.moves:
        guest, target = at[move.vmid], landscape.node(move.target)
        assert target is not None
        assert guest.node == move.source != move.target
        assert not target.closed
        assert not guest.fixed
        used = target.base_memory + sum(other.load for other in at.values() if other.node == move.target)
        assert used + max(guest.load, guest.memory) <= target.memory - landscape.limits.reserve
        at[move.vmid] = replace(guest, node=move.target)
    return replace(landscape, guests=tuple(at.values()))


@given(landscapes(), goals())
@settings(max_examples=120, deadline=None)
def test_a_plan_is_never_worse_than_nothing(landscape: Landscape, goal: Goal) -> None:
    """Rules first, then overload, then balance: in this order nothing becomes worse, or there are no moves."""
    found = plan(landscape, goal, Budget(seconds=2.0, tries=1000))
    result = after(landscape, found)
    closed = found.nodes if goal.mode in {"drain", "pack"} else ()
    levels = 2 if closed else 3
    before_rank = measure(landscape, None, closed).rank()[:levels]
    after_rank = measure(result, None, closed).rank()[:levels]

    assert after_rank < before_rank if found.moves else after_rank == before_rank
    moved = {move.vmid for move in found.moves}
    assert not moved & {left.vmid for left in found.left}
    assert all(move.reason for move in found.moves)
    assert all(left.reason for left in found.left)
    if goal.mode == "drain":
        stay = {guest.vmid for guest in result.guests if guest.node in goal.nodes}
        assert stay - moved <= {left.vmid for left in found.left}
