"""Clients without a token cannot fill the memory of the bridge with sessions."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.datastructures import Headers

from agentd.safety import tokens
from agentd.telemetry import logs
from agentd_mcp.transport import sessions
from agentd_mcp.transport.sessions import Sessions
from harness import free_port

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Daemon, Net


class Sdk:
    """Opens a session for each request without one, as the SDK does."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.made = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        await receive()
        name = Headers(scope=scope).get("mcp-session-id")
        status, headers = 200, []
        if name is None:
            self.made += 1
            name = f"s{self.made}"
            self.open.add(name)
            headers = [(b"mcp-session-id", name.encode())]
        elif name not in self.open:
            status = 404
        elif scope["method"] == "DELETE":
            self.open.discard(name)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class User:
    """A user as the gate names it."""

    def __init__(self, username: str) -> None:
        self.username = username


async def ask(
    app: Sessions, *, session: str = "", user: str = "", method: str = "POST", size: int = 10
) -> tuple[int, str]:
    """Send one request; return the status, and the session that was opened."""
    headers = [(b"host", b"localhost")] + ([(b"mcp-session-id", session.encode())] if session else [])
    scope = {"type": "http", "method": method, "path": "/mcp", "headers": headers, "user": User(user) if user else None}
    body = json.dumps({"clientInfo": "x" * size}).encode()
    found: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        found.append(message)

    await app(scope, receive, send)
    return found[0]["status"], Headers(raw=found[0]["headers"]).get("mcp-session-id", "")


async def test_many_anonymous_sessions() -> None:
    """6,500 of them: no more than their number are open; one with a token still has its own."""
    sdk = Sdk()
    app = Sessions(sdk, most=128, per_principal=32)
    answers = [(await ask(app))[0] for _ in range(6500)]

    assert answers.count(200) == 32
    assert answers.count(429) == 6468
    assert (await ask(app, user="alice"))[0] == 200
    assert len(sdk.open) == 33


async def test_all_principals_together() -> None:
    """Beyond the number of all sessions the answer is 503."""
    app = Sessions(Sdk(), most=5, per_principal=4)
    answers = [(await ask(app, user=f"user{number}"))[0] for number in range(7)]

    assert answers == [200] * 5 + [503] * 2


async def test_the_longest_unused_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that was unused for longest ends; one that was used meanwhile goes on."""
    clock = [1000.0]
    monkeypatch.setattr("agentd_mcp.transport.sessions.time.monotonic", lambda: clock[0])
    sdk = Sdk()
    app = Sessions(sdk, most=10, per_principal=2)
    _, first = await ask(app)
    _, second = await ask(app)
    clock[0] += sessions.UNUSED + 1
    assert await ask(app, session=first) == (200, "")
    status, third = await ask(app)

    assert status == 200
    assert sdk.open == {first, third}
    assert (await ask(app, session=second))[0] == 404
    assert (await ask(app))[0] == 429


async def test_a_session_that_its_client_ends() -> None:
    """It leaves room at once."""
    app = Sessions(Sdk(), most=10, per_principal=1)
    _, only = await ask(app)
    assert (await ask(app))[0] == 429
    await ask(app, session=only, method="DELETE")

    assert (await ask(app))[0] == 200


async def test_a_large_client_info() -> None:
    """3 MB of clientInfo open no session."""
    sdk = Sdk()
    app = Sessions(sdk, most=10, per_principal=10)

    assert (await ask(app, size=3_000_000))[0] == 413
    assert sdk.open == set()
    assert (await ask(app, size=2000))[0] == 200


# -- a bridge in a process of its own ----------------------------------------------------------------------------------


def initialize(size: int = 1) -> bytes:
    """Return the request that opens a session; `size` is what its client says of itself."""
    parameters = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "x" * size, "version": "1"},
    }
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}).encode()


def post(port: int, bodies: list[bytes]) -> Counter[int]:
    """Send requests one after the other; return how often each status was the answer."""
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    found: Counter[int] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for body in bodies:
        try:
            connection.request("POST", "/mcp", body, headers)
            answer = connection.getresponse()
            found[answer.status] += 1
            answer.read()
        except (ConnectionError, http.client.HTTPException):  # refused before the body was there
            found[0] += 1
            connection.close()
    connection.close()
    return found


def mebibytes(daemon: Daemon) -> float:
    """Return the proportional set size of a process."""
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@pytest.mark.timeout(240)
async def test_the_memory_of_a_bridge(quiet_net: Net, bus: Bus) -> None:
    """6,500 anonymous sessions, and 60 with 3 MB of clientInfo, cost it less than 30 MiB; a known client is served."""
    del bus
    token, kept = tokens.new_token()
    quiet_net.settings["web"] |= {"port": (port := free_port()), "tokens": {"alice": kept}}
    with quiet_net.daemon("mcp-bridge", AGENTD_TEST_BLOCKBUSTER="") as daemon:
        await asyncio.to_thread(post, port, [initialize()])
        before = await asyncio.to_thread(mebibytes, daemon)
        large = await asyncio.to_thread(post, port, [initialize(3_000_000)] * 60)
        many = await asyncio.to_thread(post, port, [initialize()] * 6500)
        after = await asyncio.to_thread(mebibytes, daemon)
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client,
            Client(streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=client), mode="legacy") as ai,
        ):
            listed = await ai.list_tools()
    logs.get_logger().info("memory", before=before, after=after, many=dict(many), large=dict(large))

    assert set(many) == {200, 429}
    assert many[200] <= 32 + 6500 // 100  # those that give way after half a minute
    assert set(large) <= {413, 0}
    assert after - before < 30, (before, after)
    assert listed.tools
