"""Runs `bench_*.py` when this folder is what pytest was asked for: `make bench`.  `make test` never collects them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Take the files that pytest's own pattern does not, if this very folder was named on the command line."""
    asked = [Path(arg.partition("::")[0]).resolve() for arg in parent.config.args]
    if HERE not in asked or not file_path.match("bench_*.py"):
        return None
    return pytest.Module.from_parent(parent, path=file_path)


@dataclass
class Figures:
    """What was measured: a line of JSON for each at once, a table at the end."""

    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        floor: float | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Note a figure; with `floor` the goal is about their ratio, without it about the value."""
        ratio = None if floor is None else value / floor
        judged = value if ratio is None else ratio
        goal, verdict = "", ""
        if at_least is not None:
            goal, verdict = f">= {at_least:g}", "met" if judged >= at_least else "not met"
        if at_most is not None:
            goal, verdict = f"<= {at_most:g}", "met" if judged <= at_most else "not met"
        line: dict[str, Any] = {"figure": name, "value": round(value, 4), "unit": unit}
        line |= {} if floor is None or ratio is None else {"floor": round(floor, 4), "ratio": round(ratio, 3)}
        line |= {"goal": goal, "verdict": verdict} if goal else {}
        print(json.dumps(line), flush=True)  # noqa: T201 - what a bench is for
        shown = ("", "") if floor is None or ratio is None else (f"{floor:.4g}", f"{ratio:.2f}")
        self.rows.append((name, f"{value:.4g} {unit}", *shown, goal, verdict))

    def table(self) -> Iterator[str]:
        """Yield the lines of the table."""
        rows = [("figure", "value", "floor", "ratio", "goal", ""), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


_FIGURES = pytest.StashKey[Figures]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Return where figures are noted."""
    return pytestconfig.stash.setdefault(_FIGURES, Figures())


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Let the bench wait for its processes: nothing of ours runs in this one."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    figures = config.stash.get(_FIGURES, Figures())
    if figures.rows:
        terminalreporter.section("figures")
        for line in figures.table():
            terminalreporter.write_line(line)
