"""MCP servers at a URL: mounted like those that agentd starts itself, with the same limits."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from agentd.errors import AgentdError, PermanentError, Rejected, TemporaryError
from agentd_mounts.peer import Gone
from agentd_mounts.remote import RemotePeer
from agentd_mounts.settings import ServerSettings
from harness import eventually, free_port, until
from plugins.mounts.test_mounts import SERVERS, accept, called, mount, ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Net

TOKEN = "the-token-of-the-server"  # noqa: S105


@contextlib.contextmanager
def sdk_server(directory: Path, port: int) -> Iterator[None]:
    """Run the SDK's server over HTTP."""
    command = [sys.executable, str(SERVERS / "sdk_server.py"), str(directory), str(port)]
    log = directory.parent / f"server-{time.monotonic_ns()}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        until(lambda: b"running on" in log.read_bytes(), "the server listens")
        yield
    finally:
        process.kill()
        process.wait()


async def test_a_server_at_a_url(quiet_net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tools are accepted, called and compared as those of a command; after its restart they are called again."""
    monkeypatch.setattr("agentd_mounts.mount.PAUSES", (0.5,))
    port, work = free_port(), tmp_path / "work"
    for path in (work, tmp_path / "accepted", tmp_path / "offered"):
        path.mkdir()
    mount(quiet_net, tmp_path, "far")
    far = quiet_net.settings["mounts"]["servers"]["far"]
    del far["command"]
    far |= {"url": f"http://127.0.0.1:{port}/mcp", "tier": "operate", "tiers": {"echo": "read", "fail": "read"}}
    async with quiet_net.client() as bus:
        with sdk_server(work, port):
            await accept(quiet_net, tmp_path, "far")
        async with quiet_net.here("mounts"):
            with sdk_server(work, port):
                echoed = await eventually(lambda: ready(called(bus, "far", "echo", "r.0", text="hi")), "it runs", 40)
                await called(bus, "far", "add_note", "n.1", text="noted")
                with pytest.raises(PermanentError, match="Error executing tool fail"):
                    await called(bus, "far", "fail", "r.1")
            with pytest.raises(AgentdError):
                await called(bus, "far", "add_note", "n.2", text="lost")
            (work / "changed").touch()
            with sdk_server(work, port):
                await eventually(lambda: ready(called(bus, "far", "add_note", "n.3", text="again")), "it is back", 60)
                with pytest.raises(Rejected, match="changed its definition"):
                    await called(bus, "far", "echo", text="x")

    assert echoed.result["text"] == "hi"
    assert (work / "notes").read_text() == "noted\nagain\n"


class Hostile(BaseHTTPRequestHandler):
    """A server that answers in the way of its path."""

    def do_POST(self) -> None:
        """Answer a request."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), asked))  # type: ignore[attr-defined]
        good = json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "result": {"ok": True}}).encode()
        if self.path == "/redirect":
            self.send_response(307)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        self.send_response(500 if self.path == "/error" else 200)
        stream = self.path in {"/stream", "/drip", "/cut"}
        self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        self.end_headers()
        self._body(good)

    def _body(self, good: bytes) -> None:
        if self.path == "/huge":
            self.wfile.write(b"x" * 5_000_000)
        elif self.path == "/hang":
            time.sleep(3)
        elif self.path == "/drip":
            for _ in range(30):
                self.wfile.write(b": still here\n")
                self.wfile.flush()
                time.sleep(0.1)
        elif self.path == "/stream":
            self.wfile.write(
                b'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n: x\n\ndata: ' + good + b"\n\n"
            )
        elif self.path == "/cut":
            self.wfile.write(b"data: {")
        elif self.path == "/text":
            self.wfile.write(b"<html>")
        else:
            self.wfile.write(good)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def hostile() -> Iterator[Any]:
    """Run the hostile server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    server.daemon_threads = False  # they end before the test does
    server.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("/good", None, ""),
        ("/stream", None, ""),
        ("/huge", Gone, "max_bytes"),
        ("/hang", TemporaryError, "has not answered within"),
        ("/drip", TemporaryError, "has not answered within"),
        ("/cut", Gone, "before it was complete"),
        ("/text", Gone, "DecodeError"),
        ("/redirect", TemporaryError, "answered 307"),
        ("/error", TemporaryError, "answered 500"),
    ],
)
async def test_a_hostile_server(
    hostile: Any, tmp_path: Path, path: str, error: type[Exception] | None, text: str
) -> None:
    """Each answer is bounded in size and time, redirects are not followed, and no error contains the token."""
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    url = f"http://127.0.0.1:{hostile.server_address[1]}{path}"
    peer = RemotePeer("far", ServerSettings(url=url, token_file=str(tmp_path / "token")), lambda _: None)
    await peer.start()
    began = time.monotonic()
    try:
        if error is None:
            assert await peer.request("tools/list", {}, 5) == {"ok": True}
        else:
            with pytest.raises(error, match=text) as caught:
                await peer.request("tools/list", {}, 0.8 if "within" in text else 5)
            assert TOKEN not in str(caught.value)
    finally:
        await peer.stop()

    assert time.monotonic() - began < 8
    assert {seen for seen, _, _ in hostile.seen} == {path}
    assert hostile.seen[0][1]["Authorization"] == f"Bearer {TOKEN}"
    assert peer.ended.is_set()


def test_addresses() -> None:
    """A server has a command or a URL; a URL is https, or on a loopback address, and holds no password."""
    assert ServerSettings(url="https://mcp.example/mcp").url
    for wrong in (
        {},
        {"url": "http://mcp.example"},
        {"url": "https://u:p@h"},
        {"url": "https://h", "command": ("/x",)},
    ):
        with pytest.raises(ValidationError):
            ServerSettings.model_validate(wrong)
