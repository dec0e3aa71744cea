"""Whatever the cluster: a plan is never worse than doing nothing, and no node is overfilled on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings

from agentd_specialist.balance.plan import Budget, Goal, Plan, plan
from agentd_specialist.balance.problem import measure
from plugins.specialist.balance.drawn_landscapes import goals, landscapes

if TYPE_CHECKING:
    from agentd_specialist.balance.model import Landscape


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
