"""The older transport HTTP with SSE: a stream of events at `/sse`, and messages that are posted to `/messages/`.

The protocol has replaced it by streamable HTTP; it serves clients that have nothing newer.  A session is its stream: it
ends with the connection, and only the principal that opened it may post to it (the SDK checks that).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from mcp.server.sse import SseServerTransport
from starlette.responses import PlainTextResponse

from agentd_mcp.transport.sessions import LARGEST

if TYPE_CHECKING:
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.types import Message, Receive, Scope, Send

    from agentd_mcp.server import ToolServer

PATH: Final = "/sse"
MESSAGES: Final = "/messages/"
_SESSION: Final = re.compile(rb"session_id=([0-9a-f]{32})")


class SseServer:
    """An ASGI app with the two routes of the transport.

    most  maximum of streams in total
    per_principal  maximum of streams of one principal; all clients without a token count as one principal
    """

    def __init__(
        self, tools: ToolServer, security: TransportSecuritySettings, *, most: int, per_principal: int
    ) -> None:
        """Serve `tools`; no stream is open yet."""
        self._tools = tools
        self._transport = SseServerTransport(MESSAGES, security, LARGEST)
        self._most, self._per_principal = most, per_principal
        self._open: Counter[str] = Counter()
        self._streams: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] != PATH:
            await self._transport.handle_post_message(scope, receive, send)
        elif scope["method"] != "GET":
            await PlainTextResponse("open the stream with GET\n", 405, {"allow": "GET"})(scope, receive, send)
        else:
            await self._limited(scope, receive, send)

    def close(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.cancel()

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("user")
        owner = "" if user is None else str(user.username)
        if self._open[owner] >= self._per_principal or self._open.total() >= self._most:
            await PlainTextResponse(f"{self._open[owner]} streams are open; close one\n", 429)(scope, receive, send)
            return
        self._open[owner] += 1
        stream = asyncio.create_task(self._stream(scope, receive, send))
        self._streams.add(stream)
        try:
            await asyncio.wait([stream])
            if not stream.cancelled():
                stream.result()
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
            self._streams.discard(stream)
            self._open[owner] -= 1

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one session until its client closes the connection."""
        session = [""]

        async def noting(message: Message) -> None:
            """Send a part of the stream; its first event names the session."""
            found = None if session[0] else _SESSION.search(message.get("body", b""))
            if found is not None:
                session[0] = found[1].decode()
            await send(message)

        server = self._tools.server
        async with AsyncExitStack() as stack:
            stack.callback(lambda: self._tools.changes.closed(session[0]))
            try:
                connection = self._transport.connect_sse(scope, receive, noting)
                incoming, outgoing = await stack.enter_async_context(connection)
            except ValueError:
                return  # Host or Origin is not accepted; the SDK has answered
            await server.run(incoming, outgoing, server.create_initialization_options())
