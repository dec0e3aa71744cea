"""Search for the nodes of guests: a greedy start, then simulated annealing with incremental costs; pure.

The balance is a constraint (the load of each node within a band around the mean), what is sent is the objective.  All
is one sum in GiB, with weights large enough that a rule is never broken to save a migration:

    broken rules * 10000 + memory over the limit * 50 + cores over the limit * 100 + memory outside the band * 32 + sent

The lists and local names are those of an inner loop that runs a million times.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentd_specialist.balance.problem import Problem

BROKEN: Final = 10_000.0
OVER: Final = 50.0
OVER_CPU: Final = 100.0
OUTSIDE: Final = 32.0
PRESSED: Final = 0.5
"""Cost of a move to a node whose tasks wait for memory or CPU all the time: decides between equal targets."""
NOTHING: Final = 1e-9
"""Less than this is no difference."""
EXCHANGES: Final = 0.25
HOME: Final = 0.25
ANY: Final = 0.2
"""Shares of exchanges; of moves home, and of the rest moves to any node."""
HEAT: Final = 0.1
"""First temperature, in mean sizes of guests: low enough to keep what the greedy start has found."""
COOL: Final = 6
"""Nodes that a greedy move tries: those with the most room."""
STEPS_AT_ONCE: Final = 200
"""Tries between two looks at the clock."""

Improve = Callable[["Search"], tuple[list[int], str]]
"""Takes a search, and returns a node for each unit ([]: none was found) and a sentence."""


class Search:
    """One search over one problem."""

    def __init__(self, problem: Problem, seed: int = 1) -> None:
        """Start with the guests where they are."""
        self.problem = problem
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.place = list(problem.start)
        count = len(problem.names)
        self.memory, self.cpu = list(problem.base), list(problem.base_cpu)
        self.taken = [list(row) for row in problem.taken]
        for unit, node in zip(problem.units, self.place, strict=True):
            self.memory[node] += unit.memory
            self.cpu[node] += unit.cpu
            for group in unit.groups:
                self.taken[group][node] += 1
        self.goal = [problem.mean * size for size in problem.size]
        self.slack = [problem.band * size for size in problem.size]
        self.cost_of = [self.node_cost(node, self.memory[node], self.cpu[node]) for node in range(count)]
        pressures = [node.pressure for node in problem.landscape.nodes]
        self.sent = [
            [unit.sent(node) + (PRESSED * pressures[node] if node != unit.home else 0.0) for node in range(count)]
            for unit in problem.units
        ]
        self.forbidden = [
            [0.0 if node in allowed else BROKEN for node in range(count)]
            for allowed in (set(unit.allowed) for unit in problem.units)
        ]
        self.free = [
            number
            for number, unit in enumerate(problem.units)
            if len(unit.allowed) > 1 or unit.home not in unit.allowed
        ]

    def node_cost(self, node: int, memory: float, cpu: float) -> float:
        """Return the cost of a node with this load."""
        problem = self.problem
        cost = max(0.0, memory - problem.capacity[node]) * OVER + max(0.0, cpu - problem.cpus[node]) * OVER_CPU
        if problem.counted[node]:
            cost += max(0.0, abs(memory - self.goal[node]) - self.slack[node]) * OUTSIDE
        return cost

    def delta(self, number: int, target: int) -> float:
        """Return by how much the cost changes if the unit goes to the node."""
        unit, source = self.problem.units[number], self.place[number]
        if source == target:
            return 0.0
        change = self.sent[number][target] - self.sent[number][source]
        change += self.forbidden[number][target] - self.forbidden[number][source]
        for group in unit.groups:
            row = self.taken[group]
            change += BROKEN * ((row[target] > 0) - (row[source] > 1))
        change += self.node_cost(source, self.memory[source] - unit.memory, self.cpu[source] - unit.cpu)
        change += self.node_cost(target, self.memory[target] + unit.memory, self.cpu[target] + unit.cpu)
        return change - self.cost_of[source] - self.cost_of[target]

    def put(self, number: int, target: int) -> None:
        """Let the unit go to the node."""
        unit, source = self.problem.units[number], self.place[number]
        self.memory[source] -= unit.memory
        self.cpu[source] -= unit.cpu
        self.memory[target] += unit.memory
        self.cpu[target] += unit.cpu
        for group in unit.groups:
            self.taken[group][source] -= 1
            self.taken[group][target] += 1
        for node in (source, target):
            self.cost_of[node] = self.node_cost(node, self.memory[node], self.cpu[node])
        self.place[number] = target

    def cost(self) -> float:
        """Return the whole cost."""
        units = range(len(self.place))
        broken = sum(max(0, count - 1) for row in self.taken for count in row)
        own = sum(
            self.sent[number][self.place[number]] + self.forbidden[number][self.place[number]] for number in units
        )
        return sum(self.cost_of) + own + BROKEN * broken

    def take(self, place: Sequence[int]) -> bool:
        """Use another placement, unless the present one is better; return whether it is used."""
        before, cost = list(self.place), self.cost()
        self._put_all(place)
        if self.cost() > cost + NOTHING:
            self._put_all(before)
            return False
        return True

    def _put_all(self, place: Sequence[int]) -> None:
        for number, node in enumerate(place):
            if self.place[number] != node:
                self.put(number, node)

    # -- the phases of the search ---------------------------------------------------------------------------------

    def greedy(self, until: float) -> None:
        """Move the best unit of the most expensive node, until no node has a move that improves."""
        at: dict[int, list[int]] = {}
        for number in self.free:
            at.setdefault(self.place[number], []).append(number)
        tired: set[int] = set()
        while time.monotonic() < until:
            source = max((node for node in at if node not in tired), key=self._heat, default=-1)
            if source < 0:
                return
            cool = sorted(range(len(self.memory)), key=lambda node: self.memory[node] - self.goal[node])[:COOL]
            best = (-NOTHING, -1, -1)
            for number in at[source]:
                for target in self._greedy_targets(number, cool):
                    change = self.delta(number, target) / (self.sent[number][target] or 1.0)
                    if change < best[0]:
                        best = change, number, target
            if best[1] < 0:
                tired.add(source)
                continue
            at[source].remove(best[1])
            at.setdefault(best[2], []).append(best[1])
            self.put(best[1], best[2])
            tired -= {source, best[2]}

    def _greedy_targets(self, number: int, cool: list[int]) -> list[int]:
        """Return the nodes with the most room of those where the unit may be."""
        allowed = self.problem.units[number].allowed
        if len(allowed) <= COOL:
            return allowed
        return [node for node in cool if not self.forbidden[number][node]] or allowed[:COOL]

    def _heat(self, node: int) -> float:
        """Return how much a node has to give away."""
        return self.memory[node] - self.goal[node] if self.problem.counted[node] else float("inf")

    def home(self) -> None:
        """Return units to where they were, and to nearer nodes, wherever that costs less."""
        for number in sorted(self.free, key=lambda unit: -self.sent[unit][self.place[unit]]):
            best = min(self.problem.units[number].allowed, key=lambda node: (self.delta(number, node), node))
            if self.delta(number, best) < -NOTHING:
                self.put(number, best)

    def anneal(self, until: float, tries: int) -> None:
        """Improve by random moves, moves home and exchanges; keep the best placement that was seen."""
        if not self.free:
            return
        best, best_cost, now = list(self.place), self.cost(), self.cost()
        began, done = time.monotonic(), 0
        hot = HEAT * max(1.0, sum(unit.gib for unit in self.problem.units) / len(self.problem.units))
        while done < tries and best_cost > NOTHING:
            clock = time.monotonic()
            if clock >= until:
                break
            share = max(done / tries, (clock - began) / max(1e-3, until - began))
            now += self._tries(hot * (0.02 / hot) ** share)
            done += STEPS_AT_ONCE
            if now < best_cost - NOTHING:
                best, best_cost = list(self.place), now
        self._put_all(best)

    def _tries(self, temperature: float) -> float:
        """Try a number of changes at this temperature; return by how much the cost has changed."""
        rnd, free, count = self.random.random, self.free, len(self.free)
        total = 0.0
        for _ in range(STEPS_AT_ONCE):
            number = free[int(rnd() * count)]
            if rnd() < EXCHANGES:
                total += self._exchange(number, free[int(rnd() * count)], temperature)
            else:
                target = self._target(number)
                change = self.delta(number, target)
                if change <= 0 or rnd() < math.exp(-change / temperature):
                    self.put(number, target)
                    total += change
        return total

    def _target(self, number: int) -> int:
        """Return a node for the unit: where it was, or the emptier of two."""
        rnd, unit = self.random.random, self.problem.units[number]
        if rnd() < HOME:
            return unit.home
        first, second = (unit.allowed[int(rnd() * len(unit.allowed))] for _ in range(2))
        if rnd() < ANY:
            return first
        memory, goal = self.memory, self.goal
        return second if memory[second] - goal[second] < memory[first] - goal[first] else first

    def _exchange(self, number: int, other: int, temperature: float) -> float:
        """Let two units exchange their nodes if that is accepted; return by how much the cost has changed."""
        source, target = self.place[number], self.place[other]
        if source == target:
            return 0.0
        change = self.delta(number, target)
        self.put(number, target)
        change += self.delta(other, source)
        if change <= 0 or self.random.random() < math.exp(-change / temperature):
            self.put(other, source)
            return change
        self.put(number, source)
        return 0.0


def seconds_for(problem: Problem) -> float:
    """Return how long to search: 0.4 s for 60 guests on 5 nodes, 2.7 s for 300 on 16, 9 s for 750 on 40."""
    size = len(problem.names) * sum(len(unit.allowed) > 1 for unit in problem.units)
    return float(min(9.0, max(0.2, 2.7 * (size / 4800) ** 0.66)))


@dataclass(frozen=True)
class Placement:
    """The node of each guest, and how it was found."""

    where: dict[int, str]
    text: str = ""


def solve(
    problem: Problem,
    *,
    seconds: float | None = None,
    tries: int = 10**9,
    seed: int = 1,
    improve: Improve | None = None,
) -> Placement:
    """Return the node of each guest; it is where it was if nothing better was found.

    improve  another solver, which begins with what was found; its result counts only if it is at least as good
    """
    began = time.monotonic()
    until = began + (seconds_for(problem) if seconds is None else seconds)
    search = Search(problem, seed)
    stay = search.cost()
    search.greedy(began + (until - began) * 0.4)
    search.home()
    search.anneal(until - 0.02, tries)
    search.home()
    text = ""
    if improve is not None and search.free and search.cost() > NOTHING:
        place, text = improve(search)
        if place:
            text += "" if search.take(place) else "; the annealing found a better placement"
    place = search.place if search.cost() < stay - NOTHING else problem.start
    at = {guest.vmid: guest.node for guest in problem.landscape.guests}
    for unit, node in zip(problem.units, place, strict=True):
        at |= {guest.vmid: problem.names[node] for guest in unit.members}
    return Placement(at, text)
