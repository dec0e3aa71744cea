"""The tools that balance the cluster and empty nodes: plan, confirm, move, and move back.

They read and move through the tools of mcp-proxmox; `balance` decides, `moving` carries out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import Call, Rejected, Repeat, Tier, formats, tool
from agentd_specialist.balance import highs, steps
from agentd_specialist.balance.brevity import brief
from agentd_specialist.balance.model import Limits, Mode, Move
from agentd_specialist.balance.plan import Budget, Goal, Plan, describe, plan
from agentd_specialist.balance.problem import shares
from agentd_specialist.balance.reading import Scope
from agentd_specialist.collecting import Collector
from agentd_specialist.moving import Moved, Mover

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from agentd_specialist.balance.model import Landscape
    from agentd_specialist.settings import SpecialistSettings

ROUNDS: Final = 4
"""Plans that are made until every move of one passes its check."""
LATER: Final = frozenset({"memory", "rules"})
"""Checks of a migration that depend on the moves before it: the plan itself keeps to them."""
Vmids = Annotated[list[int], Meta(max_length=10_000)]
Percent = Annotated[float, Meta(gt=0, le=50)]


class PlanMoves(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the plan is for, and what it may do.

    mode     rebalance the cluster; drain: empty `nodes`; fill: move guests to `nodes`; pack: empty as many as possible
    nodes    the nodes to empty or to fill; with pack the only ones that may be emptied (none: any)
    band     percent of memory that a node may be above or below the mean
    exclude  guests that stay
    restart_containers  running containers may move: they are stopped for it, and started on the target
    local_disks         disks that the target cannot access may be copied
    minutes  how far back usage counts; 0: only what is used now
    brief    for workflows: no more moves and reasons than a task can pass on
    """

    mode: Mode = "rebalance"
    nodes: list[formats.Node] = []
    band: Percent | None = None
    exclude: Vmids = []
    restart_containers: bool = False
    local_disks: bool = False
    minutes: Annotated[int, Meta(ge=0, le=60)] = 30
    brief: bool = False


class MovePlan(Plan, frozen=True, omit_defaults=True, kw_only=True):
    """What would be done, in the order in which it may begin, and what stays.

    approval  another principal has to approve it: it is larger than `[specialist]` lets pass
    """

    approval: bool


class MoveGuests(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The moves of a plan, and what they may do; see plan_moves."""

    moves: Annotated[list[Move], Meta(max_length=10_000)]
    restart_containers: bool = False
    local_disks: bool = False


class PlanReturn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The moves that are reversed: those that move_guests returned."""

    moves: Annotated[list[Move], Meta(max_length=10_000)]
    restart_containers: bool = False
    local_disks: bool = False


class ConfirmMoves(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan, as plan_moves returned it: what an approver sees."""

    text: str
    moves: Annotated[list[Move], Meta(max_length=10_000)]


class Confirmed(msgspec.Struct, frozen=True):
    """The number of moves that are as they were planned."""

    moves: int


class Balance:
    """The tools for the distribution of guests."""

    def __init__(self, settings: SpecialistSettings) -> None:
        """Use the limits of `settings`."""
        self.settings = settings

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def plan_moves(self, call: Call, p: PlanMoves) -> MovePlan:
        """Plan migrations that balance the cluster, empty nodes or fill one; nothing is moved.

        It uses what guests have used in the last half hour, keeps to tags, HA rules and pools, checks every migration
        before it is proposed, and says why each guest moves or stays.  If rules contradict each other, it names the
        smallest set of them.
        """
        landscape = await self._landscape(call, p)
        goal, budget = _goal(p, landscape), self._budget()
        found = await asyncio.to_thread(plan, landscape, goal, budget)
        for turn in range(ROUNDS):
            blocked = await self._blocked(call, p, found.moves, turn)
            if not blocked:
                break
            landscape = steps.without(landscape, blocked)
            found = await asyncio.to_thread(plan, landscape, goal, budget)
        else:
            text = "nothing is proposed: its checks still found obstacles"
            found = msgspec.structs.replace(
                found, moves=[], gib=0.0, after=found.before, text=text, shares=shares(landscape)
            )
        return self._asked(brief(found) if p.brief else found)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def plan_return(self, call: Call, p: PlanReturn) -> MovePlan:
        """Plan to move guests back to where move_guests took them from; nothing is moved.

        A guest that has been moved elsewhere since stays there.
        """
        homes = {move.vmid: move.source for move in reversed(p.moves)}
        scope = Scope(containers=p.restart_containers, leaving={move.target for move in p.moves})
        landscape = await Collector(call).landscape(scope, self.limits())
        last = {move.vmid: move.target for move in p.moves}
        where = {
            guest.vmid: homes[guest.vmid] if last.get(guest.vmid) == guest.node else guest.node
            for guest in landscape.guests
        }
        return self._asked(brief(describe(landscape, Goal("fill", frozenset(homes.values())), where)))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="balancing")
    async def confirm_moves(self, call: Call, p: ConfirmMoves) -> Confirmed:
        """Check that the guests of a plan still are where they were when it was made.

        A workflow asks for approval with it: the approver sees the plan.
        """
        guests = await Collector(call).entries("vm", ("vmid", "node"))
        at = {int(entry["vmid"]): str(entry["node"]) for entry in guests}
        first = {move.vmid: move for move in reversed(p.moves)}
        gone = [move.title for vmid, move in first.items() if at.get(vmid) != move.source]
        if gone:
            raise Rejected(f"{', '.join(gone)}: not on the node of the plan any more; nothing was done, plan again")
        return Confirmed(len(p.moves))

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="balancing", stoppable=True)
    async def move_guests(self, call: Call, p: MoveGuests) -> Moved:
        """Carry out the moves of a plan: a few at once, each only while its target has room for it.

        A guest whose migration is refused or fails stays where it is, and the others go on; the result names it with
        the reason.  A repeated call continues where the first one ended.
        """
        mover = Mover(call, p.moves, self.limits(), containers=p.restart_containers, local_disks=p.local_disks)
        return await mover.run()

    def limits(self, band: float | None = None) -> Limits:
        """Return the limits of the settings, with another band if one is given."""
        of = self.settings
        return Limits(
            reserve=of.memory_reserve * 2**20,
            cpu=of.balance_cpu / 100,
            band=(of.balance_band if band is None else band) / 100,
            ceiling=of.pack_ceiling / 100,
            parallel=of.parallel_migrations,
        )

    def _budget(self) -> Budget:
        """Return how long to search; HiGHS helps where it is installed."""
        of = self.settings
        used = of.solver_seconds > 0 and highs.installed()
        return Budget(improve=highs.Highs(of.solver_seconds, of.solver_memory * 2**20) if used else None)

    async def _landscape(self, call: Call, p: PlanMoves) -> Landscape:
        call.progress("reading the cluster")
        collector = Collector(call)
        rebalanced = await collector.ha_balancing() if p.mode in {"rebalance", "pack", "fill"} else ""
        scope = Scope(
            together_pools=self.settings.together_pools,
            apart_pools=self.settings.apart_pools,
            exclude=p.exclude,
            containers=p.restart_containers,
            rebalanced=rebalanced,
            leaving=p.nodes if p.mode == "drain" else (),
        )
        hours = 24 * self.settings.return_days if p.mode in {"rebalance", "pack"} else 0.0
        found = await collector.landscape(scope, self.limits(p.band), minutes=p.minutes, hours=hours)
        if rebalanced and any(guest.ha for guest in found.guests):
            call.warn(f"{rebalanced}; they stay where they are")
        return found

    async def _blocked(self, call: Call, p: PlanMoves, moves: Sequence[Move], turn: int) -> dict[int, str]:
        """Return the guests of the plan that cannot migrate, and why."""
        blocked: dict[int, str] = {}
        collector = Collector(call, f"check{turn}")
        for move in moves:
            call.progress(f"checking: {move.title} to {move.target}")
            found = await collector.migration(
                move.vmid,
                move.target,
                restart=p.restart_containers and move.kind == "lxc",
                local_disks=p.local_disks and move.kind == "qemu",
            )
            if reasons := [finding.line() for finding in found if finding.blocks and finding.check not in LATER]:
                blocked[move.vmid] = "; ".join(reasons)
        return blocked

    def _asked(self, found: Plan) -> MovePlan:
        large = len(found.moves) > self.settings.automatic_moves or found.gib > self.settings.automatic_gib
        values: Mapping[str, Any] = {name: getattr(found, name) for name in Plan.__struct_fields__}
        return MovePlan(**values, approval=large)


def _goal(p: PlanMoves, landscape: Landscape) -> Goal:
    known: Collection[str] = {node.name for node in landscape.nodes}
    unknown = sorted(set(p.nodes) - set(known))
    if unknown:
        raise Rejected(f"nodes: there is no node {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if p.mode in {"drain", "fill"} and not p.nodes:
        raise Rejected(f"nodes: name the nodes to {p.mode}")
    if p.mode == "rebalance" and p.nodes:
        raise Rejected("nodes: rebalance is for the whole cluster; drain and fill are for single nodes")
    return Goal(p.mode, frozenset(p.nodes))
