"""A file upload to Proxmox: a form that is read in chunks and can be dropped.

Proxmox requires the fields, the checksum among them, before the file (its parser accepts them only there), so the
file is read twice: for the checksum and for sending.  pveproxy keeps what it has received only once the last line of
the form has arrived; therefore that line is held back until nothing prevents the upload.
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
"""Bytes that are read, and held in memory, at a time."""


class Upload:
    """One file, sent as `filename`.

    on_progress  is called, in a thread, with the activity and the number of bytes read
    """

    def __init__(
        self, file: BinaryIO, filename: str, on_progress: Callable[[str, int], None] = lambda _what, _bytes: None
    ) -> None:
        """Use the open file; raises Rejected if it is empty.

        No other code may read from the file.
        """
        self._file = file
        self._filename = filename
        self._on_progress = on_progress
        self._stat = self._seen()
        self.size = self._stat[0]
        self.sent = 0
        self.whole = False
        """Whether the last byte was sent: then Proxmox may store the file, even if the connection breaks."""
        self.may_end: Callable[[], bool] = lambda: True
        self._dropped = False
        self._boundary = f"agentd-{secrets.token_hex(16)}"
        self._head = b""

    def drop(self) -> None:
        """Stop reading: the connection breaks, and Proxmox discards what it has received."""
        self._dropped = True

    def digest(self, algorithm: str) -> str:
        """Return the checksum of the file (in a thread); raises Rejected."""
        checksum = hashlib.new(algorithm)
        for piece in self._chunks("reading"):
            checksum.update(piece)
        return checksum.hexdigest()

    def describe(self, fields: dict[str, str]) -> None:
        """Set the fields before the file, in the order in which Proxmox reads them.

        The values are plain ASCII words.
        """
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
        """Return the length of the whole form: Proxmox accepts no chunked encoding."""
        return len(self._head) + self.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the form; raises Rejected if the file has changed."""
        yield self._head
        for piece in self._chunks("sending"):
            yield piece
            self.sent += len(piece)
        if self._dropped or not self.may_end():
            raise self._not_stored("it was given up")
        self.whole = True
        yield self._tail

    def lost(self, error: AgentdError) -> AgentdError:
        """Return the error for a broken connection.

        If the form was not complete, Proxmox has kept nothing.
        """
        if self.whole or not isinstance(error, UnknownOutcome):
            return error
        return ProxmoxUnavailable(
            f"the connection was lost after {self.sent} of {self.size} bytes of {self._filename}; nothing was kept",
            delay=2.0,
        )

    def _chunks(self, what: str) -> Iterator[bytes]:
        """Yield the file from its beginning in chunks; raises Rejected if it changes."""
        left = self.size
        try:
            self._file.seek(0)
            while left:
                if self._dropped:
                    raise self._not_stored("it was given up")
                piece = self._file.read(min(CHUNK, left))
                if not piece:
                    raise self._not_stored("the file became shorter while it was read")
                left -= len(piece)
                self._on_progress(what, self.size - left)
                yield piece
            if self._seen() != self._stat:
                raise self._not_stored("the file was changed while it was read")
        except OSError as error:
            raise self._not_stored(f"the file cannot be read: {error.strerror}") from error

    def _not_stored(self, why: str) -> Rejected:
        return Rejected(f"{self._filename}: {why}; nothing was kept")

    def _seen(self) -> tuple[int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns
