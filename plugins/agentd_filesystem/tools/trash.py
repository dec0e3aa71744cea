"""The trash of each writable root: deleted files, old content of replaced ones.

It is the directory `.agentd-trash` in the root, readable by agentd alone.  An entry has the name ID, with a note
ID.json beside it, which is written first.  ID is derived from the call that removes the file, so a call that is run
again after a crash finds its own entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Tier, formats, now, tool
from agentd_filesystem import beneath
from agentd_filesystem.fields import Changed, Etag, Narrowed, Path, target
from agentd_filesystem.roots import TRASH, Place
from agentd_filesystem.tools.reading import etag_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_filesystem.roots import Roots

Id = Annotated[str, formats.full_match("[0-9a-f]{16}", "from list_trash, or the answer of the call that removed it")]


class Entry(msgspec.Struct, frozen=True):
    """One entry of the trash: where it was, when it was removed, by which principal."""

    id: str
    path: str
    removed: datetime
    principal: str


class Trashed(msgspec.Struct, frozen=True):
    """The entries of the trash, the newest first."""

    total: int
    entries: list[Entry]


class Restore(Narrowed, frozen=True, forbid_unknown_fields=True):
    """An entry of the trash, and the path where it belongs.

    etag: the content of the file that has this path now; it goes to the trash instead, and only with this content
    """

    id: Id
    path: Path
    etag: Etag = ""


class Empty(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A writable directory, and how old the entries are that go."""

    path: Path
    older_than_days: Annotated[int, Meta(ge=0, le=36_500)] = 30


class Emptied(msgspec.Struct, frozen=True):
    """The number of entries that were deleted for good."""

    deleted: int


@dataclass(frozen=True)
class Kept:
    """One entry of the trash: an open trash directory and an id."""

    directory: int
    id: str

    def keep(self, parent: int, name: str) -> None:
        """Link a file into the trash; an earlier run of this call may have done it."""
        with suppress(FileExistsError):
            os.link(name, self.id, src_dir_fd=parent, dst_dir_fd=self.directory, follow_symlinks=False)
        os.fsync(self.directory)

    def holds(self, state: os.stat_result) -> bool:
        """Return whether the entry is this very file."""
        with suppress(FileNotFoundError):
            return os.path.samestat(self.state(), state)
        return False

    def exists(self) -> bool:
        """Return whether the trash has the entry."""
        with suppress(FileNotFoundError):
            self.state()
            return True
        return False

    def state(self) -> os.stat_result:
        """Return the state of the entry; raises FileNotFoundError."""
        return os.stat(self.id, dir_fd=self.directory, follow_symlinks=False)


def id_of(key: str, place: Place) -> str:
    """Return the id of what the call `key` removes."""
    return hashlib.sha256(f"{key}\0{place.relative}".encode()).hexdigest()[:16]


@contextmanager
def opened(place: Place, key: str, principal: str) -> Iterator[Kept]:
    """Open the trash of a root for what this call removes, and note there what it is."""
    entry = Entry(id_of(key, place), str(place.root / place.relative), now(), principal)
    with _directory(place, create=True) as directory:
        note = os.open(
            f"{entry.id}.json", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
        )
        with os.fdopen(note, "wb") as file:
            file.write(msgspec.json.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        yield Kept(directory, entry.id)


@contextmanager
def _directory(place: Place, *, create: bool) -> Iterator[int]:
    """Open the trash of the root of `place`; raises NotFound unless it may create it."""
    with Place(place.roots, str(place.root), place.root, "").folder() as root:
        if create:
            with suppress(FileExistsError):
                os.mkdir(TRASH, 0o700, dir_fd=root)
        try:
            directory = os.open(TRASH, beneath.DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        except FileNotFoundError as error:
            raise NotFound(f"the trash of {place.root} is empty") from error
        try:
            yield directory
        finally:
            os.close(directory)


class TrashTools:
    """The tools for deleted files."""

    def __init__(self, roots: Roots) -> None:
        """Use the trash of `roots`."""
        self.roots = roots

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def list_trash(self, call: Call, p: Narrowed) -> Trashed:
        """List the deleted files, and the old contents of replaced files, the newest first."""
        entries = await asyncio.to_thread(self._entries, p.within)
        return Trashed(len(entries), entries[: self.roots.settings.max_entries])

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def restore_from_trash(self, call: Call, p: Restore) -> Changed:
        """Put an entry of the trash back; with etag, the file that is in its place goes to the trash instead."""
        place = self.roots.find_writable(p.path, p.within)
        call.target(target(place, trash=p.id))

        async def check() -> Found | None:
            exists, current = await asyncio.to_thread(self._compare, place, p.id)
            if not exists:
                if current is not None and call.begun is not None:
                    return Found()
                raise NotFound(f"id: the trash of {place.root} has no entry {p.id}")
            if current is None:
                call.inverse("delete_file", {"path": p.path, "recursive": True})
            elif current != p.etag:
                raise Rejected(f"path: {p.path} exists and has not the etag {p.etag or '(none given)'}; not replaced")
            else:
                call.inverse("restore_from_trash", {"id": id_of(call.key, place), "path": p.path})
            return None

        async def apply() -> None:
            await asyncio.to_thread(self._restore, call, place, p.id)

        await call.ensure(check, apply)
        return Changed(f"restored {p.path} from the trash")

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="file_operations")
    async def empty_trash(self, call: Call, p: Empty) -> Emptied:
        """Delete the entries of a directory's trash for good, if they are older than some days."""
        place = self.roots.find_writable(p.path, p.within)
        before = now() - timedelta(days=p.older_than_days)
        entries = [entry for entry in await asyncio.to_thread(self._entries_of, place) if entry.removed < before]
        lost = [f"{entry.path}, removed at {entry.removed:%Y-%m-%d %H:%M}" for entry in entries]
        call.target(msgspec.structs.replace(target(place, entries=[entry.id for entry in entries]), loses=lost[:50]))

        async def check() -> Found | None:
            return None if entries else Found()

        async def apply() -> None:
            await asyncio.to_thread(self._empty, place, [entry.id for entry in entries])

        await call.ensure(check, apply)
        return Emptied(len(entries))

    def _entries(self, within: list[str]) -> list[Entry]:
        found = [
            entry
            for part in self.roots.allowed(self.roots.settings.writable_roots, within)
            for entry in self._entries_of(self.roots.find_writable(part, within))
        ]
        return sorted(found, key=lambda entry: entry.removed, reverse=True)

    def _entries_of(self, place: Place) -> list[Entry]:
        try:
            with _directory(place, create=False) as directory:
                with os.scandir(directory) as found:
                    notes = [item.name for item in found if item.name.endswith(".json")]
                entries = [_note(directory, name) for name in notes]
                kept = [entry for entry in entries if entry is not None and Kept(directory, entry.id).exists()]
                return [entry for entry in kept if place.covers(entry.path)]
        except NotFound:
            return []

    def _compare(self, place: Place, entry: str) -> tuple[bool, str | None]:
        """Return whether the entry exists, and the etag of its path; None if it is free."""
        current = None if place.state() is None else etag_of(place, self.roots.settings.max_file)
        try:
            with _directory(place, create=False) as directory:
                note = _note(directory, f"{entry}.json")
                covered = not place.within or (note is not None and place.covers(note.path))
                return covered and Kept(directory, entry).exists(), current
        except NotFound:
            return False, current

    def _restore(self, call: Call, place: Place, entry: str) -> None:
        with place.parent() as parent, opened(place, call.key, call.principal) as kept:
            if place.state() is not None:
                beneath.rename_new(parent, place.name, kept.directory, kept.id)
            beneath.rename_new(kept.directory, entry, parent, place.name)
            os.fsync(parent)

    def _empty(self, place: Place, ids: list[str]) -> None:
        with _directory(place, create=False) as directory:
            for entry in ids:
                with suppress(FileNotFoundError):
                    if stat.S_ISDIR(Kept(directory, entry).state().st_mode):
                        shutil.rmtree(entry, dir_fd=directory)
                    else:
                        os.unlink(entry, dir_fd=directory)
                with suppress(FileNotFoundError):
                    os.unlink(f"{entry}.json", dir_fd=directory)
            os.fsync(directory)


def _note(directory: int, name: str) -> Entry | None:
    """Return the note of an entry; None if it was not written to its end."""
    with suppress(OSError, msgspec.MsgspecError):
        descriptor = os.open(name, beneath.READ | os.O_NOFOLLOW, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            return msgspec.json.decode(file.read(1 << 16), type=Entry)
    return None
