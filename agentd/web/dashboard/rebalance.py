"""The page on which migrations are planned: what would move, why, why the rest stays, and the form that carries it out.

The address is the state: it holds the mode, the nodes and what the plan may do.  A shown plan does not change by
itself; the workflow that the form submits makes its own plan with the same parameters.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.routing import Route

from agentd.client.move_plans import MODES, MovePlan, PlanGoal
from agentd.errors import AgentdError, Rejected
from agentd.printable import printable
from agentd.web.overview import read_view
from agentd.web.plain_text import table_text
from agentd.web.responses import check_parameters, json_response, text_response, wanted_format
from agentd.wire.codec import now
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.datastructures import QueryParams
    from starlette.requests import Request
    from starlette.responses import Response

    from agentd.client.move_plans import Planning, StayingGuest
    from agentd.client.views import View
    from agentd.web.renderer import Renderer

PATH: Final = "/rebalance"
API: Final = "/api/rebalance"
WORKFLOW: Final = "resource_optimization"
FLAGS: Final = {
    "restart_containers": "running containers may move; they are stopped for it",
    "local_disks": "disks that the target cannot access may be copied",
}
HELP: Final = {
    "rebalance": "balance the memory of all nodes",
    "drain": "empty the chosen nodes",
    "fill": "move guests to the chosen nodes",
    "pack": "empty as many nodes as possible",
}
PARAMETERS: Final = ("mode", "nodes", *FLAGS)
MOST_NODES: Final = 100


class Stay(NamedTuple):
    """The guests that stay for the same reason."""

    reason: str
    guests: list[StayingGuest]


class Rebalance:
    """The route of the page, and of the plan as JSON."""

    def __init__(self, view: View, renderer: Renderer) -> None:
        """Show the plans that `view` returns."""
        self._view = view
        self._render = renderer

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(PATH, self.page), Route(API, self.json)]

    async def json(self, request: Request) -> Response:
        """Respond with the plan, or that it is being computed."""
        check_parameters(request, *PARAMETERS, "format")
        planning = await self._plan(goal_of(request.query_params))
        return json_response(request, planning, 202 if planning.plan is None else 200)

    async def page(self, request: Request) -> Response:
        """Respond with the page; without an agent that plans it is unknown what would move."""
        check_parameters(request, *PARAMETERS, "format")
        form, goal = wanted_format(request), goal_of(request.query_params)
        if form == "json":
            return await self.json(request)
        planning: Planning | None = None
        reason = ""
        try:
            planning = await self._plan(goal)
        except HTTPException as error:
            reason = error.detail
        except AgentdError as error:
            reason = str(error)
        if form == "text":
            return text_response(printable(_text(planning, reason), lines=True))
        plan = None if planning is None else planning.plan
        return await self._render.page(
            request,
            "rebalance.html",
            now(),
            goal=goal,
            planning=planning,
            plan=plan,
            unknown=reason,
            stays=stays_of(plan.left) if plan else [],
            nodes=await self._nodes(goal),
            form=_form_of(goal),
            here=f"{PATH}?{urlencode(_form_of(goal), doseq=True)}",
            modes=HELP,
            flags=FLAGS,
            workflow=WORKFLOW,
        )

    async def _plan(self, goal: PlanGoal) -> Planning:
        if goal.mode in {"drain", "fill"} and not goal.nodes:
            raise HTTPException(409, f"nodes: choose the nodes to {goal.mode}")
        try:
            return await read_view(self._view.plan_moves(goal))
        except Rejected as error:
            raise HTTPException(409, str(error)) from error

    async def _nodes(self, goal: PlanGoal) -> list[str]:
        """Return the nodes that can be chosen, as far as they are known, and those that are chosen."""
        found = set(goal.nodes)
        with suppress(AgentdError):
            found |= {guest.node for guest in await read_view(self._view.guests())}
        with suppress(AgentdError):
            found |= {agent.node for agent in await read_view(self._view.agents())}
        return sorted(found - {""})


def goal_of(query: QueryParams) -> PlanGoal:
    """Return the goal that an address names; raises a 400 that names a wrong parameter."""
    mode = query.get("mode", "rebalance")
    if mode not in MODES:
        raise HTTPException(400, f"mode: {mode[:40]!r} is not one of {', '.join(MODES)}")
    nodes = sorted({check_id(node.strip(), "nodes") for text in query.getlist("nodes") for node in _words(text)})
    if len(nodes) > MOST_NODES:
        raise HTTPException(400, f"nodes: at most {MOST_NODES} can be chosen")
    chosen = {flag: _flag(query, flag) for flag in FLAGS}
    return PlanGoal(mode, [] if mode == "rebalance" else nodes, **chosen)


def stays_of(left: Iterable[StayingGuest]) -> list[Stay]:
    """Return the guests that stay by reason: the reasons of fewer guests first, as they say more."""
    found: dict[str, list[StayingGuest]] = {}
    for guest in left:
        found.setdefault(guest.reason, []).append(guest)
    return sorted((Stay(*entry) for entry in found.items()), key=lambda stay: (len(stay.guests), stay.reason))


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word.strip()]


def _flag(query: QueryParams, name: str) -> bool:
    given = query.get(name, "")
    if given not in {"", "0", "1"}:
        raise HTTPException(400, f"{name}: {given[:40]!r} is not 0 or 1")
    return given == "1"


def _form_of(goal: PlanGoal) -> dict[str, Any]:
    """Return the parameters that an address of the page, and the workflow, have for a goal."""
    found: dict[str, Any] = {"mode": goal.mode}
    if goal.nodes:
        found["nodes"] = goal.nodes
    return found | {flag: "1" for flag in FLAGS if getattr(goal, flag)}


def _text(planning: Planning | None, reason: str) -> str:
    if planning is None:
        return f"unknown: {reason}\n"
    if planning.plan is None:
        return f"the plan is being computed: {planning.progress or 'no progress known'}; ask again\n"
    plan = planning.plan
    moves = [(str(move.vmid), move.name, move.source, move.target, move.reason) for move in plan.moves]
    left = [(str(guest.vmid), guest.name, guest.node, guest.reason) for guest in plan.left]
    parts = [
        f"{plan.text}\n",
        *(f"conflict: {rule}\n" for rule in plan.conflict),
        _shares_text(plan),
        table_text("MOVES", moves, "nothing moves"),
        table_text("GUESTS THAT STAY", left, "none is named"),
    ]
    return "\n".join(part for part in parts if part)


def _shares_text(plan: MovePlan) -> str:
    rows = [
        (share.name, f"{share.before:.0f} % -> {share.after:.0f} %", f"{share.guests_before} -> {share.guests_after}")
        for share in plan.shares
    ]
    return table_text("NODES: MEMORY, GUESTS", rows, "") if rows else ""
