"""A file on its way to Proxmox: a form that is read piece by piece, and can be dropped until its last byte.

Proxmox wants the fields before the file, and among them the checksum (its parser takes no others), so the file is read
twice: for its checksum and to be sent.  What pveproxy has received it keeps only when the last line of the form has
come; therefore that line waits until nothing speaks against it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Final

from agentd.errors import AgentdError, ProxmoxUnavailable, Rejected, UnknownOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

CHUNK: Final = 1 << 20
"""Bytes that are read, and held in memory, at once."""


class Upload:
    """One file that is sent as `filename`; `told` hears how much of it was read, in a thread."""

    def __init__(
        self, file: BinaryIO, filename: str, told: Callable[[str, int], None] = lambda _what, _bytes: None
    ) -> None:
        """Keep the open file, which nobody else may read; raises Rejected if it is empty."""
        self._file = file
        self._filename = filename
        self._told = told
        self._stat = self._seen()
        self.size = self._stat[0]
        self.sent = 0
        self.whole = False
        """Whether the last byte has left: then the file may be taken in, whatever becomes of the connection."""
        self.may_end: Callable[[], bool] = lambda: True
        self._dropped = False
        self._boundary = f"agentd-{secrets.token_hex(16)}"
        self._head = b""

    def drop(self) -> None:
        """End the reading: the connection breaks, and Proxmox throws away what has come."""
        self._dropped = True

    def digest(self, algorithm: str) -> str:
        """Return the checksum of the file (in a thread); raises Rejected."""
        found = hashlib.new(algorithm)
        for piece in self._pieces("reading"):
            found.update(piece)
        return found.hexdigest()

    def describe(self, fields: dict[str, str]) -> None:
        """Say what goes before the file, in the order in which Proxmox reads it; the values are plain words."""
        parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
        kind = "Content-Type: application/octet-stream"
        parts.append(f'Content-Disposition: form-data; name="filename"; filename="{self._filename}"\r\n{kind}\r\n\r\n')
        self._head = "\r\n".join(f"--{self._boundary}\r\n{part}" for part in parts).encode("ascii")

    @property
    def content_type(self) -> str:
        """The header that names the boundary."""
        return f"multipart/form-data; boundary={self._boundary}"

    @property
    def _tail(self) -> bytes:
        return f"\r\n--{self._boundary}--\r\n".encode("ascii")

    def __len__(self) -> int:
        """Return the length of the whole form: Proxmox takes no chunked one."""
        return len(self._head) + self.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the form; raises Rejected if the file is not any more what it was."""
        yield self._head
        for piece in self._pieces("sending"):
            yield piece
            self.sent += len(piece)
        if self._dropped or not self.may_end():
            raise self._not_kept("it was given up")
        self.whole = True
        yield self._tail

    def lost(self, error: AgentdError) -> AgentdError:
        """Return what a connection that broke means: while the form was not whole, nothing was kept."""
        if self.whole or not isinstance(error, UnknownOutcome):
            return error
        return ProxmoxUnavailable(
            f"the connection was lost after {self.sent} of {self.size} bytes of {self._filename}; nothing was kept",
            delay=2.0,
        )

    def _pieces(self, what: str) -> Iterator[bytes]:
        """Yield the file from its beginning, piece by piece, and be sure that it stays as it is."""
        left = self.size
        try:
            self._file.seek(0)
            while left:
                if self._dropped:
                    raise self._not_kept("it was given up")
                piece = self._file.read(min(CHUNK, left))
                if not piece:
                    raise self._not_kept("the file became shorter while it was read")
                left -= len(piece)
                self._told(what, self.size - left)
                yield piece
            if self._seen() != self._stat:
                raise self._not_kept("the file was changed while it was read")
        except OSError as error:
            raise self._not_kept(f"the file cannot be read: {error.strerror}") from error

    def _not_kept(self, why: str) -> Rejected:
        return Rejected(f"{self._filename}: {why}; nothing was kept")

    def _seen(self) -> tuple[int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns
