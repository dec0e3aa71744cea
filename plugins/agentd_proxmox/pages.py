"""Cut lists into pages, and lines down to the fields that were asked for.

Pure.  A list is ordered by a text that each line has for itself, and the cursor is that text of the last line shown: a
line that comes or goes between two pages moves no other one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

from agentd.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

Limit = Annotated[int, Meta(ge=1, le=500, description="lines on a page")]
Cursor = Annotated[str, Meta(description="`next` of the page before")]
Fields = Annotated[list[str], Meta(description="only these fields of each line; empty: all")]


def page(lines: Sequence[T], order: Callable[[T], str], limit: int, cursor: str) -> tuple[list[T], str]:
    """Return the lines after `cursor`, at most `limit`, and the next cursor, "" on the last page."""
    rest = sorted((each for each in lines if not cursor or order(each) > cursor), key=order)
    shown = rest[:limit]
    return shown, order(shown[-1]) if len(rest) > limit else ""


def newest_first(time: int, name: str) -> str:
    """Return a text that orders by falling time, then by name."""
    return f"{max(0, 9_999_999_999 - time):010d} {name}"


def only(line: S, wanted: Sequence[str]) -> S:
    """Return `line` without the fields that were not asked for, as far as they may be left out."""
    if not wanted:
        return line
    known = {each.name: each for each in msgspec.structs.fields(line)}
    if unknown := sorted(set(wanted) - set(known)):
        raise Rejected(f"show: there is no {unknown[0]!r}; there are {', '.join(known)}")
    dropped = {
        name: each.default if each.default is not msgspec.NODEFAULT else each.default_factory()
        for name, each in known.items()
        if name not in wanted and not each.required
    }
    return msgspec.structs.replace(line, **dropped)


def digest(value: object) -> str:
    """Return a short digest of what was seen, to be compared when something is done about it."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
