"""MCP tools to show, freeze and thaw the network.

Every client may see the state; as over HTTP, a change needs a client with a token.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import ANONYMOUS, Denied, Repeat, Tier
from agentd.safety import freeze
from agentd.wire.announcements import NetworkRequest
from agentd_mcp.direct_tools.direct import direct

if TYPE_CHECKING:
    from agentd.wire.announcements import Freeze
    from agentd_mcp.direct_tools.direct import Asker, DirectTool


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


async def network_status(asker: Asker, _p: NoArguments) -> NetworkState:
    """Show whether the network is frozen, by whom, since when and why."""
    return _state(await freeze.read(asker.bus), "the network is not frozen")


async def freeze_network(asker: Asker, p: FreezeArguments) -> NetworkState:
    """Stop every change in the whole network, until it is thawed; reads go on."""
    return await _change(asker, NetworkRequest("freeze", p.reason, p.seconds))


async def thaw_network(asker: Asker, p: ThawArguments) -> NetworkState:
    """End a freeze: for the principal that froze the network, or with tier destroy."""
    return await _change(asker, NetworkRequest("thaw", p.reason))


async def _change(asker: Asker, request: NetworkRequest) -> NetworkState:
    """Send the request.

    Raises Denied for a client without a token, and if it is not carried out.
    """
    if asker.principal in ANONYMOUS:
        name = f"{request.action}_network"
        raise Denied(f"{name} needs to know its caller: give the client a token (agentd token NAME, [web.tokens])")
    reply = await freeze.ask(asker.bus, asker.principal, request)
    if not reply.done:
        raise Denied(reply.message)
    return _state(reply.freeze, reply.message)


def _state(found: Freeze | None, otherwise: str) -> NetworkState:
    if found is None:
        return NetworkState(frozen=False, text=otherwise)
    return NetworkState(
        frozen=True, text=freeze.describe(found), by=found.by, since=found.since, until=found.until, reason=found.reason
    )


def tools() -> list[DirectTool]:
    """Return the tools to show, freeze and thaw the network."""
    return [
        direct(network_status, NoArguments, NetworkState, Tier.READ, Repeat.IDEMPOTENT),
        direct(freeze_network, FreezeArguments, NetworkState, Tier.OPERATE, Repeat.IDEMPOTENT),
        direct(thaw_network, ThawArguments, NetworkState, Tier.OPERATE, Repeat.IDEMPOTENT),
    ]
