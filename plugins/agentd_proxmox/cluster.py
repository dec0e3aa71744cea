"""Look at nodes, storages, networks and tasks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from agentd.answers import Upid, one_line
from agentd.errors import Denied, NotFound
from agentd.messages import Tier
from agentd.tools import Call, Repeat, tool
from agentd_proxmox import fields

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory

    Entry = dict[str, Any]


class NodeLine(msgspec.Struct, frozen=True):
    """A node; cpu is percent of all its CPUs, memory in bytes, uptime in seconds.  An offline one has no figures."""

    node: str
    status: str
    cpus: int = 0
    cpu: float = 0.0
    memory: int = 0
    memory_used: int = 0
    uptime: int = 0


class NodeList(msgspec.Struct, frozen=True):
    """The nodes; `quorate` is null where the token may not see it (Sys.Audit on /)."""

    nodes: list[NodeLine]
    quorate: bool | None = None


class OneNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which node."""

    node: fields.Node


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


class ListStorages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which storages: of one node, and with one kind of content (images, rootdir, iso, vztmpl, backup, snippets)."""

    node: fields.Node | None = None
    content: fields.Word | None = None


class StorageLine(msgspec.Struct, frozen=True):
    """A storage as one node sees it; sizes in bytes."""

    storage: str
    node: str
    type: str
    status: str
    shared: bool
    content: list[str]
    total: int = 0
    used: int = 0
    free: int = 0


class Storages(msgspec.Struct, frozen=True):
    """The storages; a shared one stands once a node."""

    storages: list[StorageLine]


class BridgeLine(msgspec.Struct, frozen=True):
    """A bridge of a node."""

    bridge: str
    active: bool
    type: str = "bridge"
    cidr: str = ""
    ports: str = ""
    vlan_aware: bool = False
    comment: str = ""


class Bridges(msgspec.Struct, frozen=True):
    """The bridges that a guest's network can be on."""

    node: str
    bridges: list[BridgeLine]


class ListTasks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks: of a node (or the whole cluster), of a guest, only those that run or failed."""

    node: fields.Node | None = None
    vmid: fields.Vmid | None = None
    running: bool = False
    failed: bool = False
    limit: Annotated[int, Meta(ge=1, le=500)] = 20


class TaskLine(msgspec.Struct, frozen=True):
    """A Proxmox task; `status` is `running` or how it ended (OK, WARNINGS: n, or an error)."""

    upid: str
    node: str
    type: str
    id: str
    user: str
    status: str
    start: datetime
    end: datetime | None = None


class Tasks(msgspec.Struct, frozen=True):
    """Tasks, newest first."""

    tasks: list[TaskLine]


class OneTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which task, and how many of the last lines of its log."""

    upid: str
    lines: Annotated[int, Meta(ge=0, le=200)] = 20


class TaskDetails(msgspec.Struct, frozen=True):
    """A task and the end of its log."""

    upid: str
    node: str
    type: str
    id: str
    user: str
    running: bool
    succeeded: bool
    status: str
    start: datetime
    log: list[str]


class Cluster:
    """The tools that look at the cluster; none changes anything."""

    def __init__(self, inventory: Inventory) -> None:
        """Keep where the cluster is reached."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_nodes(self, call: Call, p: fields.NoParameters) -> NodeList:  # noqa: ARG002 - every tool has a call
        """List the nodes of the cluster, how loaded they are, and whether the cluster is quorate."""
        entries, quorate = await asyncio.gather(self.proxmox.get("/nodes"), self._quorate())
        return NodeList(sorted(map(_node_line, entries), key=lambda each: each.node), quorate)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_node(self, call: Call, p: OneNode) -> NodeDetails:  # noqa: ARG002
        """Show one node in detail."""
        known = {entry["node"]: entry for entry in await self.proxmox.get("/nodes")}
        if p.node not in known:
            raise NotFound(f"there is no node {p.node!r}; there are {', '.join(sorted(known))}")
        state = one_line(known[p.node].get("status") or "unknown")
        if state == "offline":  # asking it would take up to 30 s to say so once more
            return NodeDetails(p.node, state)
        return _details(p.node, state, await self.proxmox.get(f"/nodes/{p.node}/status"))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="storage_management")
    async def list_storages(self, call: Call, p: ListStorages) -> Storages:  # noqa: ARG002
        """List the storages with their free bytes and what they may hold.

        From the cluster's list, up to 10 s old: asking the storages themselves hangs when one of them does.
        """
        lines = [_storage_line(entry) for entry in await self.inventory.resources("storage")]
        lines = [each for each in lines if p.node in {None, each.node} and (not p.content or p.content in each.content)]
        return Storages(sorted(lines, key=lambda each: (each.node, each.storage)))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_bridges(self, call: Call, p: OneNode) -> Bridges:  # noqa: ARG002
        """List the bridges of a node that a guest's network can be on."""
        entries = await self.proxmox.get(f"/nodes/{p.node}/network", type="any_bridge") or []
        return Bridges(p.node, sorted((_bridge_line(entry) for entry in entries), key=lambda each: each.bridge))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def list_tasks(self, call: Call, p: ListTasks) -> Tasks:  # noqa: ARG002
        """List the tasks of the cluster (at most 25 finished ones a node) or of one node, newest first."""
        if p.node is None:
            entries = await self.proxmox.get("/cluster/tasks") or []
        else:
            source = "active" if p.running else "all"
            entries = await self.proxmox.tasks(p.node, source=source, limit=500, **({"vmid": p.vmid} if p.vmid else {}))
        lines = [line for line in map(_task_line, entries) if _wanted(line, p)]
        return Tasks(sorted(lines, key=lambda each: each.start, reverse=True)[: p.limit])

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cluster_management")
    async def get_task(self, call: Call, p: OneTask) -> TaskDetails:  # noqa: ARG002
        """Show how a Proxmox task stands, and the last lines of its log."""
        upid = Upid.parse(p.upid)
        status = await self.proxmox.task(p.upid)
        return TaskDetails(
            upid=upid.text,
            node=upid.node,
            type=upid.type,
            id=upid.id,
            user=upid.user,
            running=status.running,
            succeeded=status.succeeded,
            status=status.exit or "running",
            start=datetime.fromtimestamp(upid.start, UTC),
            log=await self.proxmox.log_tail(p.upid, p.lines) if p.lines else [],
        )

    async def _quorate(self) -> bool | None:
        try:
            entries = await self.proxmox.get("/cluster/status")
        except Denied:
            return None  # the list of nodes is worth having without it; null says that it is not known
        return all(entry.get("quorate") for entry in entries if entry.get("type") == "cluster")


def _node_line(entry: Entry) -> NodeLine:
    return NodeLine(
        node=one_line(entry["node"]),
        status=one_line(entry.get("status") or "unknown"),
        cpus=int(entry.get("maxcpu") or 0),
        cpu=_percent(entry.get("cpu")),
        memory=int(entry.get("maxmem") or 0),
        memory_used=int(entry.get("mem") or 0),
        uptime=int(entry.get("uptime") or 0),
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
        load=[float(each) for each in data.get("loadavg") or []],
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
    return StorageLine(
        storage=one_line(entry["storage"]),
        node=one_line(entry["node"]),
        type=one_line(entry.get("plugintype") or ""),
        status=one_line(entry.get("status") or "unknown"),
        shared=bool(int(entry.get("shared") or 0)),
        content=sorted(filter(None, str(entry.get("content") or "").split(","))),
        total=total,
        used=used,
        free=max(0, total - used),
    )


def _bridge_line(entry: Entry) -> BridgeLine:
    return BridgeLine(
        bridge=one_line(entry.get("iface") or ""),
        active=bool(int(entry.get("active") or 0)),
        type=one_line(entry.get("type") or "bridge"),
        cidr=one_line(entry.get("cidr") or ""),
        ports=one_line(entry.get("bridge_ports") or ""),
        vlan_aware=bool(int(entry.get("bridge_vlan_aware") or 0)),
        comment=one_line(entry.get("comments") or ""),
    )


def _task_line(entry: Entry) -> TaskLine:
    ended = entry.get("endtime")
    user, token = one_line(entry.get("user") or ""), one_line(entry.get("tokenid") or "")
    return TaskLine(
        upid=str(entry["upid"]),
        node=one_line(entry["node"]),
        type=one_line(entry["type"]),
        id=one_line(entry.get("id") or ""),
        user=f"{user}!{token}" if token else user,  # finished tasks show them apart, running ones in one word
        status=one_line(entry.get("status") or "unknown") if ended else "running",
        start=datetime.fromtimestamp(int(entry["starttime"]), UTC),
        end=datetime.fromtimestamp(int(ended), UTC) if ended else None,
    )


def _wanted(line: TaskLine, p: ListTasks) -> bool:
    succeeded = line.status in {"OK", "running"} or line.status.startswith("WARNINGS")
    return (
        (p.vmid is None or line.id == str(p.vmid))
        and (not p.running or line.status == "running")
        and (not p.failed or not succeeded)
    )


def _percent(share: float | None) -> float:
    return round(float(share or 0) * 100, 1)
