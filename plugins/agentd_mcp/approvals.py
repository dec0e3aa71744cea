"""What a client of MCP gets for a tool that destroys: a plan, which somebody else has to approve; and dry runs.

A client does not wait for a person.  It is told what was asked for and who may approve it, and calls the tool again,
with the same arguments, to learn how that stands: the same call is the same plan until it is over, and for a while
after that, so that its result is heard and nothing is asked for twice.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.client import requests
from agentd.errors import Rejected, from_code
from agentd.safety.policy import ANONYMOUS
from agentd.tools.definition import Repeat, Tool
from agentd.wire.codec import digest
from agentd.wire.messages import Outcome, Preview, TaskError, Tier, ToolReply, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import DONE, Approval, Status, Workflow
from agentd_mcp.elicitation import Question

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.plugins.role import Context
    from agentd.tools.definition import Call

TOLD: Final = timedelta(minutes=10)
"""How long the result of a plan is the answer to the same call."""
TASK: Final = "call"
"""The task of such a plan that does it."""
CARRIED: Final = 60.0
"""Seconds for which a client waits for the end of what its person has approved; then it calls again."""


async def ask(
    bus: Bus, principal: str, tool: str, parameters: dict[str, Any], approver: str | None = None
) -> ToolReply | Question:
    """Return how the plan of this call stands; make it if there is none.

    approver  as whom the person at the client decides; None: somebody decides elsewhere
    """
    name = f"{requests.CALL}-{tool[:40]}-{digest([principal, tool, parameters])[:12]}"
    number = 1
    while (state := await requests.state_of(bus, f"{name}-{number}")) is not None:
        if not state.over:
            break
        if state.status in {Status.COMPLETED, Status.COMPLETED_WITH_WARNINGS} and _recent(bus, state):
            return _result(state)
        number += 1
    if state is None:
        wish = {"tool": tool, "parameters": parameters}
        request = WorkflowRequest(requests.CALL, f"{name}-{number}", wish, authenticated=principal not in ANONYMOUS)
        state = await requests.begin(bus, principal, request)
    if state.over:
        return _result(state)
    approver = None if principal in ANONYMOUS else approver
    waiting, asked = _waiting(state, principal), _asked(state)
    if approver is None or asked is None or state.status is not Status.WAITING_APPROVAL:
        return waiting
    text = f"{principal} asks for {asked.text}. It cannot be taken back. Your yes is that of {approver}."
    # The digest is of what the person is shown: a yes to it is none to what it may have become meanwhile.
    key, decide = f"{state.workflow_id}-{asked.digest[:12]}", partial(_decided, bus, state, approver, asked.digest)
    return Question(key, text, waiting, decide)


async def _decided(bus: Bus, state: Workflow, approver: str, shown: str, yes: bool) -> ToolReply:  # noqa: FBT001 - the answer
    """Carry out what the person at the client has said; what was approved is awaited for a while."""
    signal = WorkflowSignal("approve" if yes else "reject", "by a form at the client", TASK, shown)
    reply = await requests.signal(bus, approver, state.workflow_id, signal)
    if not reply.done:
        return ToolReply(Outcome.FAILED, error=TaskError("denied", f"{state.workflow_id}: {reply.message}"))
    ended = await requests.ended(bus, state.workflow_id, wait=CARRIED)
    return _result(ended) if ended.over else _waiting(ended, state.principal)


def _asked(state: Workflow) -> Approval | None:
    return state.tasks[TASK].approval if TASK in state.tasks else None


def _recent(bus: Bus, state: Workflow) -> bool:
    return bus.server_time() - state.updated < TOLD


def _result(state: Workflow) -> ToolReply:
    task = state.tasks.get(TASK)
    if task is None or task.status not in DONE:
        return ToolReply(Outcome.FAILED, error=TaskError(str(state.status), f"{state.workflow_id}: {state.error}"))
    if task.result is None:
        text = f"{state.workflow_id}: nothing had to be done, it is so already"
        return ToolReply(Outcome.FAILED, error=TaskError("already", text))
    return ToolReply(Outcome.COMPLETED, task.result, warnings=task.warnings)


def _waiting(state: Workflow, principal: str) -> ToolReply:
    asked = _asked(state)
    if asked is not None and asked.by:
        text = f"approved by {asked.by} and being carried out: {asked.text}. Call again to learn what came of it."
        return ToolReply(Outcome.FAILED, error=TaskError("under_way", text))
    text = (
        f"nothing is done yet; {asked.text if asked else 'it is being looked at'}. Somebody other than {principal} "
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
            raise Rejected(message)
        reply = await context.worker.perform_here(tools[p.tool], p.arguments, principal=call.principal, dry_run=True)
        if reply.error is not None:
            raise from_code(reply.error.code, reply.error.message, retry=reply.error.retry, log=reply.error.log)
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
