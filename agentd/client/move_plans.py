"""Plans of migrations that a page shows: a specialist computes them with its tool `plan_moves`.

A plan can take half a minute, longer than a page waits.  So it is computed in the background, and a page reads what
there is.  Plans are shared by all pages of a daemon.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.client.tool_calls import call_tool, offered_by
from agentd.errors import AgentdError, BusUnavailable, TemporaryError
from agentd.wire import subjects
from agentd.wire.codec import encode, now
from agentd.wire.messages import ToolCall
from agentd.wire.tool_names import PLAN_MOVES

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

WAIT: Final = 2.0
"""Seconds that a page waits for a plan; then it shows that the plan is being computed."""
LONGEST: Final = 300.0
"""Seconds that the computation of a plan may take."""
FRESH: Final = 60.0
"""Seconds for which a plan is shown; a later request has it computed again."""
MOST: Final = 8
"""Maximum number of plans that are kept."""
AT_ONCE: Final = 2
"""Maximum number of plans that are computed at the same time: a search uses all of a core."""
MODES: Final = ("rebalance", "drain", "fill", "pack")


class PlanGoal(msgspec.Struct, frozen=True):
    """What a plan of migrations is for, and what it may do; the parameters of plan_moves and resource_optimization.

    mode   rebalance the cluster; drain: empty `nodes`; fill: move guests to `nodes`; pack: empty as many as possible
    """

    mode: str = "rebalance"
    nodes: list[str] = []
    restart_containers: bool = False
    local_disks: bool = False


class PlannedMove(msgspec.Struct, frozen=True):
    """A migration of a plan; `parked`: the guest waits on the target for room elsewhere."""

    vmid: int
    name: str
    source: str
    target: str
    gib: float
    reason: str = ""
    kind: str = "qemu"
    parked: bool = False


class StayingGuest(msgspec.Struct, frozen=True):
    """A guest that stays where it is, and why."""

    vmid: int
    name: str
    node: str
    reason: str


class NodeShare(msgspec.Struct, frozen=True):
    """Memory of a node in use, in percent, and its running guests, before and after a plan."""

    name: str
    before: float
    after: float
    guests_before: int = 0
    guests_after: int = 0


class Distribution(msgspec.Struct, frozen=True):
    """How well guests are distributed.

    broken   violations of rules
    gap      fullest minus emptiest node, in percent of memory
    fullest  the fullest node, in percent of its memory
    """

    broken: int
    gap: float
    fullest: float


class MovePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan of migrations, in the order in which they may begin, and the guests that stay.

    conflict  rules that cannot all be kept
    approval  another principal has to approve it
    shares    the nodes before and after
    """

    mode: str
    text: str
    moves: list[PlannedMove]
    left: list[StayingGuest]
    before: Distribution
    after: Distribution
    gib: float
    nodes: list[str] = []
    conflict: list[str] = []
    approval: bool = False
    shares: list[NodeShare] = []


class Planning(msgspec.Struct, frozen=True):
    """A plan, or None with the progress of its computation; `at` is the time at which the computation began."""

    plan: MovePlan | None
    at: datetime
    progress: str = ""


class _Computation:
    """The computation of one plan."""

    def __init__(self) -> None:
        self.at = now()
        self.progress = ""
        self.done = asyncio.Event()
        self.plan: MovePlan | None = None
        self.error: AgentdError | None = None
        self._begun = time.monotonic()

    async def run(self, bus: Bus, agent_id: str, goal: PlanGoal) -> None:
        try:
            service, tool = await offered_by(bus, PLAN_MOVES)
            key = f"{subjects.call_key(agent_id, f'page-{secrets.token_hex(8)}')}.{tool}.page"
            call = ToolCall(parameters=msgspec.to_builtins(goal), key=key, principal=agent_id)
            subject = subjects.tool_step(agent_id, service, tool)
            reply = await call_tool(bus, subject, call, seconds=LONGEST, progress=self._note)
            self.plan = msgspec.convert(reply.result, MovePlan)
        except AgentdError as error:
            self.error = error
        except msgspec.ValidationError as error:
            self.error = BusUnavailable(f"plan_moves returned what this version cannot read: {error}")
        finally:
            self._begun = time.monotonic()
            self.done.set()

    def _note(self, text: str) -> None:
        self.progress = text

    @property
    def old(self) -> bool:
        """Return whether it has ended, and its result is not shown any more; an error is not kept."""
        return self.done.is_set() and (self.error is not None or time.monotonic() - self._begun > FRESH)


class PlanReads:
    """The plans of one daemon; NATS allows every agent the call of plan_moves (bus/setup/permissions.py)."""

    def __init__(self, agent_id: str) -> None:
        """Ask for plans as this agent."""
        self._agent_id = agent_id
        self._found: dict[bytes, _Computation] = {}

    async def plan(self, bus: Bus, goal: PlanGoal) -> Planning:
        """Return the plan for a goal, or that it is being computed; raises the error of the specialist.

        Raises UsageError if no agent offers plan_moves, TemporaryError if too many plans are being computed.
        """
        found = self._found.get(encode(goal))
        if found is None or found.old:
            found = self._begin(bus, goal)
        try:
            await asyncio.wait_for(found.done.wait(), WAIT)
        except TimeoutError:
            return Planning(None, found.at, found.progress)
        if found.error is not None:
            raise found.error
        return Planning(found.plan, found.at)

    def _begin(self, bus: Bus, goal: PlanGoal) -> _Computation:
        ended = [key for key, other in self._found.items() if other.done.is_set()]
        if len(self._found) - len(ended) >= AT_ONCE:
            raise TemporaryError(f"{AT_ONCE} other plans are being computed; try again in a minute")
        for key in ended[: max(0, len(self._found) + 1 - MOST)]:
            del self._found[key]
        found = self._found[encode(goal)] = _Computation()
        bus.spawn(found.run(bus, self._agent_id, goal))
        return found
