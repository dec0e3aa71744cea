"""The web server, run inside the event loop of the daemon.

uvicorn is made to be the main process.  Here it sets no signal handlers and no logging, takes a socket that we bound
ourselves (so that a port in use gives one line, not a stack trace), and the event streams end before it waits for
connections to close.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import uvicorn

from agentd.config.section import is_loopback
from agentd.errors import ConfigError
from agentd.web.app import build
from agentd.web.events import Streams
from agentd.web.serving.limits import LARGEST_HEAD, Connection, OpenConnections

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from starlette.routing import BaseRoute

    from agentd.client.views import View

GRACE: Final = 3
"""Seconds that running requests get when the daemon stops."""
_WILDCARDS: Final = {"", "0.0.0.0", "::"}  # noqa: S104 - names to leave out, nothing is bound here
_ADVICE: Final = {
    errno.EADDRINUSE: "another process listens there; choose another web.port or stop that process",
    errno.EACCES: "ports below 1024 need a right that agentd has not; choose another web.port",
    errno.EADDRNOTAVAIL: "this machine has no such address; correct web.host",
}


class WebServer:
    """Serves `view` at host:port; port 0 selects a free one."""

    def __init__(  # noqa: PLR0913 - the settings of a web server
        self,
        view: View,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        allowed_hosts: Iterable[str] = (),
        routes: Iterable[BaseRoute] = (),
        tokens: Mapping[str, str] | None = None,
        connections: int = 512,
        connections_per_address: int = 128,
        max_concurrent_calls: int = 32,
    ) -> None:
        self._view = view
        self._host = host
        self._port = port
        self._names = {*allowed_hosts} | ({host} - _WILDCARDS)
        self._routes = tuple(routes)
        self._tokens = dict(tokens or {})
        self._calls_at_once = max_concurrent_calls
        self._most, self._per_address = connections, connections_per_address
        self._streams = Streams(view)
        self._server: _EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen and return the port; raises ConfigError if that is not possible."""
        if self._serving is not None:
            raise RuntimeError("the web server is running already")
        self._streams = Streams(self._view)
        app = await asyncio.to_thread(
            build,
            self._view,
            allowed_hosts=self._names,
            streams=self._streams,
            routes=self._routes,
            tokens=self._tokens,
            max_concurrent_calls=self._calls_at_once,
            login=not is_loopback(self._host),
        )
        bound = await self._bind()
        config = uvicorn.Config(
            app,
            http=partial(Connection, crowd=OpenConnections(self._most, self._per_address)),  # type: ignore[arg-type]  # a class, bound
            h11_max_incomplete_event_size=LARGEST_HEAD,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
        self._server = _EmbeddedServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]), name="web server")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            listening.cancel()
            await self._serving  # raises the error
        return int(bound.getsockname()[1])

    async def stop(self) -> None:
        """End the streams, finish running requests, close the port."""
        if self._server is None or self._serving is None:
            return
        self._streams.close()
        self._server.leave()
        await self._serving
        self._server = self._serving = None

    async def _bind(self) -> socket.socket:
        where = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        try:
            addresses = await asyncio.get_running_loop().getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, address = addresses[0][0], addresses[0][4]
            return socket.create_server(address, family=family)
        except socket.gaierror as error:
            raise ConfigError(
                f"web: can't listen on {where}: {self._host!r} has no address; correct web.host"
            ) from error
        except OSError as error:
            reason = _ADVICE.get(error.errno or 0, os.strerror(error.errno or 0))
            raise ConfigError(f"web: can't listen on {where}: {reason}") from error


class _EmbeddedServer(uvicorn.Server):
    """uvicorn without signal handlers.

    It wakes up once a second (for the Date header) instead of ten times.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        self.should_exit = True
        self._leaving.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1.0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
