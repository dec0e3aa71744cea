"""Calls of tools: send the request, report progress, return the reply."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.client import queries
from agentd.errors import BusUnavailable, TemporaryError, UsageError, from_code
from agentd.similar import suggestion
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects, tool_names
from agentd.wire.messages import ToolCall, ToolReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.bus.jetstream import Bus


CALL_WAIT: Final = 2.0
"""Seconds after which an agent replies `running` to a call that still runs; the caller sends it again with its key.

A caller without a reply for twice as long assumes that the agent is dead, and sends the call again: another agent may
reply.
"""


async def call_tool(
    bus: Bus,
    subject: str,
    call: ToolCall,
    *,
    seconds: float,
    progress: Callable[[str], None] = lambda _text: None,
) -> ToolReply:
    """Call the tool of `subject` and wait for its end; raises the reported error.

    While NATS or the agent is not reachable the call is sent again, with the same key, until `seconds` have passed.
    """
    until = time.monotonic() + seconds
    call = msgspec.structs.replace(call, deadline=bus.server_time() + timedelta(seconds=seconds))
    while True:
        try:
            reply = await bus.request(subject, call, ToolReply, wait=CALL_WAIT * 2)
        except BusUnavailable:
            if time.monotonic() + 1 > until:
                raise
            await asyncio.sleep(min(1.0, max(0.05, until - time.monotonic())))
            continue
        if reply.status != "running":
            break
        progress(reply.progress)
        await asyncio.sleep(0.1)  # if another process runs the call, `running` is replied at once
        if time.monotonic() > until:
            tool = subject.rpartition(".")[2]
            raise TemporaryError(
                f"{tool} still runs ({reply.progress or 'no progress known'}); call it again with the key {call.key}"
            )
    if reply.error is not None:
        raise from_code(reply.error.code, reply.error.message, retry=reply.error.retry, log=reply.error.log)
    return reply


async def call(  # noqa: PLR0913 - the call and how to wait for it
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
    """Call a tool on any agent that offers it.

    Raises UsageError if no agent offers it, NeedsPlan if the call needs an approval (tier destroy or exec).
    """
    service, name = await offered_by(bus, name)
    if secret := wire_secrets.refusal(parameters):
        raise UsageError(f"{name}: {secret}")
    key = key or f"call-{secrets.token_hex(8)}.{name}"
    message = ToolCall(parameters=parameters, key=key, dry_run=dry_run)
    subject = subjects.tool_call(principal, service, name)
    return await call_tool(bus, subject, message, seconds=seconds, progress=progress)


async def offered_by(bus: Bus, tool: str) -> tuple[str, str]:
    """Return the service that offers `tool`, and the current name of the tool.

    Raises UsageError naming the tools that are offered.
    """
    offered = {name: service.service_id for service in await queries.services(bus) for name in service.tools}
    tool = tool_names.current(tool, offered)
    if tool not in offered:
        hint = suggestion(tool, sorted(offered), listed="`agentd tools` lists them")
        if not offered:
            hint = "; there are none: is an agent with tools running? see `agentd agents`"
        raise UsageError(f"no agent offers a tool {tool!r}{hint}")
    return offered[tool], tool
