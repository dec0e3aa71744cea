"""Tools that write and edit files."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Tier, tool
from agentd_filesystem import beneath, replace, text
from agentd_filesystem.fields import Changed, Etag, Narrowed, OnePath, Path, target
from agentd_filesystem.tools import trash
from agentd_filesystem.tools.reading import whole

if TYPE_CHECKING:
    from agentd_filesystem.roots import Place, Roots

MOST: Final = 256 << 10
"""Characters of text in one call: a message has 512 KiB at most."""


class WriteFile(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file and its whole new content.

    encoding: base64 for bytes that are not text
    etag: the content that is replaced, from get_file_info; if the file has changed since, nothing is written
    """

    path: Path
    content: Annotated[str, Meta(max_length=MOST)]
    encoding: Literal["utf-8", "base64"] = "utf-8"
    etag: Etag = ""


class EditOperation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text that occurs exactly once in the file, and what replaces it."""

    old: Annotated[str, Meta(max_length=MOST)] = msgspec.field(name="oldText")
    new: Annotated[str, Meta(max_length=MOST)] = msgspec.field(name="newText")


class EditFile(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A text file and the edits to make in it, in order.

    all: replace every occurrence of each oldText
    dryRun: show the changes, and change nothing
    """

    path: Path
    edits: Annotated[list[EditOperation], Meta(min_length=1, max_length=100)]
    dry_run: bool = msgspec.field(default=False, name="dryRun")
    all: bool = False
    etag: Etag = ""


class AppendFile(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file and the text to add at its end.

    size: bytes that the file must have before
    """

    path: Path
    content: Annotated[str, Meta(min_length=1, max_length=MOST)]
    size: Annotated[int, Meta(ge=0)] | None = None


class Writing:
    """The tools that write files."""

    def __init__(self, roots: Roots) -> None:
        """Write below the writable directories of `roots`."""
        self.roots = roots

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def write_file(self, call: Call, p: WriteFile) -> Changed:
        """Create a file, or replace its content; the old content goes to the trash."""
        data = _data(p)
        if len(data) > self.roots.settings.max_file:
            raise Rejected(f"content: it has {len(data)} bytes, more than max_file = {self.roots.settings.max_file}")
        return await self._put(call, self.roots.find_writable(p.path, p.within), data, p.etag)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def edit_file(self, call: Call, p: EditFile) -> Changed:
        """Replace parts of a text file, and show the changes as a diff.

        Each oldText must occur exactly once; lines also match if only white space at their ends differs.  Line ends
        stay as the file has them.  The old content goes to the trash.
        """
        place = self.roots.find_writable(p.path, p.within)
        data = await asyncio.to_thread(whole, place, self.roots.settings.max_file)
        before = text.decoded(data, p.path)
        try:
            after = text.edited(before, [text.Edit(edit.old, edit.new) for edit in p.edits], every=p.all)
        except Rejected:
            if call.begun is None:
                raise
            raise Rejected(
                f"{p.path}: this edit was begun before, and the file does not contain the old text any more: it was "
                "probably made; read the file"
            ) from None
        diff = f"```diff\n{text.difference(before, after, p.path)}```\n"
        if p.dry_run:
            return Changed(diff)
        changed = await self._put(call, place, after.encode(), p.etag or text.etag(data))
        return msgspec.structs.replace(changed, content=diff)

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="file_operations")
    async def append_file(self, call: Call, p: AppendFile) -> Changed:
        """Add text at the end of a file, which is created if it does not exist."""
        place = self.roots.find_writable(p.path, p.within)
        call.target(target(place))

        async def check() -> Found | None:
            size = await asyncio.to_thread(_size, place)
            if p.size is not None and size != p.size:
                raise Rejected(f"size: {p.path} has {size} bytes, not {p.size}; nothing was written")
            return None

        async def apply() -> None:
            await asyncio.to_thread(_append, place, p.content.encode())

        await call.ensure(check, apply)
        return Changed(f"appended {len(p.content.encode())} bytes to {p.path}")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="directory_management")
    async def create_directory(self, call: Call, p: OnePath) -> Changed:
        """Create a directory, and those above it; nothing is done if it exists."""
        place = self.roots.find_writable(p.path, p.within)
        call.target(target(place))

        async def check() -> Found | None:
            missing = await asyncio.to_thread(_missing, place)
            if missing is None:
                return Found()
            call.inverse("delete_file", {"path": missing.path, "recursive": True})
            return None

        async def apply() -> None:
            await asyncio.to_thread(_create, place)

        await call.ensure(check, apply)
        return Changed(f"Successfully created directory {p.path}")

    async def _put(self, call: Call, place: Place, data: bytes, expected: str) -> Changed:
        """Write a file once; `expected` is the etag of its old content, "" for any."""
        before = await asyncio.to_thread(_current, place, self.roots.settings.max_file)
        was = "" if before is None else text.etag(before)
        call.target(target(place, etag=was))
        entry = trash.id_of(call.key, place)

        async def check() -> Found | None:
            if before == data:
                return Found()
            if expected and was != expected:
                raise Rejected(f"etag: {place.path} has changed (it has {was or 'no content'}); nothing was written")
            if before is None:
                call.inverse("delete_file", {"path": place.path, "etag": text.etag(data)})
            else:
                call.inverse("restore_from_trash", {"id": entry, "path": place.path, "etag": text.etag(data)})
            return None

        async def apply() -> None:
            await asyncio.to_thread(self._replace, call, place, data, before)

        found = await call.ensure(check, apply)
        kept = "" if before is None or found.adopted else entry
        return Changed(f"Successfully wrote to {place.path}", etag=text.etag(data), trash=kept)

    def _replace(self, call: Call, place: Place, data: bytes, before: bytes | None) -> None:
        if _current(place, self.roots.settings.max_file) != before:
            raise Rejected(f"path: {place.path} was changed meanwhile; nothing was written, read it again")
        if before is None:
            replace.write(place, data, None)
            return
        with trash.opened(place, call.key, call.principal) as kept:
            replace.write(place, data, kept)


def _data(p: WriteFile) -> bytes:
    try:
        return p.content.encode() if p.encoding == "utf-8" else base64.b64decode(p.content, validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Rejected(f"content: it is not {p.encoding}: {error}") from error


def _current(place: Place, most: int) -> bytes | None:
    """Return the content of a file; None if it does not exist."""
    try:
        return whole(place, most)
    except NotFound:
        with place.parent():  # its directory must exist
            return None


def _size(place: Place) -> int:
    try:
        with place.file() as (_, found):
            return found.st_size
    except NotFound:
        with place.parent():
            return 0


def _append(place: Place, data: bytes) -> None:
    """Append in one write, so that lines of other writers are not mixed with it."""
    descriptor = place.open(os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, replace.MODE)
    beneath.regular(descriptor, place.path)
    try:
        written = os.write(descriptor, data)
        if written != len(data):
            raise Rejected(f"path: only {written} of {len(data)} bytes were appended to {place.path}: no space is left")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(place: Place) -> Place | None:
    """Return the topmost directory of a path that does not exist; None if all exist."""
    try:
        with place.folder():
            return None
    except NotFound:
        above = _missing(place.above()) if place.relative else None
        return above or place


def _create(place: Place) -> None:
    """Create a directory and those above it, the topmost first."""
    try:
        with place.folder():
            return
    except NotFound:
        _create(place.above())
    with place.parent() as parent:
        try:
            os.mkdir(place.name, 0o755, dir_fd=parent)
        except FileExistsError as error:  # created meanwhile, or a link that leads nowhere
            with place.folder():
                return
            raise Rejected(f"path: {place.path} is not a directory") from error
        os.fsync(parent)
