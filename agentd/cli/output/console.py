"""Readable output: foreign texts made safe, and the parts of tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from agentd.printable import as_json, printable
from agentd.web import status as styles
from agentd.wire.codec import plain

ANSWERS: Final = {"conflict": styles.StatusStyle("conflict", "bad", "cross", "x")}
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


GAP: Final = 2
"""Spaces between columns, and of one level of indentation."""


def print_line(text: str = "", *, whole: bool = False) -> None:
    """Print a text with markup.

    whole  do not wrap it: a command to copy, or a text that must stay as it is
    """
    from agentd.cli.output.terminal import console

    console.print(text, soft_wrap=whole)


def print_rows(columns: list[str], cells: list[list[str]], empty: str) -> None:
    """Print a table of cells with markup, or the text `empty` if there are no rows."""
    from agentd.cli.output import terminal

    terminal.print_rows(columns, cells, empty)


def safe(value: object) -> str:
    """Return a foreign text as one line, without control characters and markup."""
    return _escaped(printable(str(value)))


def safe_lines(value: object) -> str:
    """Return a foreign text without control characters and markup; line breaks stay."""
    return _escaped(printable(str(value), lines=True))


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def colored_sign(status: str) -> str:
    """Return the coloured sign of a status, "" for an unknown status."""
    known = styles.WORKFLOW.get(status) or styles.TASK.get(status) or ANSWERS.get(status)
    return "" if known is None else f"[{COLOURS[known.tone]}]{SIGNS[known.icon]}[/]"


def symbol(status: str) -> str:
    """Return the sign and the name of a status."""
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


def json_text(value: object) -> str:
    """Return a value as JSON; a text stays as it is."""
    return value if isinstance(value, str) else as_json(plain(value))
