"""Read nodes, storages and bridges."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from agentd import Call, Denied, NotFound, Repeat, Tier, one_line, tool
from agentd_proxmox import area, blind_token
from agentd_proxmox.model import convert, fields, filter_values, pages

if TYPE_CHECKING:
    Entry = dict[str, Any]


CONTENTS: Final = ("images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import")
"""Kinds of content that a storage can hold, as the schema of Proxmox lists them."""


class NodeLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node: cpu in percent of all its CPUs, memory in bytes, uptime in seconds.

    An offline node has no figures.
    """

    node: str
    status: str = ""
    cpus: int = 0
    cpu: float = 0.0
    memory: int = 0
    memory_used: int = 0
    uptime: int = 0


class NodePage(msgspec.Struct, frozen=True):
    """The number of nodes, and one page of them.

    quorate  null if the token may not read it (Sys.Audit)
    """

    total: int
    by_status: dict[str, int]
    quorate: bool | None = None
    nodes: list[NodeLine] = []
    next: str = ""


class NodeDetails(msgspec.Struct, frozen=True):
    """A node in detail; sizes in bytes."""

    node: str
    status: str
    version: str = ""
    kernel: str = ""
    cpu_model: str = ""
    cpus: int = 0
    cpu: float = 0.0
    load: list[float] = []
    memory: int = 0
    memory_used: int = 0
    swap: int = 0
    swap_used: int = 0
    root: int = 0
    root_used: int = 0
    uptime: int = 0


class ListStorages(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """Filters for the storages, and the page to return.

    content  images, rootdir, iso, vztmpl, backup or snippets
    """

    node: fields.Node | None = None
    content: fields.Word | None = None


class StorageLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A storage as one node sees it; sizes in bytes.

    A value that is false, 0 or empty is omitted.
    """

    storage: str
    node: str
    type: str = ""
    status: str = ""
    shared: bool = False
    content: list[str] = []
    total: int = 0
    used: int = 0
    free: int = 0


class StoragePage(msgspec.Struct, frozen=True):
    """The number of storages, by status and by name, and one page of them.

    A shared storage is counted once for each node.
    """

    total: int
    by_status: dict[str, int]
    by_storage: dict[str, int]
    storages: list[StorageLine] = []
    next: str = ""


class ListBridges(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """The node, and the page to return; `cursor` is `next` of the previous page."""

    node: fields.Node


class BridgeLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bridge of a node; default values are omitted."""

    bridge: str
    active: bool = True
    type: str = "bridge"
    cidr: str = ""
    ports: str = ""
    vlan_aware: bool = False
    comment: str = ""


class BridgePage(msgspec.Struct, frozen=True):
    """The number of bridges that a guest's network can use, and one page of them."""

    node: str
    total: int
    bridges: list[BridgeLine] = []
    next: str = ""


class Cluster(area.Area):
    """The tools that read the cluster; none of them changes anything."""

    shown_to: ClassVar[area.ShownTo] = {
        "list_nodes": blind_token.NODES,
        "list_storages": blind_token.STORES,
        "list_bridges": blind_token.NETS,
    }
    needs: ClassVar[area.Needs] = {
        "list_nodes": area.with_path("/nodes/{node}", "Sys.Audit"),
        "list_storages": area.with_path("/storage/{storage}", "Datastore.Audit"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_nodes(self, call: Call, p: pages.Paged) -> NodePage:
        """List the nodes with their load, and whether the cluster is quorate."""
        entries, quorate = await asyncio.gather(self.proxmox.get("/nodes"), self._quorate())
        lines = list(map(_node_line, entries))
        tally = NodePage(len(lines), dict(Counter(line.status for line in lines)), quorate)
        return pages.fill(tally, "nodes", lines, lambda line: line.node, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_node(self, call: Call, p: fields.NodeSelector) -> NodeDetails:
        """Show one node in detail."""
        known = {entry["node"]: entry for entry in await self.proxmox.get("/nodes")}
        if p.node not in known:
            raise NotFound(f"there is no node {p.node!r}; there are {', '.join(sorted(known))}")
        state = one_line(known[p.node].get("status") or "unknown")
        if state == "offline":  # a request to it would take up to 30 s, with the same result
            return NodeDetails(p.node, state)
        return _details(p.node, state, await self.proxmox.get(f"/nodes/{p.node}/status"))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="storage_management")
    async def list_storages(self, call: Call, p: ListStorages) -> StoragePage:
        """List the storages with their free space, and what they can hold.

        The data comes from the cluster's list, which is up to 10 s old: a query to the storages hangs if one of them
        hangs.
        """
        filter_values.check_exists("node", p.node, await self.inventory.node_names() if p.node else ())
        lines = [_storage_line(entry) for entry in await self.inventory.resources("storage")]
        filter_values.check_exists(
            "content", p.content, {*CONTENTS, *(kind for line in lines for kind in line.content)}
        )
        lines = [line for line in lines if p.node in {None, line.node} and (not p.content or p.content in line.content)]
        by_status, by_storage = (dict(Counter(getattr(line, of) for line in lines)) for of in ("status", "storage"))
        tally = StoragePage(len(lines), by_status, by_storage)
        return pages.fill(tally, "storages", lines, lambda line: f"{line.node}/{line.storage}", p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_bridges(self, call: Call, p: ListBridges) -> BridgePage:
        """List the bridges of a node that a guest's network can use."""
        entries = await self.proxmox.get(f"/nodes/{p.node}/network", type="any_bridge") or []
        lines = list(map(_bridge_line, entries))
        return pages.fill(BridgePage(p.node, len(lines)), "bridges", lines, lambda bridge: bridge.bridge, p)

    async def _quorate(self) -> bool | None:
        try:
            entries = await self.proxmox.get("/cluster/status")
        except Denied:
            return None  # the list of nodes is useful without it; null means that it is not known
        return all(entry.get("quorate") for entry in entries if entry.get("type") == "cluster")


def _node_line(entry: Entry) -> NodeLine:
    return convert.entry(
        NodeLine,
        entry,
        {"cpus": "maxcpu", "memory": "maxmem", "memory_used": "mem"},
        node=one_line(entry["node"]),
        status=convert.text(entry.get("status"), "unknown"),
        cpu=_percent(entry.get("cpu")),
    )


def _details(node: str, state: str, data: Entry) -> NodeDetails:
    cpu, memory, swap, root = (data.get(key) or {} for key in ("cpuinfo", "memory", "swap", "rootfs"))
    return NodeDetails(
        node=node,
        status=state,
        version=one_line(data.get("pveversion") or ""),
        kernel=one_line(data.get("kversion") or ""),
        cpu_model=one_line(cpu.get("model") or ""),
        cpus=int(cpu.get("cpus") or 0),
        cpu=_percent(data.get("cpu")),
        load=[float(load) for load in data.get("loadavg") or []],
        memory=int(memory.get("total") or 0),
        memory_used=int(memory.get("used") or 0),
        swap=int(swap.get("total") or 0),
        swap_used=int(swap.get("used") or 0),
        root=int(root.get("total") or 0),
        root_used=int(root.get("used") or 0),
        uptime=int(data.get("uptime") or 0),
    )


def _storage_line(entry: Entry) -> StorageLine:
    total, used = int(entry.get("maxdisk") or 0), int(entry.get("disk") or 0)
    return convert.entry(
        StorageLine,
        entry,
        {"type": "plugintype"},
        storage=one_line(entry["storage"]),
        node=one_line(entry["node"]),
        status=convert.text(entry.get("status"), "unknown"),
        content=convert.names(entry.get("content")),
        total=total,
        used=used,
        free=max(0, total - used),
    )


def _bridge_line(entry: Entry) -> BridgeLine:
    renamed = {"bridge": "iface", "ports": "bridge_ports", "vlan_aware": "bridge_vlan_aware", "comment": "comments"}
    return convert.entry(BridgeLine, entry, renamed, active=convert.flag(entry.get("active")))


def _percent(share: float | None) -> float:
    return round(float(share or 0) * 100, 1)
