"""Tools that move, copy and delete files and directories, and set their permissions."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from agentd import Call, Found, NotFound, Rejected, Repeat, Tier, formats, tool
from agentd_filesystem import beneath, fields, replace
from agentd_filesystem.fields import Changed, Etag, Narrowed, target
from agentd_filesystem.tools import trash
from agentd_filesystem.tools.reading import checksum, etag_of

if TYPE_CHECKING:
    from agentd_filesystem.roots import Place, Roots

_BLOCK: Final = 1 << 20


class MoveFile(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file or directory, and its new path, which must not exist."""

    source: fields.Path
    destination: fields.Path


class DeleteFile(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file or directory to move to the trash.

    recursive: also a directory that is not empty
    etag: the content that the file must have
    """

    path: fields.Path
    recursive: bool = False
    etag: Etag = ""


class SetMode(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file or directory, and its permissions in octal, for example 0640."""

    path: fields.Path
    mode: Annotated[str, formats.full_match("0?[0-7]{3}", "three octal digits; set-user-id bits cannot be set")]


class Moving:
    """The tools that move, copy and delete."""

    def __init__(self, roots: Roots) -> None:
        """Work below the writable directories of `roots`."""
        self.roots = roots

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def move_file(self, call: Call, p: MoveFile) -> Changed:
        """Move or rename a file or directory within one file system; an existing destination is not replaced."""
        source, destination = (
            self.roots.find_writable(p.source, p.within),
            self.roots.find_writable(p.destination, p.within),
        )
        call.target(target(source))
        call.target(target(destination))

        async def check() -> Found | None:
            here, there = await asyncio.to_thread(lambda: (source.state(), destination.state()))
            if here is None and there is not None and call.begun is not None:
                return Found()
            if here is None:
                raise NotFound(f"source: {p.source} does not exist")
            if there is not None:
                raise Rejected(f"Destination already exists: {p.destination}; it is not replaced")
            call.inverse("move_file", {"source": p.destination, "destination": p.source})
            return None

        async def apply() -> None:
            await asyncio.to_thread(_rename, source, destination)

        await call.ensure(check, apply)
        return Changed(f"Successfully moved {p.source} to {p.destination}")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def copy_file(self, call: Call, p: MoveFile) -> Changed:
        """Copy a file of any size; an existing destination is not replaced."""
        source, destination = self.roots.find(p.source, p.within), self.roots.find_writable(p.destination, p.within)
        call.target(target(destination))

        async def check() -> Found | None:
            here, there = await asyncio.to_thread(lambda: (_checksum(source), _checksum(destination)))
            if here is None:
                raise NotFound(f"source: {p.source} does not exist")
            if there is not None and there == here:
                return Found()
            if there is not None:
                raise Rejected(f"destination: {p.destination} exists with another content; it is not replaced")
            call.inverse("delete_file", {"path": p.destination})
            return None

        async def apply() -> None:
            await asyncio.to_thread(_copy, call, source, destination)

        await call.ensure(check, apply)
        return Changed(f"copied {p.source} to {p.destination}")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def delete_file(self, call: Call, p: DeleteFile) -> Changed:
        """Delete a file or directory: it is moved to the trash, from which restore_from_trash brings it back."""
        place = self.roots.find_writable(p.path, p.within)
        call.target(target(place, etag=await asyncio.to_thread(_etag, place, self.roots.settings.max_file)))
        entry = trash.id_of(call.key, place)

        async def check() -> Found | None:
            state = await asyncio.to_thread(place.state)
            if state is None:
                if call.begun is not None:
                    return Found()
                raise NotFound(f"path: {p.path} does not exist")
            await asyncio.to_thread(self._may_delete, place, p, state)
            call.inverse("restore_from_trash", {"id": entry, "path": p.path})
            return None

        async def apply() -> None:
            await asyncio.to_thread(_discard, call, place)

        await call.ensure(check, apply)
        return Changed(f"moved {p.path} to the trash", trash=entry)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="file_operations")
    async def set_file_mode(self, call: Call, p: SetMode) -> Changed:
        """Set the permissions of a file or directory (chmod)."""
        place, mode = self.roots.find_writable(p.path, p.within), int(p.mode, 8)
        call.target(target(place))

        async def check() -> Found | None:
            state = await asyncio.to_thread(place.state)
            if state is None:
                raise NotFound(f"path: {p.path} does not exist")
            if beneath.kind(state.st_mode) not in {"file", "directory"}:
                raise Rejected(f"path: {p.path} is {beneath.kind(state.st_mode)}; name a file or directory")
            if stat.S_IMODE(state.st_mode) == mode:
                return Found()
            call.inverse("set_file_mode", {"path": p.path, "mode": f"{state.st_mode & 0o777:03o}"})
            return None

        async def apply() -> None:
            await asyncio.to_thread(_set_mode, place, mode)

        await call.ensure(check, apply)
        return Changed(f"{p.path} has mode {mode:04o}")

    def _may_delete(self, place: Place, p: DeleteFile, state: os.stat_result) -> None:
        if stat.S_ISDIR(state.st_mode) and not p.recursive:
            with place.folder() as directory, os.scandir(directory) as entries:
                if any(entries):
                    raise Rejected(f"path: {p.path} is a directory that is not empty; set recursive=true to delete it")
        if p.etag and etag_of(place, self.roots.settings.max_file) != p.etag:
            raise Rejected(f"etag: {p.path} has changed since; nothing was deleted")


def _etag(place: Place, most: int) -> str:
    state = place.state()
    return etag_of(place, most) if state is not None and stat.S_ISREG(state.st_mode) else ""


def _rename(source: Place, destination: Place) -> None:
    with source.parent() as old, destination.parent() as new:
        try:
            beneath.rename_new(old, source.name, new, destination.name)
        except FileExistsError as error:
            raise Rejected(f"destination: {destination.path} was created meanwhile; it is not replaced") from error
        os.fsync(new)
        os.fsync(old)


def _discard(call: Call, place: Place) -> None:
    with place.parent() as parent, trash.opened(place, call.key, call.principal) as kept:
        beneath.rename_new(parent, place.name, kept.directory, kept.id)
        os.fsync(kept.directory)
        os.fsync(parent)


def _checksum(place: Place) -> str | None:
    try:
        return checksum(place, "sha256")[0]
    except NotFound:
        return None


def _copy(call: Call, source: Place, destination: Place) -> None:
    with source.file() as (old, found), replace.creating(destination, stat.S_IMODE(found.st_mode) & 0o777) as new:
        while sent := os.sendfile(new, old, None, _BLOCK):
            if sent and call.left() <= 0:
                raise Rejected(f"copy_file: {source.path} was not copied within the deadline; nothing was changed")


def _set_mode(place: Place, mode: int) -> None:
    descriptor = place.open(os.O_PATH | os.O_NOFOLLOW)
    try:
        Path(f"/proc/self/fd/{descriptor}").chmod(mode)
    except OSError as error:
        raise beneath.failure(place.path, error) from error
    finally:
        os.close(descriptor)
