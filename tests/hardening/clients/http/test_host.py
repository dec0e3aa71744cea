"""A Host header is read exactly, the same for pages, the API and /mcp."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from agentd.web.serving.security import Guard

GOOD = {
    "localhost": "localhost", "LocalHost": "localhost", "LOCALHOST:8080": "localhost:8080", "localhost.": "localhost",
    "localhost.:80": "localhost:80", "127.0.0.1": "127.0.0.1", "127.0.0.1:1": "127.0.0.1:1", "[::1]": "[::1]",
    "[::1]:8080": "[::1]:8080", "[2001:DB8::1]:1": "[2001:db8::1]:1", "Node.Example": "node.example",
    "10.0.0.1:65535": "10.0.0.1:65535",
}  # fmt: skip
BAD = [
    "[::1].evil.com", "[::1]evil.com", "[::1]:80.evil.com", "[::1", "::1", "[::1]]", "[evil.com]", "[127.0.0.1]x",
    "localhost:evil", "localhost:80:80", "localhost:", "localhost:99999", "localhost@evil.com", "evil.com@localhost",
    "user:pass@localhost", "localhost.evil.com", "evil.com", "localhost..",
    ".localhost", "localhost/evil", "local host",
    "127.0.0.1.evil.com", "127.0.0.1:80@evil.com", "0x7f.1", "", "localhost#", "localhost?x", "localhost,evil.com",
    "[::1%25eth0]", "[v1.x]", "localhost\\evil", "::ffff:127.0.0.1",
]  # fmt: skip


async def asked(host: str) -> tuple[int, str]:
    """Return how the guard answers, and the Host header that comes through to /mcp."""
    seen: list[str] = []
    statuses: list[int] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(Headers(scope=scope)["host"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/mcp", "headers": [(b"host", host.encode("latin-1"))]}
    await Guard(app, ["node.example"])(scope, receive, send)
    return statuses[0], "".join(seen)


@pytest.mark.parametrize("host", GOOD)
async def test_our_names_are_answered(host: str) -> None:
    """Our names and any address are answered, in any letters; what comes after the guard sees the plain form."""
    assert await asked(host) == (200, GOOD[host])


@pytest.mark.parametrize("host", BAD)
async def test_other_names_are_refused(host: str) -> None:
    """A name that only begins like one of ours is refused."""
    assert await asked(host) == (421, "")
