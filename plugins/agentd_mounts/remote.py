"""JSON-RPC with an MCP server at a URL: streamable HTTP of the protocol 2025-11-25.

As in peer.py the SDK is not used, because the server is not trusted.  Each request is a POST in a thread, by Python's
own http.client: redirects are not followed, an answer has at most `max_bytes` bytes, and the time limit holds for the
whole answer, however slowly it arrives.  There is no stream for notifications; the list of tools is read again
regularly instead, which also finds a server that has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from agentd import TemporaryError, read_secret
from agentd_mounts.peer import Gone, result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from http.client import HTTPResponse

    from agentd_mounts.settings import ServerSettings

READS_TOOLS: Final = 30.0
"""Seconds between two readings of the list of tools."""
ENDS: Final = 2.0
AT_ONCE: Final = 8
"""Requests at the same time."""
_NO_SESSION: Final = 404
_CHUNK: Final = 65_536


@dataclass(eq=False)
class _Post:
    """One request: what is sent, its limits, and the socket, so that it can be broken off."""

    body: bytes
    headers: dict[str, str]
    until: float
    number: int | None
    method: str = "POST"
    connection: HTTPConnection | None = None
    given: dict[str, str] = field(default_factory=dict)


class RemotePeer:
    """A server at a URL; it has the members of Peer.

    errors  nothing: a remote server has no stderr
    """

    def __init__(self, name: str, settings: ServerSettings, notified: Callable[[str], None]) -> None:
        """Describe the server; `start` begins."""
        self._name, self._settings, self._notified = name, settings, notified
        self._headers: dict[str, str] = {}
        self._open: set[_Post] = set()
        self._last = 0
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"mount-{name}")
        self._tls: ssl.SSLContext | None = None
        self._reading: asyncio.Task[None] | None = None
        self.errors: deque[str] = deque()
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Read token and certificates, and begin to read the tools again regularly."""
        self._headers = await asyncio.to_thread(self._prepare)
        self._reading = asyncio.create_task(self._read_tools())

    async def request(self, method: str, parameters: dict[str, Any], seconds: float) -> Any:  # noqa: ANN401 - JSON
        """Return the result of a request; raises Gone, TemporaryError after `seconds`, PermanentError for its error."""
        self._last += 1
        number = self._last
        content = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        try:
            message, given = await self._post(content, number, seconds)
        except (TemporaryError, asyncio.CancelledError) as error:
            if not isinstance(error, Gone):
                with contextlib.suppress(TemporaryError):
                    await self.notify("notifications/cancelled", {"requestId": number, "reason": "no longer needed"})
            raise
        result = result_of(message, self._name)
        if method == "initialize":
            self._headers |= {"Mcp-Session-Id": given["mcp-session-id"]} if "mcp-session-id" in given else {}
            self._headers["MCP-Protocol-Version"] = str(parameters.get("protocolVersion"))
        return result

    async def notify(self, method: str, parameters: dict[str, Any]) -> None:
        """Send a notification; raises Gone."""
        await self._post({"jsonrpc": "2.0", "method": method, "params": parameters}, None, ENDS)

    async def stop(self) -> None:
        """End the session at the server, and break off what is under way."""
        if self._reading is not None:
            self._reading.cancel()
        self.ended.set()
        for post in list(self._open):
            _break_off(post)
        if "Mcp-Session-Id" in self._headers:
            with contextlib.suppress(TemporaryError, TimeoutError):
                await self._run(_Post(b"", self._headers, time.monotonic() + ENDS, None, method="DELETE"), ENDS)
        self._threads.shutdown(wait=False)

    async def _read_tools(self) -> None:
        while True:
            await asyncio.sleep(READS_TOOLS)
            self._notified("notifications/tools/list_changed")

    async def _post(self, content: object, number: int | None, seconds: float) -> tuple[Any, dict[str, str]]:
        if self.ended.is_set():
            raise Gone(f"{self._name} is not connected")
        post = _Post(msgspec.json.encode(content), self._headers, time.monotonic() + seconds, number)
        try:
            return await self._run(post, seconds), post.given
        except TimeoutError:
            raise TemporaryError(f"{self._name} has not answered within {seconds:.0f} s") from None
        except Gone:
            self.ended.set()
            raise

    async def _run(self, post: _Post, seconds: float) -> Any:  # noqa: ANN401 - JSON
        self._open.add(post)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._send, post)
        finally:
            self._open.discard(post)
            _break_off(post)

    def _prepare(self) -> dict[str, str]:
        settings = self._settings
        if settings.url.startswith("https:"):
            self._tls = ssl.create_default_context(cafile=settings.ca_file or None)
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if settings.token_file:
            token = read_secret(settings.token_file, f"mounts.servers.{self._name}.token_file")
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _send(self, post: _Post) -> Any:  # noqa: ANN401 - JSON
        """Send a request and return its answer, None for a notification; in a thread."""
        parts = urlsplit(self._settings.url)
        limit = max(0.1, post.until - time.monotonic())
        host = parts.hostname or ""
        post.connection = (
            HTTPConnection(host, parts.port, timeout=limit)
            if self._tls is None
            else HTTPSConnection(host, parts.port, timeout=limit, context=self._tls)
        )
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            post.connection.request(post.method, path, post.body, post.headers)
            with post.connection.getresponse() as response:
                return self._read(post, response)
        except TimeoutError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            raise Gone(f"{self._name}: {type(error).__name__}") from None  # its text may contain a header
        finally:
            post.connection.close()

    def _read(self, post: _Post, response: HTTPResponse) -> Any:  # noqa: ANN401 - JSON
        post.given = {name.lower(): value for name, value in response.getheaders()}
        if response.status == _NO_SESSION and "Mcp-Session-Id" in post.headers:
            raise Gone(f"{self._name}: the server has ended the session")
        if not 200 <= response.status < 300:  # noqa: PLR2004 - the class of success
            raise TemporaryError(f"{self._name}: the server answered {response.status}")
        chunks = self._chunks(post, response)
        if post.number is None:
            return None
        if post.given.get("content-type", "").startswith("text/event-stream"):
            return self._event(post.number, chunks)
        return msgspec.json.decode(b"".join(chunks))

    def _chunks(self, post: _Post, response: HTTPResponse) -> Iterator[bytes]:
        """Yield the body as it arrives; raises Gone above max_bytes, TimeoutError after the time limit."""
        size = 0
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            if size > self._settings.max_bytes:
                raise Gone(f"{self._name}: a message has more than max_bytes = {self._settings.max_bytes}")
            if time.monotonic() > post.until:
                raise TimeoutError
            yield chunk

    def _event(self, number: int, chunks: Iterator[bytes]) -> Any:  # noqa: ANN401 - JSON
        """Return the answer to a request from a stream of events; all others are dropped."""
        waiting = b""
        for chunk in chunks:
            *events, waiting = (waiting + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
                with contextlib.suppress(msgspec.DecodeError):
                    message = msgspec.json.decode(b"\n".join(lines))
                    if isinstance(message, dict) and message.get("id") == number and "method" not in message:
                        return message
        raise Gone(f"{self._name}: the answer ended before it was complete")


def _break_off(post: _Post) -> None:
    """End the connection of a request, so that its thread does not wait any longer."""
    connection = post.connection
    if connection is not None and connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
