"""Small changes of a workflow's state, of which the larger ones are made; each returns a new state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from agentd.wire.workflow import DONE, Effect, Entry, Status, TaskState, TaskStatus, Workflow

if TYPE_CHECKING:
    from datetime import datetime


def put(state: Workflow, name: str, task: TaskState, at: datetime, what: str) -> Workflow:
    """Return the state with `task` in the place of what `name` was, and a line that says so."""
    return note(replace(state, tasks={**state.tasks, name: task}), at, what, name, task)


def note(state: Workflow, at: datetime, what: str, name: str = "", task: TaskState | None = None) -> Workflow:
    """Return the state with one more line in its timeline."""
    attempt, agent = (0, "") if task is None else (task.attempt, task.agent)
    return replace(state, updated=at, timeline=[*state.timeline, Entry(at, what, name, attempt, agent)])


def add(state: Workflow, *effects: Effect) -> Workflow:
    """Return the state with more to be sent."""
    return replace(state, outbox=[*state.outbox, *effects])


def cancelled(task: TaskState, at: datetime, **more: Any) -> TaskState:  # noqa: ANN401 - fields of TaskState
    """Return `task` as it is when its end is not waited for."""
    return replace(task, status=TaskStatus.CANCELLED, finished_at=at, retry_at=None, **more)


def going_on(state: Workflow) -> bool:
    """Tell whether the work goes on: nothing has failed for good, and nobody has cancelled."""
    return not state.failing and state.status not in {Status.CANCELLING, Status.COMPENSATING}


def may_begin(state: Workflow) -> bool:
    """Tell whether tasks may be begun now."""
    return state.status is Status.COMPENSATING or (going_on(state) and state.status is not Status.PAUSED)


def satisfied(state: Workflow, name: str) -> bool:
    """Tell whether what waits for the task `name` may begin."""
    task = state.tasks[name]
    return task.status in DONE or (task.status is TaskStatus.FAILED and state.spec(name).optional)
