"""The role `mcp-bridge`: serve the queue `mcp-proxmox`, and MCP at `/mcp` and, for older clients, at `/sse`.

Both serve the same tools.

These are routes of the instance's web server (port 8001), beside the status page.  The web server starts before the
daemon is connected to NATS and long before the role gets its context, but the MCP SDK must be entered and left in the
same asyncio task.  So the role provides a gate through the optional attribute `routes`, which the supervisor passes to
the web server.  The gate exists from the start and answers 503 until `run` opens it; `run` enters and leaves the SDK.
An SDK app cannot be used twice: when the role is restarted, it opens the gate with a new one.

A client that sends a token of `[web.tokens]` acts as that principal.  A client without a token acts as the principal
`mcp`; this is allowed on a loopback address only, and not with `anonymous = false`.  The SDK is imported in `run`, so a
daemon without this role never loads it.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from agentd import ANONYMOUS, AgentdError, Denied, Duty, Settings, __version__
from agentd.config.section import Id, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentd import Context
    from agentd_mcp import assembly

SERVICE: Final = "mcp-proxmox"
PRINCIPAL: Final = "mcp"
"""The principal of clients without a token."""
PATHS: Final = ("/mcp", "/sse", "/messages/")


class BridgeSettings(Settings):
    """Settings of the section `[mcp-bridge]`."""

    mcp: bool = Field(default=True, description="serve the tools over MCP; false: over NATS only")
    tool_list: Literal["few", "all"] = Field(
        default="few",
        description="tools in the list that a client gets. few: the tools of daily use, and find_tools to find the "
        "others. all: every tool, which costs a model about 70,000 tokens. All tools can be called in both cases",
    )
    anonymous: bool = Field(
        default=True,
        description="serve clients without a token, as the principal mcp; ignored unless [web] host is a loopback "
        "address",
    )
    sessions: int = Field(
        default=128, ge=1, le=10_000, description="number of open MCP sessions; each needs about 40 kB of memory"
    )
    sessions_per_principal: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="number of open MCP sessions of one principal; clients without a token count as one principal. "
        "Above it, the session unused for the longest time is closed if it was unused for 30 s",
    )
    approvers: dict[Id, Id] = Field(
        default={},
        description="principal of the client, and the principal as which the person at that client approves its "
        "requests in a form of the client; do not name a client that fills in forms by itself",
    )

    @field_validator("approvers")
    @classmethod
    def _two(cls, value: dict[str, str]) -> dict[str, str]:
        for principal, person in value.items():
            if principal in ANONYMOUS:
                raise ValueError(
                    f"{principal} needs no token, so the person at its client is not known: give the client a token "
                    f"(agentd token NAME, [web.tokens]) and name that principal here instead of {principal}"
                )
            if person in ANONYMOUS:
                raise ValueError(f"{person} needs no token, so it approves nothing; name a principal that has one")
            if principal == person:
                raise ValueError(f"{principal} would approve its own requests; name another principal")
        return value


RIGHTS_AGAIN: Final = 60.0
BLIND_AGAIN: Final = 5.0
"""Seconds between two checks of the token's rights: normally, and while it has no rights."""


class Gate:
    """An ASGI app that forwards requests to the MCP app.

    While there is none, it answers 503 with the reason.

    admit  returns the user of a request for its header `Authorization`; raises Denied if the caller is not allowed
    """

    def __init__(self) -> None:
        """Start closed."""
        self.app: ASGIApp | None = None
        self.admit: Callable[[str | None], object] = lambda _: None
        self.reason = "starting"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = self.app or PlainTextResponse(f"MCP is not served: {self.reason}\n", status_code=503)
        try:
            scope["user"] = self.admit(Headers(scope=scope).get("authorization"))
        except Denied as error:
            challenge = {"www-authenticate": 'Bearer realm="agentd"'}
            answer = PlainTextResponse(f"{error}\n", status_code=401, headers=challenge)
        await answer(scope, receive, send)


async def _watch_rights(context: Context) -> None:
    """Report the role as not ready while the token has no rights.

    Proxmox shows such a token an empty cluster.
    """
    blind = False
    while context.proxmox is not None:
        try:
            blind = not any((await context.proxmox.permissions()).values())
        except AgentdError as error:
            context.log.debug("the rights of the token were not read", reason=str(error))
        else:
            user = context.proxmox.user
            advice = f"{user} is blind, it has no right anywhere in Proxmox: agentd doctor lists what to grant"
            if blind:
                context.health.down(advice)
            elif context.health.reason == advice:
                context.health.up()
        await asyncio.sleep(BLIND_AGAIN if blind else RIGHTS_AGAIN)


class Bridge:
    """The role: serves the Proxmox tools over NATS and to AI clients over MCP."""

    name = "mcp-bridge"
    port = 8001
    services: tuple[str, ...] = (SERVICE,)
    duties = frozenset({Duty.REPRESENT})

    def __init__(self) -> None:
        """Create the gate, closed."""
        self.gate = Gate()

    @property
    def routes(self) -> list[BaseRoute]:
        """Return the routes that the instance's web server adds for this role."""
        return [Route(path, self.gate) for path in PATHS]

    def clients(self, settings: BridgeSettings) -> set[str]:
        """Return the principals that it sends requests for, besides [web.tokens]."""
        return {PRINCIPAL, *settings.approvers.values()}

    async def run(self, context: Context) -> None:
        """Serve MCP and the queue until the context is stopping."""
        async with AsyncExitStack() as stack:
            bridge = await self._bridge(context)
            if bridge is not None:
                await stack.enter_async_context(bridge.http.lifespan())
                stack.callback(self._close, "stopping")
                self.gate.app, self.gate.admit = bridge.http.app, bridge.admit
                for broken in bridge.tools.broken:
                    context.log.error("a tool is not served over MCP", tool=broken.name, reason=broken.reason)
                reading = asyncio.ensure_future(bridge.offered.watch(context.bus))
                stack.callback(reading.cancel)

            def ready() -> None:
                context.health.up()
                stack.callback(asyncio.ensure_future(_watch_rights(context)).cancel)

            await context.worker.serve(
                SERVICE,
                context.stopping,
                queues=context.queues(SERVICE),
                drain=context.config.drain.timeout,
                version=__version__,
                ready=ready,
            )

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Change nothing: these settings take effect only when the role starts."""

    def _close(self, reason: str) -> None:
        self.gate.app, self.gate.reason = None, reason

    async def _bridge(self, context: Context) -> assembly.Bridge | None:
        """Return the MCP server of this bridge, or None.

        If MCP is not served, set the reason at the gate and return None.
        """
        settings: BridgeSettings = context.settings
        if not settings.mcp:
            self._close("[mcp-bridge] mcp = false")
            return None
        if not is_loopback(context.config.web.host) and not context.config.web.tokens:
            self._close("beyond a loopback address it is served to known principals only; see [web.tokens]")
            context.log.warning("MCP is not served", reason=self.gate.reason)
            return None
        try:
            await asyncio.to_thread(importlib.import_module, "agentd_mcp.assembly")  # half a second, so not in the loop
        except ImportError as error:
            self._close(f"the MCP SDK is not installed ({error}); install agentd[mcp]")
            context.log.exception("MCP is not served", reason=self.gate.reason)
            return None
        from agentd_mcp import assembly  # already loaded; this import gives the types

        return assembly.bridge(context, await asyncio.to_thread(context.known_tools))
