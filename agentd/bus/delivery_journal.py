"""Which deliveries this process has not answered yet, in a memory-mapped file that outlives a kill -9.

A process that starts again hands back what its predecessor had open: the server then delivers it at once,
instead of after `ack_wait`.  A shared mapping costs no system call a message; after a power failure the file
may be stale, and `ack_wait` does what it is for.  The alternative, to read one's own effect records at start,
knows neither reads nor an orchestrator's inputs and grows with thirty days of history.

What a process that has been dead for longer had open is not handed back: the server has given it to somebody else,
and a NAK of the old delivery would give it to a third while that one works [seen].

The lock on the file also keeps a second process from playing the same instance.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import struct
import time
from typing import TYPE_CHECKING, Final

from agentd import files
from agentd.errors import ConfigError
from agentd.wire.subjects import ACK_WAIT, PROGRESS

if TYPE_CHECKING:
    from pathlib import Path

SLOT: Final = 256
"""Bytes of one entry: its length in two bytes, then the reply subject; JetStream's have up to about 150."""
SLOTS: Final = 4096
HELD: Final = ACK_WAIT - PROGRESS
"""Seconds after a process's last sign of life for which nobody else has what it held: `ack_wait` less the ten
seconds between two reports to the server."""

_time = struct.Struct("d")


class Journal:
    """The open deliveries of one instance; more than SLOTS at once are not kept, and wait for `ack_wait`."""

    def __init__(self, path: Path) -> None:
        """Open or make the file at `path`; raises ConfigError if another process has it."""
        self.alone = asyncio.Lock()
        """Held by what may kill this process: one such message at a time, over all consumers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = files.state(path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            message = f"{path} is in use: this instance runs already on this machine"
            raise ConfigError(message) from error
        size = SLOT * (SLOTS + 1)  # the last one holds the time of the last sign of life
        self._file.truncate(size)
        self._map = mmap.mmap(self._file.fileno(), size)
        (alive,) = _time.unpack_from(self._map, SLOT * SLOTS)
        self.left_open = [entry for number in range(SLOTS) if (entry := self._read(number))]
        if not time.time() - alive < HELD:  # a damaged file may say NaN
            self.left_open = []
        self._map[:] = bytes(size)
        self.beat()
        self._free = list(range(SLOTS - 1, -1, -1))
        self._taken: dict[str, int] = {}

    def _read(self, number: int) -> str:
        start = number * SLOT
        length = int.from_bytes(self._map[start : start + 2], "big")
        return self._map[start + 2 : start + 2 + min(length, SLOT - 2)].decode(errors="replace")

    def beat(self) -> None:
        """Note that this process lives."""
        _time.pack_into(self._map, SLOT * SLOTS, time.time())

    def add(self, reply: str) -> None:
        """Note that `reply` is not answered yet."""
        self.beat()
        data = reply.encode()
        if not self._free or len(data) > SLOT - 2:
            return
        number = self._free.pop()
        start = number * SLOT
        self._map[start : start + 2 + len(data)] = len(data).to_bytes(2, "big") + data
        self._taken[reply] = number

    def remove(self, reply: str) -> None:
        """Note that `reply` is answered."""
        number = self._taken.pop(reply, None)
        if number is not None:
            self._map[number * SLOT : number * SLOT + 2] = b"\0\0"
            self._free.append(number)

    def close(self) -> None:
        """Give the file free."""
        self._map.close()
        self._file.close()
