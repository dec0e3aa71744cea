"""The time axis of a workflow: time in which no task ran is compressed.  Pure.

A workflow that waited two days for an approval would otherwise show its tasks as hairlines.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agentd.wire.workflow import TERMINAL

if TYPE_CHECKING:
    from agentd.client.views import WorkflowDetail

IDLE: Final = timedelta(seconds=5)
"""Shortest time without a running task that may be compressed."""
SHARE: Final = 0.25
"""A pause is compressed if it is longer than this share of the time in which tasks ran..."""
SQUEEZED: Final = 0.06
"""...and then has this length, as a share of that time."""


class Gap(NamedTuple):
    """A compressed pause: its place and width in percent, and its true length."""

    x: float
    width: float
    length: timedelta


class TimeScale:
    """Places times between the start and the end of a workflow on an axis from 0 to 100 percent."""

    def __init__(self, busy: list[tuple[datetime, datetime]], start: datetime, end: datetime) -> None:
        """Compress the long pauses between the intervals `busy`."""
        merged = _merged(busy, start, end)
        work = sum((until - since for since, until in merged), timedelta()) or timedelta(milliseconds=1)
        self._pieces: list[tuple[datetime, datetime, float, bool]] = []
        at = start
        for since, until in [*merged, (end, end)]:
            pause = since - at
            squeezed = pause > max(IDLE, work * SHARE)
            self._pieces.append(
                (at, since, work.total_seconds() * SQUEEZED if squeezed else pause.total_seconds(), squeezed)
            )
            self._pieces.append((since, until, (until - since).total_seconds(), False))
            at = until
        self._whole = sum(length for _, _, length, _ in self._pieces) or 1.0

    def place(self, at: datetime) -> float:
        """Return the place of a time in percent."""
        before = 0.0
        for since, until, length, _ in self._pieces:
            if at < until:
                share = (at - since) / (until - since) if at > since else 0.0
                return 100 * (before + length * share) / self._whole
            before += length
        return 100.0

    def gaps(self) -> list[Gap]:
        """Return the compressed pauses."""
        found, before = [], 0.0
        for since, until, length, squeezed in self._pieces:
            if squeezed:
                found.append(
                    Gap(round(100 * before / self._whole, 1), round(100 * length / self._whole, 1), until - since)
                )
            before += length
        return found


def _merged(busy: list[tuple[datetime, datetime]], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    found: list[tuple[datetime, datetime]] = []
    for since, until in sorted((max(since, start), min(until, end)) for since, until in busy):
        if until < since:
            continue
        if found and since <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until))
        else:
            found.append((since, until))
    return found


def scale_of(workflow: WorkflowDetail, at: datetime) -> tuple[TimeScale, datetime]:
    """Return the time axis of a workflow, and the time at which it ends or now is."""
    end = max(workflow.created, workflow.updated if workflow.status in TERMINAL else at)
    busy = [(task.started, task.finished or end) for task in workflow.tasks if task.started is not None]
    return TimeScale(busy, workflow.created, end), end


def bars(workflow: WorkflowDetail, at: datetime) -> tuple[dict[str, tuple[float, float]], list[Gap]]:
    """Return start and length of each started task in percent, and shortened pauses."""
    scale, end = scale_of(workflow, at)
    found = {}
    for task in workflow.tasks:
        if task.started is not None:
            start = min(99.2, scale.place(task.started))
            length = max(0.8, scale.place(task.finished or end) - start)
            found[task.name] = (round(start, 1), round(min(length, 100 - start), 1))
    return found, scale.gaps()
