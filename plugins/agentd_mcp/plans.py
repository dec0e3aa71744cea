"""What a client of MCP gets for a tool that destroys: a plan, which somebody else has to approve; and dry runs.

A client does not wait for a person.  It is told what was asked for and who may approve it, and calls the tool again,
with the same arguments, to learn how that stands: the same call is the same plan until it is over, and for a while
after that, so that its result is heard and nothing is asked for twice.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import asking
from agentd.errors import from_code
from agentd.messages import Outcome, Preview, TaskError, Tier, ToolReply, digest
from agentd.tools import Repeat, Tool
from agentd.workflows import DONE, Status, Workflow

if TYPE_CHECKING:
    from agentd.bus import Bus
    from agentd.role import Context
    from agentd.tools import Call

TOLD: Final = timedelta(minutes=10)
"""How long the result of a plan is the answer to the same call."""


async def ask(bus: Bus, principal: str, tool: str, parameters: dict[str, Any]) -> ToolReply:
    """Return how the plan of this call stands; make it if there is none."""
    name = f"{asking.CALL}-{tool[:40]}-{digest([principal, tool, parameters])[:12]}"
    number = 1
    while (state := await asking.state_of(bus, f"{name}-{number}")) is not None:
        if not state.over:
            break
        if state.status in {Status.COMPLETED, Status.COMPLETED_WITH_WARNINGS} and _recent(bus, state):
            return _result(state)
        number += 1
    if state is None:
        state = await asking.plan(bus, principal, tool, parameters, workflow_id=f"{name}-{number}")
    return _result(state) if state.over else _waiting(state, principal)


def _recent(bus: Bus, state: Workflow) -> bool:
    return bus.server_time() - state.updated < TOLD


def _result(state: Workflow) -> ToolReply:
    task = state.tasks.get("call")
    if task is None or task.status not in DONE:
        return ToolReply(Outcome.FAILED, error=TaskError(str(state.status), f"{state.workflow_id}: {state.error}"))
    if task.result is None:
        text = f"{state.workflow_id}: nothing had to be done, it is so already"
        return ToolReply(Outcome.FAILED, error=TaskError("already", text))
    return ToolReply(Outcome.COMPLETED, task.result, warnings=task.warnings)


def _waiting(state: Workflow, principal: str) -> ToolReply:
    texts = [each.approval.text for each in state.tasks.values() if each.approval is not None]
    text = (
        f"nothing is done yet; {'; '.join(texts) or 'it is being carried out'}. Somebody other than {principal} "
        f"approves it: agentd approve {state.workflow_id}. Call again with the same arguments to learn how it stands."
    )
    return ToolReply(Outcome.FAILED, error=TaskError("needs_approval", text))


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tool, and what it would be called with."""

    tool: str
    arguments: dict[str, Any] = {}


def dry_runs(context: Context, tools: dict[str, Tool]) -> Tool:
    """Return the tool by which a client looks what a call would change."""

    async def run(call: Call, p: Wish) -> Preview:
        if p.tool not in tools or tools[p.tool].tier is Tier.READ:
            message = f"tool: {p.tool!r} is no tool that changes anything"
            raise from_code("rejected", message)
        reply = await context.worker.perform_here(tools[p.tool], p.arguments, principal=call.principal, dry_run=True)
        if reply.error is not None:
            raise from_code(reply.error.code, reply.error.message, retry=reply.error.retry)
        for warning in reply.warnings:
            call.warn(warning)
        return msgspec.convert(reply.result, Preview)

    return Tool(
        name="dry_run",
        service="",
        description="Look what a call of another tool would change, and whether it may; nothing is done.",
        tier=Tier.READ,
        repeat=Repeat.IDEMPOTENT,
        capability="safety",
        parameters=Wish,
        result=Preview,
        run=run,
    )
