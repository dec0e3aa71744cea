"""Replace the content of a file in one step, and keep what was replaced.

The new content is written to a new file beside the old one, with its owner, mode and extended attributes, and is then
renamed over it; a reader sees the old or the new content, never a part.  Both are flushed to the disk first.  The old
file goes to the trash of its root by a second name (a hard link), before it is replaced.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from agentd import Rejected
from agentd_filesystem import beneath

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_filesystem.roots import Place
    from agentd_filesystem.tools.trash import Kept

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
MODE: Final = 0o644


def write(place: Place, data: bytes, kept: Kept | None, mode: int = MODE) -> None:
    """Create or replace a regular file.

    kept  where the old content goes; None: there is no old file, and one that was created meanwhile is not replaced

    Raises Rejected if the old file has several names, or if its owner cannot be kept: nothing is changed then.
    """
    with creating(place, mode, kept) as descriptor:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


@contextmanager
def creating(place: Place, mode: int, kept: Kept | None = None) -> Iterator[int]:
    """Yield the descriptor of a new file.

    Without an error it is flushed and put in place.
    """
    with place.parent() as parent, _temporary(parent, place) as (name, descriptor):
        try:
            if kept is None:
                os.fchmod(descriptor, mode)
            else:
                _like(parent, place, descriptor, kept)
            yield descriptor
            os.fsync(descriptor)
            if kept is None:
                beneath.rename_new(parent, name, parent, place.name)
            else:
                kept.keep(parent, place.name)
                os.rename(name, place.name, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)
        except FileExistsError as error:
            raise Rejected(f"path: {place.path} was created meanwhile; nothing was changed") from error
        except OSError as error:
            raise beneath.failure(place.path, error) from error


@contextmanager
def _temporary(parent: int, place: Place) -> Iterator[tuple[str, int]]:
    name = f".{place.name[:100]}.{secrets.token_hex(8)}.agentd"
    descriptor = os.open(name, _NEW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    try:
        yield name, descriptor
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):  # it was renamed
            os.unlink(name, dir_fd=parent)


def _like(parent: int, place: Place, descriptor: int, kept: Kept) -> None:
    """Give the new file owner, mode and extended attributes of the old one."""
    old = os.open(place.name, beneath.READ | os.O_NOFOLLOW, dir_fd=parent)
    try:
        state = os.fstat(old)
        if not stat.S_ISREG(state.st_mode):
            raise Rejected(f"path: {place.path} is {beneath.kind(state.st_mode)}, not a regular file")
        if state.st_nlink - kept.holds(state) > 1:
            raise Rejected(
                f"path: {place.path} has {state.st_nlink} names (hard links); replacing it would separate them. Delete "
                "it first if that is meant"
            )
        if (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
            try:
                os.fchown(descriptor, state.st_uid, state.st_gid)
            except PermissionError as error:
                raise Rejected(
                    f"path: {place.path} belongs to {state.st_uid}:{state.st_gid}, and agentd may not keep that owner; "
                    "nothing was changed"
                ) from error
        os.fchmod(descriptor, stat.S_IMODE(state.st_mode))
        for attribute in os.listxattr(old):
            with suppress(PermissionError):  # the kernel sets security.* of a new file itself
                os.setxattr(descriptor, attribute, os.getxattr(old, attribute))
    finally:
        os.close(old)
