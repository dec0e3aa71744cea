"""Slow and many connections do not take the web server away from others."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

import pytest

from agentd.web import limits
from agentd.web.server import WebServer
from core.web_client import Client
from core.web_view import MemoryView

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Let this process open enough sockets for both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def slow(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that sends half of a head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(SLOW)
    return reader, writer


async def gone(reader: asyncio.StreamReader) -> bool:
    """Wait until the server has closed the connection."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.usefixtures("descriptors")
async def test_fifteen_hundred_slow_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """/healthz answers meanwhile, and all of them are closed by the time-out, though they go on sending."""
    monkeypatch.setattr(limits, "HEAD", 3.0)
    server = WebServer(MemoryView(), port=0, connections=300)
    port = await server.start()
    try:
        held = [await slow(port) for _ in range(1500)]
        answers = [(await Client(port)("/healthz")).text for _ in range(3)]
        for _, writer in held:
            writer.write(b"x")
        closed = await asyncio.wait_for(asyncio.gather(*(gone(reader) for reader, _ in held)), 60)
        for _, writer in held:
            writer.close()
    finally:
        await server.stop()

    assert answers == ["ok\n"] * 3
    assert all(closed)


async def test_a_slow_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not come is waited for only so long."""
    monkeypatch.setattr(limits, "BODY", 0.5)
    server = WebServer(MemoryView(), port=0)
    port = await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/workflows/x/approve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nab")
        await asyncio.wait_for(gone(reader), 20)
        writer.close()
    finally:
        await server.stop()


async def test_full_of_those_that_are_served() -> None:
    """Where every connection is in use, /healthz alone is answered, all else gets 503 and why."""
    server = WebServer(MemoryView(), port=0, connections=16)
    port = await server.start()
    streams: list[asyncio.StreamWriter] = []
    try:
        for _ in range(16):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readline()
            streams.append(writer)
        health = await Client(port)("/healthz")
        other = await Client(port)("/readyz")
    finally:
        for writer in streams:
            writer.close()
        await server.stop()

    assert (health.code, health.text) == (200, "ok\n")
    assert other.code == 503
    assert "too many connections" in other.text
