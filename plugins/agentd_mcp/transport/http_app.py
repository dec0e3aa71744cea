"""The transports over HTTP: streamable HTTP for clients of old and new protocol versions, and the older one with SSE.

What the SDK does not do, so this file does it (each point was observed in a trial):
- Host and Origin are checked only if security settings are passed, so they always are.
- `json_response` must be off; otherwise a client that disconnects cancels nothing.
- uvicorn must parse with h11: httptools leaves spaces in a header that the SDK compares.
- A session is bound to the user that opened it only if the user is a type of the SDK (`user_of`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecuritySettings

from agentd import Denied
from agentd.safety.tokens import principal_of
from agentd_mcp.transport import sessions, sse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentd_mcp.server import ToolServer

PATH: Final = "/mcp"


@dataclass(frozen=True)
class HttpServer:
    """The web app of MCP, with the routes `/mcp`, `/sse` and `/messages/`, and the context to enter while it serves."""

    app: ASGIApp
    lifespan: Callable[[], AbstractAsyncContextManager[None]]


def http_server(
    tools: ToolServer, *, hosts: Sequence[str], origins: Sequence[str], most: int = 128, per_principal: int = 32
) -> HttpServer:
    """Return the web app that serves `tools`.

    hosts          accepted Host headers, such as `127.0.0.1:8001`; `name:*` means any port
    origins        accepted Origin headers, such as `http://127.0.0.1:8001`
    most           maximum of concurrent sessions
    per_principal  maximum of concurrent sessions of one principal
    """
    security = TransportSecuritySettings(allowed_hosts=list(hosts), allowed_origins=list(origins))
    app = tools.server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=False,
        stateless_http=False,
        transport_security=security,
        max_request_body_size=sessions.LARGEST,
        session_idle_timeout=sessions.IDLE,
        max_sessions=most,
    )

    limited = sessions.Sessions(app, most=most, per_principal=per_principal, ended=tools.changes.closed)
    older = sse.SseServer(tools, security, most=most, per_principal=per_principal)

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (limited if scope["path"] == PATH else older)(scope, receive, send)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with tools.server.session_manager.run():
            try:
                yield
            finally:
                tools.changes.close()
                older.close()
                await tools.drain()

    return HttpServer(either, lifespan)


def user_of(authorization: str | None, *, tokens: Mapping[str, str], anonymous: bool) -> AuthenticatedUser | None:
    """Return the user of a request, or None for an anonymous one; raises Denied.

    It is a user type of the SDK: with it, the SDK lets only the user that opened a session use the session.
    """
    principal = principal_of(authorization, tokens)
    if principal is None and not anonymous:
        raise Denied("authenticate with Authorization: Bearer TOKEN; `agentd token NAME` makes one")
    return None if principal is None else AuthenticatedUser(AccessToken(token="", client_id=principal, scopes=[]))
