"""Clients that request the same page at the same time share one response.

After a change every open page is fetched again: without sharing, a hundred clients cost a hundred readings of the
network.  A response that is shared was begun after each of its requests had arrived, so no client misses a change that
it knows of.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVERY: Final = 0.25
"""Seconds between the beginnings of two responses to the same request; the first one begins at once."""
MOST: Final = 500
"""Requests whose last beginning is remembered."""
_HEADERS: Final = frozenset({b"accept", b"accept-encoding", b"authorization", b"cookie", b"host", b"if-none-match"})
"""What a page may depend on, besides its address."""


class SharedResponses:
    """Shares the responses to GET requests of browsers for pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._waiting: dict[object, asyncio.Task[list[Message]]] = {}
        self._begun: dict[object, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with a response that other clients get, too."""
        if scope["type"] != "http" or scope["method"] != "GET" or not _wants_page(scope):
            await self._app(scope, receive, send)
            return
        headers = frozenset((name, value) for name, value in scope["headers"] if name in _HEADERS)
        key = (scope["path"], scope["query_string"], headers)
        task = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._respond(key, scope))
        for message in await asyncio.shield(task):
            await send(message)

    async def _respond(self, key: object, scope: Scope) -> list[Message]:
        """Return the messages of one response; once it has begun, no other request joins it."""
        await asyncio.sleep(max(0.0, self._begun.get(key, 0.0) + EVERY - time.monotonic()))
        del self._waiting[key]
        if len(self._begun) >= MOST:
            self._begun.clear()
        self._begun[key] = time.monotonic()
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent


def _wants_page(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
