"""Output for people: a console that is safe for foreign texts, and the parts that tables are made of."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape as _escape
from rich.segment import Segment
from rich.table import Table

from agentd.printable import as_json, printable
from agentd.web import status as looks
from agentd.wire.codec import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


ANSWERS: Final = {"conflict": looks.StatusStyle("conflict", "bad", "cross", "x")}
"""Statuses of an answer that are not states of a workflow."""
COLOURS: Final = {"ok": "green", "warn": "yellow", "bad": "red", "run": "blue", "idle": "dim", "odd": "dim"}
SIGNS: Final = {
    "check": "✓",
    "bang": "!",
    "cross": "✗",
    "minus": "⊘",
    "play": "▶",
    "dot": "▶",
    "ring": "·",
    "pause": "=",
    "undo": "<",
    "skip": "-",
    "ask": "·",
}


class SafeConsole(Console):
    """A console that prints no control characters, even where the caller has not escaped the text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments with control characters replaced in their text."""
        for segment in super().render(renderable, options):
            text = printable(segment.text, lines=True)
            yield segment if segment.control or text == segment.text else Segment(text, segment.style)


console = SafeConsole(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
"""Lines are not wrapped if the output is not a terminal."""


def safe(value: object) -> str:
    """Return a foreign text as one line, without control characters and markup."""
    return _escape(printable(str(value)))


def safe_lines(value: object) -> str:
    """Return a foreign text without control characters and markup; line breaks stay."""
    return _escape(printable(str(value), lines=True))


def colored_sign(status: str) -> str:
    """Return the coloured colored_sign of a status, "" for an unknown status."""
    known = looks.WORKFLOW.get(status) or looks.TASK.get(status) or ANSWERS.get(status)
    return "" if known is None else f"[{COLOURS[known.tone]}]{SIGNS[known.icon]}[/]"


def symbol(status: str) -> str:
    """Return the colored_sign and the name of a status."""
    return f"{colored_sign(status) or '·'} {safe(status)}"


def age(when: datetime | None) -> str:
    """Return how long ago `when` was, such as `3 min ago`; "" for None."""
    if when is None:
        return ""
    seconds = max(0, round((datetime.now(UTC) - when).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def print_rows(columns: list[str], rows: list[list[str]], empty: str) -> None:
    """Print a table; the text `empty` if it has no rows."""
    if not rows:
        console.print(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def json_text(value: object) -> str:
    """Return a value as JSON; a text stays as it is."""
    return value if isinstance(value, str) else as_json(plain(value))
