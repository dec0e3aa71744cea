"""The tool that proposes nodes for a guest."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import Call, Rejected, Repeat, Tier, VmParameters, formats, tool
from agentd_specialist import vm
from agentd_specialist.balance.model import Limits
from agentd_specialist.balance.placing import Suggestion, suggestions
from agentd_specialist.balance.reading import Answers, Scope, landscape
from agentd_specialist.collecting import AT_ONCE, GUEST_FIELDS, NODE_FIELDS, Collector
from agentd_specialist.model import MIB
from agentd_specialist.placement import Candidate

if TYPE_CHECKING:
    from agentd_specialist.balance.model import Landscape
    from agentd_specialist.model import Cluster
    from agentd_specialist.settings import SpecialistSettings
    from agentd_specialist.tools import Domain

NEW: Final = 0
"""VMID of a guest that does not exist yet."""


OWN: Final = frozenset({"memory", "rules", "target", "place"})
"""Checks of a migration that the landscape answers."""


class PlaceGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A guest that exists, by its VMID, or what a new VM needs: memory in MiB, disk in GiB.

    template  the template that it is cloned from, by VMID or name
    tags      also the rules that tags express: agentd-apart-…, agentd-together-…, agentd-pin-…
    pool      its pool
    """

    vmid: Annotated[int, Meta(ge=100, le=999_999_999)] | None = None
    cores: Annotated[int, Meta(ge=1, le=8192)] | None = None
    memory: Annotated[int, Meta(ge=16, le=4_194_304)] | None = None
    disk: Annotated[int, Meta(ge=1, le=131_072)] | None = None
    storage: formats.Storage | None = None
    bridge: formats.Bridge | None = None
    template: int | str | None = None
    full: bool = True
    tags: list[formats.Tag] = []
    pool: str = ""


class Placing(msgspec.Struct, frozen=True):
    """The best node ("" if none can take the guest), and every node with reasons, the best first."""

    best: str
    text: str
    candidates: list[Suggestion]


class PlacementTools:
    """The tool for placement."""

    def __init__(self, settings: SpecialistSettings, domain: Domain) -> None:
        """Use the limits of `settings`, and the readings of `domain`."""
        self.settings = settings
        self.domain = domain

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_validation")
    async def place_guest(self, call: Call, p: PlaceGuest) -> Placing:
        """Propose nodes for a new VM or an existing guest, with reasons for and against each.

        Considered are memory, CPU, storage, bridges, maintenance, tags, HA rules, pools, and whether the other nodes
        still have room for all guests when one node fails; of a guest or template that exists also its devices and its
        CPU type.
        """
        call.progress("reading the cluster")
        collector = Collector(call)
        nodes, guests, ha = await asyncio.gather(
            collector.entries("node", NODE_FIELDS), collector.entries("vm", GUEST_FIELDS), collector.ha()
        )
        cluster = None
        if p.vmid is None:
            cluster, request = await self._cluster(call, p)
            placement = vm.placement(request, cluster, self.domain.rules)
            memory, cores = placement.need.memory * MIB, placement.need.cores
            entry: dict[str, Any] = {"vmid": NEW, "node": "", "tags": ";".join(p.tags), "pool": p.pool}
            entry |= {"status": "running", "maxmem": memory, "maxcpu": cores, "cpu": 0.0}
            guests = [*guests, entry]
            offers = {name: _offer(found) for name, found in placement.offers().items()}
            if cluster.template is not None:
                await self._against(
                    call, cluster.template.vmid, nodes, offers, frozenset({"cpu", "devices", "allowed"})
                )
        else:
            if not any(int(entry["vmid"]) == p.vmid for entry in guests):
                raise Rejected(f"vmid: there is no guest {p.vmid}")
            guests = [e | {"status": "running"} if int(e["vmid"]) == p.vmid else e for e in guests]
            offers = {}
            await self._against(call, p.vmid, nodes, offers)
        maintenance = {node for node, state in ha.nodes.items() if "maintenance" in state}
        scope = Scope(self.settings.together_pools, self.settings.apart_pools, containers=True)
        there = landscape(Answers(nodes, guests, ha.rules, {}, maintenance), scope, self._limits())
        found = self._suggested(there, p.vmid or NEW, offers)
        return _verdict(found)

    @staticmethod
    async def _against(
        call: Call,
        vmid: int,
        nodes: list[dict[str, Any]],
        offers: dict[str, tuple[str, str] | list[str]],
        checks: frozenset[str] = frozenset(),
    ) -> None:
        """Add to the offers what prevents a guest from moving to the nodes, or a template's clone from running there.

        checks  the ones that count; none: all but those that `balance` makes itself
        """
        collector, at_once = Collector(call, "fit"), asyncio.Semaphore(AT_ONCE)

        async def check(node: str) -> None:
            async with at_once:
                found = await collector.migration(vmid, node, restart=True, local_disks=True)
            counts = [one for one in found if (one.check in checks if checks else one.check not in OWN)]
            # What a node lacks for the CPU type prevents the start of a stopped guest, not its migration.
            against = [one.line() for one in counts if one.blocks or (one.check == "cpu" and one.advice)]
            before = offers.get(node)
            if against:
                offers[node] = [*(before if isinstance(before, list) else []), *against]

        await asyncio.gather(*(check(str(e["node"])) for e in nodes if e.get("status") == "online"))

    @staticmethod
    def _suggested(there: Landscape, vmid: int, offers: dict[str, tuple[str, str] | list[str]]) -> list[Suggestion]:
        guest = there.guest(vmid)
        if guest is None:
            raise Rejected(f"vmid: {vmid} is a template; name a guest")
        others = replace(there, guests=tuple(other for other in there.guests if other.vmid != vmid))
        return suggestions(others, replace(guest, fixed=""), offers)

    async def _cluster(self, call: Call, p: PlaceGuest) -> tuple[Cluster, VmParameters]:
        request = VmParameters(
            "guest",
            cores=p.cores,
            memory=p.memory,
            disk=p.disk,
            storage=p.storage,
            bridge=p.bridge,
            template=p.template,
            full=p.full,
        )
        cluster = await self.domain.read_cluster(call, request)
        if isinstance(problem := vm.find_template(request, cluster), str):
            raise Rejected(problem)
        return await self.domain.with_bridges(call, cluster), request

    def _limits(self) -> Limits:
        return Limits(reserve=self.settings.memory_reserve * MIB, cpu=max(1.0, self.settings.balance_cpu / 100))


def _offer(found: Candidate | list[str]) -> tuple[str, str] | list[str]:
    return (found.storage, found.bridge) if isinstance(found, Candidate) else found


def _verdict(found: list[Suggestion]) -> Placing:
    fit = [one for one in found if one.fits]
    if not fit:
        return Placing("", f"none of {len(found)} nodes can take it", found)
    best = fit[0]
    text = f"{best.node}: {best.pro[0]}" if best.pro else best.node
    return Placing(best.node, text, found)
