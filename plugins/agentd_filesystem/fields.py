"""Parameters and results that several tools share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import Target, formats

if TYPE_CHECKING:
    from agentd_filesystem.roots import Place

Path = Annotated[
    str,
    formats.full_match(r"[^\x00]{1,4096}", "a path below one of the directories that are served"),
]
Etag = Annotated[str, formats.full_match("[0-9a-f]{32}|", "the etag that get_file_info or read_text_file returned")]


Within = Annotated[
    list[Path],
    Meta(max_length=50, description="limit this call to what is below these directories; it never adds any"),
]


class Narrowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The directories to which the caller limits a call; none: everything that is served."""

    within: Within = []


class OnePath(Narrowed, frozen=True, forbid_unknown_fields=True):
    """A file or directory: absolute, or relative if only one directory is served."""

    path: Path


class Text(msgspec.Struct, frozen=True, omit_defaults=True):
    """Text, and what is needed to read on.

    next_offset: byte at which the rest begins, if the text was cut
    next: cursor of the next page of a list, if there are more entries
    size: bytes of the whole file
    etag: identifier of the content, for a change that requires that it is still the same
    """

    content: str
    next_offset: Annotated[int, Meta(ge=0)] | None = None
    next: str = ""
    size: int | None = None
    etag: str = ""


class Changed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was changed.

    content: one sentence
    etag: identifier of the new content
    trash: id of the old content in the trash; restore_from_trash brings it back
    """

    content: str
    etag: str = ""
    trash: str = ""


def target(place: Place, **state: object) -> Target:
    """Return the target of a file change; [policy] protected names it file/PATH."""
    path = str(place.root / place.relative)
    return Target(f"file/{path}", path, state=state)
