"""The deliveries that this process has not answered yet.

They are recorded in a memory-mapped file that survives a kill -9.  A restarted process hands back the open deliveries
of its predecessor: the server then delivers them at once, instead of after `ack_wait`.  A shared mapping needs no
system call per message.  After a power failure the file may be stale; then `ack_wait` applies.  The alternative, to
read the agent's own effect records at start, covers neither reads nor the inputs of an orchestrator, and grows with
thirty days of history.

If the predecessor has been dead for longer than HELD, its open deliveries are not handed back: the server has given
them to another process, and a NAK of the old delivery would give them to a third while the second one works [seen].

The lock on the file also prevents a second process of the same instance.
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
"""Bytes per entry: its length in two bytes, then the reply subject; JetStream's have up to about 150."""
SLOTS: Final = 4096
HELD: Final = ACK_WAIT - PROGRESS
"""Seconds after a process's last sign of life during which no other process has its deliveries: `ack_wait` less the
ten seconds between two progress reports to the server."""

_time = struct.Struct("d")


class Journal:
    """The open deliveries of one instance.

    Those beyond SLOTS are not recorded, and wait for `ack_wait`.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`.

        Raises ConfigError if another process has it open.
        """
        self.alone = asyncio.Lock()
        """Held while a message that may kill this process is handled: one at a time, over all consumers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = files.open_state(path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"{path} is in use: this instance runs already on this machine") from error
        size = SLOT * (SLOTS + 1)  # the last slot holds the time of the last sign of life
        self._file.truncate(size)
        self._map = mmap.mmap(self._file.fileno(), size)
        (alive,) = _time.unpack_from(self._map, SLOT * SLOTS)
        self.left_open = [entry for number in range(SLOTS) if (entry := self._read(number))]
        if not time.time() - alive < HELD:  # a damaged file may hold NaN
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
        """Record a sign of life of this process."""
        _time.pack_into(self._map, SLOT * SLOTS, time.time())

    def add(self, reply: str) -> None:
        """Record that the delivery with this reply subject is not answered yet."""
        self.beat()
        data = reply.encode()
        if not self._free or len(data) > SLOT - 2:
            return
        number = self._free.pop()
        start = number * SLOT
        self._map[start : start + 2 + len(data)] = len(data).to_bytes(2, "big") + data
        self._taken[reply] = number

    def remove(self, reply: str) -> None:
        """Record that the delivery with this reply subject is answered."""
        number = self._taken.pop(reply, None)
        if number is not None:
            self._map[number * SLOT : number * SLOT + 2] = b"\0\0"
            self._free.append(number)

    def close(self) -> None:
        """Close the file and release its lock."""
        self._map.close()
        self._file.close()
