"""The directories that are served, and where a path is in them."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Final

from agentd import PermanentError, Rejected
from agentd_filesystem import beneath
from agentd_filesystem.settings import NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentd_filesystem.settings import FilesystemSettings

_OUTSIDE: Final = "is in none of the directories to which this call is limited (within)"
TRASH: Final = ".agentd-trash"
"""The directory in each root that keeps deleted and replaced files; no path may lead into it."""


@dataclass(frozen=True)
class Place:
    """A path in a root.

    path      as the caller wrote it, for errors and answers
    root      the directory that is served
    relative  the path below the root; "" is the root itself
    within    the directory below the root to which the caller limits the call; "" is the root itself
    """

    roots: Roots
    path: str
    root: Path
    relative: str
    within: str = ""

    @property
    def cross_devices(self) -> bool:
        """Return whether other file systems that are mounted below the root are served."""
        return self.roots.settings.cross_devices

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return PurePosixPath(self.relative).name

    def open(self, flags: int = beneath.READ, mode: int = 0) -> int:
        """Return a descriptor of the path; raises NotFound, Rejected or TemporaryError."""
        try:
            with self._limit() as directory:
                relative = str(PurePosixPath(self.relative).relative_to(self.within))
                return beneath.open_beneath(directory, relative, flags, mode, cross_devices=self.cross_devices)
        except ValueError:
            raise Rejected(f"path: {self.path} {_OUTSIDE}") from None
        except OSError as error:
            raise self._failure(error) from error

    @contextmanager
    def _limit(self) -> Iterator[int]:
        """Open the directory out of which no path leads.

        It is the root, or the directory to which the caller limits the call.
        """
        root = self.roots.directory(self.root)
        if not self.within:
            yield root
            return
        descriptor = beneath.open_beneath(
            root, self.within, os.O_PATH | os.O_DIRECTORY, cross_devices=self.cross_devices
        )
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def covers(self, path: str) -> bool:
        """Return whether a path is in the part of the root that the call may use."""
        return PurePosixPath(path).is_relative_to(self.root / self.within)

    @contextmanager
    def file(self) -> Iterator[tuple[int, os.stat_result]]:
        """Open a regular file for reading; the value is its descriptor and its state."""
        descriptor = self.open()
        found = beneath.regular(descriptor, self.path)
        try:
            yield descriptor, found
        except OSError as error:
            raise self._failure(error) from error
        finally:
            os.close(descriptor)

    @contextmanager
    def folder(self) -> Iterator[int]:
        """Open a directory; the value is its descriptor."""
        descriptor = self.open(beneath.DIRECTORY)
        try:
            yield descriptor
        except OSError as error:
            raise self._failure(error) from error
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self) -> Iterator[int]:
        """Open the directory of this path, to create, replace or rename its last part."""
        if not self.name or self.relative.rstrip("/").endswith(".."):
            raise Rejected(f"path: {self.path} is a root, or ends with ..; name a file or directory below it")
        with self.above().folder() as descriptor:
            yield descriptor

    def state(self) -> os.stat_result | None:
        """Return the state of this path without following a last link; None if it is free."""
        with self.parent() as parent:
            try:
                return os.stat(self.name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def above(self) -> Place:
        """Return the directory that holds this path."""
        above = str(PurePosixPath(self.relative).parent)
        relative = "" if above == "." else above
        return Place(self.roots, str(self.root / relative), self.root, relative, self.within)

    def below(self, relative: str) -> Place:
        """Return a path below this one."""
        inside = f"{self.relative}/{relative}" if self.relative else relative
        return Place(self.roots, str(self.root / inside), self.root, inside, self.within)

    def _failure(self, error: OSError) -> Exception:
        return beneath.failure(self.path, error)


class Roots:
    """The served directories; each is opened at its first use and stays open."""

    def __init__(self, settings: FilesystemSettings) -> None:
        """Serve the directories of these settings."""
        self.settings = settings
        self._open: dict[Path, int] = {}

    def find(self, path: str, within: Sequence[str] = ()) -> Place:
        """Return the place of a path, for reading.

        within  the directories to which the caller limits the call; none: no further limit

        A relative path belongs to the root, if there is only one.  Raises Rejected if the path is in no root.
        """
        if not self.settings.roots:
            raise Rejected("no directory is served: name some under [filesystem] roots")
        place = self._place(path, self.settings.roots, within)
        if place is None:
            raise Rejected(f"path: {path} is in none of the directories that are served (list_allowed_directories)")
        return place

    def find_writable(self, path: str, within: Sequence[str] = ()) -> Place:
        """Return the place of a path, for changing it.

        It is resolved below the writable directory itself, so no link leads from it to a read-only part of its root.
        """
        place = self._place(path, self.settings.writable_roots, within)
        if place is None:
            allowed = ", ".join(map(str, self.settings.writable_roots)) or "none"
            raise Rejected(f"path: {path} may not be changed; directories that may: {allowed} (writable_roots)")
        return place

    def allowed(self, directories: tuple[Path, ...], within: Sequence[str]) -> list[str]:
        """Return the parts of `directories` that are in the directories `within` of a call."""
        return sorted({str(part) for root in directories for part in _parts(root, within)})

    def _place(self, path: str, directories: tuple[Path, ...], within: Sequence[str]) -> Place | None:
        if "\0" in path or not path:
            raise Rejected("path: it is empty, or contains a NUL character")
        pure = PurePosixPath(path)
        if not pure.is_absolute() and len(self.settings.roots) == 1:
            pure = PurePosixPath(self.settings.roots[0]) / pure
        inside = [directory for directory in directories if pure.is_relative_to(directory)]
        if not inside:
            return None
        root = max(inside, key=lambda candidate: len(candidate.parts))
        if TRASH in pure.relative_to(root).parts:
            raise Rejected(f"path: {path} is in the trash; list_trash shows what it holds, restore_from_trash restores")
        parts = [part for part in _parts(root, within) if pure.is_relative_to(part)]
        if not parts:
            raise Rejected(f"path: {path} {_OUTSIDE}")
        deepest = max(parts, key=lambda part: len(part.parts))
        below = [str(part.relative_to(root)) for part in (pure, deepest)]
        return Place(self, path, root, *("" if part == "." else part for part in below))

    def directory(self, root: Path) -> int:
        """Return the descriptor of a root; raises PermanentError if it cannot be served."""
        if root not in self._open:
            real = Path(os.path.realpath(root))
            never = next((path for path in NEVER if real.is_relative_to(path) or Path(path).is_relative_to(real)), "")
            if never:
                raise PermanentError(f"[filesystem] roots: {root} is {real}, and {never} is never served")
            try:
                self._open[root] = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                text = "does not exist" if error.errno == errno.ENOENT else error.strerror
                raise PermanentError(f"[filesystem] roots: {root}: {text}") from error
        return self._open[root]


def _parts(root: PurePath, within: Sequence[str]) -> list[PurePath]:
    """Return the parts of a root that are in the directories `within` of a call.

    A directory that contains the root leaves the whole root: a caller cannot add to what is served.
    """
    limits: list[PurePath] = [PurePosixPath(limit) for limit in within] or [root]
    below = [limit for limit in limits if limit.is_relative_to(root)]
    return [*below, root] if any(root.is_relative_to(limit) for limit in limits) else below
