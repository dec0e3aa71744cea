"""One mounted server: started, watched, started again, and compared with what is accepted.

The loop that starts a server never ends by itself: a server that dies, hangs at its start or sends too much is started
again with growing pauses, and in the meantime only its own tools are not available.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import AgentdError, Rejected, TemporaryError, __version__
from agentd_mounts import definitions
from agentd_mounts.peer import Gone, Peer
from agentd_mounts.remote import RemotePeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agentd_mounts.definitions import Definition
    from agentd_mounts.settings import ServerSettings

    Changed = Callable[[], Awaitable[None]]

PROTOCOL: Final = "2025-11-25"
STARTS: Final = 30.0
"""Seconds that a server may take to start and to list its tools."""
PAUSES: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
STEADY: Final = 60.0
"""Seconds after which a server counts as running well: the next pause is the shortest again."""
SETTLES: Final = 5.0
"""Seconds between two readings of the tools, however often the server says that they have changed."""
PAGES: Final = 20


class Mount:
    """One server.

    state        why its tools are not available now; "" if they are
    quarantined  why a tool is not called, by its name at the server
    """

    def __init__(self, name: str, settings: ServerSettings, accepted: dict[str, Definition | str]) -> None:
        """Know the server; `run` starts it."""
        self.name, self.settings, self.accepted = name, settings, accepted
        self.state = "it has not been started"
        self.quarantined: dict[str, str] = {}
        self.offered: list[Any] = []
        self._peer: Peer | RemotePeer | None = None
        self._changed = asyncio.Event()

    async def call(self, tool: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the result of a tool; raises Rejected, TemporaryError or PermanentError."""
        peer = self.ready(tool)
        result = await peer.request(
            "tools/call", {"name": tool, "arguments": arguments}, min(seconds, self.settings.timeout)
        )
        if not isinstance(result, dict):
            raise TemporaryError(f"{self.name}: {tool} has answered with no object")
        return result

    def ready(self, tool: str) -> Peer | RemotePeer:
        """Return the running server; raises TemporaryError if it does not run, Rejected for a tool in quarantine."""
        if self._peer is None or self.state:
            raise TemporaryError(f"{self.name} is not available: {self.state}")
        if tool in self.quarantined:
            raise Rejected(f"{self.name}: {tool} is not called: {self.quarantined[tool]}")
        return self._peer

    async def run(self, changed: Changed) -> None:
        """Keep the server running; call `changed` after each change of its state."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._serve(changed)
            except (AgentdError, OSError, TimeoutError) as error:
                self.state = str(error) or "it did not start in time"
            failures = 0 if time.monotonic() - began > STEADY else failures + 1
            await changed()
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES)) - 1])

    async def _serve(self, changed: Changed) -> None:
        """Start the server and serve until it ends."""
        peer = (RemotePeer if self.settings.url else Peer)(self.name, self.settings, self._notified)
        try:
            async with asyncio.timeout(STARTS):
                await peer.start()
                await peer.request("initialize", _hello(), STARTS)
                await peer.notify("notifications/initialized", {})
                await self._compare(peer)
            self._peer, self.state = peer, ""
            await changed()
            await self._watch(peer, changed)
            raise Gone("; ".join(["it has ended", *list(peer.errors)[-3:]]))
        finally:
            self._peer = None
            await peer.stop()

    async def _watch(self, peer: Peer | RemotePeer, changed: Changed) -> None:
        """Compare the tools again when the server says that they have changed, until it ends."""
        while not peer.ended.is_set():
            self._changed.clear()
            waiting = [asyncio.ensure_future(event.wait()) for event in (peer.ended, self._changed)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waiting:
                    wait.cancel()
            if self._changed.is_set() and not peer.ended.is_set():
                await self._compare(peer)
                await changed()
                await asyncio.sleep(SETTLES)

    async def _compare(self, peer: Peer | RemotePeer) -> None:
        """Read the list of tools, page by page, and find which of them are called."""
        items: list[Any] = []
        cursor: dict[str, Any] = {}
        for _ in range(PAGES):
            page = await peer.request("tools/list", cursor, STARTS)
            listed = page.get("tools") if isinstance(page, dict) else None
            if not isinstance(listed, list):
                raise TemporaryError("its list of tools is no list")
            items += listed
            following = page.get("nextCursor")
            if not isinstance(following, str) or len(items) > definitions.MOST_TOOLS:
                break
            cursor = {"cursor": following}
        self.offered = items[: definitions.MOST_TOOLS]
        self.quarantined = definitions.quarantined(self.accepted, definitions.named(self.offered))

    def _notified(self, method: str) -> None:
        if method == "notifications/tools/list_changed":
            self._changed.set()

    def write_offered(self, directory: Path) -> Path | None:
        """Write what the server offers, for an administrator to read; None if that is what is accepted."""
        if not self.quarantined or not self.offered:
            return None
        path = directory / f"{self.name}.json"
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self.offered)))
            return path
        return None


def _hello() -> dict[str, Any]:
    return {
        "protocolVersion": PROTOCOL,
        "capabilities": {},
        "clientInfo": {"name": "agentd", "version": __version__},
    }
