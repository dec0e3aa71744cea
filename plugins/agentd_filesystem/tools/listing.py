"""Tools that list, search and compare directories."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agentd import Call, NotFound, PermanentError, Rejected, Repeat, Tier, tool
from agentd_filesystem import beneath
from agentd_filesystem.fields import Narrowed, Path, Text
from agentd_filesystem.patterns import Pattern
from agentd_filesystem.roots import TRASH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_filesystem.roots import Place, Roots

VISITED: Final = 200_000
"""Entries that one call visits at most; a search of more is refused with the directory to begin at."""
SECONDS: Final = 20.0
_DEEP: Final = 64
_KIB: Final = 1024
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
Exclude = Annotated[list[str], Meta(max_length=50)]


class ListOf(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A directory; cursor: `next` of the answer before."""

    path: Path
    cursor: str = ""


class ListSizes(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A directory, and the order of its entries."""

    path: Path
    sort_by: Literal["name", "size"] = msgspec.field(default="name", name="sortBy")


class TreeOf(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A directory, and patterns of what to leave out."""

    path: Path
    exclude: Exclude = msgspec.field(default_factory=list, name="excludePatterns")


class Search(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A directory and a pattern of paths below it, for example `**/*.conf`."""

    path: Path
    pattern: Annotated[str, Meta(min_length=1, max_length=256)]
    exclude: Exclude = msgspec.field(default_factory=list, name="excludePatterns")
    cursor: str = ""


class SearchText(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A text to find in the files of a directory, or in one file.

    regex: `text` is an extended regular expression (grep -E), else it is taken literally
    files: pattern of the paths to search, for example `**/*.log`
    """

    path: Path
    text: Annotated[str, Meta(min_length=1, max_length=1000)]
    regex: bool = False
    ignore_case: bool = False
    files: Annotated[str, Meta(min_length=1, max_length=256)] = "**"
    exclude: Exclude = msgspec.field(default_factory=list, name="excludePatterns")


@dataclass(frozen=True)
class Entry:
    """One entry of a directory; `relative` is its path below the start of the walk."""

    relative: str
    name: str
    mode: int
    size: int

    @property
    def is_directory(self) -> bool:
        """Return whether it is a directory, not a link to one."""
        return stat.S_ISDIR(self.mode)

    @property
    def tag(self) -> str:
        """Return how a list shows its kind."""
        tags = {"directory": "[DIR]", "file": "[FILE]", "symlink": "[LINK]"}
        return tags.get(beneath.kind(self.mode), "[SPECIAL]")


class Listing:
    """The tools that list and search directories."""

    def __init__(self, roots: Roots) -> None:
        """List below `roots`."""
        self.roots = roots

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="directory_management")
    async def list_directory(self, call: Call, p: ListOf) -> Text:
        """List a directory: one line for each entry, with its kind."""
        return await asyncio.to_thread(self._list, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="directory_management")
    async def list_directory_with_sizes(self, call: Call, p: ListSizes) -> Text:
        """List a directory with the size of each file, by name or by size, and their sum."""
        return await asyncio.to_thread(self._list_sizes, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="directory_management")
    async def directory_tree(self, call: Call, p: TreeOf) -> Text:
        """Show a directory and all below it as a JSON tree; links are not followed."""
        return await asyncio.to_thread(self._tree, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="directory_management")
    async def search_files(self, call: Call, p: Search) -> Text:
        """Find files and directories whose path below a directory matches a pattern such as `**/*.conf`."""
        return await asyncio.to_thread(self._search, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="file_operations")
    async def search_text(self, call: Call, p: SearchText) -> Text:
        """Find lines in files, literally or by a regular expression; binary files are left out."""
        return await asyncio.to_thread(self._search_text, p)

    def _list(self, p: ListOf) -> Text:
        with self.roots.find(p.path, p.within).folder() as directory:
            entries = [entry for entry in entries_of(directory) if entry.name > p.cursor]
        shown = entries[: self.roots.settings.max_entries]
        following = shown[-1].name if len(shown) < len(entries) else ""
        return Text("\n".join(f"{entry.tag} {entry.name}" for entry in shown), next=following)

    def _list_sizes(self, p: ListSizes) -> Text:
        with self.roots.find(p.path, p.within).folder() as directory:
            entries = entries_of(directory)
        if p.sort_by == "size":
            entries.sort(key=lambda entry: entry.size, reverse=True)
        files = [entry for entry in entries if not entry.is_directory]
        shown = entries[: self.roots.settings.max_entries]
        lines = [
            f"{entry.tag} {entry.name:<30} {'' if entry.is_directory else _amount(entry.size):>10}" for entry in shown
        ]
        lines += (
            [f"… and {len(entries) - len(shown)} more; list_directory pages them"] if len(shown) < len(entries) else []
        )
        total = f"Total: {len(files)} files, {len(entries) - len(files)} directories"
        return Text("\n".join([*lines, "", total, f"Combined size: {_amount(sum(entry.size for entry in files))}"]))

    def _tree(self, p: TreeOf) -> Text:
        place, left = self.roots.find(p.path, p.within), [self.roots.settings.max_entries]
        excluded = [Pattern(pattern) for pattern in p.exclude]

        def branch(directory: int, prefix: str) -> list[dict[str, Any]]:
            nodes: list[dict[str, Any]] = []
            for entry in entries_of(directory, prefix):
                if any(pattern.excludes(entry.relative) for pattern in excluded):
                    continue
                if not left[0]:
                    return [*nodes, {"name": "…", "type": "cut"}]
                left[0] -= 1
                node: dict[str, Any] = {"name": entry.name, "type": beneath.kind(entry.mode)}
                if entry.is_directory:
                    with _inside(place, directory, entry) as inner:
                        node["children"] = [] if inner is None else branch(inner, f"{entry.relative}/")
                nodes.append(node)
            return nodes

        with place.folder() as directory:
            return Text(msgspec.json.format(msgspec.json.encode(branch(directory, ""))).decode())

    def _search(self, p: Search) -> Text:
        place, pattern, found = self.roots.find(p.path, p.within), Pattern(p.pattern), []
        most = self.roots.settings.max_entries
        for entry in walk(place, [Pattern(exclude) for exclude in p.exclude]):
            if pattern.matches(entry.relative) and _order(entry.relative) > _order(p.cursor):
                found.append(entry.relative)
                if len(found) > most:
                    break
        shown = found[:most]
        lines = [str(place.root / place.relative / path) for path in shown]
        return Text("\n".join(lines) or "No matches found", next=shown[-1] if len(found) > most else "")

    def _search_text(self, p: SearchText) -> Text:
        place, pattern = self.roots.find(p.path, p.within), Pattern(p.files)
        grep = shutil.which("grep", path="/usr/bin:/bin")
        if grep is None:
            raise PermanentError("search_text: grep is not installed on this host")
        options = ["-nI", "-E" if p.regex else "-F", *(["-i"] if p.ignore_case else []), "-e", p.text, "-"]
        until, left = time.monotonic() + SECONDS, self.roots.settings.max_text
        lines: list[str] = []
        unreadable = 0
        for relative in self._files(place, pattern, p.exclude):
            matching = _grep([grep, *options], place.below(relative) if relative else place, until)
            unreadable += matching is None
            for line in matching or ():
                shown = f"{relative or place.name}:{line[:1000]}"
                left -= len(shown.encode()) + 1
                if left < 0 or len(lines) >= self.roots.settings.max_entries:
                    return Text("\n".join([*lines, "… cut; narrow the search with path or files"]))
                lines.append(shown)
        lines += [f"… {unreadable} files could not be read"] if unreadable else []
        return Text("\n".join(lines) or "No matches found")

    def _files(self, place: Place, pattern: Pattern, exclude: list[str]) -> Iterator[str]:
        descriptor = place.open(os.O_PATH)
        try:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)
        if not is_directory:
            yield ""
            return
        for entry in walk(place, [Pattern(text) for text in exclude]):
            if stat.S_ISREG(entry.mode) and pattern.matches(entry.relative):
                yield entry.relative


def _grep(command: list[str], place: Place, until: float) -> list[str] | None:
    """Return the matching lines of a file with numbers; None if it is unreadable.

    grep reads the descriptor that is open already, so it resolves no path.
    """
    left = until - time.monotonic()
    try:
        with place.file() as (descriptor, _):
            done = subprocess.run(  # noqa: S603 - a fixed program; the text is one argument after -e
                command, stdin=descriptor, capture_output=True, timeout=max(0.1, left), check=False
            )
    except (NotFound, Rejected):
        return None
    except subprocess.TimeoutExpired as error:
        raise Rejected(f"search_text: it took more than {SECONDS:.0f} s; narrow it with path or files") from error
    if done.returncode > 1:
        raise Rejected(f"text: {done.stderr.decode(errors='replace').strip() or 'grep failed'}")
    return done.stdout.decode(errors="replace").splitlines()


def entries_of(directory: int, prefix: str = "") -> list[Entry]:
    """Return the entries of an open directory by name, without the trash."""
    entries = []
    with os.scandir(directory) as found:
        for item in found:
            if item.name == TRASH:
                continue
            with suppress(FileNotFoundError):  # it was deleted meanwhile
                state = item.stat(follow_symlinks=False)
                name = os.fsencode(item.name).decode(errors="replace")
                entries.append(Entry(prefix + name, name, state.st_mode, state.st_size))
    return sorted(entries, key=lambda entry: entry.name)


def walk(place: Place, excluded: list[Pattern]) -> Iterator[Entry]:
    """Yield every entry below a directory, directories first; links are not followed.

    Raises Rejected after too many entries.
    """
    visited = 0

    def inner(directory: int, prefix: str, depth: int) -> Iterator[Entry]:
        nonlocal visited
        for entry in entries_of(directory, prefix):
            visited += 1
            if visited > VISITED:
                raise Rejected(
                    f"path: below {place.path} are more than {VISITED} entries; begin at a directory below it"
                )
            if any(pattern.excludes(entry.relative) for pattern in excluded):
                continue
            yield entry
            if entry.is_directory and depth < _DEEP:
                with _inside(place, directory, entry) as opened:
                    if opened is not None:
                        yield from inner(opened, f"{entry.relative}/", depth + 1)

    with place.folder() as directory:
        yield from inner(directory, "", 0)


@contextmanager
def _inside(place: Place, directory: int, entry: Entry) -> Iterator[int | None]:
    """Open a listed directory; None if it is none any more, or is unreadable."""
    try:
        descriptor = beneath.open_beneath(
            directory, entry.name, beneath.DIRECTORY | os.O_NOFOLLOW, cross_devices=place.cross_devices
        )
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _order(path: str) -> list[str]:
    """Return the key by which a walk visits paths."""
    return path.split("/") if path else []


def _amount(size: int) -> str:
    value, unit = float(size), 0
    while value >= _KIB and unit < len(_UNITS) - 1:
        value, unit = value / _KIB, unit + 1
    return f"{value:.2f} {_UNITS[unit]}" if unit else f"{size} B"
