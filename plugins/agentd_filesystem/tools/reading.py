"""Tools that read files."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from agentd import AgentdError, Call, Content, Rejected, Repeat, Tier, tool
from agentd_filesystem import beneath, text
from agentd_filesystem.fields import Narrowed, OnePath, Path, Text

if TYPE_CHECKING:
    from agentd_filesystem.roots import Place, Roots

_BLOCK: Final = 1 << 16
Lines = Annotated[int, Meta(ge=1, le=100_000)]


class ReadText(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A text file, and which part of it.

    head: the first lines
    tail: the last lines; not together with head or offset
    offset: byte at which to begin, for example next_offset of the answer before
    """

    path: Path
    head: Lines | None = None
    tail: Lines | None = None
    offset: Annotated[int, Meta(ge=0)] = 0


class ReadSeveral(Narrowed, frozen=True, forbid_unknown_fields=True):
    """Several text files."""

    paths: Annotated[list[Path], Meta(min_length=1, max_length=100)]


class Checksum(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file, and the algorithm of the checksum."""

    path: Path
    algorithm: Literal["md5", "sha1", "sha256", "sha512"] = "sha256"


class Info(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a file or directory.

    content: all of it as lines
    type: file, directory, symlink, FIFO, socket or device
    mode: permissions, octal
    owner, group: numeric ids
    links: number of names of the file
    etag: identifier of the content; "" for a directory or a file larger than max_file
    """

    content: str
    type: str
    size: int
    mode: str
    owner: int
    group: int
    links: int
    created: str
    modified: str
    accessed: str
    etag: str = ""


class Digest(msgspec.Struct, frozen=True):
    """The checksum of a file, in hexadecimal."""

    checksum: str
    algorithm: str
    size: int


class Allowed(msgspec.Struct, frozen=True):
    """The directories that are served, and those in which files may be changed."""

    content: str
    roots: list[str]
    writable_roots: list[str]


class Reading:
    """The tools that read files."""

    def __init__(self, roots: Roots) -> None:
        """Read below `roots`."""
        self.roots = roots

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def read_text_file(self, call: Call, p: ReadText) -> Text:
        """Read a text file: the whole, its first or last lines, or from a byte on.

        Text above the limit of one answer is cut at the end of a line; next_offset says where to read on.
        """
        return await asyncio.to_thread(self._text, p, self.roots.settings.max_text)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def read_file(self, call: Call, p: ReadText) -> Text:
        """Read a text file; the older name of read_text_file."""
        return await asyncio.to_thread(self._text, p, self.roots.settings.max_text)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def read_media_file(self, call: Call, p: OnePath) -> Content:
        """Read the bytes of a file in base64: as an image or a sound by its name, else as a resource."""
        place = self.roots.find(p.path, p.within)
        data = await asyncio.to_thread(whole, place, self.roots.settings.max_file)
        kind = (await asyncio.to_thread(mimetypes.guess_type, place.name))[0] or "application/octet-stream"
        return Content.of_file(data, kind, (place.root / place.relative).as_uri())

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def read_multiple_files(self, call: Call, p: ReadSeveral) -> Text:
        """Read several text files; a file that cannot be read is reported in its place."""
        most = max(1024, self.roots.settings.max_text // len(p.paths))
        return Text("\n---\n".join([await asyncio.to_thread(self._one_of, path, p.within, most) for path in p.paths]))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def get_file_info(self, call: Call, p: OnePath) -> Info:
        """Show size, times, owner, permissions and content identifier of a file or directory."""
        return await asyncio.to_thread(self._info, self.roots.find(p.path, p.within))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def get_checksum(self, call: Call, p: Checksum) -> Digest:
        """Compute the checksum of a file of any size."""
        found, size = await asyncio.to_thread(checksum, self.roots.find(p.path, p.within), p.algorithm)
        return Digest(found, p.algorithm, size)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="directory_management")
    async def list_allowed_directories(self, call: Call, p: Narrowed) -> Allowed:
        """List the directories that are served, and those in which files may be changed."""
        roots = self.roots.allowed(self.roots.settings.roots, p.within)
        writable = self.roots.allowed(self.roots.settings.writable_roots, p.within)
        return Allowed("\n".join(["Allowed directories:", *roots]), roots, writable)

    def _text(self, p: ReadText, most: int) -> Text:
        place = self.roots.find(p.path, p.within)
        if p.tail is not None and (p.head is not None or p.offset):
            raise Rejected("tail: it counts from the end; leave out head and offset")
        with place.file() as (descriptor, found):
            begin = p.offset if p.tail is None else begin_of_tail(descriptor, found.st_size, p.tail)
            if begin > found.st_size:
                raise Rejected(f"offset: {place.path} has {found.st_size} bytes")
            block = read_at(descriptor, begin, most + 1)
            cut = text.page(block, most, last=begin + len(block) >= found.st_size)
            if p.head is not None:
                cut = b"".join(cut.splitlines(keepends=True)[: p.head])
            done = p.head is not None and cut.count(b"\n") >= p.head
            end = begin + len(cut)
            whole = begin == 0 and end >= found.st_size
        return Text(
            text.decoded(cut, place.path),
            next_offset=None if done or end >= found.st_size else end,
            size=found.st_size,
            etag=text.etag(cut) if whole else "",
        )

    def _one_of(self, path: str, within: list[str], most: int) -> str:
        try:
            found = self._text(ReadText(path, within=within), most)
        except AgentdError as error:
            return f"{path}: Error - {error}"
        rest = f"[cut; read_text_file with offset={found.next_offset} reads on]\n" if found.next_offset else ""
        return f"{path}:\n{found.content}{rest}"

    def _info(self, place: Place) -> Info:
        descriptor = place.open(os.O_PATH)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        kind, size = beneath.kind(found.st_mode), found.st_size
        most = self.roots.settings.max_file
        digest = text.etag(whole(place, most)) if kind == "file" and size <= most else ""
        values: dict[str, str | int] = {
            "type": kind,
            "size": size,
            "mode": f"{found.st_mode & 0o7777:04o}",
            "owner": found.st_uid,
            "group": found.st_gid,
            "links": found.st_nlink,
            "created": _time(found.st_ctime),
            "modified": _time(found.st_mtime),
            "accessed": _time(found.st_atime),
            "etag": digest,
        }
        return msgspec.convert(
            {"content": "\n".join(f"{key}: {value}" for key, value in values.items()), **values}, Info
        )


def whole(place: Place, most: int) -> bytes:
    """Return the content of a file; raises Rejected if it has more than `most` bytes."""
    with place.file() as (descriptor, found):
        data = b"" if found.st_size > most else read_at(descriptor, 0, most + 1)
    if max(found.st_size, len(data)) > most:
        raise Rejected(
            f"path: {place.path} has {found.st_size} bytes, more than max_file = {most}; read_text_file reads parts"
        )
    return data


def checksum(place: Place, algorithm: str) -> tuple[str, int]:
    """Return the checksum of a file in hexadecimal, and its size in bytes."""
    with place.file() as (descriptor, _), os.fdopen(os.dup(descriptor), "rb") as file:
        counted = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
        return counted.hexdigest(), file.tell()


def etag_of(place: Place, most: int) -> str:
    """Return the etag of a file; "" for directories and files over `most` bytes."""
    try:
        return text.etag(whole(place, most))
    except Rejected:
        return ""


def read_at(descriptor: int, begin: int, count: int) -> bytes:
    """Return up to `count` bytes from `begin` on."""
    parts, left = [], count
    while left and (part := os.pread(descriptor, left, begin)):
        parts.append(part)
        begin, left = begin + len(part), left - len(part)
    return b"".join(parts)


def begin_of_tail(descriptor: int, size: int, lines: int) -> int:
    """Return the byte where the last `lines` lines begin; reads backwards in blocks."""
    missing = lines + (os.pread(descriptor, 1, size - 1) == b"\n" if size else 0)
    end = size
    while end > 0:
        begin = max(0, end - _BLOCK)
        block = read_at(descriptor, begin, end - begin)
        count = block.count(b"\n")
        if count >= missing:
            at = len(block)
            for _ in range(missing):
                at = block.rindex(b"\n", 0, at)
            return begin + at + 1
        missing, end = missing - count, begin
    return 0


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
