"""Find the best node for a VM, and the reasons against the other nodes.  Pure.

A clone keeps the network of its template, and a linked clone also its storage.  A template on storage that is not
shared can be cloned only on its own node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentd_specialist.model import GIB, MIB, Cluster, NodeView, Rules, StorageView, TemplateView, names_of

if TYPE_CHECKING:
    from agentd import VmParameters


@dataclass(frozen=True)
class Requirements:
    """What the VM needs: cores, memory in MiB, disks in GiB."""

    cores: int
    memory: int
    disk: int


@dataclass(frozen=True)
class Candidate:
    """A node that can take the VM.

    `storage` and `bridge` are "" if the template determines them; `free` is the free memory in MiB.
    """

    node: NodeView
    storage: str
    bridge: str
    free: int


@dataclass(frozen=True)
class Objection:
    """A reason against a node."""

    text: str


class Placement:
    """Checks the needs of one request against the nodes of one cluster."""

    def __init__(self, request: VmParameters, cluster: Cluster, rules: Rules, need: Requirements) -> None:
        """Use the request `request` and the current `cluster`."""
        self.request = request
        self.cluster = cluster
        self.rules = rules
        self.need = need
        self.template = cluster.template
        self.linked = self.template is not None and not request.full

    def best(self) -> Candidate | list[str]:
        """Return the offer of the best node, or all problems if no node fits."""
        nodes, problems = self._nodes()
        problems += self._known_storage()
        if problems:
            return problems
        results = {node.node: self._offer_of(node) for node in nodes}
        offers = [found for found in results.values() if isinstance(found, Candidate)]
        if offers:
            return min(offers, key=self._rank)
        against = {name: found for name, found in results.items() if isinstance(found, list)}
        if len(against) == 1:
            return [line for lines in against.values() for line in lines]
        reasons = "; ".join(f"{name}: {', '.join(lines)}" for name, lines in against.items())
        return [f"node: none of {len(against)} can take it: {reasons}"]

    def shortlist(self) -> list[str]:
        """Return the nodes whose bridges should be queried, best first.

        These are the nodes that could take the VM if their bridges fit.  A node that the request names is always
        included, so that the error can list all problems of that node at once.
        """
        if self.request.node is not None:
            return [node.node for node in self._nodes()[0] if node.status == "online"]
        results = [self._offer_of(node, ask_bridges=False) for node in self._nodes()[0]]
        return [
            offer.node.node
            for offer in sorted((found for found in results if isinstance(found, Candidate)), key=self._rank)
        ]

    def offers(self) -> dict[str, Candidate | list[str]]:
        """Return the offer of each node, or all reasons against it."""
        nodes, problems = self._nodes()
        problems += self._known_storage()
        return {node.node: problems or self._offer_of(node) for node in nodes}

    def _nodes(self) -> tuple[list[NodeView], list[str]]:
        nodes = self.cluster.nodes
        if not nodes:
            return [], ["node: no node is visible; does the token have rights?"]
        if self.request.node is None:
            return nodes, []
        found = [node for node in nodes if node.node == self.request.node]
        there_are = names_of(node.node for node in nodes)
        return found, [] if found else [f"node: there is no node {self.request.node!r}; there are {there_are}"]

    def _known_storage(self) -> list[str]:
        names = sorted({storage.storage for storage in self.cluster.storages if "images" in storage.content})
        wanted = self.request.storage
        if wanted is None or wanted in names:
            return []
        exists = any(storage.storage == wanted for storage in self.cluster.storages)
        what = f"{wanted!r} does not hold disks (content images)" if exists else f"there is no storage {wanted!r}"
        return [f"storage: {what}; there are {names_of(names)}"]

    def _offer_of(self, node: NodeView, *, ask_bridges: bool = True) -> Candidate | list[str]:
        """Return the offer of `node`, or all reasons against it.

        Bridges that were not queried are a reason only if there is no other one.
        """
        if node.status != "online":
            return [f"node: {node.node} is {node.status}; online are {self._online()}"]
        against = [*self._memory(node), *self._clone_obstacles(node)]
        against += [f"rules: {self.cluster.against[node.node]}"] if node.node in self.cluster.against else []
        storage = self._storage(node)
        against += [storage.text] if isinstance(storage, Objection) else []
        unasked = node.node not in (self.cluster.bridges or {})
        bridge = self._bridge(node) if ask_bridges and not (against and unasked) else ""
        against += [bridge.text] if isinstance(bridge, Objection) else []
        if against or isinstance(storage, Objection) or isinstance(bridge, Objection):
            return against
        return Candidate(node, storage, bridge, self._free_memory(node))

    def _online(self) -> str:
        return names_of(node.node for node in self.cluster.nodes if node.status == "online")

    def _free_memory(self, node: NodeView) -> int:
        """Return the MiB of memory that a new VM may use on `node`."""
        return (node.memory - node.memory_used) // MIB - self.rules.memory_reserve

    def _memory(self, node: NodeView) -> list[str]:
        against = []
        free = self._free_memory(node)
        if self.need.memory > free:
            against.append(
                f"memory: {self.need.memory} MiB do not fit on {node.node}: {max(free, 0)} MiB are free beside a "
                f"reserve of {self.rules.memory_reserve} MiB"
            )
        if node.cpus and self.need.cores > node.cpus:
            against.append(f"cores: {self.need.cores} are more than the {node.cpus} of {node.node}")
        return against

    def _clone_obstacles(self, node: NodeView) -> list[str]:
        """Return why the template cannot be cloned to `node`; [] if it can."""
        template = self.template
        if template is None:
            return []
        home = next((other for other in self.cluster.nodes if other.node == template.node), None)
        if home is None or home.status != "online":
            return [f"template: {template.vmid} is on {template.node}, which is not online"]
        if node.node == template.node:
            return []
        shared = {storage.storage for storage in self.cluster.storages if storage.shared}
        used = {*template.storages, *template.all_storages}
        if used and used <= shared:
            wanted = self.request.storage
            if wanted is None or self.linked or wanted in shared:
                return []
            text = f"storage: {wanted} is not shared, so a clone of {template.vmid} on it can only be made on"
            return [f"{text} {template.node}, not on {node.node}"]
        where = f"{names_of(sorted(used - shared))} is not shared" if used else "on what storage is not known"
        text = f"template: {template.vmid} is on {template.node} ({where}): it can only be cloned there"
        return [f"{text}, not to {node.node}"]

    def _bridge(self, node: NodeView) -> str | Objection:
        """Return the bridge for a new VM ("" for a clone), or the reason against the node."""
        there = (self.cluster.bridges or {}).get(node.node)
        if there is None:
            return Objection(f"bridge: the bridges of {node.node} are not known")
        wanted = self.template.bridges if self.template is not None else {self.request.bridge} - {None}
        missing = sorted(name for name in wanted if name and name not in there)
        if missing:
            return Objection(f"bridge: {node.node} has no {names_of(missing)}; it has {names_of(there) or 'none'}")
        if self.template is not None:
            return ""
        if not there:
            return Objection(f"bridge: {node.node} has none")
        return self.request.bridge or ("vmbr0" if "vmbr0" in there else min(there))

    def _storage(self, node: NodeView) -> str | Objection:
        """Return the storage for the disks, or the reason why there is none.

        It is "" if the template determines it.
        """
        here = {storage.storage: storage for storage in self.cluster.storages if storage.node == node.node}
        template = self.template
        if template is not None and (self.linked or self.request.storage is None):
            return self._storage_of(template, node, here)
        if self.request.storage is not None:
            found = here.get(self.request.storage)
            against = self._unfit_reason(found, self.request.storage, node)
            return against or self.request.storage
        fit = [storage for storage in here.values() if not self._unfit_reason(storage, storage.storage, node)]
        if not fit:
            usable = names_of(
                f"{storage.storage} ({storage.free // GIB} GiB free)" for storage in here.values() if storage.usable
            )
            return Objection(
                f"storage: none of {node.node} has room for {self._needed()} GiB; it has {usable or 'none'}"
            )
        return max(fit, key=lambda storage: (storage.free, storage.storage)).storage

    def _storage_of(self, template: TemplateView, node: NodeView, here: dict[str, StorageView]) -> str | Objection:
        for name in template.storages:
            against = self._unfit_reason(here.get(name), name, node)
            if against is not None:
                return against
        return ""

    def _unfit_reason(self, storage: StorageView | None, name: str, node: NodeView) -> Objection | None:
        if storage is None:
            there_are = names_of(sorted({entry.node for entry in self.cluster.storages if entry.storage == name}))
            return Objection(f"storage: {name} is not on {node.node}; it is on {there_are or 'no node'}")
        if not storage.usable:
            state = "not active" if storage.status != "available" else "not for disks (content images)"
            return Objection(f"storage: {name} on {node.node} is {state}")
        free = storage.free // GIB - self.rules.storage_reserve
        if self._needed() > free:
            return Objection(
                f"storage: {name} on {node.node} has {max(free, 0)} GiB free beside a reserve of "
                f"{self.rules.storage_reserve} GiB; {self._needed()} GiB are needed"
            )
        return None

    def _needed(self) -> int:
        """Return the GiB that the disks need; a linked clone needs none at first."""
        if self.linked:
            return 0
        if self.template is None:
            return self.need.disk
        main = self.template.main_disk
        sizes = {**self.template.disks, **({main: max(self.need.disk, self.template.disks[main])} if main else {})}
        return -int(-sum(sizes.values()) // 1)

    def _rank(self, offer: Candidate) -> tuple[int, int, str]:
        """Sort key of offers: disadvantages, then most free memory, then by name."""
        return len(self.cluster.cautions.get(offer.node.node, ())), -offer.free, offer.node.node
