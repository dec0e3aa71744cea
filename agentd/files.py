"""Safe opening of files that control agentd or hold a secret.

Such a file is read only if no other user can have written it: it is a regular file, owned by root or by the user of
this process, not writable by its group or by others, and the same holds for the directories above it (a sticky
directory such as /tmp is allowed).  A secret is rejected if other users can read it.  A symbolic link is rejected: name
the file itself.  The checks are made on the open file, so that it cannot be replaced in between; a FIFO or a device
never blocks.  The error names the command that fixes the problem, and never repeats the content of the file.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.errors import UnsafeFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MOST: Final = 1 << 20
"""Largest size of a configuration file in bytes."""
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_STATE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def open_regular(path: Path, *, secret: bool = False, trusted: bool = True) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises UnsafeFile, and OSError if the file cannot be opened at all.

    secret   check that other users cannot read it
    trusted  check its owner and mode, and those of the directories above it
    """
    with os.fdopen(_checked(path, _READ, secret=secret, trusted=trusted), "rb") as file:
        yield file


def read(path: Path, *, secret: bool = False, most: int = MOST) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises UnsafeFile and OSError.
    """
    with open_regular(path, secret=secret) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise UnsafeFile(path, f"has more than {most} bytes; is it the right file?")
    return data


def check(path: Path, *, secret: bool = False, follow: bool = False) -> None:
    """Check a file that a library opens by its name.

    With `follow`, a symbolic link to it is allowed.
    """
    if follow and path.is_symlink():
        _check_parents(path)
        path = path.resolve()
    with suppress(OSError), open_regular(path, secret=secret):  # if it cannot be read, the library reports that itself
        pass


def open_state(path: Path) -> BinaryIO:
    """Open a state file of this process for reading and writing.

    It is created if it is missing (mode 0600).
    """
    return os.fdopen(_checked(path, _STATE), "r+b")


def check_replaceable(path: Path) -> None:
    """Check that a secret can be written to `path`.

    Its directory has to be safe, and the only file that may exist at `path` is an old secret.

    The directory is created if it is missing.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_parents(path)
    if os.path.lexists(path):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise UnsafeFile(path, f"is a symbolic link, which is not followed: rm {_quoted(path)}")
        _check_kind(path, found)
        _check_owner(path, found)


def write_secret(path: Path, data: bytes) -> None:
    """Replace `path` by a new file that only this user can read; raises UnsafeFile."""
    check_replaceable(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(beside, _NEW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)
            file.write(data)
            file.flush()
            os.fsync(handle)
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def directory_fault(directory: Path) -> str:
    """Return why files of this directory are not read; "" if they are."""
    try:
        _check_parents(directory / "file")
    except UnsafeFile as error:
        return str(error)
    return ""


def _checked(path: Path, flags: int, *, secret: bool = False, trusted: bool = True) -> int:
    handle = _open(path, flags)
    try:
        _check(path, os.fstat(handle), secret=secret, trusted=trusted)
    except (UnsafeFile, OSError):
        os.close(handle)
        raise
    return handle


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            target = os.path.realpath(path)
            raise UnsafeFile(
                path, f"is a symbolic link, which is not followed; name the file itself ({target})"
            ) from error
        if error.errno == errno.ENXIO:
            raise UnsafeFile(path, "is a socket or a FIFO, not a regular file; remove it") from error
        if error.errno == errno.EISDIR:
            raise UnsafeFile(path, "is a directory, not a regular file; remove it") from error
        raise


def _check(path: Path, found: os.stat_result, *, secret: bool, trusted: bool) -> None:
    _check_kind(path, found)
    if not trusted:
        return
    _check_owner(path, found)
    if found.st_mode & _WRITABLE:
        raise UnsafeFile(path, f"other users can write it (mode {_mode(found)}): chmod go-w {_quoted(path)}")
    _check_parents(path)
    if secret and found.st_mode & stat.S_IROTH and is_reachable_by_all(path):
        raise UnsafeFile(
            path, f"holds a secret that every user can read (mode {_mode(found)}): chmod o-r {_quoted(path)}"
        )


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        raise UnsafeFile(path, f"is {kind}, not a regular file; remove it")


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in {0, os.geteuid()}:
        raise UnsafeFile(path, f"belongs to another user (uid {found.st_uid}): chown root {_quoted(path)}")


def _parents(path: Path) -> list[Path]:
    """Return the directories above `path`, links resolved, the nearest first."""
    nearest = Path(os.path.realpath(path.parent))
    return [nearest, *nearest.parents]


def _check_parents(path: Path) -> None:
    above = _parents(path)
    for directory in above:
        found = directory.stat()
        if found.st_mode & _WRITABLE and not found.st_mode & stat.S_ISVTX:
            problem = f"other users can write in this directory (mode {_mode(found)}): chmod go-w {_quoted(directory)}"
            raise UnsafeFile(directory, problem)
    nearest = above[0].stat()
    if not nearest.st_mode & stat.S_ISVTX:
        _check_owner(above[0], nearest)


def is_reachable_by_all(path: Path) -> bool:
    """Return whether every user can reach the file through its directories."""
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in _parents(path))


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
