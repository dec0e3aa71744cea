"""How many MCP sessions there may be, of whom, and how large the request is that opens one.

A session costs memory for as long as it lasts, with all that its client said of itself, and a client without a token
may open as many as it likes.  So each principal has a number of sessions, all together another, and what opens one is
small.  Where a principal has all of its sessions, the one that was unused for longest gives way if it was unused for
`UNUSED` seconds; else the answer is 429.  A session that is not used for `IDLE` seconds ends (that is the SDK's).
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
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST: Final = 1 << 20
"""Bytes of a request; a message in NATS has no more."""
LARGEST_OPENING: Final = 16_384
"""Bytes of a request that opens a session: who the client is, and what it can do."""
IDLE: Final = 900.0
UNUSED: Final = 30.0
_ID: Final = "mcp-session-id"


@dataclass
class _Session:
    owner: str
    used: float
    busy: int = 0


class Sessions:
    """An ASGI app before the SDK's that bounds its sessions.

    most  sessions in all
    each  sessions of one principal; all clients without a token are one
    """

    def __init__(self, app: ASGIApp, *, most: int, each: int) -> None:
        """Begin with none."""
        self._app = app
        self._opening_app = RequestBodyLimitMiddleware(app, LARGEST_OPENING)
        self._most, self._each = most, each
        self._open: dict[str, _Session] = {}
        self._opening: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, if there is room for what it opens."""
        headers = Headers(scope=scope)
        user = scope.get("user")
        owner = "" if user is None else str(user.username)
        known = headers.get(_ID)
        if known is not None or headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS:
            await self._use(known or "", owner, scope, receive, send)
            return
        refused = await self._room(owner, scope)
        if refused is not None:
            await refused(scope, receive, send)
            return
        self._opening.append(owner)
        try:
            await self._opening_app(scope, receive, self._noting(owner, send))
        finally:
            self._opening.remove(owner)

    async def _use(self, name: str, owner: str, scope: Scope, receive: Receive, send: Send) -> None:
        session = self._open.get(name)
        if session is None or session.owner != owner:
            await self._app(scope, receive, send)
            return
        session.busy += 1
        try:
            await self._app(scope, receive, self._forgetting(name, scope, send))
        finally:
            session.busy -= 1
            session.used = time.monotonic()

    def _noting(self, owner: str, send: Send) -> Send:
        """Return a `send` that notes the session which an answer has opened."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:  # noqa: PLR2004 - no error
                name = Headers(raw=message["headers"]).get(_ID)
                if name is not None:
                    self._open[name] = _Session(owner, time.monotonic())
            await send(message)

        return noting

    def _forgetting(self, name: str, scope: Scope, send: Send) -> Send:
        """Return a `send` that forgets a session which is over."""

        async def forgetting(message: Message) -> None:
            if message["type"] == "http.response.start" and (
                message["status"] == 404 or (scope["method"] == "DELETE" and message["status"] < 400)  # noqa: PLR2004
            ):
                self._open.pop(name, None)
            await send(message)

        return forgetting

    async def _room(self, owner: str, scope: Scope) -> PlainTextResponse | None:
        """Make room for one more session of `owner`; return the answer if there is none."""
        at = time.monotonic()
        for name in [name for name, one in self._open.items() if not one.busy and at - one.used > IDLE]:
            del self._open[name]
        alike = [name for name, one in self._open.items() if one.owner == owner]
        full = len(alike) + self._opening.count(owner) >= self._each
        if not full and len(self._open) + len(self._opening) < self._most:
            return None
        unused = [name for name in alike if not self._open[name].busy and at - self._open[name].used > UNUSED]
        if unused:
            await self._end(min(unused, key=lambda name: self._open[name].used), scope)
            return None
        text = f"{len(alike)} sessions are open; end one (DELETE), or wait until one is unused for {UNUSED:.0f} s\n"
        return PlainTextResponse(text, 429 if full else 503, {"retry-after": f"{UNUSED:.0f}"})

    async def _end(self, name: str, scope: Scope) -> None:
        """End a session as its client would."""
        self._open.pop(name, None)
        headers = [(key, value) for key, value in scope["headers"] if key in {b"host", b"accept", b"origin"}]
        ending = {**scope, "method": "DELETE", "headers": [*headers, (_ID.encode(), name.encode())]}

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_message: Message) -> None:
            return

        await self._app(ending, receive, send)
