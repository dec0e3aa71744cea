"""Find the node for a VM: which could take it, and what stands against the others.  Pure.

A clone keeps its template's network, and a linked one its template's storage; a template on storage that is not
shared can only be cloned on the node where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentd_specialist.model import GIB, MIB, Cluster, NodeView, Rules, StorageView, TemplateView, VmWish, names_of


@dataclass(frozen=True)
class Need:
    """What the VM takes: cores, memory in MiB, disks in GiB."""

    cores: int
    memory: int
    disk: int


@dataclass(frozen=True)
class Offer:
    """A node that can take the VM; `storage` and `bridge` are "" where the template decides."""

    node: NodeView
    storage: str
    bridge: str
    free: int


@dataclass(frozen=True)
class Against:
    """What stands against a node."""

    text: str


class Placement:
    """Holds the needs of one wish against the nodes of one cluster."""

    def __init__(self, wish: VmWish, cluster: Cluster, rules: Rules, need: Need) -> None:
        """Keep what is wished and what there is."""
        self.wish = wish
        self.cluster = cluster
        self.rules = rules
        self.need = need
        self.template = cluster.template
        self.linked = self.template is not None and not wish.full

    def best(self) -> Offer | list[str]:
        """Return what the best node offers, or all that stands against it."""
        nodes, problems = self._nodes()
        problems += self._known_storage()
        if problems:
            return problems
        judged = {each.node: self._judge(each) for each in nodes}
        offers = [each for each in judged.values() if isinstance(each, Offer)]
        if offers:
            return min(offers, key=_rank)
        against = {name: each for name, each in judged.items() if isinstance(each, list)}
        if len(against) == 1:
            return [line for lines in against.values() for line in lines]
        told = "; ".join(f"{name}: {', '.join(lines)}" for name, lines in against.items())
        return [f"node: none of {len(against)} can take it: {told}"]

    def shortlist(self) -> list[str]:
        """Return the nodes whose bridges are worth asking for: those that could take the VM otherwise, the best first.

        A node that the wish names is asked in any case, so that all that stands against it is told at once.
        """
        if self.wish.node is not None:
            return [each.node for each in self._nodes()[0] if each.status == "online"]
        judged = [self._judge(each, ask_bridges=False) for each in self._nodes()[0]]
        return [each.node.node for each in sorted((each for each in judged if isinstance(each, Offer)), key=_rank)]

    def _nodes(self) -> tuple[list[NodeView], list[str]]:
        nodes = self.cluster.nodes
        if not nodes:
            return [], ["node: no node is to be seen; does the token have rights?"]
        if self.wish.node is None:
            return nodes, []
        found = [each for each in nodes if each.node == self.wish.node]
        there_are = names_of(each.node for each in nodes)
        return found, [] if found else [f"node: there is no node {self.wish.node!r}; there are {there_are}"]

    def _known_storage(self) -> list[str]:
        names = sorted({each.storage for each in self.cluster.storages if "images" in each.content})
        wanted = self.wish.storage
        if wanted is None or wanted in names:
            return []
        exists = any(each.storage == wanted for each in self.cluster.storages)
        what = f"{wanted!r} does not hold disks (content images)" if exists else f"there is no storage {wanted!r}"
        return [f"storage: {what}; there are {names_of(names)}"]

    def _judge(self, node: NodeView, *, ask_bridges: bool = True) -> Offer | list[str]:
        """Return what `node` offers, or all that stands against it; bridges that nobody asked for count last."""
        if node.status != "online":
            return [f"node: {node.node} is {node.status}; online are {self._online()}"]
        against = [*self._memory(node), *self._reach(node)]
        storage = self._storage(node)
        against += [storage.text] if isinstance(storage, Against) else []
        unasked = node.node not in (self.cluster.bridges or {})
        bridge = self._bridge(node) if ask_bridges and not (against and unasked) else ""
        against += [bridge.text] if isinstance(bridge, Against) else []
        if against or isinstance(storage, Against) or isinstance(bridge, Against):
            return against
        return Offer(node, storage, bridge, self._free_memory(node))

    def _online(self) -> str:
        return names_of(each.node for each in self.cluster.nodes if each.status == "online")

    def _free_memory(self, node: NodeView) -> int:
        """Return the MiB that a new VM may use on `node`."""
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

    def _reach(self, node: NodeView) -> list[str]:
        """Tell what keeps the template from being cloned to `node`."""
        template = self.template
        if template is None:
            return []
        home = next((each for each in self.cluster.nodes if each.node == template.node), None)
        if home is None or home.status != "online":
            return [f"template: {template.vmid} lies on {template.node}, which is not online"]
        if node.node == template.node:
            return []
        shared = {each.storage for each in self.cluster.storages if each.shared}
        used = {*template.storages, *template.all_storages}
        if used and used <= shared:
            wanted = self.wish.storage
            if wanted is None or self.linked or wanted in shared:
                return []
            text = f"storage: {wanted} is not shared, so a clone of {template.vmid} on it can only be made on"
            return [f"{text} {template.node}, not on {node.node}"]
        where = f"{names_of(sorted(used - shared))} is not shared" if used else "on what storage is not known"
        text = f"template: {template.vmid} lies on {template.node} ({where}): it can only be cloned there"
        return [f"{text}, not to {node.node}"]

    def _bridge(self, node: NodeView) -> str | Against:
        """Return the bridge for a new VM ("" for a clone), or what is missing."""
        there = (self.cluster.bridges or {}).get(node.node)
        if there is None:
            return Against(f"bridge: the bridges of {node.node} are not known")
        wanted = self.template.bridges if self.template is not None else {self.wish.bridge} - {None}
        missing = sorted(each for each in wanted if each and each not in there)
        if missing:
            return Against(f"bridge: {node.node} has no {names_of(missing)}; it has {names_of(there) or 'none'}")
        if self.template is not None:
            return ""
        if not there:
            return Against(f"bridge: {node.node} has none")
        return self.wish.bridge or ("vmbr0" if "vmbr0" in there else min(there))

    def _storage(self, node: NodeView) -> str | Against:
        """Return the storage for the disks ("" where the template decides), or why none will do."""
        here = {each.storage: each for each in self.cluster.storages if each.node == node.node}
        template = self.template
        if template is not None and (self.linked or self.wish.storage is None):
            return self._storage_of(template, node, here)
        if self.wish.storage is not None:
            found = here.get(self.wish.storage)
            against = self._unfit(found, self.wish.storage, node)
            return against or self.wish.storage
        fit = [each for each in here.values() if not self._unfit(each, each.storage, node)]
        if not fit:
            usable = names_of(f"{each.storage} ({each.free // GIB} GiB free)" for each in here.values() if each.usable)
            return Against(f"storage: none of {node.node} has room for {self._needed()} GiB; it has {usable or 'none'}")
        return max(fit, key=lambda each: (each.free, each.storage)).storage

    def _storage_of(self, template: TemplateView, node: NodeView, here: dict[str, StorageView]) -> str | Against:
        for each in template.storages:
            against = self._unfit(here.get(each), each, node)
            if against is not None:
                return against
        return ""

    def _unfit(self, storage: StorageView | None, name: str, node: NodeView) -> Against | None:
        if storage is None:
            there_are = names_of(sorted({each.node for each in self.cluster.storages if each.storage == name}))
            return Against(f"storage: {name} is not on {node.node}; it is on {there_are or 'no node'}")
        if not storage.usable:
            state = "not active" if storage.status != "available" else "not for disks (content images)"
            return Against(f"storage: {name} on {node.node} is {state}")
        free = storage.free // GIB - self.rules.storage_reserve
        if self._needed() > free:
            return Against(
                f"storage: {name} on {node.node} has {max(free, 0)} GiB free beside a reserve of "
                f"{self.rules.storage_reserve} GiB; {self._needed()} GiB are needed"
            )
        return None

    def _needed(self) -> int:
        """Return the GiB that the disks take; a linked clone takes none to begin with."""
        if self.linked:
            return 0
        if self.template is None:
            return self.need.disk
        main = self.template.main_disk
        sizes = {**self.template.disks, **({main: max(self.need.disk, self.template.disks[main])} if main else {})}
        return -int(-sum(sizes.values()) // 1)


def _rank(offer: Offer) -> tuple[int, str]:
    """Order offers: most free memory first, names where it is equal."""
    return -offer.free, offer.node.node
