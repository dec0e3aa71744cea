"""Tools that wait for changes of files, by the events of the kernel (inotify)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from agentd import Call, NotFound, Repeat, TemporaryError, Tier, tool
from agentd_filesystem import text
from agentd_filesystem.fields import Narrowed, Path
from agentd_filesystem.roots import TRASH
from agentd_filesystem.tools.reading import begin_of_tail, read_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd_filesystem.roots import Place, Roots

_EVENTS: Final = {
    0x002: "modified",
    0x004: "attributes changed",
    0x008: "written",
    0x040: "moved away",
    0x080: "moved here",
    0x100: "created",
    0x200: "deleted",
    0x400: "deleted",
    0x800: "moved away",
}
_MASK: Final = sum(_EVENTS)
_OVERFLOW: Final = 0x4000
_HEAD: Final = struct.Struct("iIII")
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC have the same values
_libc: Final = ctypes.CDLL(None, use_errno=True)
Seconds = Annotated[float, Meta(ge=0, le=60)]


class Watch(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file or directory to watch (not what is below its subdirectories), and how long to wait for a change."""

    path: Path
    seconds: Seconds = 30.0


class Tail(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A text file that grows, such as a log.

    lines: the last lines to show first; ignored with offset
    offset: `offset` of the answer before: only what was added since
    seconds: how long to wait for new lines, if there are none
    """

    path: Path
    lines: Annotated[int, Meta(ge=0, le=10_000)] = 50
    offset: Annotated[int, Meta(ge=0)] | None = None
    seconds: Seconds = 0.0


class Event(msgspec.Struct, frozen=True):
    """One change: what happened, and to which entry ("" is the watched path itself)."""

    what: str
    name: str


class Events(msgspec.Struct, frozen=True):
    """The changes of the first second in which there were any.

    complete: false if more happened than the kernel kept
    """

    events: list[Event]
    complete: bool = True


class Grown(msgspec.Struct, frozen=True):
    """New text of a file.

    offset: pass it to read on
    restarted: the file is shorter than `offset`: it was replaced or emptied, and is read from its beginning
    """

    content: str
    offset: int
    restarted: bool = False


class Watching:
    """The tools that wait for changes."""

    def __init__(self, roots: Roots) -> None:
        """Watch below `roots`."""
        self.roots = roots

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_monitoring", stoppable=True)
    async def watch_path(self, call: Call, p: Watch) -> Events:
        """Wait until a file, or an entry of a directory, changes; return the changes."""
        async with _watch(self.roots.find(p.path, p.within)) as changes:
            found = await changes.next(min(p.seconds, call.left()))
        events = list(dict.fromkeys((what, name) for what, name in found.events if name != TRASH))
        return Events([Event(what, name) for what, name in events], found.complete)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_monitoring", stoppable=True)
    async def tail_file(self, call: Call, p: Tail) -> Grown:
        """Show the last lines of a text file, or what was added since; wait for new lines if there are none."""
        place, until = self.roots.find(p.path, p.within), time.monotonic() + min(p.seconds, call.left())
        async with _watch(place) as changes:
            while True:
                grown = await asyncio.to_thread(self._read, place, p)
                if grown.content or grown.restarted or time.monotonic() >= until:
                    return grown
                await changes.next(until - time.monotonic())

    def _read(self, place: Place, p: Tail) -> Grown:
        with place.file() as (descriptor, found):
            restarted = p.offset is not None and p.offset > found.st_size
            begin = 0 if restarted else p.offset
            if begin is None:
                begin = begin_of_tail(descriptor, found.st_size, p.lines) if p.lines else found.st_size
            block = read_at(descriptor, begin, self.roots.settings.max_text + 1)
        cut = text.page(block, self.roots.settings.max_text, last=False)
        return Grown(cut.decode(errors="replace"), begin + len(cut), restarted)


class _Changes:
    """The events of one inotify descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.events: list[tuple[str, str]] = []
        self.complete = True
        self._ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._ready.set)

    async def next(self, seconds: float) -> _Changes:
        """Wait for the first event and those right after it; none at the time-out."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._ready.wait()
        except TimeoutError:
            return self
        self._ready.clear()
        self._take(os.read(self.descriptor, 1 << 16))
        return self

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            _, mask, _, length = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0").decode(errors="replace")
            self.complete = self.complete and not mask & _OVERFLOW
            self.events += [(what, name) for bit, what in _EVENTS.items() if mask & bit]
            at += _HEAD.size + length


@asynccontextmanager
async def _watch(place: Place) -> AsyncIterator[_Changes]:
    """Watch the file that has this path now, by its open descriptor."""
    opened = await asyncio.to_thread(place.open, os.O_PATH)
    descriptor = _libc.inotify_init1(_FLAGS)
    try:
        if descriptor < 0:
            raise TemporaryError(f"{place.path} cannot be watched: {os.strerror(ctypes.get_errno())}")
        if _libc.inotify_add_watch(descriptor, os.fsencode(f"/proc/self/fd/{opened}"), _MASK) < 0:
            raise NotFound(f"path: {place.path} cannot be watched: {os.strerror(ctypes.get_errno())}")
        try:
            yield _Changes(descriptor)
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        os.close(opened)
