"""Limits the connections of the web server, and the time that each may take.

uvicorn has no time-out for a request that arrives slowly, and no limit that keeps /healthz reachable: 1,500 idle
connections take every file descriptor of the process.  Here the head of a request must arrive within `HEAD` seconds and
its body within `BODY`, and a client that does not read its response is disconnected after `UNREAD`.  Beyond the limit,
the oldest connection that has not yet sent a complete head is closed for a new one; if there is none, a few more
connections are accepted that get a response only from /healthz.
"""

from __future__ import annotations

import ipaddress
import resource
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

HEAD: Final = 10.0
"""Seconds for the head of a request, after the connection or the last response."""
BODY: Final = 30.0
"""Seconds for the body of a request, which has at most a megabyte."""
UNREAD: Final = 30.0
"""Seconds that a client may leave its response unread, once buffers are full."""
LARGEST_HEAD: Final = 16_384
SPARE: Final = 16
"""Connections beyond the limit, only for /healthz."""
_HEALTH: Final = (b"GET /healthz ", b"HEAD /healthz ")
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 10\r\ncontent-type: text/plain\r\n\r\n"
)
_FULL_TEXT: Final = b"too many connections are open; see web.connections\n"


class OpenConnections:
    """The open connections of one server, oldest first."""

    def __init__(self, most: int, per_address: int) -> None:
        """Set the limits, over all and for each address.

        Connections use at most half of the process's file descriptors.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = most if soft == resource.RLIM_INFINITY else max(8, min(most, soft // 2))
        self.per_address = per_address
        self._all: dict[Connection, None] = {}

    def enter(self, connection: Connection) -> None:
        """Add a new connection; if there are too many, close an older one."""
        self._all[connection] = None
        same_address = [other for other in self._all if other.address == connection.address]
        if len(same_address) > self.per_address and not connection.is_local:
            self._make_room(same_address, connection)
        elif len(self._all) > self.most:
            self._make_room(self._all, connection)

    def leave(self, connection: Connection) -> None:
        """Remove a connection."""
        self._all.pop(connection, None)

    def _make_room(self, among: Iterable[Connection], connection: Connection) -> None:
        oldest = next((other for other in among if other.awaited == "head" and other is not connection), None)
        if oldest is not None:
            self.leave(oldest)
            oldest.cut()
            return
        connection.spare = True
        spare = [other for other in self._all if other.spare]
        if len(spare) > SPARE:
            self.leave(spare[0])
            spare[0].cut()


class Connection(H11Protocol):
    """One connection with its time-outs."""

    def __init__(self, *args: Any, crowd: OpenConnections, **named: Any) -> None:  # noqa: ANN401 - uvicorn's parameters
        """Use this `crowd` to limit the connections."""
        super().__init__(*args, **named)
        self._crowd = crowd
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.awaited = ""
        """The part of a request that must arrive next: "head", "body", or "" while a request is handled."""
        self.spare = False

    @property
    def address(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else ""

    @property
    def is_local(self) -> bool:
        """Whether the client is on this machine: a local proxy serves many clients."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(transport)
        self._watch()
        self._crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._crowd.leave(self)
        self._await("")
        self._read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, but only for UNREAD seconds."""
        super().pause_writing()
        self._read()
        self._unread = self.loop.call_later(UNREAD, self.cut)

    def resume_writing(self) -> None:
        """Continue to send, because the client has read."""
        self._read()
        super().resume_writing()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def data_received(self, data: bytes) -> None:
        """Handle received data; a connection beyond the limit may only request /healthz."""
        if self.spare and not data.startswith(_HEALTH):
            self.transport.write(_FULL + _FULL_TEXT)
            self.transport.close()
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self._watch()

    def cut(self) -> None:
        """Close the connection at once."""
        self._await("")
        self.transport.abort()

    def _watch(self) -> None:
        state = self.conn.their_state
        self._await("head" if state is h11.IDLE else "body" if state is h11.SEND_BODY else "")

    def _await(self, what: str) -> None:
        if what == self.awaited:
            return
        self.awaited = what
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if what:
            self._timer = self.loop.call_later(HEAD if what == "head" else BODY, self.cut)
