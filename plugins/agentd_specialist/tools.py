"""The specialist's tools: they look through mcp-proxmox's tools, let the pure parts decide, and carry it out.

Every call of another tool names its step, so that a task that is run again asks for the same things by the same keys.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from agentd.errors import ProxmoxUnavailable, Rejected
from agentd.tools.definition import Call, Repeat, tool
from agentd.wire.messages import Tier
from agentd_specialist import vm
from agentd_specialist.model import Cluster, GuestView, NodeView, StorageView, TemplateView, ValidatedVm, VmWish
from agentd_specialist.summary import GuestState, HealthReport, NodeState, StorageState, summarize

if TYPE_CHECKING:
    from agentd.proxmox.client import Proxmox
    from agentd_specialist.settings import SpecialistSettings


SERVICE: Final = "specialist"
PROXMOX: Final = "mcp-proxmox"
PAGE: Final = 500
"""Lines of one page: as many as the lists give."""
PROBLEMS: Final = "the VM cannot be made so:"
_CHANGES = ("cores", "memory", "tags", "ciuser", "sshkeys", "ipconfig0", "nameserver")


class Paged(Protocol):
    """A page of a list; `next` is "" on the last."""

    @property
    def next(self) -> str:
        """The cursor of the next page."""
        ...


P = TypeVar("P", bound=Paged)


class NodeList(msgspec.Struct, frozen=True):
    """What list_nodes answers: a page, and where the next begins."""

    nodes: list[NodeView]
    quorate: bool | None = None
    next: str = ""


class StorageList(msgspec.Struct, frozen=True):
    """What list_storages answers: a page, and where the next begins."""

    storages: list[StorageView]
    next: str = ""


class GuestList(msgspec.Struct, frozen=True):
    """What list_vms answers: a page, and where the next begins."""

    guests: list[GuestView]
    next: str = ""


class TemplateList(msgspec.Struct, frozen=True):
    """What list_templates answers: a page, and where the next begins."""

    templates: list[GuestView]
    next: str = ""


class BridgeView(msgspec.Struct, frozen=True):
    """A bridge of a node."""

    bridge: str


class BridgeList(msgspec.Struct, frozen=True):
    """What list_bridges answers."""

    bridges: list[BridgeView]
    next: str = ""


class ConfigureVm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a VM that exists shall have: what is left out stays.

    memory: MiB; disk: which disk grows to size GiB; sshkeys, ipconfig0, nameserver, ciuser: cloud-init
    """

    vmid: int
    name: str = ""
    cores: int | None = None
    memory: int | None = None
    tags: list[str] | None = None
    ciuser: str | None = None
    sshkeys: str | None = None
    ipconfig0: str | None = None
    nameserver: str | None = None
    disk: str | None = None
    size: int | None = None
    start: bool = True


class GuestNow(msgspec.Struct, frozen=True):
    """What the tools that change a guest answer."""

    vmid: int
    node: str
    name: str
    status: str


class ConfiguredVm(msgspec.Struct, frozen=True):
    """The VM as it is now, and what was seen to."""

    vmid: int
    node: str
    name: str
    status: str
    done: list[str]


class NodeStates(msgspec.Struct, frozen=True):
    """What list_nodes answers, as far as health needs it."""

    nodes: list[NodeState]
    quorate: bool | None = None
    next: str = ""


class StorageStates(msgspec.Struct, frozen=True):
    """What list_storages answers, as far as health needs it."""

    storages: list[StorageState]
    next: str = ""


class GuestStates(msgspec.Struct, frozen=True):
    """What list_vms answers, as far as health needs it."""

    guests: list[GuestState]
    next: str = ""


class SummarizeHealth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The results of list_nodes, list_storages and list_vms; with `node` only that one is judged."""

    nodes: NodeStates
    storages: StorageStates
    vms: GuestStates
    node: str | None = None


class Domain:
    """The tools of the service `specialist`."""

    def __init__(self, settings: SpecialistSettings, proxmox: Proxmox | None = None) -> None:
        """Keep the rules by which wishes are judged; VMIDs are drawn from the range of [proxmox]."""
        of = None if proxmox is None else proxmox.settings
        self.rules = settings.rules() if of is None else settings.rules(of.vmid_min, of.vmid_max)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_validation")
    async def validate_vm_parameters(self, call: Call, p: VmWish) -> ValidatedVm:
        """Check the wish for a VM against the cluster as it is, and fill in what it leaves open.

        The answer holds the parameters for create_vm and configure_vm and a reason for each thing that was decided.
        If the wish cannot be granted, the error names everything that stands against it, a line each.
        """
        cluster = await self._look(call, p)
        drawn = secrets.SystemRandom().random()
        bridges: dict[str, list[str]] = {}
        verdict: ValidatedVm | list[str] | None = None
        for node in vm.shortlist(p, cluster, self.rules):
            call.progress(f"looking at the bridges of {node}")
            found = await self._pages(call, "list_bridges", BridgeList, {"node": node})
            bridges[node] = [each.bridge for page in found for each in page.bridges]
            cluster = replace(cluster, bridges=bridges)
            verdict = vm.choose(p, cluster, self.rules, drawn)
            if isinstance(verdict, ValidatedVm):
                break
        verdict = vm.choose(p, cluster, self.rules, drawn) if verdict is None else verdict
        if isinstance(verdict, list):
            raise Rejected("\n".join([PROBLEMS, *verdict]))
        for warning in verdict.warnings:
            call.warn(warning)
        return verdict

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="vm_configuration", stoppable=True)
    async def configure_vm(self, call: Call, p: ConfigureVm) -> ConfiguredVm:
        """Give a VM its size, tags and cloud-init, grow its disk, start it and wait until it runs.

        Each step is done only if it is not so yet, so the whole may be repeated.
        """
        done: list[str] = []
        guest: GuestNow | None = None
        changes = {name: value for name in _CHANGES if (value := getattr(p, name)) is not None}
        if changes:
            guest = await self._step(call, "update_vm", {"vmid": p.vmid, **changes}, "update")
            done.append(f"set {', '.join(changes)}")
        if p.size is not None:
            grow = {"vmid": p.vmid, "disk": p.disk, "size": p.size}
            guest = await self._step(call, "resize_disk", grow, "resize")
            done.append(f"{p.disk or 'its boot disk'} has {p.size} GiB")
        if p.start:
            guest = await self._step(call, "start_vm", {"vmid": p.vmid}, "start")
            done.append("started")
        if guest is None:
            guest = await self._step(call, "get_vm", {"vmid": p.vmid}, "look")
        if p.name and guest.name not in {"", p.name}:
            call.warn(f"VM {p.vmid} is called {guest.name!r}, not {p.name!r}: somebody renamed it")
        return ConfiguredVm(guest.vmid, guest.node, guest.name, guest.status, done)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="health_summary")
    async def summarize_health(self, call: Call, p: SummarizeHealth) -> HealthReport:
        """Say in a line how the cluster is, and name what needs attention, the worst first."""
        of = {"node": p.node} if p.node else {}
        nodes = [each for page in await self._rest(call, "list_nodes", p.nodes, {}) for each in page.nodes]
        storages = [each for page in await self._rest(call, "list_storages", p.storages, of) for each in page.storages]
        guests = [each for page in await self._rest(call, "list_vms", p.vms, of) for each in page.guests]
        if p.node is not None:
            nodes = [each for each in nodes if each.node == p.node]
            storages = [each for each in storages if each.node == p.node]
            guests = [each for each in guests if each.node == p.node]
            if not nodes:
                raise Rejected(f"node: there is no node {p.node!r}")
        return summarize(nodes, storages, guests, quorate=p.nodes.quorate)

    async def _look(self, call: Call, wish: VmWish) -> Cluster:
        """Return the cluster as it is, without bridges."""
        call.progress("looking at the cluster")
        nodes = await self._pages(call, "list_nodes", NodeList, {})
        if nodes[0].quorate is False:
            raise ProxmoxUnavailable("the cluster is not quorate: nothing can be created", delay=5.0)
        storages = await self._pages(call, "list_storages", StorageList, {})
        templates = await self._pages(call, "list_templates", TemplateList, {})
        guests = await self._pages(call, "list_vms", GuestList, {})
        cluster = Cluster(
            [each for page in nodes for each in page.nodes],
            [each for page in storages for each in page.storages],
            [each for page in guests for each in page.guests],
            [each for page in templates for each in page.templates],
        )
        found = vm.find_template(wish, cluster)
        if not isinstance(found, GuestView):
            return cluster
        template = await call.use(PROXMOX, "get_vm", {"vmid": found.vmid}, TemplateView, step="template")
        return replace(cluster, template=template)

    async def _pages(
        self, call: Call, name: str, kind: type[P], filters: dict[str, str], *, cursor: str = ""
    ) -> list[P]:
        """Return the pages of a list from `cursor` on."""
        found: list[P] = []
        while not found or cursor:
            parameters = {**filters, "limit": PAGE, "cursor": cursor}
            step = "-".join([name, *filters.values(), str(len(found))])
            found.append(await call.use(PROXMOX, name, parameters, kind, step=step))
            cursor = found[-1].next
        return found

    async def _rest(self, call: Call, name: str, first: P, filters: dict[str, str]) -> list[P]:
        """Return a page that was given, and those that follow it."""
        if not first.next:
            return [first]
        return [first, *await self._pages(call, name, type(first), filters, cursor=first.next)]

    async def _step(self, call: Call, name: str, parameters: dict[str, Any], step: str) -> GuestNow:
        call.progress(f"{name} {parameters['vmid']}")
        return await call.use(PROXMOX, name, parameters, GuestNow, step=step)
