"""Limit the number of MCP sessions and the size of the request that opens one.

A session uses memory as long as it exists, including everything that its client sent about itself, and without a limit
a client without a token could open any number of sessions.  So there is a limit for each principal and one in total.
When a principal has reached its limit, its session that was unused for the longest time is ended, if that was more
than `UNUSED` seconds; otherwise the answer is 429.  The SDK itself ends a session that is not used for `IDLE` seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST: Final = 1 << 20
"""Maximum bytes of a request, as for a message in NATS."""
LARGEST_OPENING: Final = 16_384
"""Maximum bytes of a request that opens a session: the client's name and capabilities."""
IDLE: Final = 900.0
UNUSED: Final = 30.0
_ID: Final = "mcp-session-id"


@dataclass
class _Session:
    owner: str
    used: float
    busy: int = 0


class Sessions:
    """An ASGI app in front of the SDK's app that limits its sessions.

    most  maximum of sessions in total
    each  maximum of sessions of one principal; all clients without a token count as one principal
    ended  is called with the id of each session that has ended
    """

    def __init__(
        self, app: ASGIApp, *, most: int, per_principal: int, ended: Callable[[str], None] = lambda _id: None
    ) -> None:
        """Wrap `app`; no session is open yet."""
        self._ended = ended
        self._app = app
        self._opening_app = RequestBodyLimitMiddleware(app, LARGEST_OPENING)
        self._most, self._per_principal = most, per_principal
        self._open: dict[str, _Session] = {}
        self._opening: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, unless it would open a session beyond the limits."""
        headers = Headers(scope=scope)
        user = scope.get("user")
        owner = "" if user is None else str(user.username)
        known = headers.get(_ID)
        if known is not None or headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS:
            await self._forward(known or "", owner, scope, receive, send)
            return
        refused = await self._make_room(owner, scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        self._opening.append(owner)
        try:
            await self._opening_app(scope, receive, self._recording_send(owner, send))
        finally:
            self._opening.remove(owner)

    async def _forward(self, name: str, owner: str, scope: Scope, receive: Receive, send: Send) -> None:
        session = self._open.get(name)
        if session is None or session.owner != owner:
            await self._app(scope, receive, send)
            return
        session.busy += 1
        try:
            await self._app(scope, receive, self._removing_send(name, scope, send))
        finally:
            session.busy -= 1
            session.used = time.monotonic()

    def _recording_send(self, owner: str, send: Send) -> Send:
        """Return a `send` that records the session that a response opens."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:  # noqa: PLR2004 - no error
                name = Headers(raw=message["headers"]).get(_ID)
                if name is not None:
                    self._open[name] = _Session(owner, time.monotonic())
            await send(message)

        return noting

    def _removing_send(self, name: str, scope: Scope, send: Send) -> Send:
        """Return a `send` that removes a session that has ended."""

        async def forgetting(message: Message) -> None:
            if message["type"] == "http.response.start" and (
                message["status"] == 404 or (scope["method"] == "DELETE" and message["status"] < 400)  # noqa: PLR2004
            ):
                self._forget(name)
            await send(message)

        return forgetting

    async def _make_room(self, owner: str, scope: Scope) -> PlainTextResponse | None:
        """Make room for one more session of `owner`, or return a refusal."""
        at = time.monotonic()
        for name in [name for name, session in self._open.items() if not session.busy and at - session.used > IDLE]:
            self._forget(name)
        alike = [name for name, session in self._open.items() if session.owner == owner]
        full = len(alike) + self._opening.count(owner) >= self._per_principal
        if not full and len(self._open) + len(self._opening) < self._most:
            return None
        unused = [name for name in alike if not self._open[name].busy and at - self._open[name].used > UNUSED]
        if unused:
            await self._end(min(unused, key=lambda name: self._open[name].used), scope)
            return None
        text = f"{len(alike)} sessions are open; end one (DELETE), or wait until one is unused for {UNUSED:.0f} s\n"
        return PlainTextResponse(text, 429 if full else 503, {"retry-after": f"{UNUSED:.0f}"})

    def _forget(self, name: str) -> None:
        self._open.pop(name, None)
        self._ended(name)

    async def _end(self, name: str, scope: Scope) -> None:
        """End a session with the DELETE request that its client would send."""
        self._forget(name)
        headers = [(key, value) for key, value in scope["headers"] if key in {b"host", b"accept", b"origin"}]
        ending = {**scope, "method": "DELETE", "headers": [*headers, (_ID.encode(), name.encode())]}

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_message: Message) -> None:
            return

        await self._app(ending, receive, send)
