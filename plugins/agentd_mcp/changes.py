"""Notify every live client when the tools change.

- Clients of the newest protocol listen on a stream of their own (`subscriptions/listen`).
- Clients of older ones get the notification in their session, on the stream that they hold open with GET.

Each bridge reads by itself what the agents offer, so a change reaches the clients of all bridges.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError

if TYPE_CHECKING:
    from mcp.server.session import ServerSession
    from starlette.requests import Request

    from agentd_mcp.elicitation import Context

SENT: Final = 2.0
"""Seconds that one session may take to accept a notification."""
STDIO: Final = ""
"""The key of the only session of a server over stdio."""


class Changes:
    """The clients that are notified when the tools change.

    most           maximum of streams in total
    per_principal  maximum of streams of one principal
    """

    def __init__(self, *, most: int = 128, per_principal: int = 32) -> None:
        """Know no client yet."""
        self._bus = InMemorySubscriptionBus()
        self._handler = ListenHandler(self._bus, max_subscriptions=most)
        self._per_principal = per_principal
        self._streams: Counter[str] = Counter()
        self._sessions: dict[str, ServerSession] = {}

    async def listen(
        self, context: Context, params: types.SubscriptionsListenRequestParams, principal: str
    ) -> types.SubscriptionsListenResult:
        """Serve one stream of a principal until its client leaves."""
        if self._streams[principal] >= self._per_principal:
            raise MCPError(types.INTERNAL_ERROR, f"{principal} has {self._per_principal} streams open; close one")
        self._streams[principal] += 1
        try:
            return await self._handler(context, params)
        finally:
            self._streams[principal] -= 1

    async def opened(self, context: Context, _params: Any) -> None:  # noqa: ANN401 - no parameters
        """Record a session of an older protocol once its client has initialized it."""
        request = context.request
        self._sessions[STDIO if request is None else _session_id(request)] = context.session

    def closed(self, session_id: str) -> None:
        """Forget a session that has ended."""
        self._sessions.pop(session_id, None)

    async def tools_changed(self) -> None:
        """Notify every client.

        A client that does not accept the notification in time gets none.
        """
        await self._bus.publish(ToolsListChanged())
        await asyncio.gather(*(self._notify(session_id) for session_id in list(self._sessions)))

    async def _notify(self, session_id: str) -> None:
        with contextlib.suppress(Exception):  # the client is gone, or does not read: no other client waits for it
            async with asyncio.timeout(SENT):
                await self._sessions[session_id].send_tool_list_changed()

    def close(self) -> None:
        """End all streams; each client gets the end of its stream."""
        self._handler.close()


def _session_id(request: Request) -> str:
    """Return the session of a message.

    Streamable HTTP names it in a header, HTTP with SSE in the address.
    """
    return request.headers.get("mcp-session-id") or request.query_params.get("session_id", STDIO)
