"""Small charts as SVG paths, with the sentence that says the same; pure.

A chart is drawn by the server and needs no script.  Minutes without a value are gaps, never zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agentd.client.node_loads import MINUTE, MINUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentd.client.node_loads import NodeLoad

STEP: Final = 4
WIDTH: Final = (MINUTES - 1) * STEP
HEIGHT: Final = 24
"""Size of a chart of loads in its own units; 24 is 100 %."""


class LoadChart(NamedTuple):
    """The chart of a node: the paths of CPU and memory, the last values in percent, and the sentence."""

    cpu: str
    memory: str
    now: list[tuple[str, str]]
    text: str


def load_charts(loads: Iterable[NodeLoad], at: datetime) -> dict[str, LoadChart]:
    """Return the chart of each node."""
    return {load.node: load_chart(load, at) for load in loads}


def load_chart(load: NodeLoad, at: datetime) -> LoadChart:
    """Return the chart of the half hour before `at`."""
    last = int(at.timestamp()) // MINUTE
    columns: dict[str, list[float | None]] = {"CPU": [None] * MINUTES, "memory": [None] * MINUTES}
    for point in load.points:
        place = MINUTES - 1 - (last - point.minute)
        if 0 <= place < MINUTES:
            columns["CPU"][place], columns["memory"][place] = point.cpu, point.memory
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    sentences = [
        f"{name} {found[-1]:.0f} %, in the last {MINUTES} minutes {min(found):.0f} to {max(found):.0f} %"
        for name, found in known.items()
        if found
    ]
    return LoadChart(
        path(columns["CPU"]),
        path(columns["memory"]),
        [(name, f"{found[-1]:.0f} %") for name, found in known.items() if found],
        "; ".join(sentences) or f"no load was reported in the last {MINUTES} minutes",
    )


def path(values: Sequence[float | None]) -> str:
    """Return the path of percentages, one a step; a single value between gaps is a short line."""
    parts: list[str] = []
    drawn = False
    for place, value in enumerate(values):
        if value is None:
            drawn = False
            continue
        x, y = place * STEP, round(HEIGHT - HEIGHT * min(100.0, max(0.0, value)) / 100, 1)
        alone = not drawn and (place + 1 == len(values) or values[place + 1] is None)
        parts.append(f"{'L' if drawn else 'M'}{x} {y:g}{'h1' if alone else ''}")
        drawn = True
    return "".join(parts)
