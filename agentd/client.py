"""What a person or a script asks of the network: submit, wait, signal, call.

A request is sent under the principal's own subject and stored; its id makes sending it again the same request.
The answer is read from the stream, so that waiting may begin late, stop and begin again.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, TypeVar

from agentd import network, secrecy, subjects
from agentd.asking import POLL, changes, going_on
from agentd.asking import decide as decide  # noqa: PLC0414 - part of what a script may use
from agentd.asking import new_id as new_id  # noqa: PLC0414
from agentd.asking import plan as plan  # noqa: PLC0414
from agentd.asking import signal as signal  # noqa: PLC0414
from agentd.asking import submit as submit  # noqa: PLC0414
from agentd.asking import waits as waits  # noqa: PLC0414
from agentd.calls import call_tool
from agentd.errors import BusUnavailable, UsageError
from agentd.messages import (
    ControlReply,
    ControlRequest,
    ToolCall,
    ToolReply,
    WorkflowResponse,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.bus import Bus
    from agentd.workflows import Workflow

T = TypeVar("T")


async def control(bus: Bus, agent_id: str, action: str) -> ControlReply:
    """Tell one agent to drain or reload; raises NoResponder when there is none of that id."""
    subjects.check_id(agent_id, "agent")
    return await bus.request(subjects.control(agent_id), ControlRequest(action), ControlReply)


async def answer(bus: Bus, workflow_id: str) -> WorkflowResponse | None:
    """Return the answer to a request if it is there."""
    subject = subjects.response(workflow_id)
    found = await bus.newest(
        subjects.WORKFLOWS, subject, WorkflowResponse, lambda each: each.workflow_id == workflow_id
    )
    return found.value


async def follow(
    bus: Bus, workflow_id: str, show: Callable[[Workflow], None], *, wait: float | None, requested: str = ""
) -> WorkflowResponse:
    """Show each change of a workflow until it is answered; return the answer.

    requested  digest of what we asked for under this id: if the id is another request's, the refusal is the answer

    Raises TemporaryError after `wait` seconds: the workflow goes on without us.
    """
    until = None if wait is None else time.monotonic() + wait
    async with changes(bus, subjects.event(workflow_id), subjects.response(workflow_id)) as changed:
        while True:
            workflow = await _patient(network.state(bus, workflow_id))
            mine = workflow is None or requested in {"", workflow.digest}
            if workflow is not None and mine:
                show(workflow)
            name = workflow_id if mine else subjects.conflict(workflow_id, requested)
            found = await _patient(answer(bus, name))
            if found is not None:
                return found
            left = POLL if until is None else min(POLL, until - time.monotonic())
            if left <= 0:
                raise going_on(workflow_id, wait or 0)
            await changed(left)


async def _patient(asking: Awaitable[T]) -> T | None:
    """Ask; while NATS is away there is nothing to say yet."""
    try:
        return await asking
    except BusUnavailable:
        return None


async def call(  # noqa: PLR0913 - who calls what, with what
    bus: Bus,
    principal: str,
    name: str,
    parameters: dict[str, Any],
    *,
    seconds: float,
    key: str = "",
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> ToolReply:
    """Call a tool of whichever agent offers it; raises UsageError when none does, NeedsPlan for one that destroys."""
    service = await service_of(bus, name)
    if secret := secrecy.refusal(parameters):
        raise UsageError(f"{name}: {secret}")
    key = key or f"call-{secrets.token_hex(8)}.{name}"
    message = ToolCall(parameters=parameters, key=key, dry_run=dry_run)
    subject = subjects.tool_call(principal, service, name)
    return await call_tool(bus, subject, message, seconds=seconds, progress=progress)


async def service_of(bus: Bus, tool: str) -> str:
    """Return the service that offers `tool`; raises UsageError naming what there is."""
    offered = {name: each.service_id for each in await network.services(bus) for name in each.tools}
    if tool not in offered:
        there = ", ".join(sorted(offered)) or "none: is an agent with tools running? see `agentd agents`"
        message = f"no agent offers a tool {tool!r}; there are {there}"
        raise UsageError(message)
    return offered[tool]
