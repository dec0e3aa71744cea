"""Calls of tools: the request to the agent that offers the tool, and its progress and answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.client import queries
from agentd.errors import BusUnavailable, TemporaryError, UsageError, from_code
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.messages import ToolCall, ToolReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.bus.jetstream import Bus


CALL_WAIT = 2.0
"""Seconds after which a call that still runs is answered with `running`; the caller asks again with its key.

Whoever has heard nothing for twice as long takes the other side for dead, and asks again: another may answer.
"""


async def call_tool(
    bus: Bus,
    subject: str,
    call: ToolCall,
    *,
    seconds: float,
    progress: Callable[[str], None] = lambda _text: None,
) -> ToolReply:
    """Call the tool of `subject` (`tool_call`, `tool_step`) and wait for its end; raises the error that it reported.

    While NATS or the other agent is away it asks again, with the same key, until `seconds` are over.
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
        await asyncio.sleep(0.1)  # another process may hold it: then `running` comes at once
        if time.monotonic() > until:
            tool = subject.rpartition(".")[2]
            message = (
                f"{tool} still runs ({reply.progress or 'no progress known'}); call it again with the key {call.key}"
            )
            raise TemporaryError(message)
    if reply.error is not None:
        raise from_code(reply.error.code, reply.error.message, retry=reply.error.retry, log=reply.error.log)
    return reply


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
    if secret := wire_secrets.refusal(parameters):
        raise UsageError(f"{name}: {secret}")
    key = key or f"call-{secrets.token_hex(8)}.{name}"
    message = ToolCall(parameters=parameters, key=key, dry_run=dry_run)
    subject = subjects.tool_call(principal, service, name)
    return await call_tool(bus, subject, message, seconds=seconds, progress=progress)


async def service_of(bus: Bus, tool: str) -> str:
    """Return the service that offers `tool`; raises UsageError naming what there is."""
    offered = {name: service.service_id for service in await queries.services(bus) for name in service.tools}
    if tool not in offered:
        there = ", ".join(sorted(offered)) or "none: is an agent with tools running? see `agentd agents`"
        message = f"no agent offers a tool {tool!r}; there are {there}"
        raise UsageError(message)
    return offered[tool]
