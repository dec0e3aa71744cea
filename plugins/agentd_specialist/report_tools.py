"""The tools that sum up: what has changed in the cluster, and what a workflow with migrations has done and left."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import AgentdError, BusUnavailable, Call, Repeat, Tier, tool
from agentd_specialist import changes
from agentd_specialist.balance import brevity
from agentd_specialist.balance.model import Measure, Move
from agentd_specialist.balance.plan import Left
from agentd_specialist.collecting import AT_ONCE, Collector

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN: Final = 10
"""Guests that stay, in the text of a report."""


class ListChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far back to look."""

    hours: Annotated[float, Meta(gt=0, le=168)] = 24.0


class PlanView(msgspec.Struct, frozen=True):
    """A plan of plan_moves, with the fields that a report needs."""

    text: str
    before: Measure
    left: list[Left] = []


class MovedView(msgspec.Struct, frozen=True):
    """A result of move_guests, with the fields that a report needs."""

    moves: list[Move]
    left: list[Left] = []


class SummarizeMoves(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first plan, the results of move_guests in their order (null: it did not run), and a plan made afterwards."""

    plan: PlanView
    moved: Annotated[list[MovedView | None], Meta(max_length=10)] = []
    now: PlanView | None = None


class MovesReport(msgspec.Struct, frozen=True):
    """What was done and what was left: in one text, the number of migrations, and the guests that stay, with reasons.

    gap_before, gap_after  fullest minus emptiest node, in percent of memory
    """

    text: str
    moves: int
    gib: float
    gap_before: float
    gap_after: float
    left: list[Left]


class ReportTools:
    """The tools that sum up."""

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="health_summary")
    async def list_changes(self, call: Call, p: ListChanges) -> changes.Changes:
        """List what has changed in the last hours: failed tasks first, then guests and nodes.

        It reads the task lists of the nodes, so it contains what every client of Proxmox did, not only agentd.
        """
        collector, now = Collector(call, "changes"), time.time()
        nodes, guests = await asyncio.gather(
            collector.entries("node", ("node", "status", "uptime")), collector.entries("vm", ("vmid", "name"))
        )
        at_once = asyncio.Semaphore(AT_ONCE)

        async def read(node: str) -> list[dict[str, Any]] | str:
            async with at_once:
                try:
                    return await collector.tasks(node, now - p.hours * 3600)
                except BusUnavailable:
                    raise
                except AgentdError as error:
                    return f"{node} ({error})"

        online = sorted(str(entry["node"]) for entry in nodes if entry.get("status") == "online")
        unread = [f"{e['node']} (is {e.get('status') or 'unknown'})" for e in nodes if e.get("status") != "online"]
        read_lists = await asyncio.gather(*(read(node) for node in online))
        return changes.summarize(
            [task for tasks in read_lists if isinstance(tasks, list) for task in tasks],
            nodes,
            {int(entry["vmid"]): str(entry.get("name") or "") for entry in guests},
            now=now,
            hours=p.hours,
            unread=[*unread, *(reason for reason in read_lists if isinstance(reason, str))],
        )

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def summarize_moves(self, call: Call, p: SummarizeMoves) -> MovesReport:
        """Sum up a workflow with migrations: what was done, what was left, and why."""
        return report(p.plan, [moved for moved in p.moved if moved is not None], p.now)


def report(plan: PlanView, moved: Sequence[MovedView], now: PlanView | None) -> MovesReport:
    """Return what was done and left; a later migration of a guest counts more than an earlier failure."""
    done = [move for result in moved for move in result.moves]
    reasons = {left.vmid: left for left in (*plan.left, *(left for result in moved for left in result.left))}
    last = {left.vmid: number for number, result in enumerate(moved) for left in result.left}
    arrived = {move.vmid: number for number, result in enumerate(moved) for move in result.moves if not move.parked}
    left = [one for vmid, one in reasons.items() if arrived.get(vmid, -1) <= last.get(vmid, -1) or vmid not in arrived]
    gib = round(sum(move.gib for move in done), 3)
    before, after = plan.before.gap, (now or plan).before.gap
    gap = f"; the gap between the nodes went from {before:.1f} to {after:.1f} % of memory" if now else ""
    count = f"{len(done)} migration{'' if len(done) == 1 else 's'} of {gib:.1f} GiB"
    lines = [f"done: {count}{gap}" if done else f"nothing was moved: {plan.text}"]
    lines += [f"{one.name or one.vmid} ({one.vmid}) stays on {one.node}: {one.reason}" for one in left[:SHOWN]]
    lines += [f"and {len(left) - SHOWN} more guests stay"] if len(left) > SHOWN else []
    kept = brevity.first(brevity.short(left), brevity.LEFT)
    return MovesReport("\n".join(lines), len(done), gib, round(before, 2), round(after, 2), kept)
