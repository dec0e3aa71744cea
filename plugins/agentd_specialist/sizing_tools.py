"""The tool that proposes sizes of guests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import AgentdError, BusUnavailable, Call, Repeat, Tier, formats, tool
from agentd_specialist.balance.reading import percentile
from agentd_specialist.collecting import AT_ONCE, PAGE, PROXMOX, Collector
from agentd_specialist.sizing import SizeProposal, Used, propose

if TYPE_CHECKING:
    Entry = dict[str, Any]

FIELDS: Final = ("vmid", "name", "node", "type", "status", "template", "maxmem", "maxcpu")
LISTED: Final = 40


class ProposeSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which guests, over which time, and the percent that stay free above what was used."""

    node: formats.Node | None = None
    vmids: list[int] = []
    headroom: Annotated[int, Meta(ge=0, le=200)] = 25
    period: Annotated[str, Meta(pattern="^(day|week|month)\\Z")] = "week"


class Sizes(msgspec.Struct, frozen=True):
    """The proposals, the largest savings of memory first; memory in MiB.

    changes   VMs, as update_vm takes them; containers are only in `proposals`
    unread    guests whose usage could not be read
    """

    guests: int
    saved: int
    proposals: list[SizeProposal]
    changes: list[dict[str, int]]
    unread: list[int]


class SocketView(msgspec.Struct, frozen=True):
    """A guest of get_guest."""

    sockets: int = 1


class SizingTools:
    """The tool for the sizes of guests."""

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def propose_sizes(self, call: Call, p: ProposeSizes) -> Sizes:
        """Propose memory and cores of running guests by what they have used in a week, with evidence.

        A guest whose size fits, or of which too little is known, gets no proposal.
        """
        collector = Collector(call)
        guests = [
            entry
            for entry in await collector.entries("vm", FIELDS)
            if entry.get("status") == "running"
            and not entry.get("template")
            and p.node in {None, entry["node"]}
            and (not p.vmids or int(entry["vmid"]) in p.vmids)
        ]
        at_once = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(self._used(collector, entry, p.period, at_once) for entry in guests))
        read = [used for used in found if isinstance(used, Used)]
        proposals = [one for used in read if (one := propose(used, p.headroom / 100)) is not None]
        proposals.sort(key=lambda one: one.memory - one.memory_now)
        shown = proposals[:LISTED]
        changes = [await self._change(call, one) for one in shown if one.type == "qemu"]
        return Sizes(
            guests=len(guests),
            saved=sum(one.memory_now - one.memory for one in proposals),
            proposals=shown,
            changes=changes,
            unread=[vmid for vmid in found if isinstance(vmid, int)],
        )

    @staticmethod
    async def _change(call: Call, one: SizeProposal) -> dict[str, int]:
        """Return the change for update_vm, which takes the cores of each socket."""
        guest = await call.use(PROXMOX, "get_guest", {"vmid": one.vmid}, SocketView, step=f"sockets-{one.vmid}")
        return {"vmid": one.vmid, "memory": one.memory, "cores": max(1, -(-one.cores // guest.sockets))}

    @staticmethod
    async def _used(collector: Collector, entry: Entry, period: str, at_once: asyncio.Semaphore) -> Used | int:
        """Return what a guest has used, or its VMID if that cannot be read."""
        vmid, kind = int(entry["vmid"]), str(entry.get("type") or "qemu")
        async with at_once:
            try:
                answer = await collector.get(
                    f"/nodes/{entry['node']}/{kind}/{vmid}/rrddata",
                    {"timeframe": period, "cf": "AVERAGE"},
                    fields=["time", "cpu", "mem", "maxmem"],
                    limit=PAGE,
                    step=f"used-{vmid}",
                )
            except BusUnavailable:
                raise
            except AgentdError:
                return vmid
        points = [point for point in answer.data or [] if point.get("mem") is not None]
        memory, cpu = ([float(point.get(name) or 0) for point in points] for name in ("mem", "cpu"))
        return Used(
            vmid=vmid,
            name=str(entry.get("name") or ""),
            kind=kind,
            memory=int(entry.get("maxmem") or 0),
            cores=int(entry.get("maxcpu") or 0),
            samples=len(points),
            memory_p95=percentile(memory),
            memory_most=max(memory, default=0.0),
            cpu_p95=percentile(cpu),
            cpu_most=max(cpu, default=0.0),
        )
