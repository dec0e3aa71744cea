"""Plans and dry runs for MCP clients.

A destructive call of a client becomes a plan, which another principal has to approve.

A client does not wait for a person.  The answer says what was requested and who may approve it.  The client calls the
tool again with the same arguments to get the state of the plan.  The same call means the same plan until the plan has
ended, and for a while after that, so that the client gets the result and no second plan is created.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import (
    ANONYMOUS,
    DONE,
    Approval,
    Outcome,
    Preview,
    Rejected,
    Repeat,
    Status,
    TaskError,
    Tier,
    Tool,
    ToolReply,
    Workflow,
    WorkflowRequest,
    WorkflowSignal,
    digest,
)
from agentd.client import requests
from agentd.wire import tool_names
from agentd_mcp.direct_tools.direct import direct
from agentd_mcp.elicitation import Question

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd import Bus
    from agentd_mcp.direct_tools.direct import Asker, DirectTool

RESULT_KEPT: Final = timedelta(minutes=10)
"""Time after its end for which a plan's result is still the answer to the same call."""
TASK: Final = "call"
"""Name of the task that makes the call in such a plan."""
CARRIED: Final = 60.0
"""Seconds for which a client waits for the result after its person has approved; after that it calls again."""


async def ask(
    bus: Bus, principal: str, tool: str, parameters: dict[str, Any], approver: str | None = None
) -> ToolReply | Question:
    """Return the state of the plan for this call; create the plan if there is none.

    approver  the principal as which the person at the client decides; None: another principal decides elsewhere
    """
    name = f"{requests.CALL}-{tool[:40]}-{digest([principal, tool, parameters])[:12]}"
    number = 1
    while (state := await requests.state_of(bus, f"{name}-{number}")) is not None:
        if not state.over:
            break
        if state.status in {Status.COMPLETED, Status.COMPLETED_WITH_WARNINGS} and _recent(bus, state):
            return result(state)
        number += 1
    if state is None:
        call = {"tool": tool, "parameters": parameters}
        request = WorkflowRequest(requests.CALL, f"{name}-{number}", call, authenticated=principal not in ANONYMOUS)
        state = await requests.begin(bus, principal, request)
    return result(state) if state.over else question(bus, state, principal, approver, wait=CARRIED)


def question(bus: Bus, state: Workflow, principal: str, approver: str | None, *, wait: float) -> ToolReply | Question:
    """Return what the person at the client has to decide about a plan, else its state.

    wait  seconds to wait for the result after an approval
    """
    approver = None if principal in ANONYMOUS else approver
    waiting, asked = _waiting(state, principal), _asked(state)
    if approver is None or asked is None or state.status is not Status.WAITING_APPROVAL:
        return waiting
    text = f"{principal} requests {asked.text}. It cannot be undone. You approve as {approver}."
    # The digest covers what the person is shown: an approval does not apply to a plan that changed in the meantime.
    key, decide = (
        f"{state.workflow_id}-{asked.digest[:12]}",
        partial(_decided, bus, state, approver, asked.digest, wait),
    )
    return Question(key, text, waiting, decide)


async def _decided(bus: Bus, state: Workflow, approver: str, shown: str, wait: float, yes: bool) -> ToolReply:  # noqa: FBT001, PLR0913, PLR0917 - the answer
    """Send the decision of the person at the client.

    After an approval, wait up to `wait` seconds for the result.
    """
    signal = WorkflowSignal("approve" if yes else "reject", "by a form at the client", TASK, shown)
    reply = await requests.signal(bus, approver, state.workflow_id, signal)
    if not reply.done:
        return ToolReply(Outcome.FAILED, error=TaskError("denied", f"{state.workflow_id}: {reply.message}"))
    ended = await requests.wait_until_ended(bus, state.workflow_id, wait=wait)
    return result(ended) if ended.over else _waiting(ended, state.principal)


def _asked(state: Workflow) -> Approval | None:
    return state.tasks[TASK].approval if TASK in state.tasks else None


def _recent(bus: Bus, state: Workflow) -> bool:
    return bus.server_time() - state.updated < RESULT_KEPT


def result(state: Workflow) -> ToolReply:
    """Return the reply of a call that a workflow has made.

    It is the result, or the error of the task.
    """
    task = state.tasks.get(TASK)
    if task is None or task.status not in DONE:
        return ToolReply(Outcome.FAILED, error=TaskError(str(state.status), f"{state.workflow_id}: {state.error}"))
    if task.result is None:
        text = f"{state.workflow_id}: nothing had to be done"
        return ToolReply(Outcome.FAILED, error=TaskError("already", text))
    return ToolReply(Outcome.COMPLETED, task.result, warnings=task.warnings)


def _waiting(state: Workflow, principal: str) -> ToolReply:
    asked = _asked(state)
    if asked is not None and asked.by:
        text = f"approved by {asked.by} and running: {asked.text}. Call again to get the result."
        return ToolReply(Outcome.FAILED, error=TaskError("under_way", text))
    text = (
        f"nothing is done yet; {asked.text if asked else 'it is being checked'}. Another principal than {principal} "
        f"must approve it: agentd approve {state.workflow_id}. Call again with the same arguments to get its state."
    )
    return ToolReply(Outcome.FAILED, error=TaskError("needs_approval", text))


class DryRunRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool to try, and the arguments of the call."""

    tool: str
    arguments: dict[str, Any] = {}


def dry_runs(perform: Callable[..., Awaitable[ToolReply]], tools: dict[str, Tool]) -> DirectTool:
    """Return the tool that shows what a call of one of `tools` would change.

    perform  runs a tool in this process or on another agent
    """

    async def dry_run(asker: Asker, p: DryRunRequest) -> ToolReply:
        """Show what a call of another tool would change, and whether it is allowed; nothing is done."""
        tool = tools.get(tool_names.current(p.tool, tools))
        if tool is None or tool.tier is Tier.READ:
            raise Rejected(f"tool: {p.tool!r} is no tool that changes anything")
        reply = await perform(tool, p.arguments, asker.principal, dry_run=True)
        return reply if reply.error is not None else msgspec.structs.replace(reply, status=Outcome.COMPLETED)

    return direct(dry_run, DryRunRequest, Preview, Tier.READ, Repeat.IDEMPOTENT)
