"""Slow and many connections do not take the web server away from others."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from typing import TYPE_CHECKING

import pytest

from agentd.web.serving import limits
from agentd.web.serving.server import WebServer
from core.web_client import Client
from core.web_view import MemoryView
from harness import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd.bus.jetstream import Bus
    from harness import Net

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


async def test_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks again and again and reads no answer is cut; one that reads slowly gets all of it."""
    monkeypatch.setattr(limits, "UNREAD", 3.0)
    server = WebServer(MemoryView(), port=0)
    port = await server.start()
    ask = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40
    loop = asyncio.get_running_loop()
    try:
        with socket.socket() as greedy, socket.socket() as slow_one:
            for one in (greedy, slow_one):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.setblocking(False)  # noqa: FBT003 - as it is named
                await loop.sock_connect(one, ("127.0.0.1", port))

            async def flooding() -> None:
                while True:
                    await loop.sock_sendall(greedy, ask)

            async def reading() -> None:
                await loop.sock_sendall(slow_one, ask + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                found = b""
                while b"\r\n\r\nok\n" not in found:
                    found = found[-100:] + await loop.sock_recv(slow_one, 65_536)

            slowly = asyncio.create_task(reading())
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(flooding(), 30)
            await asyncio.wait_for(slowly, 30)
    finally:
        await server.stop()


async def test_fifteen_hundred_slow_connections_to_a_daemon(quiet_net: Net, bus: Bus) -> None:
    """A daemon with 1,024 descriptors answers /healthz at any time, and closes each of them within the time-out."""
    del bus
    quiet_net.settings["web"]["port"] = port = free_port()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    daemon = quiet_net.daemon("monitor").start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    answers: list[str] = []
    enough = asyncio.Event()

    async def probing() -> None:
        while not enough.is_set():
            answers.append((await Client(port)("/healthz")).text)
            await asyncio.sleep(0.2)

    async def opened(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if number % 2:  # the others say nothing at all
            writer.write(SLOW)
        held.append((reader, writer))

    try:
        await asyncio.to_thread(daemon.ready)
        health = asyncio.create_task(probing())
        for begin in range(0, 1500, 50):
            await asyncio.gather(*(opened(number) for number in range(begin, begin + 50)))
        for _, writer in held:
            writer.write(b"x")
        last = time.monotonic()
        closed = await asyncio.wait_for(asyncio.gather(*(gone(reader) for reader, _ in held)), 60)
        took = time.monotonic() - last
        enough.set()
        await health
    finally:
        for _, writer in held:
            writer.close()
        await asyncio.to_thread(daemon.stop)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert all(closed)
    assert took < limits.HEAD + 10
    assert set(answers) == {"ok\n"}
    assert len(answers) > 10


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
