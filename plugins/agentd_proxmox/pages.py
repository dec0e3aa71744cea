"""Cut lists into pages, and lines down to the fields that were asked for.

Pure.  A list is ordered by a text that each line has for itself, and the cursor is that text of the last line shown: a
line that comes or goes between two pages moves no other one.

A page whose caller names no limit holds as many lines as a model reads for TOKENS, however long names and errors are.
An MCP client is given every result twice, structured and as text; both are counted.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from agentd.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
L = TypeVar("L", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)

TOKENS: Final = 1000
"""What a page costs at most, four bytes to a token; only a single line may be longer."""
ENVELOPE: Final = 300
"""Bytes that MCP puts around a result, and the cursor."""

Limit = Annotated[int, Meta(ge=1, le=500, description="lines on a page")]
Fit = (
    Annotated[int, Meta(ge=1, le=500, description=f"lines on a page; left out: as many as make {TOKENS} tokens")] | None
)
Cursor = Annotated[str, Meta(description="`next` of the page before")]
VmidCursor = Annotated[str, Meta(pattern=r"^([0-9]{9})?\Z", description="`next` of the page before")]
Fields = Annotated[list[str], Meta(description="only these fields of each line; empty: all")]


class Request(Protocol):
    """What is asked of a list; its parameters have these fields."""

    @property
    def limit(self) -> int | None:
        """Lines on a page; None: as many as fit."""
        ...

    @property
    def cursor(self) -> str:
        """`next` of the page before."""
        ...

    @property
    def show(self) -> list[str]:
        """The fields of each line; empty: all."""
        ...


def fill(empty: S, name: str, lines: Sequence[L], order: Callable[[L], str], asked: Request) -> S:
    """Return the page `empty` with those of `lines` in its field `name` that were asked for, and with its `next`."""
    rest = sorted((each for each in lines if not asked.cursor or order(each) > asked.cursor), key=order)
    left = TOKENS * 4 - ENVELOPE - cost(empty)
    shown: list[L] = []
    for each in rest if asked.limit is None else rest[: asked.limit]:
        line = only(each, asked.show)
        left -= cost(line)
        if asked.limit is None and shown and left < 0:
            break
        shown.append(line)
    after = order(rest[len(shown) - 1]) if len(rest) > len(shown) else ""
    return msgspec.structs.replace(empty, **{name: shown, "next": after})


def cost(value: object) -> int:
    """Return the bytes that `value` takes of an MCP result: once as JSON, once as JSON within a text."""
    encoded = msgspec.json.encode(value)
    return 2 * len(encoded) + encoded.count(b'"') + encoded.count(b"\\")


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
    known = _fields(type(line))
    if unknown := sorted(set(wanted) - set(known)):
        raise Rejected(f"show: there is no {unknown[0]!r}; there are {', '.join(known)}")
    dropped = {
        name: each.default if each.default is not msgspec.NODEFAULT else each.default_factory()
        for name, each in known.items()
        if name not in wanted and not each.required
    }
    return msgspec.structs.replace(line, **dropped)


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a line by name; looking them up resolves every annotation."""
    return {each.name: each for each in msgspec.structs.fields(kind)}


def digest(value: object) -> str:
    """Return a short digest of what was seen, to be compared when something is done about it."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
