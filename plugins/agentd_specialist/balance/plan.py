"""The plan of a balance: which guests move, in which order, and a sentence for each; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec

from agentd_specialist.balance import solver, steps
from agentd_specialist.balance.brevity import UNNEEDED
from agentd_specialist.balance.conflicts import smallest_conflict
from agentd_specialist.balance.model import GIB, Measure, Mode, Move, NodeShare
from agentd_specialist.balance.problem import build, measure, shares

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from agentd_specialist.balance.model import Guest, Landscape
    from agentd_specialist.balance.problem import Problem

PACK_ROUNDS: Final = 8
"""Nodes that one plan tries to empty: each try is a search."""


class Left(msgspec.Struct, frozen=True):
    """A guest that stays where it is, and why."""

    vmid: int
    name: str
    node: str
    reason: str


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What would be done: the moves in the order in which they may begin, and what stays.

    text       the plan in one sentence
    conflict   the smallest set of rules that cannot all be kept, if there is one
    gib        memory and disks that are sent
    more       migrations that did not fit in a brief plan; unlisted: guests that stay and are not in `left`
    solver     what the extra solver contributed, if it is installed
    shares     memory of each node before and after; not in a brief plan
    """

    mode: Mode
    text: str
    moves: list[Move]
    left: list[Left]
    before: Measure
    after: Measure
    gib: float
    nodes: list[str] = []
    conflict: list[str] = []
    more: int = 0
    unlisted: int = 0
    solver: str = ""
    shares: list[NodeShare] = []


@dataclass(frozen=True)
class Goal:
    """What a plan is for.

    nodes  drain: they become empty; fill: only they receive guests; pack: never emptied are others than these, if any
    """

    mode: Mode = "rebalance"
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Budget:
    """How long to search: seconds, or tries for a result that does not depend on the machine.

    improve  another solver, which begins with what the search has found
    """

    seconds: float | None = None
    tries: int = 10**9
    seed: int = 1
    improve: solver.Improve | None = None


def plan(landscape: Landscape, goal: Goal, budget: Budget | None = None) -> Plan:
    """Return the best plan found; without moves if nothing would improve."""
    budget = budget or Budget()
    nodes: Collection[str] = goal.nodes
    if goal.mode == "pack":
        nodes, where = _pack(landscape, goal, replace(budget, improve=None))
        placed = solver.Placement(where)
    elif goal.mode == "drain":
        placed = _drain(landscape, goal.nodes, budget)
    else:
        targets = {guest.vmid: goal.nodes for guest in landscape.guests} if goal.mode == "fill" else None
        placed = _search(build(landscape, targets=targets), budget)
    closed = frozenset(nodes) if goal.mode in {"drain", "pack"} else frozenset()
    found = steps.order(landscape, placed.where)
    result = _Result(landscape, Goal(goal.mode, frozenset(nodes)), closed, found)
    proposed = result.plan(_never_worse(landscape, found.steps, closed))
    return msgspec.structs.replace(proposed, solver=placed.text)


def describe(landscape: Landscape, goal: Goal, where: Mapping[int, str]) -> Plan:
    """Return the plan that brings the guests to the nodes of `where`, whatever that is good for."""
    found = steps.order(landscape, where)
    return _Result(landscape, goal, frozenset(), found).plan(found.steps)


def _search(problem: Problem, budget: Budget) -> solver.Placement:
    return solver.solve(problem, seconds=budget.seconds, tries=budget.tries, seed=budget.seed, improve=budget.improve)


def _drain(landscape: Landscape, nodes: Collection[str], budget: Budget) -> solver.Placement:
    """Return where the guests of the nodes go; others move only if it is not possible without."""
    on = {guest.vmid for guest in landscape.guests if guest.node in nodes}
    first = _search(build(landscape, closed=nodes, movable=on), budget)
    after = measure(landscape, first.where, nodes)
    before = measure(landscape, None, nodes)
    stuck = any(first.where[vmid] in nodes for vmid in on if not _fixed(landscape, vmid))
    if not stuck and after.over <= before.over + 1e-9:
        return first
    other = _search(build(landscape, closed=nodes), budget)
    return other if measure(landscape, other.where, nodes).rank() < after.rank() else first


def _fixed(landscape: Landscape, vmid: int) -> str:
    guest = landscape.guest(vmid)
    return guest.fixed if guest else ""


def _pack(landscape: Landscape, goal: Goal, budget: Budget) -> tuple[list[str], dict[int, str]]:
    """Return nodes that can be emptied, the least used first, and where their guests go."""
    used = {node.name: node.base_memory for node in landscape.nodes}
    for guest in landscape.guests:
        used[guest.node] = used.get(guest.node, 0) + guest.load
    names = [node.name for node in landscape.nodes if not node.closed and (not goal.nodes or node.name in goal.nodes)]
    names.sort(key=lambda name: (used[name], name))
    emptied: list[str] = []
    where = {guest.vmid: guest.node for guest in landscape.guests}
    base = measure(landscape)
    for name in names[:PACK_ROUNDS]:
        if len(emptied) + 1 >= sum(not node.closed for node in landscape.nodes):
            break
        tried = _drain(landscape, [*emptied, name], budget).where
        result = measure(landscape, tried, [*emptied, name])
        full = max(100 * landscape.limits.ceiling, base.fullest)
        if result.broken <= base.broken and result.over <= base.over + 1e-9 and result.fullest <= full:
            order = steps.order(landscape, tried)
            if not order.left:
                emptied.append(name)
                where = tried
    return emptied, where


def _never_worse(landscape: Landscape, found: Sequence[steps.Step], closed: Collection[str]) -> list[steps.Step]:
    """Return the longest beginning of the steps after which nothing is worse than now.

    Rules first, then overload, then balance; a drain is measured by its guests, not by the balance of the others.
    """
    start = measure(landscape, None, closed)
    kept: list[steps.Step] = []
    best = start.rank()[: 2 if closed else 3]
    where = {guest.vmid: guest.node for guest in landscape.guests}
    for number, step in enumerate(found, 1):
        where[step.vmid] = step.target
        rank = measure(landscape, where, closed).rank()[: 2 if closed else 3]
        if rank < best:
            kept, best = list(found[:number]), rank
    return kept


@dataclass(frozen=True)
class _Result:
    """What a search has found, to be put in sentences."""

    landscape: Landscape
    goal: Goal
    closed: frozenset[str]
    found: steps.Order

    def plan(self, kept: Sequence[steps.Step]) -> Plan:
        """Return the plan of the steps that are kept."""
        landscape = self.landscape
        before = measure(landscape, None, self.closed)
        after = measure(landscape, steps.moved(landscape, kept), self.closed)
        moves = self._moves(kept, repairs=before.broken > 0)
        goes = {step.vmid for step in kept}
        left = [
            Left(guest.vmid, guest.name, guest.node, reason)
            for guest in landscape.guests
            if guest.vmid not in goes and (reason := self._why_left(guest))
        ]
        conflict = smallest_conflict(landscape, self.closed) if after.broken else []
        return Plan(
            mode=self.goal.mode,
            text=self._text(moves, left, before, after),
            moves=moves,
            left=left,
            before=before,
            after=after,
            gib=round(sum(move.gib for move in moves), 3),
            nodes=sorted(self.goal.nodes),
            conflict=conflict,
            shares=shares(landscape, steps.moved(landscape, kept)),
        )

    def _why_left(self, guest: Guest) -> str:
        """Return why the guest stays; "" where nothing asks it to move."""
        if guest.fixed:
            return guest.fixed
        if guest.vmid in self.found.left:
            return self.found.left[guest.vmid]
        if any(step.vmid == guest.vmid for step in self.found.steps):
            return "its move would leave the cluster worse"
        if self.goal.mode == "drain" and guest.node in self.goal.nodes:
            rules = [rule.text for rule in self.landscape.rules if guest.vmid in rule.guests]
            return "; ".join(["no other node can take it", *rules])
        if guest.came_from and self.goal.mode == "rebalance":
            return f"it came from {', '.join(sorted(guest.came_from))} lately, and is not sent back so soon"
        return UNNEEDED if self.goal.mode == "rebalance" else ""

    def _moves(self, kept: Sequence[steps.Step], *, repairs: bool) -> list[Move]:
        used = {node.name: node.base_memory for node in self.landscape.nodes}
        size = {node.name: node.memory or 1 for node in self.landscape.nodes}
        for guest in self.landscape.guests:
            used[guest.node] = used.get(guest.node, 0) + guest.load
        guests = {guest.vmid: guest for guest in self.landscape.guests}
        moves = []
        for step in kept:
            guest = guests[step.vmid]
            full, empty = (100 * used[name] / size[name] for name in (guest.node, step.target))
            rule = self._apart(step.vmid) if repairs else ""
            if step.parked:
                why = f"it waits on {step.target} until there is room on the node that it goes to"
            elif guest.node in self.closed:
                why = f"{guest.node} is to be empty, and {step.target} is at {empty:.0f} % of its memory"
            elif rule:
                why = f"{rule}; {step.target} is at {empty:.0f} % of its memory"
            else:
                why = f"{guest.node} is at {full:.0f} % of its memory, {step.target} at {empty:.0f} %"
            moves.append(_move(guest, step, why))
            used[guest.node] -= guest.load
            used[step.target] += guest.load
            guests[step.vmid] = replace(guest, node=step.target)
        return moves

    def _apart(self, vmid: int) -> str:
        """Return the rule that is broken where the guest is now, or ""."""
        at = {guest.vmid: guest.node for guest in self.landscape.guests}
        for rule in self.landscape.rules:
            others = [at[other] for other in rule.guests if other != vmid and other in at]
            if vmid in rule.guests and (
                (rule.kind == "apart" and at[vmid] in others)
                or (rule.kind == "together" and any(node != at[vmid] for node in others))
                or (rule.kind == "on" and at[vmid] not in rule.nodes)
            ):
                return rule.text
        return ""

    def _text(self, moves: list[Move], left: list[Left], before: Measure, after: Measure) -> str:
        """Return the plan in a sentence."""
        nodes = ", ".join(sorted(self.goal.nodes))
        gib = sum(move.gib for move in moves)
        count = f"{len(moves)} migration{'' if len(moves) == 1 else 's'} of {gib:.1f} GiB"
        if self.goal.mode == "drain":
            stay = sum(guest.node in self.goal.nodes for guest in left)
            rest = f"; {stay} guests stay there" if stay else ""
            return f"{count} from {nodes}{rest}" if moves else f"nothing moves from {nodes}{rest}"
        if not moves:
            return f"nothing to do: the gap between the nodes is {before.gap:.1f} % of memory"
        if self.goal.mode == "pack":
            return f"{count} empty {nodes}; the fullest node is then at {after.fullest:.0f} %"
        fewer = before.broken - after.broken
        rules = f", and {fewer} broken rules are repaired" if fewer > 0 else ""
        return f"{count}: the gap between the nodes goes from {before.gap:.1f} to {after.gap:.1f} % of memory{rules}"


def _move(guest: Guest, step: steps.Step, why: str) -> Move:
    gib = (guest.memory + guest.disk) / GIB
    return Move(
        vmid=guest.vmid,
        name=guest.name,
        source=guest.node,
        target=step.target,
        gib=round(gib, 3),
        reason=f"{guest.title} moves from {guest.node} to {step.target} ({gib:.1f} GiB): {why}",
        kind=guest.kind,
        parked=step.parked,
    )
