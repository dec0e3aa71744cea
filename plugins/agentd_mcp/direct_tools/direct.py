"""Direct tools: the bridge runs them itself, as a client of the network in the name of the principal.

A direct tool is not a call of an agent: it has no effect record, and neither policy nor audit of this daemon applies to
it.  What it requests is checked where it is carried out, by an orchestrator, which knows the principal from the NATS
subject.  So direct tools also work while the network is frozen.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agentd import InvalidMessage, Outcome, Repeat, Tier, Tool, ToolReply, plain

if TYPE_CHECKING:
    from agentd import Bus, Call


@dataclass(frozen=True)
class Asker:
    """The principal for which a direct tool runs; text passed to `note` is sent to the client while it runs."""

    bus: Bus
    principal: str
    tier: Tier
    note: Callable[[str], None]


Act = Callable[[Asker, Any], Awaitable[msgspec.Struct | ToolReply]]


@dataclass(frozen=True)
class DirectTool:
    """A tool and the function that runs it; the function raises AgentdError if it cannot do what is requested."""

    tool: Tool
    act: Act

    async def run(self, asker: Asker, parameters: dict[str, Any]) -> ToolReply:
        """Run the tool; raises AgentdError."""
        result = await self.act(asker, self.tool.parse(parameters))
        return result if isinstance(result, ToolReply) else ToolReply(Outcome.COMPLETED, plain(result))


def direct(
    act: Act, parameters: type[msgspec.Struct], result: type[msgspec.Struct], tier: Tier, repeat: Repeat
) -> DirectTool:
    """Return the direct tool with the name and the docstring of the function `act`."""
    name = act.__name__

    async def run(call: Call, p: Any) -> msgspec.Struct:  # noqa: ANN401 - the parameters of any of these tools
        raise InvalidMessage(f"{name} is called over MCP, not as {call.key} with {p}")

    tool = Tool(
        name=name,
        service="",
        description=inspect.cleandoc(act.__doc__ or ""),
        tier=tier,
        repeat=repeat,
        capability="network",
        parameters=parameters,
        result=result,
        run=run,
    )
    return DirectTool(tool, act)
