"""The result of a tool as text: blocks of `name  value`, lists as tables.

Names and values come from guests and other agents: everything is printed through `safe`.
"""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table

from agentd.cli.output.console import GAP, safe, safe_lines
from agentd.cli.output.terminal import console
from agentd.printable import as_json

SIZES: Final = frozenset(
    {
        *("available", "capacity", "disk", "free", "maxdisk", "maxmem", "mem", "memory", "memory_used", "metadata"),
        *("root", "root_used", "size", "swap", "swap_used", "total", "used"),
    }
)
"""Names of sizes.  Those from LEAST on are bytes: tools give the memory of a guest in MiB, and counts as `total`."""
LEAST: Final = 64 * 1024**2
CELL: Final = 60
"""A table with a wider cell is printed as blocks, so that no cell is wrapped."""


def show(value: Any) -> None:  # noqa: ANN401 - JSON
    """Print a JSON value."""
    if isinstance(value, dict):
        _block(value, 0)
    elif _is_table(value):
        _table(value, 0)
    else:
        console.print(_text(value), soft_wrap=True)


def _block(value: dict[str, Any], indent: int) -> None:
    """Print short values aligned first; nested values follow, each below its name."""
    margin = " " * indent
    short = {name: _text(item, name) for name, item in value.items() if not _is_nested(item)}
    width = max((len(name) for name in short), default=0)
    for name, text in short.items():
        head = f"{margin}[bold]{safe(name)}[/]{' ' * (width - len(name))}  "
        first, *more = text.split("\n")
        console.print(head + first, soft_wrap=True)
        for line in more:
            console.print(" " * (indent + width + GAP) + line, soft_wrap=True)
    for name, item in value.items():
        if _is_nested(item):
            console.print(f"{margin}[bold]{safe(name)}[/]", soft_wrap=True)
            _nested(item, indent + GAP)


def _nested(value: Any, indent: int) -> None:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        _block(value, indent)
    elif _is_table(value):
        _table(value, indent)
    else:
        for item in value:
            if _is_nested(item):
                _nested(item, indent)
            else:
                console.print(" " * indent + _text(item), soft_wrap=True)


def _table(rows: list[dict[str, Any]], indent: int) -> None:
    """Print objects as a table without empty columns; as blocks if it is too wide."""
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if any(map(_given(name), rows))]
    cells = [[_cell(row.get(name), name) for name in columns] for row in rows]
    widths = [max(map(len, [name, *(row[at] for row in cells)])) for at, name in enumerate(columns)]
    too_wide = indent + sum(widths) + GAP * len(widths) > console.width
    if not columns or too_wide or any("\n" in cell or len(cell) > CELL for row in cells for cell in row):
        for number, row in enumerate(rows):
            if number:
                console.print()
            _block(row, indent)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    if indent:
        table.add_column(" " * (indent - GAP) or "", width=max(indent - GAP, 0))
    for name in columns:
        numbers = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        table.add_column(safe(name.upper()), no_wrap=True, justify="right" if numbers else "left")
    for line in cells:
        table.add_row(*([""] if indent else []), *map(safe, line))
    console.print(table)


def _given(name: str) -> Any:  # noqa: ANN401 - a condition
    return lambda row: row.get(name) not in (None, "", [], {})


def _is_table(value: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_nested(value: Any) -> bool:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return any(isinstance(item, (dict, list)) for item in value) or len(_plain(value)) > CELL
    return isinstance(value, dict) and bool(value)


def _text(value: Any, name: str = "") -> str:  # noqa: ANN401 - JSON
    """Return a short value; a text keeps its lines."""
    return safe_lines(_plain(value, name))


def _cell(value: Any, name: str) -> str:  # noqa: ANN401 - JSON
    return as_json(value) if _is_nested(value) else _plain(value, name)


def _plain(value: Any, name: str = "") -> str:  # noqa: ANN401 - JSON
    if isinstance(value, int) and name in SIZES and value >= LEAST:
        return _size(value)
    if isinstance(value, int) and name == "uptime" and value >= 60:  # noqa: PLR2004 - a minute
        hours, minutes = divmod(value // 60, 60)
        return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h {minutes} min"  # noqa: PLR2004 - a day
    if value is None or value in ([], {}, ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - the next unit
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
