"""Live events for browsers and scripts, as server-sent events.

A stream begins with a snapshot, followed by changes: at most twice a second, and only the latest state of each object.
Changes that a client has not read yet wait in its mailbox; when that is full, the client gets a new snapshot instead,
so that a slow client costs a bounded amount of memory and never misses the current state.  One iterator over the view's
events serves all clients.

The id of a batch is a sequence of the stream of workflows that was read before its changes: what happened later has a
higher one.  A client that reconnects with it (`Last-Event-ID`) gets the workflows that changed since, and the event
`resumed` instead of a snapshot; if they do not fit into a mailbox, or the sequence is not known, a snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.responses import StreamingResponse

from agentd.errors import AgentdError
from agentd.printable import escaped_bytes
from agentd.web.overview import read_overview, read_view
from agentd.wire.codec import encode

if TYPE_CHECKING:
    from starlette.types import Send

    from agentd.client.views import Event, View

T = TypeVar("T")

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent.

Proxies close a connection that is idle for a minute.
"""
PAUSE: Final = 0.5
"""Seconds between two batches.

People do not read faster, and a busy network must not use up a browser's CPU.
"""
RETRY: Final = 3000
"""Milliseconds after which a browser reconnects."""
ROOM: Final = 256
"""Most objects whose changes wait for one client."""
MOST_CLIENTS: Final = 128
"""Most open streams; a browser opens one for all its tabs."""

_log = logging.getLogger("agentd.web")


class Mailbox:
    """What one client has not received yet.

    It is the latest state of each changed object, or a flag that a snapshot is due.
    """

    def __init__(self, since: int = 0) -> None:
        """Start with a snapshot due.

        After the sequence `since`, the changes since then may be enough.
        """
        self.wake = asyncio.Event()
        self.stale = True
        self.since = since
        self._waiting: dict[str, Event] = {}

    def put(self, event: Event) -> None:
        """Store `event`; a full mailbox is emptied, and a snapshot is due instead."""
        if not self.stale:
            self._waiting[event.key] = event
            if len(self._waiting) > ROOM:
                self.stale = True
                self._waiting.clear()
        self.wake.set()

    def take(self) -> tuple[bool, list[Event]]:
        """Return whether a snapshot is due, and the changes; both are then cleared."""
        stale, events = self.stale, list(self._waiting.values())
        self.stale = False
        self._waiting.clear()
        self.wake.clear()
        return stale, events


class EventResponse(StreamingResponse):
    """A stream that is closed with its connection, not by the garbage collector."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send the stream and close it in any case."""
        stream = self.body_iterator
        if not isinstance(stream, AsyncGenerator):
            raise TypeError("the stream is an async generator")
        async with aclosing(stream):
            await super().stream_response(send)


class Streams:
    """All open streams."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._mailboxes: set[Mailbox] = set()
        self._feed: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._position: tuple[float, int] = (0.0, 0)

    @property
    def full(self) -> bool:
        """Whether no further client can be served."""
        return len(self._mailboxes) >= MOST_CLIENTS

    def close(self) -> None:
        """End every stream now."""
        self._closing.set()
        for mailbox in self._mailboxes:
            mailbox.wake.set()

    async def follow(self, since: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield a snapshot, or what changed after the sequence `since`; then changes.

        It ends when the client disconnects, the feed ends or the daemon stops.
        """
        mailbox = Mailbox(since)
        self._mailboxes.add(mailbox)
        feed = self._start()
        try:
            yield f"retry: {RETRY}\n\n".encode()
            while not self._closing.is_set() and not feed.done():
                position = await self._last_sequence()
                stale, events = mailbox.take()
                if stale:
                    yield await self._missed(mailbox, position)
                for event in events:
                    yield _message(event.kind, event.data, position)
                if stale or events:
                    await self._unless_closing(asyncio.sleep(PAUSE))
                elif not await self._wait_for_changes(mailbox):
                    yield b": still here\n\n"
        finally:
            self._mailboxes.discard(mailbox)
            if not self._mailboxes and self._feed is not None:
                self._feed.cancel()
                self._feed = None

    def _start(self) -> asyncio.Task[None]:
        if self._feed is None or self._feed.done():
            self._feed = asyncio.create_task(self._deliver(), name="web events")
            self._feed.add_done_callback(self._ended)
        return self._feed

    async def _deliver(self) -> None:
        async for event in self._view.events():
            for mailbox in self._mailboxes:
                mailbox.put(event)

    def _ended(self, feed: asyncio.Task[None]) -> None:
        """End all streams when the feed ends; the clients then reconnect."""
        if feed.cancelled():
            return
        error = feed.exception()
        if isinstance(error, AgentdError):
            _log.warning("live changes ended: %s", error)
        elif error is not None:
            _log.error("live changes failed", exc_info=error)
        for mailbox in self._mailboxes:
            mailbox.wake.set()

    async def _last_sequence(self) -> int:
        """Return the last sequence of the stream of workflows.

        All clients share a reading for PAUSE seconds.
        """
        loop = asyncio.get_running_loop()
        read, position = self._position
        if loop.time() - read > PAUSE:
            self._position = (loop.time(), position)  # the other clients do not ask, too: an older id repeats changes
            with suppress(AgentdError):
                position = await self._unless_closing(read_view(self._view.position())) or position
            self._position = (loop.time(), position)
        return position

    async def _missed(self, mailbox: Mailbox, position: int) -> bytes:
        """Return what a client has missed: the changes after its sequence, or a snapshot."""
        since, mailbox.since = mailbox.since, 0
        if since:
            with suppress(AgentdError):
                changes = await self._unless_closing(read_view(self._view.changes(since, ROOM)))
                if changes is not None:
                    return _message("resumed", changes, changes.until)
        picture = await self._unless_closing(read_overview(self._view))
        return b"" if picture is None else _message("snapshot", picture, position)

    @staticmethod
    async def _wait_for_changes(mailbox: Mailbox) -> bool:
        with suppress(TimeoutError):
            return await asyncio.wait_for(mailbox.wake.wait(), HEARTBEAT)
        return False

    async def _unless_closing(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of `work`, or None at once when the daemon stops."""
        task, closing = asyncio.create_task(work), asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            closing.cancel()


def _message(kind: str, data: object, position: int) -> bytes:
    head = f"event: {kind}\n" + (f"id: {position}\n" if position else "")
    return head.encode() + b"data: " + escaped_bytes(encode(data)) + b"\n\n"
