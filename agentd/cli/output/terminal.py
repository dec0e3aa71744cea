"""What prints on the terminal, by rich: a console that is safe for foreign texts, and tables that cut no word.

It is imported at the first line that is printed: with --json never, as rich takes longer than all the rest.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from agentd.cli.output.console import GAP
from agentd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

WHOLE: Final = 20
"""Cells up to this width are never wrapped; a longer one may be wrapped between words."""


class SafeConsole(Console):
    """A console that prints no control characters, even in unescaped text."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments with control characters replaced in their text."""
        for segment in super().render(renderable, options):
            text = printable(segment.text, lines=True)
            yield segment if segment.control or text == segment.text else Segment(text, segment.style)


console = SafeConsole(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
"""Lines are not wrapped if the output is not a terminal."""


def print_rows(columns: list[str], cells: list[list[str]], empty: str) -> None:
    """Print a table of cells with markup, or the text `empty` if there are no rows.

    Words are never cut, so that ids can be copied: if they do not fit beside each other, each row becomes a block.
    """
    if not cells:
        console.print(printable(empty), markup=False)
        return
    texts = [[Text.from_markup(cell, emoji=False) for cell in row] for row in cells]
    widths = _widths([[Text(name), *(row[at] for row in texts)] for at, name in enumerate(columns)])
    if not widths:
        _blocks(columns, texts)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0), collapse_padding=True)
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, width=width)
    for row in texts:
        table.add_row(*row)
    console.print(table)


def _widths(columns: list[list[Text]]) -> list[int]:
    """Return the widths of the columns; none if a word would have to be cut.

    rich would also narrow the columns that cannot be narrower.
    """
    wanted = [max(line.cell_len for text in column for line in text.split(allow_blank=True)) for column in columns]
    least = [
        width
        if width <= WHOLE
        else max((Text(word).cell_len for text in column for word in text.plain.split()), default=0)
        for width, column in zip(wanted, columns, strict=True)
    ]
    space = console.width - GAP * (len(columns) - 1) - sum(least)
    if space < 0:
        return []
    missing = max(1, sum(wanted) - sum(least))
    shares = [(most - width) * min(space, missing) // missing for most, width in zip(wanted, least, strict=True)]
    return [width + share for width, share in zip(least, shares, strict=True)]


def _blocks(columns: list[str], texts: list[list[Text]]) -> None:
    """Print each row as lines of `column  value`, without the empty values."""
    width = max(map(len, columns))
    for number, row in enumerate(texts):
        if number:
            console.print()
        for name, text in zip(columns, row, strict=True):
            if text.plain:
                console.print(Text.assemble((name.lower().ljust(width + GAP), "bold"), text), soft_wrap=True)
