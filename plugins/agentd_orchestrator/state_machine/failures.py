"""After a failed attempt: go back to an earlier task, retry, or give up."""

from __future__ import annotations

import zlib
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from agentd import Status, TaskError, TaskState, TaskStatus, Tier, Workflow
from agentd.errors import HELD
from agentd.wire.workflow import UNDER_WAY, UNDO, OutboxMessage
from agentd_orchestrator.state_machine.state import add, cancelled, continues, set_task

MAX_SENT_BACK: Final = 5
"""How often a task may send the workflow back to an earlier task."""
HELD_FOR: Final = 15.0
"""Seconds before a task that was held back starts again; the end of a freeze is noticed after the same time."""
MAX_BACKOFF: Final = 300.0
"""Longest delay in seconds before a retry."""
JITTER: Final = 0.2
"""Fraction by which a delay is longer or shorter, so that tasks that failed together do not retry together."""


def fail(state: Workflow, name: str, task: TaskState, error: TaskError, at: datetime) -> Workflow:
    """Handle a failed attempt: go back to an earlier task, retry, or give up.

    `advance` continues from there.
    """
    spec = state.spec(name)
    task = replace(task, error=error)
    may_repeat = continues(state) or (state.status is Status.COMPENSATING and name.startswith(UNDO))
    back_to = spec.on_error.get(error.code)
    if may_repeat and back_to is not None and task.sent_back < MAX_SENT_BACK:
        task = replace(task, sent_back=task.sent_back + 1)
        state = set_task(state, name, task, at, f"failed: {error.message}; going back to {back_to}")
        return _rewind(state, back_to)
    if may_repeat and error.code in HELD:
        return _held_back(state, name, task, error, at)
    if may_repeat and error.retry and task.retried < spec.retries:
        retry_at = at + timedelta(seconds=_pause(state, name, task))
        task = replace(task, status=TaskStatus.WAITING, retry_at=retry_at, retried=task.retried + 1)
        return set_task(state, name, task, at, f"failed, to be tried again: {error.message}")
    task = replace(task, status=TaskStatus.FAILED, finished_at=at)
    state = set_task(state, name, task, at, f"failed: {error.message}")
    if name.startswith(UNDO):
        return replace(state, error=state.error or f"{name}: {error.message}")
    if spec.optional and continues(state):
        return state
    return failed(state, f"{name}: {error.message}", at)


def _held_back(state: Workflow, name: str, task: TaskState, error: TaskError, at: datetime) -> Workflow:
    """Reschedule a task that its agent was not allowed to start.

    This is not a failure, and it is recorded in the timeline only once.
    """
    before = state.tasks[name].error
    retry_at = at + timedelta(seconds=HELD_FOR * _spread(state, name, task))
    task = replace(task, status=TaskStatus.WAITING, retry_at=retry_at)
    if before is not None and before.code == error.code:
        return replace(state, updated=at, tasks={**state.tasks, name: task})
    return set_task(state, name, task, at, f"waits: {error.message}")


def failed(state: Workflow, error: str, at: datetime) -> Workflow:
    """Wind down after a failure; tasks that have a compensation are undone."""
    state = replace(state, error=state.error or error, failing=True, undo=state.undo or _has_undo(state))
    return wind_down(state, at)


def _has_undo(state: Workflow) -> bool:
    return any(task.spec is not None and task.spec.compensation is not None for task in state.tasks.values())


def _pause(state: Workflow, name: str, task: TaskState) -> float:
    """Return the seconds before the next attempt; the same in every orchestrator."""
    seconds = min(state.spec(name).backoff * 2.0 ** min(task.retried, 32), MAX_BACKOFF)
    return seconds * _spread(state, name, task)


def _spread(state: Workflow, name: str, task: TaskState) -> float:
    """Return the jitter factor of a delay; it separates tasks that failed together."""
    chance = zlib.crc32(f"{state.workflow_id}.{name}.{task.attempt}".encode()) / 0xFFFFFFFF
    return 1 + JITTER * (2 * chance - 1)


def _rewind(state: Workflow, back_to: str) -> Workflow:
    """Reset `back_to` and its dependents to waiting; attempt numbers continue."""
    repeated = {back_to, *dependents(state)[back_to]}
    tasks = {
        name: TaskState(
            task.spec, attempt=task.attempt, error=task.error, retried=task.retried, sent_back=task.sent_back
        )
        if name in repeated
        else task
        for name, task in state.tasks.items()
    }
    return replace(state, tasks=tasks)


def dependents(state: Workflow) -> dict[str, set[str]]:
    """Return the direct and indirect dependents of each task of the plan."""
    plan = {name: task.spec for name, task in state.tasks.items() if task.spec is not None}
    found: dict[str, set[str]] = {}

    def visit(name: str) -> set[str]:
        if name not in found:
            direct = followers[name]
            found[name] = set(direct).union(*(visit(follower) for follower in direct))
        return found[name]

    followers: dict[str, list[str]] = {name: [] for name in plan}
    for name, spec in plan.items():
        for dependency in spec.after:
            followers[dependency].append(name)
    for name in plan:
        visit(name)
    return found


def wind_down(state: Workflow, at: datetime, *, stop: bool = False) -> Workflow:
    """Start no more tasks, and wait for those that may be changing something.

    A task that no agent has started is prevented from starting (`write_tombstone`).  With `stop` an agent also stops
    the attempt that it is running; otherwise it finishes it.
    """
    tasks = dict(state.tasks)
    for name, task in state.tasks.items():
        if name.startswith(UNDO) and task.status in UNDER_WAY:
            continue  # a compensation that has started runs to its end
        spec = state.spec(name)
        only_reads = task.status in UNDER_WAY and spec.tier is Tier.READ and not task.items and not spec.workflow
        if task.status in {TaskStatus.WAITING, TaskStatus.WAITING_APPROVAL} or only_reads:
            tasks[name] = cancelled(task, at)
        elif task.status in UNDER_WAY and not task.items:
            state = add(state, OutboxMessage("stop" if stop or spec.workflow else "entomb", name, task.attempt))
    return replace(state, tasks=tasks)
