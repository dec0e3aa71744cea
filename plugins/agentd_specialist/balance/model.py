"""The values of a balanced cluster: nodes, guests, rules, moves and plans.

This file contains no logic that decides.  Memory is in bytes, CPU in cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

GIB: Final = 2**30
Mode = Literal["rebalance", "drain", "fill", "pack"]


def title_of(kind: str, vmid: int, name: str) -> str:
    """Return the name of a guest in sentences; one without a VMID does not exist yet."""
    if not vmid:
        return "the new guest"
    return f"{'VM' if kind == 'qemu' else 'container'} {vmid}" + (f" '{name}'" if name else "")


@dataclass(frozen=True, slots=True)
class Node:
    """A node and what runs on it besides guests.

    memory, cpus              what it has
    base_memory, base_cpu     what Proxmox VE and the kernel use
    closed                    why it takes no guests ("": it does), such as `is offline`
    pressure                  share of the time in which tasks waited for memory or CPU, 0 to 1; 0 if not known
    """

    name: str
    memory: int
    cpus: float
    base_memory: int = 0
    base_cpu: float = 0.0
    closed: str = ""
    pressure: float = 0.0


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that uses memory: a running one.

    memory    what it is configured with: what a node must have free to take it
    load      what it uses, the 95th percentile of the last half hour; cpu the same in cores
    disk      bytes of its disks that are copied when it moves
    fixed     why it is not moved ("": it may be)
    came_from nodes that it has left lately: it is not sent back there to balance the cluster
    """

    vmid: int
    name: str
    node: str
    memory: int
    load: int = 0
    cpu: float = 0.0
    kind: str = "qemu"
    disk: int = 0
    ha: bool = False
    fixed: str = ""
    came_from: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """Its name in sentences."""
        return title_of(self.kind, self.vmid, self.name)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule on guests.

    kind    apart: no two of them on one node; together: all on one node; on: only on `nodes`
    text    the rule in a sentence, such as `the HA rule web keeps …`
    """

    kind: Literal["apart", "together", "on"]
    text: str
    guests: frozenset[int]
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Limits:
    """What a plan keeps to; settings.py gives the reasons.

    reserve   bytes of memory that stay free on a node
    cpu       share of a node's cores that guests may use
    band      how far the load of a node may be from the mean, as a share of the memory of the node
    ceiling   share of a node's memory that may be in use after packing
    parallel  migrations at once in the cluster; a node receives one at a time
    """

    reserve: int = GIB
    cpu: float = 0.9
    band: float = 0.05
    ceiling: float = 0.8
    parallel: int = 2


@dataclass(frozen=True)
class Landscape:
    """The cluster at one time."""

    nodes: tuple[Node, ...]
    guests: tuple[Guest, ...]
    rules: tuple[Rule, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def node(self, name: str) -> Node | None:
        """Return the node of this name, or None."""
        return next((node for node in self.nodes if node.name == name), None)

    def guest(self, vmid: int) -> Guest | None:
        """Return the guest of this VMID, or None."""
        return next((guest for guest in self.guests if guest.vmid == vmid), None)


class Move(msgspec.Struct, frozen=True, omit_defaults=True):
    """A migration of a plan, in one sentence and in values; gib of memory and disks that are sent.

    parked  it is on its way to another node, and waits there for room
    """

    vmid: int
    name: str
    source: str
    target: str
    gib: float
    reason: str = ""
    kind: str = "qemu"
    parked: bool = False

    @property
    def title(self) -> str:
        """The name of its guest in sentences."""
        return title_of(self.kind, self.vmid, self.name)


class Measure(msgspec.Struct, frozen=True, omit_defaults=True):
    """How well guests are distributed.

    broken    pairs of guests that a rule keeps apart or together, and guests on nodes where they may not be
    over      memory and cores beyond the limits, in nodes
    gap       fullest minus emptiest node, in percent of memory
    fullest   the fullest node, in percent of its memory
    excess    what is outside the band around the mean, in percent, over all nodes
    deviation standard deviation over the nodes, in percent
    index     Proxmox VE's own measure of imbalance, 0 to 1, for comparison
    """

    broken: int
    over: float
    gap: float
    fullest: float
    excess: float
    deviation: float
    index: float

    def rank(self) -> tuple[int, float, float]:
        """Return what is compared first to last: less is better."""
        return self.broken, round(self.over, 6), round(self.excess, 4)


class NodeShare(msgspec.Struct, frozen=True):
    """Memory of a node in use, in percent, and its running guests, before and after a plan."""

    name: str
    before: float
    after: float
    guests_before: int
    guests_after: int
