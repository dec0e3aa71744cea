"""What an agent keeps of its audit chain on its disk: signing key and last head.

The key is the Ed25519 seed of `[bus] nkey_file` if there is one, otherwise the agent's own, created once.  The head is
in a memory-mapped file, which survives a kill -9 and costs no system call per record; with it the agent knows at its
start whether what it wrote is still stored.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
import re
import stat
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SIZE: Final = 4096
"""Size in bytes of the file that holds the head."""
LONGEST: Final = 500
"""Characters of an alarm that are kept."""


class Head(NamedTuple):
    """The last record of a chain: its sequence number and its hash."""

    seq: int
    hash: str


class Signer:
    """Signs with the Ed25519 key of a seed in the format of nkeys (SU...)."""

    def __init__(self, seed: str) -> None:
        """Read the seed; raises ConfigError if it is not valid."""
        import nkeys  # 20 ms, and a role that never writes a record does not need it

        try:
            self._key = nkeys.from_seed(bytearray(seed.encode()))
            self.public: str = self._key.public_key.decode()
            self.seed = seed
        except (nkeys.NkeysError, ValueError) as error:
            raise ConfigError("the seed that signs the audit is no NKey seed (SU...)") from error

    def sign(self, text: str) -> str:
        """Return the signature of a text, in base64."""
        return base64.b64encode(self._key.sign(text.encode())).decode()

    @classmethod
    def new(cls) -> Signer:
        """Return a signer with a new random key."""
        return cls(_new_seed())


def _new_seed() -> str:
    import nkeys

    seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


@lru_cache(maxsize=256)
def _verifier(public: str) -> Any:  # noqa: ANN401 - PyNaCl is loaded when it is needed
    from nacl.signing import VerifyKey

    if not re.fullmatch(r"U[A-Z2-7]{55}", public):
        raise ValueError("no public key")
    return VerifyKey(base64.b32decode(public)[1:33])


def valid(public: str, text: str, signature: str) -> bool:
    """Return whether `signature` is the one of `text` by a public key (U...)."""
    from nacl.exceptions import CryptoError

    try:
        _verifier(public).verify(text.encode(), base64.b64decode(signature, validate=True))
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def own_seed(path: Path) -> str:
    """Return the seed in the file at `path`, which is created if there is none.

    Raises ConfigError for a file with unsafe permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "w") as new_file:
            new_file.write(_new_seed())
            new_file.flush()
            os.fsync(new_file.fileno())
    file = _opened(path, os.O_RDONLY)
    with os.fdopen(file) as stream:
        mode = os.fstat(stream.fileno())
        if mode.st_mode & 0o077 or mode.st_uid != os.geteuid():
            raise ConfigError(f"{path}: others can read or replace the key of the audit: chown and chmod 600 it")
        return stream.read().strip()


def _opened(path: Path, flags: int) -> int:
    """Open a regular file that is not a link; raises ConfigError."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: it must be a file, not a link") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ConfigError(f"{path}: it must be a regular file")
    return file


class Memory:
    """The head that this agent wrote last, and an alarm that is not acknowledged yet."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`.

        Raises ConfigError if it is not a regular file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened(path, os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(file, SIZE)
            self._map = mmap.mmap(file, SIZE)
        finally:
            os.close(file)
        self.head: Head | None = None
        self.alarm = ""
        self.stream = ""
        with suppress(ValueError, KeyError, TypeError):
            stored = json.loads(self._map[:].rstrip(b"\0") or b"{}")
            self.alarm, self.stream = str(stored.get("alarm", "")), str(stored.get("stream", ""))
            self.head = Head(int(stored["seq"]), str(stored["hash"]))

    def keep(self, head: Head | None, alarm: str, stream: str = "") -> None:
        """Store the head, the alarm, and the creation time of the head's stream."""
        self.head, self.alarm, self.stream = head, alarm[:LONGEST], stream
        fields = {"alarm": self.alarm, "stream": stream} | (
            {} if head is None else {"seq": head.seq, "hash": head.hash}
        )
        data = json.dumps(fields).encode()[:SIZE]
        self._map[:] = data + bytes(SIZE - len(data))

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
