"""Answers calls of an agent's tools by principals, agents and this process.

A call arrives over NATS micro and is answered once.  One that takes longer than CALL_WAIT is answered with `running`,
and the caller sends it again with the same key.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.client.tool_calls import CALL_WAIT
from agentd.errors import AgentdError, Denied, InvalidMessage, PermanentError
from agentd.safety.policy import CallsAtOnce
from agentd.tools.invocation import Invocation
from agentd.tools.runner import task_error
from agentd.wire import subjects, tool_names
from agentd.wire.codec import digest
from agentd.wire.messages import Outcome, Tier, ToolCall, ToolReply
from agentd.wire.names import check_call_key, check_id, check_step_key
from agentd.wire.workflow import UNDO

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.safety.policy import Policy
    from agentd.telemetry.metrics import Metrics
    from agentd.tools.definition import Tool
    from agentd.tools.runner import ToolRunner

    Begin = Callable[[Tool, ToolCall], tuple[Invocation, asyncio.Task[ToolReply]]]

CALL_DEADLINE: Final = 900.0
"""Seconds that a call without a deadline may take."""


class Calls:
    """The calls of one agent's tools."""

    def __init__(  # noqa: PLR0913 - everything that a call needs
        self, bus: Bus, agent_id: str, tools: dict[str, Tool], *, runner: ToolRunner, policy: Policy, metrics: Metrics
    ) -> None:
        """Run `tools` with `runner`, as `policy` allows."""
        self.at_once = CallsAtOnce(policy.max_concurrent_calls, agent_id)
        self._bus = bus
        self._agent_id = agent_id
        self._tools = tools
        self._performer = runner
        self._policy = policy
        self._metrics = metrics
        self._running: dict[str, tuple[str, Invocation, asyncio.Task[ToolReply]]] = {}

    async def finish(self, drain: float) -> None:
        """Wait until the running calls have ended, at most `drain` seconds."""
        running = [task for _, _, task in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=drain)

    async def answer(self, received: Received) -> None:
        """Answer a principal's call; the subject holds its name, which NATS proves."""
        principal = received.subject.split(".")[3]

        def begin(tool: Tool, call: ToolCall) -> tuple[Invocation, asyncio.Task[ToolReply]]:
            check_id(principal, "principal")
            if call.key:
                _of_a_caller(call.key)
                call = msgspec.structs.replace(call, key=subjects.call_key(principal, call.key))
            return self._begin(tool, call, principal, counted=True)

        await self._answered(received, begin, principal)

    async def answer_step(self, received: Received) -> None:
        """Answer another agent's call, which states the principal it works for.

        Only agents may publish on this subject.
        """

        def begin(tool: Tool, call: ToolCall) -> tuple[Invocation, asyncio.Task[ToolReply]]:
            if call.key:
                check_step_key(call.key, call.principal)
            return self._begin(tool, call, call.principal)

        await self._answered(received, begin, "")

    async def _answered(self, received: Received, begin: Begin, principal: str) -> None:
        """Answer with the result of a call, or with `running` after CALL_WAIT seconds."""
        try:
            call = received.decode(ToolCall)
            name = tool_names.current(received.subject.rpartition(".")[2], self._tools)
            invocation, task = begin(self._tools[name], call)
        except AgentdError as error:
            reply = ToolReply(status=Outcome.FAILED, error=task_error(error))
        else:
            await asyncio.wait([task], timeout=CALL_WAIT)
            reply = task.result() if task.done() else ToolReply(status="running", progress=invocation.now_doing)
        await received.respond(reply, principal=principal, others=self._policy.principals)

    def _begin(
        self, tool: Tool, call: ToolCall, principal: str, *, counted: bool = False
    ) -> tuple[Invocation, asyncio.Task[ToolReply]]:
        """Begin a call, or join the one that runs under its key.

        A `counted` call counts towards the calls that its principal may have at a time.
        """
        if not call.key and tool.tier is not Tier.READ:
            raise InvalidMessage(f"{tool.name}: a call above tier read needs a key, so that repeating it is safe")
        asked = digest([tool.name, call.parameters, principal, call.dry_run])
        if call.key in self._running:
            running, invocation, task = self._running[call.key]
            if running != asked:
                raise PermanentError(f"{call.key}: runs now with another tool or other parameters; use another key")
            return invocation, task
        if counted:
            self.at_once.begin(principal)
        seconds = CALL_DEADLINE
        if call.deadline is not None:
            seconds = (call.deadline - self._bus.server_time()).total_seconds()
        invocation = Invocation(
            bus=self._bus,
            metrics=self._metrics,
            tool=tool,
            key=call.key,
            principal=principal,
            tier=self._policy.tier_of(principal, plain=False),
            attempt=call.attempt,
            until=time.monotonic() + seconds,
            dry_run=call.dry_run,
            agent=self._agent_id,
        )
        task = asyncio.create_task(self._performer.run(invocation, call.parameters, takeover=False))
        if counted:
            task.add_done_callback(lambda _: self.at_once.end(principal))
        if call.key:
            self._running[call.key] = (asked, invocation, task)
            task.add_done_callback(partial(self._forget, call.key))
        return invocation, task

    def _forget(self, key: str, task: asyncio.Task[ToolReply]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # the caller may be gone, and asyncio would report an exception that was never retrieved

    async def perform_here(
        self,
        tool: Tool,
        parameters: dict[str, Any],
        *,
        principal: str,
        progress: Callable[[str], None] | None = None,
        dry_run: bool = False,
    ) -> ToolReply:
        """Run one of this agent's tools for a principal that called this process (MCP)."""
        invocation = Invocation(
            bus=self._bus,
            metrics=self._metrics,
            tool=tool,
            key=subjects.call_key(principal, f"mcp-{secrets.token_hex(8)}.{tool.name}"),
            principal=principal,
            tier=self._policy.tier_of(principal, plain=False),
            attempt=1,
            until=time.monotonic() + CALL_DEADLINE,
            on_progress=progress,
            dry_run=dry_run,
            agent=self._agent_id,
        )
        return await self._performer.run(invocation, parameters, takeover=False)


def _of_a_caller(key: str) -> None:
    """Raise InvalidMessage or Denied for a key that callers may not use.

    Keys of undo tasks are assigned only by orchestrators.
    """
    check_call_key(key)
    if any(part.startswith(UNDO) for part in key.split(".")):
        raise Denied(f"{key}: a part that begins with {UNDO!r} is an orchestrator's; use another key")
