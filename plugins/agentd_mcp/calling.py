"""Where a call of an MCP client is carried out.

- A direct tool: by the bridge itself (direct_tools).
- A call of tier destroy or exec: as a plan, which another principal has to approve (approvals.py).
- A tool that this bridge serves: in this process, with policy, effect record and audit of this agent.
- Any other tool that an agent of the network offers: by that agent, over NATS and under the name of the principal.  The
  called agent applies its policy to that principal and writes the audit record, as for `agentd call`.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agentd import NEEDS_APPROVAL, AgentdError
from agentd.client import queries, tool_calls
from agentd_mcp import approvals
from agentd_mcp.direct_tools.direct import Asker, DirectTool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractContextManager

    from agentd import Bus, Tool, ToolReply
    from agentd.tools.calls import Calls
    from agentd_mcp.elicitation import Question
    from agentd_mcp.server import Principal, Progress

CALL_SECONDS: Final = 900.0
"""Seconds that a call of another agent may take, as for a call in this process."""
OFFERED_AGAIN: Final = 5.0
"""Seconds between two reads of what the agents offer."""


class Offered:
    """The names of the tools that the agents of the network offer, as their leases show.

    While NATS is not reachable, the names of the last read are kept.

    changed  called after each change
    """

    def __init__(self) -> None:
        """Know no tool yet."""
        self.names: frozenset[str] = frozenset()
        self.changed: Callable[[], Awaitable[None]] | None = None

    async def read(self, bus: Bus) -> None:
        """Read the leases once; raises BusError."""
        found = frozenset(name for service in await queries.services(bus) for name in service.tools)
        changed, self.names = found != self.names, found
        if changed and self.changed is not None:
            await self.changed()

    async def watch(self, bus: Bus) -> None:
        """Read the leases again and again."""
        while True:
            with contextlib.suppress(AgentdError):
                await self.read(bus)
            await asyncio.sleep(OFFERED_AGAIN)


@dataclass(frozen=True, kw_only=True)
class ToolCaller:
    """Carries out the calls of clients.

    here       runs the tools of this process; None: there are none
    remote     the tools of other agents, by name
    direct     the tools that run without an agent, by name
    approvers  the principal as which the person at the client of a principal approves, as in [mcp-bridge]
    """

    bus: Bus
    here: Calls | None
    remote: Mapping[str, Tool]
    direct: dict[str, DirectTool] = field(default_factory=dict)
    approvers: Mapping[str, str]

    async def call(
        self, principal: Principal, tool: Tool, parameters: dict[str, Any], note: Progress
    ) -> ToolReply | Question:
        """Run a tool, or create the plan that another principal has to approve."""
        direct = self.direct.get(tool.name)
        if direct is not None:
            return await direct.run(Asker(self.bus, principal.name, principal.tier, note), parameters)
        if tool.tier_for(parameters) in NEEDS_APPROVAL:
            with self._counted(principal.name):
                person = self.approvers.get(principal.name)
                return await approvals.ask(self.bus, principal.name, tool.name, parameters, person)
        return await self.perform(tool, parameters, principal.name, progress=note)

    async def perform(
        self,
        tool: Tool,
        parameters: dict[str, Any],
        principal: str,
        *,
        progress: Progress = lambda _text: None,
        dry_run: bool = False,
    ) -> ToolReply:
        """Run a tool in this process or on the agent that offers it."""
        with self._counted(principal):
            if self.here is not None and tool.name not in self.remote:
                return await self.here.perform_here(
                    tool, parameters, principal=principal, progress=progress, dry_run=dry_run
                )
            return await tool_calls.call(
                self.bus,
                principal,
                tool.name,
                parameters,
                seconds=CALL_SECONDS,
                dry_run=dry_run,
                progress=progress,
            )

    def _counted(self, principal: str) -> AbstractContextManager[None]:
        """Count a call of a principal in this process; raises Denied if too many run."""
        return contextlib.nullcontext() if self.here is None else self.here.at_once.one(principal)
