"""Split lists into pages, and reduce their lines to the requested fields.

Pure.  A line is an entry of a list.  A list is sorted by a text that is unique to each line; the cursor is that text of
the last line of the page.  So a line that is added or removed between two pages does not move any other line.

Without a limit, a page contains as many lines as fit into TOKENS, no matter how long names and errors are.  An MCP
client gets every result twice, structured and as text; both are counted.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from agentd import Rejected
from agentd.printable import escaped_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
L = TypeVar("L", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)

TOKENS: Final = 1000
"""Maximum tokens of a page, with four bytes per token; only a single line may be longer."""
ENVELOPE: Final = 200
"""Bytes that MCP adds to a result."""
COMMA: Final = 2
"""Bytes between two lines: a comma in each copy of the result."""

Limit = Annotated[int, Meta(ge=1, le=500, description="lines on a page")]
Fit = (
    Annotated[int, Meta(ge=1, le=500, description=f"lines on a page; left out: as many as make {TOKENS} tokens")] | None
)
Cursor = Annotated[str, Meta(description="`next` of the page before")]
VmidCursor = Annotated[str, Meta(pattern=r"^([0-9]{9})?\Z", description="`next` of the page before")]
Fields = Annotated[list[str], Meta(description="only these fields of each line; empty: all")]


class Paged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The page of the list to return, and the fields of each line."""

    limit: Fit = None
    cursor: Cursor = ""
    show: Fields = []


class PagedByVmid(Paged, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The page of a list of guests to return, and the fields of each line."""

    cursor: VmidCursor = ""


def fill(empty: S, name: str, lines: Sequence[L], order: Callable[[L], str], asked: Paged) -> S:
    """Return the page `empty`, filled with the requested lines and its `next`.

    name   the field of the page that contains the lines
    order  returns the text by which the lines are sorted
    """
    rest = sorted((line for line in lines if not asked.cursor or order(line) > asked.cursor), key=order)
    left = TOKENS * 4 - ENVELOPE - cost(empty)
    shown: list[L] = []
    for full in rest if asked.limit is None else rest[: asked.limit]:
        line = select_fields(full, asked.show)
        left -= cost(line) + COMMA
        if asked.limit is None and shown and left < cost(order(full)):
            break
        shown.append(line)
    after = order(rest[len(shown) - 1]) if len(rest) > len(shown) else ""
    return msgspec.structs.replace(empty, **{name: shown, "next": after})


def cost(value: object) -> int:
    """Return the bytes that `value` takes in an MCP result.

    It is contained twice: as JSON, and as JSON inside a text, in which invisible characters are escaped.
    """
    encoded = msgspec.json.encode(value)
    text = escaped_bytes(encoded)
    return len(encoded) + len(text) + text.count(b'"') + text.count(b"\\")


def page(lines: Sequence[T], order: Callable[[T], str], limit: int, cursor: str) -> tuple[list[T], str]:
    """Return the lines after `cursor`, at most `limit`, and the next cursor.

    It is for a list of what is still to be read, one request a line; everything else uses `fill`.
    The next cursor is "" on the last page.
    """
    rest = sorted((line for line in lines if not cursor or order(line) > cursor), key=order)
    shown = rest[:limit]
    return shown, order(shown[-1]) if len(rest) > limit else ""


def newest_first(time: int, name: str) -> str:
    """Return a text that sorts by time, newest first, then by name."""
    return f"{max(0, 9_999_999_999 - time):010d} {name}"


def select_fields(line: S, wanted: Sequence[str]) -> S:
    """Return `line` without the optional fields that are not in `wanted`."""
    if not wanted:
        return line
    known = _fields(type(line))
    if unknown := sorted(set(wanted) - set(known)):
        raise Rejected(f"show: there is no {unknown[0]!r}; there are {', '.join(known)}")
    dropped = {
        name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        for name, field in known.items()
        if name not in wanted and not field.required
    }
    return msgspec.structs.replace(line, **dropped)


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a line by name.

    The lookup resolves every annotation, so the result is cached.
    """
    return {field.name: field for field in msgspec.structs.fields(kind)}


def digest(value: object) -> str:
    """Return a short digest of a state that was read.

    It is compared before the state is changed.
    """
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
