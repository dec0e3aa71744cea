"""The tools of the specialist.

They read the cluster and change it through the tools of mcp-proxmox; the pure modules of this plugin decide.  Every
call of another tool names its step, so that a repeated task makes the same calls with the same invocation keys.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from agentd import (
    AgentdError,
    Call,
    ProxmoxUnavailable,
    Rejected,
    Repeat,
    TemporaryError,
    Tier,
    VmOptions,
    VmParameters,
    tool,
)
from agentd_specialist import vm
from agentd_specialist.balance.model import Limits
from agentd_specialist.balance.placing import cautions, obstacles
from agentd_specialist.balance.reading import Scope
from agentd_specialist.collecting import PROXMOX, Collector
from agentd_specialist.model import MIB, Cluster, GuestView, NodeView, StorageView, TemplateView, ValidatedVm
from agentd_specialist.summary import (
    Checked,
    GuestState,
    HealthReport,
    NodeState,
    StorageState,
    of_node,
    summarize,
    with_checks,
)

if TYPE_CHECKING:
    from agentd import Proxmox
    from agentd_specialist.settings import SpecialistSettings


SERVICE: Final = "specialist"
PAGE: Final = 500
"""Entries on one page: the maximum that the list tools return."""
MONITOR_WAIT: Final = 3.0
"""Seconds to wait for a monitor; without one, the lists alone are summarized."""
PROBLEMS: Final = "the VM cannot be made so:"


class Paged(Protocol):
    """A page of a list; `next` is "" on the last page."""

    @property
    def next(self) -> str:
        """The cursor of the next page."""
        ...


P = TypeVar("P", bound=Paged)


class NodeList(msgspec.Struct, frozen=True):
    """Result of list_nodes: one page, and the cursor of the next."""

    nodes: list[NodeView]
    quorate: bool | None = None
    next: str = ""


class StorageList(msgspec.Struct, frozen=True):
    """Result of list_storages: one page, and the cursor of the next."""

    storages: list[StorageView]
    next: str = ""


class GuestList(msgspec.Struct, frozen=True):
    """Result of list_guests: one page, and the cursor of the next."""

    guests: list[GuestView]
    next: str = ""


class TemplateList(msgspec.Struct, frozen=True):
    """Result of list_templates: one page, and the cursor of the next."""

    templates: list[GuestView]
    next: str = ""


class BridgeView(msgspec.Struct, frozen=True):
    """A bridge of a node."""

    bridge: str


class BridgeList(msgspec.Struct, frozen=True):
    """Result of list_bridges."""

    bridges: list[BridgeView]
    next: str = ""


class ConfigureVm(VmOptions, frozen=True):
    """Changes to an existing VM; what is left out stays as it is.

    memory: MiB; disk: the disk to grow to `size` GiB; sshkeys, ipconfig0, nameserver, ciuser: cloud-init
    """

    vmid: int
    name: str = ""
    disk: str | None = None
    size: int | None = None
    start: bool = True


class GuestNow(msgspec.Struct, frozen=True):
    """Result of the tools that change a guest."""

    vmid: int
    node: str
    name: str
    status: str


class ConfiguredVm(msgspec.Struct, frozen=True):
    """The VM as it is now, and the steps that were done or already in place."""

    vmid: int
    node: str
    name: str
    status: str
    done: list[str]


class NodeStates(msgspec.Struct, frozen=True):
    """Result of list_nodes, with the fields that the health summary needs."""

    nodes: list[NodeState]
    quorate: bool | None = None
    next: str = ""


class StorageStates(msgspec.Struct, frozen=True):
    """Result of list_storages, with the fields that the health summary needs."""

    storages: list[StorageState]
    next: str = ""


class GuestStates(msgspec.Struct, frozen=True):
    """Result of list_guests, with the fields that the health summary needs."""

    guests: list[GuestState]
    next: str = ""


class SummarizeHealth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The results of list_nodes, list_storages and list_guests.

    With `node`, only that node is checked.
    """

    nodes: NodeStates
    storages: StorageStates
    vms: GuestStates
    node: str | None = None


class Domain:
    """The tools of the service `specialist`."""

    def __init__(self, settings: SpecialistSettings, proxmox: Proxmox | None = None) -> None:
        """Use the rules of `settings`, and the range of VMIDs of `[proxmox]`."""
        self.settings = settings
        of = None if proxmox is None else proxmox.settings
        self.rules = settings.rules() if of is None else settings.rules(of.vmid_min, of.vmid_max)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_validation")
    async def validate_vm_parameters(self, call: Call, p: VmParameters) -> ValidatedVm:
        """Check a request for a VM against the cluster; fill in what it leaves out.

        The result contains the parameters for create_vm and configure_vm, and a reason for each decision.
        If the request cannot be fulfilled, the error lists every problem, one per line.
        """
        cluster = await self._with_rules(call, await self.read_cluster(call, p), p)
        drawn = secrets.SystemRandom().random()
        bridges: dict[str, list[str]] = {}
        verdict: ValidatedVm | list[str] | None = None
        for node in vm.candidate_nodes(p, cluster, self.rules):
            call.progress(f"reading the bridges of {node}")
            bridges[node] = await self._bridges(call, node)
            cluster = replace(cluster, bridges=bridges)
            verdict = vm.validate(p, cluster, self.rules, drawn)
            if isinstance(verdict, ValidatedVm):
                break
        verdict = vm.validate(p, cluster, self.rules, drawn) if verdict is None else verdict
        if isinstance(verdict, list):
            raise Rejected("\n".join([PROBLEMS, *verdict]))
        for warning in verdict.warnings:
            call.warn(warning)
        return verdict

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="vm_configuration", stoppable=True)
    async def configure_vm(self, call: Call, p: ConfigureVm) -> ConfiguredVm:
        """Configure a VM (size, tags, cloud-init), grow its disk, and start it.

        It waits until the VM runs.  A step that is already in place is not done again, so the call may be repeated.
        """
        done: list[str] = []
        guest: GuestNow | None = None
        changes = {name: value for name in VmOptions.__struct_fields__ if (value := getattr(p, name)) is not None}
        if changes:
            guest = await self._step(call, "update_vm", {"vmid": p.vmid, **changes}, "update")
            done.append(f"set {', '.join(changes)}")
        if p.size is not None:
            grow = {"vmid": p.vmid, "disk": p.disk, "size": p.size}
            guest = await self._step(call, "resize_disk", grow, "resize")
            done.append(f"{p.disk or 'its boot disk'} has {p.size} GiB")
        if p.start:
            guest = await self._step(call, "start_guest", {"vmid": p.vmid}, "start")
            done.append("started")
        if guest is None:
            guest = await self._step(call, "get_guest", {"vmid": p.vmid}, "look")
        if p.name and guest.name not in {"", p.name}:
            call.warn(f"VM {p.vmid} is called {guest.name!r}, not {p.name!r}: another client renamed it")
        return ConfiguredVm(guest.vmid, guest.node, guest.name, guest.status, done)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="health_summary")
    async def summarize_health(self, call: Call, p: SummarizeHealth) -> HealthReport:
        """Summarize the cluster health in one line, and list the findings, worst first."""
        of = {"node": p.node} if p.node else {}
        nodes = [node for page in await self._rest(call, "list_nodes", p.nodes, {}) for node in page.nodes]
        storages = [
            storage for page in await self._rest(call, "list_storages", p.storages, of) for storage in page.storages
        ]
        guests = [guest for page in await self._rest(call, "list_guests", p.vms, of) for guest in page.guests]
        if p.node is not None:
            nodes = [node for node in nodes if node.node == p.node]
            storages = [storage for storage in storages if storage.node == p.node]
            guests = [guest for guest in guests if guest.node == p.node]
            if not nodes:
                raise Rejected(f"node: there is no node {p.node!r}")
        report = summarize(nodes, storages, guests, quorate=p.nodes.quorate)
        checked, reason = await self._checked(call)
        if checked is None:
            return msgspec.structs.replace(report, checks=f"the monitor's checks are missing: {reason}")
        return with_checks(report, of_node(checked, p.node, storages, guests) if p.node is not None else checked)

    async def _checked(self, call: Call) -> tuple[Checked | None, str]:
        """Return what the monitor's checks found, or None and why they are missing."""
        try:
            async with asyncio.timeout(
                MONITOR_WAIT
            ):  # a call without an agent that answers is repeated until its deadline
                return await call.use("monitor", "list_findings", {"limit": PAGE}, Checked, step="checks"), ""
        except TimeoutError:
            return None, "no monitor answers"
        except AgentdError as error:
            return None, str(error)

    async def read_cluster(self, call: Call, request: VmParameters) -> Cluster:
        """Read the cluster, without the bridges."""
        call.progress("reading the cluster")
        nodes = await self._pages(call, "list_nodes", NodeList, {})
        if nodes[0].quorate is False:
            raise ProxmoxUnavailable("the cluster is not quorate: nothing can be created", delay=5.0)
        storages = await self._pages(call, "list_storages", StorageList, {})
        templates = await self._pages(call, "list_templates", TemplateList, {})
        guests = await self._pages(call, "list_guests", GuestList, {})
        cluster = Cluster(
            [node for page in nodes for node in page.nodes],
            [storage for page in storages for storage in page.storages],
            [guest for page in guests for guest in page.guests],
            [template for page in templates for template in page.templates],
        )
        found = vm.find_template(request, cluster)
        if not isinstance(found, GuestView):
            return cluster
        template = await call.use(PROXMOX, "get_guest", {"vmid": found.vmid}, TemplateView, step="template")
        return replace(cluster, template=template)

    async def with_bridges(self, call: Call, cluster: Cluster) -> Cluster:
        """Return the cluster with the bridges of all nodes that are online."""
        names = [node.node for node in cluster.nodes if node.status == "online"]
        found = await asyncio.gather(*(self._bridges(call, name) for name in names))
        return replace(cluster, bridges=dict(zip(names, found, strict=True)))

    async def _bridges(self, call: Call, node: str) -> list[str]:
        pages = await self._pages(call, "list_bridges", BridgeList, {"node": node})
        return [bridge.bridge for page in pages for bridge in page.bridges]

    async def _with_rules(self, call: Call, cluster: Cluster, request: VmParameters) -> Cluster:
        """Return the cluster with what tags, HA rules, pools and maintenance say about the VM.

        If they cannot be read, the VM is placed without them, with a warning.
        """
        memory = vm.placement(request, cluster, self.rules).need.memory * MIB
        entry = {"vmid": 0, "node": "", "status": "running", "maxmem": memory, "pool": request.pool or ""}
        entry |= {"tags": ";".join(request.tags or [])}
        scope = Scope(self.settings.together_pools, self.settings.apart_pools, containers=True)
        limits = Limits(reserve=self.rules.memory_reserve * MIB, cpu=float("inf"))
        try:
            there = await Collector(call).landscape(scope, limits, beside=entry)
        except TemporaryError:
            raise
        except AgentdError as error:
            call.warn(f"placed without tags, HA rules and pools, which were not read: {error}")
            return cluster
        guest = there.guest(0)
        if guest is None:
            return cluster
        others = replace(there, guests=tuple(other for other in there.guests if other.vmid))
        kept = {name: why for name, why in obstacles(others, guest).items() if " has no room " not in why}
        return replace(cluster, against=kept, cautions=cautions(others, guest))

    async def _pages(
        self, call: Call, name: str, kind: type[P], filters: dict[str, str], *, cursor: str = ""
    ) -> list[P]:
        """Return the pages of a list, starting at `cursor`."""
        found: list[P] = []
        while not found or cursor:
            parameters = {**filters, "limit": PAGE, "cursor": cursor}
            step = "-".join([name, *filters.values(), str(len(found))])
            found.append(await call.use(PROXMOX, name, parameters, kind, step=step))
            cursor = found[-1].next
        return found

    async def _rest(self, call: Call, name: str, first: P, filters: dict[str, str]) -> list[P]:
        """Return the given first page and the pages after it."""
        if not first.next:
            return [first]
        return [first, *await self._pages(call, name, type(first), filters, cursor=first.next)]

    async def _step(self, call: Call, name: str, parameters: dict[str, Any], step: str) -> GuestNow:
        call.progress(f"{name} {parameters['vmid']}")
        return await call.use(PROXMOX, name, parameters, GuestNow, step=step)
