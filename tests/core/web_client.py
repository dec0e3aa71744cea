"""Asking a web server over real sockets: plain answers and server-sent events."""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentd.web.serving.server import WebServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.web_view import MemoryView

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@dataclass
class Answer:
    """One answer over HTTP."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body as JSON values."""
        return json.loads(self.body)


class Client:
    """Ask a server on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __call__(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for `path`; a header is written with underscores."""
        return await asyncio.to_thread(self._ask, path, method, None, _named(headers))

    async def send(self, path: str, body: bytes, **headers: str) -> Answer:
        """Send `body` with these headers."""
        return await asyncio.to_thread(self._ask, path, "POST", body, _named(headers))

    async def post(self, path: str, body: bytes, token: str) -> Answer:
        """Request a change in the name of the token's principal."""
        return await asyncio.to_thread(self._ask, path, "POST", body, {"Authorization": f"Bearer {token}"})

    async def page(self, path: str) -> Answer:
        """Ask as a browser does."""
        return await self(path, **HTML)

    def _ask(self, path: str, method: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            got = connection.getresponse()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            connection.close()


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class Stream:
    """Read server-sent events from a plain socket."""

    head: str = ""
    last_id: str = ""
    """The id of the last event."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, limit: int = 2**20, last_id: str = "") -> Stream:
        """Open the stream, after the event `last_id` if there is one, and read its head."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        resumed = f"Last-Event-ID: {last_id}\r\n".encode() if last_id else b""
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n" + resumed + b"\r\n")
        made = cls(reader, writer)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        made.head = head.decode().lower()
        return made

    async def chunk(self) -> str:
        """Return the next chunk; "" is the end."""
        size = int(await asyncio.wait_for(self.reader.readline(), 5), 16)
        data = await asyncio.wait_for(self.reader.readexactly(size + 2), 5)
        return data[:-2].decode()

    async def event(self) -> tuple[str, Any]:
        """Return the next event; comments and the retry line are passed over."""
        while True:
            text = await self.chunk()
            if not text:
                return "end", None
            if text.startswith("event: "):
                head, data = text.removeprefix("event: ").split("\ndata: ")
                kind, _, self.last_id = head.partition("\nid: ")
                return kind, json.loads(data)

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def serving(
    network: MemoryView,
    *,
    allowed_hosts: tuple[str, ...] = (),
    tokens: dict[str, str] | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Client]:
    """Serve `network` on a free port."""
    server = WebServer(network, host=host, port=0, allowed_hosts=allowed_hosts, tokens=tokens)
    port = await server.start()
    try:
        yield Client(port)
    finally:
        await server.stop()
