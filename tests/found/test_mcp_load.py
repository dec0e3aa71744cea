"""Clients without a token cannot fill the memory of the bridge with sessions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from agentd_mcp import sessions
from agentd_mcp.sessions import Sessions

if TYPE_CHECKING:
    import pytest


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
    app = Sessions(sdk, most=128, each=32)
    answers = [(await ask(app))[0] for _ in range(6500)]

    assert answers.count(200) == 32
    assert answers.count(429) == 6468
    assert (await ask(app, user="alice"))[0] == 200
    assert len(sdk.open) == 33


async def test_all_principals_together() -> None:
    """Beyond the number of all sessions the answer is 503."""
    app = Sessions(Sdk(), most=5, each=4)
    answers = [(await ask(app, user=f"user{number}"))[0] for number in range(7)]

    assert answers == [200] * 5 + [503] * 2


async def test_an_old_one_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that was unused for longest ends; one that was used meanwhile goes on."""
    clock = [1000.0]
    monkeypatch.setattr("agentd_mcp.sessions.time.monotonic", lambda: clock[0])
    sdk = Sdk()
    app = Sessions(sdk, most=10, each=2)
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
    app = Sessions(Sdk(), most=10, each=1)
    _, only = await ask(app)
    assert (await ask(app))[0] == 429
    await ask(app, session=only, method="DELETE")

    assert (await ask(app))[0] == 200


async def test_what_a_client_says_of_itself() -> None:
    """3 MB of clientInfo open no session."""
    sdk = Sdk()
    app = Sessions(sdk, most=10, each=10)

    assert (await ask(app, size=3_000_000))[0] == 413
    assert sdk.open == set()
    assert (await ask(app, size=2000))[0] == 200
