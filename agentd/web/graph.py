"""The layout of a workflow's graph: columns by dependency, rows by predecessors.

Longest-path layering and a few barycentre sweeps, as in every layered graph drawing since Sugiyama; no library.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentd.client.views import TaskView

WIDTH, HEIGHT = 226, 44
_GAP_X, _GAP_Y, _MARGIN = 40, 16, 4
LARGEST: Final = 60
"""Most tasks that are drawn; a larger graph would not be readable."""
_SWEEPS: Final = 4


@dataclass(frozen=True)
class Box:
    """One task and the upper left corner of its box."""

    task: TaskView
    x: int
    y: int


@dataclass(frozen=True)
class Picture:
    """Boxes and the paths of the lines between them."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[str]


def draw(tasks: list[TaskView]) -> Picture | None:
    """Return the picture of `tasks`.

    None if there are too few or too many of them, or if they form a cycle.
    """
    if not 1 < len(tasks) <= LARGEST:
        return None
    layer = _layers(tasks)
    if layer is None:
        return None
    columns = _columns(tasks, layer)
    tallest = max(len(column) for column in columns)
    boxes: dict[str, Box] = {}
    for place, column in enumerate(columns):
        top = _MARGIN + (tallest - len(column)) * (HEIGHT + _GAP_Y) // 2
        for row, task in enumerate(column):
            boxes[task.name] = Box(task, _MARGIN + place * (WIDTH + _GAP_X), top + row * (HEIGHT + _GAP_Y))
    lines = [_line(boxes[name], boxes[task.name]) for task in tasks for name in task.after if name in boxes]
    width = 2 * _MARGIN + len(columns) * (WIDTH + _GAP_X) - _GAP_X
    return Picture(width, 2 * _MARGIN + tallest * (HEIGHT + _GAP_Y) - _GAP_Y, list(boxes.values()), lines)


def _layers(tasks: list[TaskView]) -> dict[str, int] | None:
    """Return the column of each task, one more than its furthest predecessor.

    None if there is a cycle.
    """
    names = {task.name for task in tasks}
    layer: dict[str, int] = {}
    left = list(tasks)
    while left:
        free = [task for task in left if all(name in layer for name in task.after if name in names)]
        if not free:
            return None
        for task in free:
            layer[task.name] = max((layer[name] + 1 for name in task.after if name in names), default=0)
        left = [task for task in left if task.name not in layer]
    return layer


def _columns(tasks: list[TaskView], layer: dict[str, int]) -> list[list[TaskView]]:
    columns: list[list[TaskView]] = [[] for _ in range(max(layer.values()) + 1)]
    for task in tasks:
        columns[layer[task.name]].append(task)
    for _ in range(_SWEEPS):
        for before, column in itertools.pairwise(columns):
            rows = {task.name: row for row, task in enumerate(before)}
            column.sort(key=lambda task: _middle([rows[name] for name in task.after if name in rows]))
    return columns


def _middle(rows: list[int]) -> float:
    return sum(rows) / len(rows) if rows else 0.0


def _line(start: Box, end: Box) -> str:
    x1, y1 = start.x + WIDTH, start.y + HEIGHT // 2
    x2, y2 = end.x, end.y + HEIGHT // 2
    bend = x2 - _GAP_X // 2  # a long line stays horizontal until the last gap
    return f"M{x1} {y1}H{bend - _GAP_X // 2}C{bend} {y1} {bend} {y2} {x2} {y2}"
