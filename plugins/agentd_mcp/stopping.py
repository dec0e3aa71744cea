"""MCP tools to show, freeze and thaw the network.

Every client may see the state; as over HTTP, a change needs a client with a token.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import ANONYMOUS, Denied, InvalidMessage, Outcome, Repeat, TaskError, Tier, Tool, ToolReply, plain
from agentd.safety import freeze
from agentd.wire.announcements import NetworkRequest

if TYPE_CHECKING:
    from agentd import Bus, Call
    from agentd.wire.announcements import Freeze

STATUS: Final = "network_status"
ACTIONS: Final = {"freeze_network": "freeze", "thaw_network": "thaw"}
NAMES: Final = frozenset({STATUS, *ACTIONS})


class NoArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class ThawArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the network is thawed; recorded in the audit log."""

    reason: Annotated[str, Meta(max_length=freeze.MOST_TEXT)] = ""


class FreezeArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the network is frozen, and for how many seconds.

    Without `seconds` it stays frozen until it is thawed.
    """

    reason: Annotated[str, Meta(min_length=1, max_length=freeze.MOST_TEXT)]
    seconds: Annotated[float, Meta(ge=1, le=freeze.LONGEST)] | None = None


class NetworkState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the network is frozen; while it is, no agent changes anything."""

    frozen: bool
    text: str
    by: str = ""
    since: datetime | None = None
    until: datetime | None = None
    reason: str = ""


async def carry_out(bus: Bus, principal: str, tool: Tool, parameters: dict[str, Any]) -> ToolReply:
    """Run one of these tools; raises Denied for a change by a client without a token."""
    if tool.name == STATUS:
        return ToolReply(Outcome.COMPLETED, plain(_state(await freeze.read(bus), "the network is not frozen")))
    if principal in ANONYMOUS:
        raise Denied(f"{tool.name} needs to know its caller: give the client a token (agentd token NAME, [web.tokens])")
    request = NetworkRequest(ACTIONS[tool.name], parameters.get("reason", ""), parameters.get("seconds"))
    reply = await freeze.ask(bus, principal, request)
    if not reply.done:
        return ToolReply(Outcome.FAILED, error=TaskError(Denied.code, reply.message))
    return ToolReply(Outcome.COMPLETED, plain(_state(reply.freeze, reply.message)))


def _state(found: Freeze | None, otherwise: str) -> NetworkState:
    if found is None:
        return NetworkState(frozen=False, text=otherwise)
    return NetworkState(
        frozen=True, text=freeze.describe(found), by=found.by, since=found.since, until=found.until, reason=found.reason
    )


def tools() -> list[Tool]:
    """Return the tools to show, freeze and thaw the network.

    They run through `carry_out`, not as normal calls: a frozen network must be thawed by one of them.
    """
    return [
        _tool(STATUS, "Whether the network is frozen, by whom, since when and why.", NoArguments, Tier.READ),
        _tool(
            "freeze_network",
            "Stop every change in the whole network, until it is thawed; reads go on.",
            FreezeArguments,
        ),
        _tool("thaw_network", "End a freeze: for who froze the network, or with tier destroy.", ThawArguments),
    ]


def _tool(name: str, description: str, parameters: type[msgspec.Struct], tier: Tier = Tier.OPERATE) -> Tool:
    async def run(call: Call, p: Any) -> NetworkState:  # noqa: ANN401 - the parameters of any of these tools
        raise InvalidMessage(f"{name} is called over MCP, not as {call.key} with {p}")

    return Tool(
        name=name,
        service="",
        description=description,
        tier=tier,
        repeat=Repeat.IDEMPOTENT,
        capability="safety",
        parameters=parameters,
        result=NetworkState,
        run=run,
    )
