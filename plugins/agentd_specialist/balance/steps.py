"""The order of migrations, so that no node is overfilled on the way; pure.

A guest counts on both nodes while it moves.  A node receives one guest at a time, and at most `Limits.parallel`
migrations run in the cluster.  A guest that must leave before there is room for it is parked on a third node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from agentd_specialist.balance.model import Guest, Landscape, Rule


class Step(NamedTuple):
    """A migration: which guest, and to which node."""

    vmid: int
    target: str
    parked: bool = False


@dataclass(frozen=True)
class Order:
    """The steps in the order in which they may begin, and why the guests in `left` stay."""

    steps: tuple[Step, ...]
    left: Mapping[int, str]


class Ledger:
    """What each node holds and is about to receive."""

    def __init__(self, landscape: Landscape, in_flight: Iterable[Step] = ()) -> None:
        """Count a guest that moves on both nodes."""
        self.landscape = landscape
        self.guests = {guest.vmid: guest for guest in landscape.guests}
        self.at = {guest.vmid: guest.node for guest in landscape.guests}
        self.used = {node.name: node.base_memory for node in landscape.nodes}
        self.cores = {node.name: node.base_cpu for node in landscape.nodes}
        self.rules_of: dict[int, list[Rule]] = {}
        for rule in landscape.rules:
            for vmid in rule.guests:
                self.rules_of.setdefault(vmid, []).append(rule)
        for guest in landscape.guests:
            self._count(guest, guest.node, 1)
        self.moving: dict[int, str] = {}
        for step in in_flight:
            self.start(step)

    def _count(self, guest: Guest, node: str, sign: int) -> None:
        if node in self.used:
            self.used[node] += sign * guest.load
            self.cores[node] += sign * guest.cpu

    def start(self, step: Step) -> None:
        """Count the guest on its target too."""
        self.moving[step.vmid] = step.target
        self._count(self.guests[step.vmid], step.target, 1)

    def finish(self, vmid: int) -> None:
        """Count the guest on its target alone."""
        self._count(self.guests[vmid], self.at[vmid], -1)
        self.at[vmid] = self.moving.pop(vmid)

    def objection(self, step: Step, *, to: Mapping[int, str] | None = None) -> str:
        """Return why the step cannot begin now, or "".

        to  where other guests are going: a rule that their moves will keep is no objection
        """
        guest, node = self.guests.get(step.vmid), self.landscape.node(step.target)
        if guest is None or node is None or node.closed:
            return f"{step.target} takes no guests" + (f": it {node.closed}" if node else "")
        if guest.fixed:
            return guest.fixed
        if step.target in self.moving.values():
            return f"{step.target} receives another guest"
        limits = self.landscape.limits
        needed = max(guest.load, guest.memory) if step.target != guest.node else 0
        if self.used[step.target] + needed > node.memory - limits.reserve:
            return f"{step.target} has no room for its {guest.memory / 2**30:.1f} GiB of memory"
        if node.cpus and self.cores[step.target] + guest.cpu > max(
            node.cpus * limits.cpu, self.cores.get(guest.node, 0.0)
        ):
            return f"the CPUs of {step.target} are in use"
        return self._broken(step, guest, to or {})

    def _broken(self, step: Step, guest: Guest, to: Mapping[int, str]) -> str:
        """Return the rule that the step would break, or ""."""
        for rule in self.rules_of.get(step.vmid, ()):
            if rule.kind == "on" and step.target not in rule.nodes and self.at[guest.vmid] in rule.nodes:
                return rule.text
            others = [vmid for vmid in rule.guests if vmid != step.vmid and vmid in self.at]
            there = [vmid for vmid in others if step.target in (self.at[vmid], self.moving.get(vmid))]
            if rule.kind == "apart" and there:
                return rule.text
            if rule.kind == "together" and others and not step.parked:
                stay = [vmid for vmid in others if to.get(vmid, self.at[vmid]) != step.target]
                if stay and all(self.at[vmid] == self.at[guest.vmid] for vmid in stay):
                    return rule.text
        return ""


def next_steps(ledger: Ledger, wanted: Sequence[Step]) -> list[Step]:
    """Return the steps of `wanted` that can begin now; the ledger counts them from now on."""
    begun: list[Step] = []
    to = {step.vmid: step.target for step in wanted}
    seen: set[int] = set(ledger.moving)
    for step in wanted:
        if len(ledger.moving) >= ledger.landscape.limits.parallel:
            break
        if step.vmid in seen:
            continue
        seen.add(step.vmid)  # a later step of the same guest waits for this one
        if not ledger.objection(step, to=to):
            ledger.start(step)
            begun.append(step)
    return begun


def order(landscape: Landscape, where: Mapping[int, str]) -> Order:
    """Return the steps that bring the guests to the nodes of `where`."""
    ledger = Ledger(landscape)
    pending = _by_pressure(landscape, where)
    steps: list[Step] = []
    parked: set[int] = set()
    left: dict[int, str] = {}
    while pending:
        begun = next_steps(ledger, pending)
        if not begun and (way := _parking(ledger, pending, parked)) is not None:
            ledger.start(way)
            parked.add(way.vmid)
            begun = [way]
        if not begun:
            left = {step.vmid: ledger.objection(step) or "no order of moves has room for it" for step in pending}
            break
        steps += begun
        for step in begun:
            ledger.finish(step.vmid)
        pending = [step for step in pending if ledger.at[step.vmid] != step.target]
    return Order(tuple(steps), left)


def _by_pressure(landscape: Landscape, where: Mapping[int, str]) -> list[Step]:
    """Return the moves, those from the fullest nodes and those of large guests first."""
    ledger = Ledger(landscape)
    share = {node.name: ledger.used[node.name] / (node.memory or 1) for node in landscape.nodes}
    moves = [guest for guest in landscape.guests if where.get(guest.vmid, guest.node) != guest.node]
    moves.sort(key=lambda guest: (-round(share.get(guest.node, 0.0), 2), -guest.memory, guest.vmid))
    return [Step(guest.vmid, where[guest.vmid]) for guest in moves]


def _parking(ledger: Ledger, pending: Sequence[Step], parked: Collection[int]) -> Step | None:
    """Return a step that frees room which another pending move needs, or None."""
    for step in sorted(pending, key=lambda step: ledger.guests[step.vmid].memory):
        if step.vmid in parked:
            continue
        source = ledger.at[step.vmid]
        if not any(other.target == source for other in pending):
            continue
        for node in sorted(ledger.landscape.nodes, key=lambda node: ledger.used[node.name] / (node.memory or 1)):
            way = Step(step.vmid, node.name, parked=True)
            if node.name not in (source, step.target) and not ledger.objection(way):
                return way
    return None


def without(landscape: Landscape, reasons: Mapping[int, str]) -> Landscape:
    """Return the landscape with these guests fixed."""
    guests = tuple(
        replace(guest, fixed=reasons[guest.vmid]) if guest.vmid in reasons else guest for guest in landscape.guests
    )
    return replace(landscape, guests=guests)


def moved(landscape: Landscape, steps: Iterable[Step]) -> dict[int, str]:
    """Return the nodes of the guests after the steps."""
    where = {guest.vmid: guest.node for guest in landscape.guests}
    return where | {step.vmid: step.target for step in steps}
