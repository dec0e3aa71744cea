"""Basic changes to a workflow's state; each function returns a new state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from agentd import DONE, Status, TaskState, TaskStatus, Workflow
from agentd.wire.workflow import Entry, OutboxMessage

if TYPE_CHECKING:
    from datetime import datetime


def set_task(state: Workflow, name: str, task: TaskState, at: datetime, what: str) -> Workflow:
    """Replace the task `name` by `task` and add a line to the timeline."""
    return add_entry(replace(state, tasks={**state.tasks, name: task}), at, what, name, task)


def add_entry(state: Workflow, at: datetime, what: str, name: str = "", task: TaskState | None = None) -> Workflow:
    """Add a line to the timeline."""
    attempt, agent = (0, "") if task is None else (task.attempt, task.agent)
    return replace(state, updated=at, timeline=[*state.timeline, Entry(at, what, name, attempt, agent)])


def add(state: Workflow, *effects: OutboxMessage) -> Workflow:
    """Add messages to the outbox."""
    return replace(state, outbox=[*state.outbox, *effects])


def cancelled(task: TaskState, at: datetime, **more: Any) -> TaskState:  # noqa: ANN401 - fields of TaskState
    """Return `task` as cancelled: the workflow does not wait for its end."""
    return replace(task, status=TaskStatus.CANCELLED, finished_at=at, retry_at=None, **more)


def continues(state: Workflow) -> bool:
    """Return whether the workflow continues: no final failure, and not cancelled."""
    return not state.failing and state.status not in {Status.CANCELLING, Status.COMPENSATING}


def may_begin(state: Workflow) -> bool:
    """Return whether tasks may be started now."""
    return state.status is Status.COMPENSATING or (continues(state) and state.status is not Status.PAUSED)


def satisfied(state: Workflow, name: str) -> bool:
    """Return whether tasks that depend on the task `name` may start."""
    task = state.tasks[name]
    return task.status in DONE or (task.status is TaskStatus.FAILED and state.spec(name).optional)
