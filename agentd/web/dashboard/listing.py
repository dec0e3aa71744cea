"""Lists that can be filtered, sorted and split into pages.  Pure; the page, plain text and the API use the same code.

The state of a list is its query: `q` filters, `sort` orders (`-name` reverses), `offset` and `limit` select the page.
A filter is words that all have to occur in a row; `column:word` looks in one column, `-word` excludes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from starlette.exceptions import HTTPException

from agentd.web.responses import FURTHEST, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from starlette.datastructures import QueryParams

    from agentd.web.status import StatusStyle

T = TypeVar("T")

ROWS: Final = 100
"""Rows of a page without `limit`."""
MOST_ROWS: Final = 1000
LONGEST: Final = 200
"""Longest filter, in characters."""
PARAMETERS: Final = ("q", "sort", "limit", "offset", "format")


class Cell(NamedTuple):
    """One cell; `link` is an address, `style` a status, `at` a time that is shown relative to now."""

    text: str
    link: str = ""
    style: StatusStyle | None = None
    at: datetime | None = None
    wide: bool = False


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column: what a row shows in it, the text that filters compare, and the value that sorts."""

    name: str
    title: str
    text: Callable[[T], str]
    cell: Callable[[T], Cell] | None = None
    order: Callable[[T], Any] | None = None

    def shown(self, row: T) -> Cell:
        """Return the cell of a row."""
        return Cell(self.text(row)) if self.cell is None else self.cell(row)

    def sorted_by(self, row: T) -> Any:  # noqa: ANN401 - any value that can be compared
        """Return the value by which the column sorts."""
        return self.text(row).lower() if self.order is None else self.order(row)


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A list.

    name      its path
    empty     what a page shows if there is nothing
    row_id    a name of the row that no other row has
    presets   filters with a name, as links above the list
    """

    name: str
    title: str
    columns: Sequence[Column[T]]
    row_id: Callable[[T], str]
    empty: str
    presets: Sequence[tuple[str, str]] = ()


class Selection(NamedTuple):
    """The rows of one page of a list, and the query that selected them."""

    rows: list[Any]
    matching: int
    total: int
    q: str
    sort: str
    offset: int
    limit: int


def select(listing: Listing[T], rows: Sequence[T], query: QueryParams) -> Selection:
    """Return the rows that a query selects; raises a 400 that names a wrong parameter."""
    limit, offset = number(query, "limit", ROWS, MOST_ROWS), number(query, "offset", 0, FURTHEST, least=0)
    found, q, sort = matching(listing, rows, query), query.get("q", "").strip(), query.get("sort", "")
    return Selection(list(found[offset : offset + limit]), len(found), len(rows), q, sort, offset, limit)


def matching(listing: Listing[T], rows: Sequence[T], query: QueryParams) -> Sequence[T]:
    """Return all rows that the filter of a query selects, in its order.

    Raises a 400 that names a wrong parameter.
    """
    q, sort = query.get("q", "").strip(), query.get("sort", "")
    if len(q) > LONGEST:
        raise HTTPException(400, f"q: a filter has at most {LONGEST} characters")
    found = _matching(listing, rows, q.lower().split())
    return _sorted(listing, found, sort) if sort else found


def _matching(listing: Listing[T], rows: Sequence[T], words: list[str]) -> Sequence[T]:
    if not words:
        return rows
    columns = {column.name: column for column in listing.columns}
    tests = [_test(word, columns) for word in words]
    return [row for row in rows if all(test(row) for test in tests)]


def _test(word: str, columns: dict[str, Column[T]]) -> Callable[[T], bool]:
    negated = word.startswith("-") and len(word) > 1
    name, colon, value = word.removeprefix("-").partition(":")
    if colon and name in columns:
        text = columns[name].text
        return lambda row: (value in text(row).lower()) != negated
    plain, texts = word.removeprefix("-") if negated else word, [column.text for column in columns.values()]
    return lambda row: any(plain in text(row).lower() for text in texts) != negated


def _sorted(listing: Listing[T], rows: Sequence[T], sort: str) -> list[T]:
    name = sort.removeprefix("-")
    column = next((column for column in listing.columns if column.name == name), None)
    if column is None:
        known = ", ".join(column.name for column in listing.columns)
        raise HTTPException(400, f"sort: {name[:40]!r} is not one of {known}")
    return sorted(rows, key=column.sorted_by, reverse=sort.startswith("-"))
