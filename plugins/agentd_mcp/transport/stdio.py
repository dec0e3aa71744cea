"""MCP over stdin and stdout: `agentd mcp`, which an AI client starts as a child process.

It is a client of the network: it connects to NATS as the principal of its configuration and calls every tool under
that name, like `agentd call`.  So NATS proves the principal, each agent applies its own policy to it, no bridge has to
run or be reachable, and no secret is stored besides the credentials of the command line.  The other possible shape, a
proxy to the HTTP address of a bridge, would only serve clients that can connect to that address themselves.

All tools are listed whatever their tier: the policy of the agents is not known here, and decides.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mcp.server.stdio import stdio_server

from agentd import Tier
from agentd_mcp.assembly import network_server
from agentd_mcp.server import Principal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from agentd import Bus, Tool


async def serve(bus: Bus, principal: str, known: Mapping[str, Tool], *, few: bool, within: Sequence[str] = ()) -> None:
    """Serve all tools of the network until the client closes stdin.

    few     list the tools of daily use only
    within  the directories to which the file tools are limited
    """

    def resolve(_request: Request | None) -> Principal:
        return Principal(principal, Tier.EXEC, tuple(within))

    tools, offered = network_server(bus, known, resolve, name=f"agentd as {principal}", few=few)
    await offered.read(bus)
    watching = asyncio.create_task(offered.watch(bus))
    try:
        async with stdio_server() as (incoming, outgoing):
            await tools.server.run(incoming, outgoing, tools.server.create_initialization_options())
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        tools.changes.close()
        await tools.drain()
