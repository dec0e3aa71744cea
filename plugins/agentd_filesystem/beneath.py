"""Open files below a directory such that no path leads out of it.

Each path is resolved by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, relative to a descriptor of the
directory that stays open.  So the kernel itself refuses `..` and symbolic links that lead out, also links that another
process creates in the middle of the call.  Checking the real path first and opening the file afterwards is not enough:
a directory that is replaced by a link in between is followed.

Files are opened without blocking, and then checked: a FIFO, a socket or a device is never read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

from agentd import NotFound, Rejected, TemporaryError

_OPENAT2: Final = 437  # the same number on every architecture
_NO_XDEV: Final = 0x01
_NO_MAGICLINKS: Final = 0x02
_BENEATH: Final = 0x08
_NOREPLACE: Final = 1
_RACES: Final = 64
"""How often a path is resolved again while other processes rename its directories (the kernel answers EAGAIN)."""
READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FAILURES: Final[dict[int, tuple[type[Exception], str]]] = {
    errno.ENOENT: (NotFound, "path: {path} does not exist"),
    errno.EXDEV: (Rejected, "path: {path} leads out of the directory that is served, or to another file system"),
    errno.ELOOP: (Rejected, "path: {path} leads through a symbolic link that may not be followed"),
    errno.EACCES: (Rejected, "path: agentd may not do this with {path}: {reason}"),
    errno.EPERM: (Rejected, "path: agentd may not do this with {path}: {reason}"),
    errno.EROFS: (Rejected, "path: {path} is on a file system that is mounted read-only"),
    errno.ENOSPC: (Rejected, "path: no space is left for {path}; nothing was changed"),
    errno.EDQUOT: (Rejected, "path: the quota leaves no space for {path}; nothing was changed"),
    errno.EAGAIN: (TemporaryError, "{path} cannot be opened now: {reason}"),
    errno.EMFILE: (TemporaryError, "{path} cannot be opened now: {reason}"),
    errno.ENFILE: (TemporaryError, "{path} cannot be opened now: {reason}"),
}
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(directory: int, path: str, flags: int, mode: int = 0, *, cross_devices: bool = False) -> int:
    """Return a descriptor of `path`, which is resolved below the open `directory`.

    Raises OSError: EXDEV if the path leads out of the directory or to another file system.
    """
    resolve = _BENEATH | _NO_MAGICLINKS | (0 if cross_devices else _NO_XDEV)
    how = _How(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_RACES):
        result: int = _libc.syscall(
            _OPENAT2, directory, os.fsencode(path or "."), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if result >= 0:
            return result
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def rename_new(source: int, name: str, target: int, new: str) -> None:
    """Rename `name` in the directory `source` to `new` in `target`, in one step.

    Raises FileExistsError if `new` exists: nothing is replaced.
    """
    result: int = _libc.renameat2(source, os.fsencode(name), target, os.fsencode(new), _NOREPLACE)
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)


def failure(path: str, error: OSError) -> Exception:
    """Return the error for an OSError on `path`; its text names no other path."""
    text = _FAILURES.get(error.errno or 0)
    if text is None:
        return Rejected(f"path: {path}: {error.strerror}")
    kind_of, sentence = text
    return kind_of(sentence.format(path=path, reason=error.strerror))


def regular(descriptor: int, path: str) -> os.stat_result:
    """Return the state of an open file; close it and raise Rejected for other kinds."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise Rejected(f"path: {path} is {kind(found.st_mode)}, not a regular file")
    return found


def kind(mode: int) -> str:
    """Return the kind of a file: file, directory, symlink, FIFO, socket or device."""
    names = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
    }
    return names.get(stat.S_IFMT(mode), "device")
