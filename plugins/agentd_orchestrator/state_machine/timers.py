"""The timer of a workflow: when it fires, and what is due then.

A workflow has one pending timer, set for whatever falls due first: the deadline of an attempt, the time limit to start
it, the limit of an agent's silence, a retry, the deadline of the workflow.  The timer message only says "check": what
is due is read from the state, so that a late, early or repeated timer does no harm.  (With one timer per attempt a
workflow of three tasks stored four more messages, and four more came back.)
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agentd import Rejected, TaskError, TaskState, TaskStatus, Workflow
from agentd.wire.workflow import UNDER_WAY, OutboxMessage
from agentd_orchestrator.state_machine import failures, progress
from agentd_orchestrator.state_machine.state import add, add_entry, cancelled, continues, may_begin, set_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_orchestrator.state_machine.inputs import TimerFired


def set_next(state: Workflow) -> Workflow:
    """Set the timer for what falls due next, unless an earlier timer is pending."""
    ahead = None if state.over else min(_next_times(state), default=None)
    if ahead is None or (state.next_timer_at is not None and state.next_timer_at <= ahead):
        return state
    number = state.timers + 1
    return add(replace(state, timers=number, next_timer_at=ahead), OutboxMessage("timer", attempt=number, at=ahead))


def due(state: Workflow, given: TimerFired, at: datetime) -> Workflow:
    """Return the state after handling everything that is due now."""
    if given.number == state.timers and state.next_timer_at is not None:
        at = max(at, state.next_timer_at)  # the server's clock triggered it; ours may be slightly behind
        state = replace(state, next_timer_at=None)
    if _is_deadline_active(state) and state.deadline is not None and state.deadline <= at:
        text = f"not done within {round((state.deadline - state.created).total_seconds())} s"
        return failures.failed(add_entry(state, at, text), text, at)
    for name in state.tasks:
        task = state.tasks[name]
        error = _attempt_fault(state, name, task, at) if task.status in UNDER_WAY else None
        if error is not None:
            state = _attempt_over(state, name, task, error, at)
        elif _retried(state, task) and task.retry_at is not None and task.retry_at <= at:
            state = _try_again(state, name, task, at)
        elif (until := _approved_by(task)) is not None and until <= at and continues(state):
            error = TaskError("not_approved", f"it was not approved within {state.spec(name).approve_within:g} s")
            state = failures.fail(state, name, task, error, at)
    return state


def _next_times(state: Workflow) -> Iterator[datetime]:
    """Yield the times at which something falls due."""
    if _is_deadline_active(state) and state.deadline is not None:
        yield state.deadline
    for name, task in state.tasks.items():
        if task.status in UNDER_WAY:
            yield from (time for time in (task.deadline, task.start_by, _silent_at(state, name, task)) if time)
        elif task.retry_at is not None and _retried(state, task):
            yield task.retry_at
        elif (until := _approved_by(task)) is not None and continues(state):
            yield until


def _is_deadline_active(state: Workflow) -> bool:
    """Return whether the deadline of the whole workflow is active."""
    return continues(state) and state.clock_stopped_at is None


def _retried(state: Workflow, task: TaskState) -> bool:
    return may_begin(state) and task.status is TaskStatus.WAITING


def _approved_by(task: TaskState) -> datetime | None:
    """Return the time until which a task that waits for an approval must be approved."""
    return task.approval.until if task.approval is not None and task.status is TaskStatus.WAITING_APPROVAL else None


def _silent_at(state: Workflow, name: str, task: TaskState) -> datetime | None:
    """Return when a silent agent counts as lost, if the task requires heartbeats."""
    heartbeat = state.spec(name).heartbeat_timeout
    return (
        None
        if heartbeat is None or task.last_heartbeat_at is None
        else task.last_heartbeat_at + timedelta(seconds=heartbeat)
    )


def _attempt_fault(state: Workflow, name: str, task: TaskState, at: datetime) -> TaskError | None:
    """Return why the attempt of a task is given up now; None if it continues."""
    spec = state.spec(name)
    if task.deadline is not None and task.deadline <= at:
        return TaskError("deadline", f"no result within {spec.timeout:g} s of attempt {task.attempt}", retry=True)
    if task.start_by is not None and task.start_by <= at:
        return TaskError(
            "not_started", f"no agent started attempt {task.attempt} within {spec.start_within:g} s", retry=True
        )
    silent_at = _silent_at(state, name, task)
    if silent_at is not None and silent_at <= at:
        return TaskError("lost", f"{task.agent or 'its agent'} was silent for {spec.heartbeat_timeout:g} s", retry=True)
    return None


def _attempt_over(state: Workflow, name: str, task: TaskState, error: TaskError, at: datetime) -> Workflow:
    if may_begin(state) or continues(state):
        return failures.fail(state, name, task, error, at)
    task = cancelled(task, at, error=replace(error, retry=False))
    return set_task(state, name, task, at, f"{error.message}; what it did is not known")


def _try_again(state: Workflow, name: str, task: TaskState, at: datetime) -> Workflow:
    try:
        return progress.assign(state, name, at)
    except Rejected as error:
        return failures.fail(state, name, task, TaskError("expression", str(error)), at)
