"""Tools that archive a directory into a file, and restore it."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import stat
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agentd import Call, Found, NotFound, Rejected, Repeat, Tier, tool
from agentd_filesystem import beneath, replace
from agentd_filesystem.fields import Changed, Narrowed, Path, target
from agentd_filesystem.tools.listing import walk

if TYPE_CHECKING:
    from agentd_filesystem.roots import Place, Roots

MEMBERS: Final = 200_000
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ENDINGS: Final = (".tar.gz", ".tgz")


class Archive(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A directory, and the archive to create: a path that ends with .tar.gz or .tgz."""

    path: Path
    archive: Path


class Unpack(Narrowed, frozen=True, forbid_unknown_fields=True):
    """An archive of archive_directory, and the directory to create; it must not exist.

    max_bytes: the most that its files may have together, in bytes
    """

    archive: Path
    path: Path
    max_bytes: int = 10 << 30


class Archives:
    """The tools for archives of directories."""

    def __init__(self, roots: Roots) -> None:
        """Work below `roots`."""
        self.roots = roots

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="backup_operations")
    async def archive_directory(self, call: Call, p: Archive) -> Changed:
        """Write a directory with its files, links and permissions to a new archive (.tar.gz)."""
        source, archive = self.roots.find(p.path, p.within), self.roots.find_writable(p.archive, p.within)
        if not archive.name.endswith(ENDINGS):
            raise Rejected(f"archive: its name must end with {' or '.join(ENDINGS)}")
        call.target(target(archive))

        async def check() -> Found | None:
            if await asyncio.to_thread(archive.state) is not None:
                if call.begun is not None:  # it gets its name only when it is complete
                    return Found()
                raise Rejected(f"archive: {p.archive} exists; it is not replaced")
            call.inverse("delete_file", {"path": p.archive})
            return None

        async def apply() -> None:
            await asyncio.to_thread(_pack, call, source, archive)

        await call.ensure(check, apply)
        return Changed(f"archived {p.path} to {p.archive}")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="backup_operations")
    async def restore_directory(self, call: Call, p: Unpack) -> Changed:
        """Restore an archive to a new directory; it gets its name only when it is complete.

        Links that lead out of the directory, devices and FIFOs are left out.  Owners are not restored.
        """
        archive, place = self.roots.find(p.archive, p.within), self.roots.find_writable(p.path, p.within)
        call.target(target(place))

        async def check() -> Found | None:
            if await asyncio.to_thread(place.state) is not None:
                if call.begun is not None:
                    return Found()
                raise Rejected(f"path: {p.path} exists; restore to a new directory, then move what is needed")
            call.inverse("delete_file", {"path": p.path, "recursive": True})
            return None

        async def apply() -> None:
            left_out = await asyncio.to_thread(_unpack, call, archive, place, p.max_bytes)
            for name in left_out[:20]:
                call.warn(f"{name} was left out: it is a device, a FIFO, or a link that leads out of the directory")

        await call.ensure(check, apply)
        return Changed(f"restored {p.archive} to {p.path}")


def _check_time(call: Call) -> None:
    if call.left() <= 0:
        raise Rejected("the deadline was reached before the archive was complete; nothing was left behind")


def _pack(call: Call, source: Place, archive: Place) -> None:
    if archive.root == source.root and archive.relative.startswith(f"{source.relative}/".lstrip("/")):
        raise Rejected("archive: it would be inside the directory that is archived; name another place")
    with (
        replace.creating(archive, replace.MODE) as descriptor,
        os.fdopen(os.dup(descriptor), "wb") as file,
        tarfile.open(fileobj=file, mode="w:gz") as tar,
    ):
        for entry in walk(source, []):
            _check_time(call)
            _add(tar, source.below(entry.relative), entry.relative)


def _add(tar: tarfile.TarFile, place: Place, name: str) -> None:
    """Add one entry; a deleted entry, a device or a socket is left out."""
    with suppress(NotFound):
        descriptor = place.open(os.O_PATH | os.O_NOFOLLOW)
        try:
            state = os.fstat(descriptor)
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = stat.S_IMODE(state.st_mode), state.st_mtime
            member.uid, member.gid = state.st_uid, state.st_gid
            if stat.S_ISDIR(state.st_mode):
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            elif stat.S_ISLNK(state.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=descriptor)
                tar.addfile(member)
        finally:
            os.close(descriptor)
        if stat.S_ISREG(state.st_mode):
            with place.file() as (open_file, found), os.fdopen(os.dup(open_file), "rb") as content:
                member.size = found.st_size
                tar.addfile(member, content)


def _unpack(call: Call, archive: Place, place: Place, most: int) -> list[str]:
    """Restore the members beside the final path, then rename; return omitted names."""
    with place.parent() as parent:
        name = f".{place.name[:100]}.{secrets.token_hex(8)}.agentd"
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            directory = os.open(name, beneath.DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            try:
                left_out = _members(call, archive, directory, most)
                os.fchmod(directory, 0o755)
                os.fsync(directory)
            finally:
                os.close(directory)
            beneath.rename_new(parent, name, parent, place.name)
            os.fsync(parent)
        except BaseException:
            shutil.rmtree(name, ignore_errors=True, dir_fd=parent)
            raise
    return left_out


def _members(call: Call, archive: Place, directory: int, most: int) -> list[str]:
    left_out, size = [], 0
    try:
        with (
            archive.file() as (descriptor, _),
            os.fdopen(os.dup(descriptor), "rb") as file,
            tarfile.open(fileobj=file, mode="r:gz") as tar,
        ):
            for number, member in enumerate(tar):
                _check_time(call)
                size += member.size
                if number >= MEMBERS or size > most:
                    raise Rejected(f"archive: it has more than {MEMBERS} entries, or more than max_bytes = {most}")
                if not _restored(tar, member, directory):
                    left_out.append(member.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Rejected(f"archive: {archive.path} cannot be restored: {error}; nothing was left behind") from error
    return left_out


def _restored(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: int) -> bool:
    """Restore one member below `directory`; return False if it must not be restored."""
    if not _is_inside(member):
        return False
    above, _, name = member.name.rstrip("/").rpartition("/")
    if not name or name in {".", ".."}:
        return member.isdir()
    parent = _directory(directory, above)
    try:
        if member.isdir():
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.isreg() and (content := tar.extractfile(member)) is not None:
            with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=parent), "wb") as out:
                shutil.copyfileobj(content, out)
                out.flush()
                os.fchmod(out.fileno(), member.mode & 0o777)
                os.fsync(out.fileno())
        else:
            return False
    finally:
        os.close(parent)
    return True


def _is_inside(member: tarfile.TarInfo) -> bool:
    """Return whether a member stays below the directory.

    A link may go up only at its beginning, and not above the directory: `..` behind the name of another link would
    lead elsewhere than it reads.
    """
    parts = [part for part in member.name.split("/") if part not in {"", "."}]
    if member.name.startswith("/") or ".." in parts:
        return False
    if not member.issym():
        return True
    link = [part for part in member.linkname.split("/") if part not in {"", "."}]
    up = len(list(itertools.takewhile(lambda part: part == "..", link)))
    return not member.linkname.startswith("/") and up < len(parts) and ".." not in link[up:]


def _directory(root: int, relative: str) -> int:
    """Open a directory below `root`; create the missing ones."""
    at = os.dup(root)
    for part in [part for part in relative.split("/") if part]:
        with suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=at)
        try:
            below = os.open(part, beneath.DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at
