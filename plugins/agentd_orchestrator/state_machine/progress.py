"""Progress of a workflow: tasks to start, compensation and the end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from agentd import DONE, Approval, Rejected, Status, TaskError, TaskState, TaskStatus, Workflow
from agentd.errors import HELD
from agentd.printable import printable
from agentd.tools.large_results import INLINE
from agentd.wire.workflow import UNDER_WAY, UNDO, OutboxMessage
from agentd_orchestrator.expressions import evaluate
from agentd_orchestrator.state_machine import approval_text, failures, outgoing
from agentd_orchestrator.state_machine.plan_check import MAX_TASKS
from agentd_orchestrator.state_machine.state import add, add_entry, cancelled, continues, may_begin, satisfied, set_task

_LEFT: Final = frozenset({TaskStatus.FAILED, TaskStatus.CANCELLED})


def advance(state: Workflow, at: datetime) -> Workflow:
    """Start all ready tasks; if none is left, compensate or end the workflow."""
    state = _close_items(_begin_ready(state, at), at)
    if any(not outgoing.has_ended(task.status) for task in state.tasks.values()):
        return _suspend_deadline(state, at)
    undo = (state.undo and not continues(state)) or bool(_undoable(state))
    if undo and state.status is not Status.COMPENSATING:
        return state if state.status is Status.PAUSED else _undo(state, at)
    return finish(state, at, _ending(state))


def _begin_ready(state: Workflow, at: datetime) -> Workflow:
    """Start every task whose dependencies are done.

    A skipped task may make others ready, so this repeats until nothing changes.
    """
    before = None
    while may_begin(state) and state is not before:
        before = state
        kept_back = _blocking_undos(state)
        for name in before.tasks:
            task = state.tasks[name]
            if not may_begin(state):
                break
            if task.status is TaskStatus.RUNNING and task.items:
                state = _start_items(state, name, at)
            elif task.status is not TaskStatus.WAITING or task.retry_at is not None:
                continue
            elif name.startswith(UNDO):
                state = _begin_undo(state, name, kept_back, at)
            elif task.spec is not None and all(satisfied(state, dependency) for dependency in task.spec.after):
                state = _begin(state, name, at)
    return state


def _begin(state: Workflow, name: str, at: datetime) -> Workflow:
    """Assign a task, skip it, request its approval, or create the tasks of its items."""
    spec, task = state.spec(name), state.tasks[name]
    try:
        if spec.condition and not evaluate.is_true(spec.condition, outgoing.template_names(state, name)):
            return _skip(state, name, at, f"{spec.condition} is false")
        previews = outgoing.previews_of(state, name)
        if previews and all(preview.already for preview in previews):
            return _skip(state, name, at, "nothing to do")
        if (spec.approval or previews) and not _approved(state, name):
            return _ask(state, name, at)
        if spec.for_each is not None:
            return _create_items(state, name, outgoing.resolve(spec.for_each, state, name), at)
        return assign(state, name, at)
    except Rejected as error:
        return failures.fail(state, name, task, TaskError("expression", str(error)), at)


def _approved(state: Workflow, name: str) -> bool:
    """Return whether a task is approved.

    An approval that contains no calls, from an older version, does not count: it is requested again.
    """
    approval = state.tasks[name].approval
    if approval is None or approval.at is None:
        return False
    return not outgoing.has_preview(state, name) or len(approval.calls) == len(approval_text.call_digests(state, name))


def _skip(state: Workflow, name: str, at: datetime, why: str) -> Workflow:
    task = replace(state.tasks[name], status=TaskStatus.SKIPPED, finished_at=at)
    return set_task(state, name, task, at, f"skipped: {why}")


def _ask(state: Workflow, name: str, at: datetime) -> Workflow:
    task = state.tasks[name]
    text, within = printable(approval_text.full_text(state, name), lines=True), state.spec(name).approve_within
    until = None if within is None else at + timedelta(seconds=within)
    approval = Approval(
        text, approval_text.approval_digest(state, name, text), at, until, calls=approval_text.call_digests(state, name)
    )
    task = replace(task, status=TaskStatus.WAITING_APPROVAL, approval=approval)
    return set_task(state, name, task, at, f"waits for an approval: {approval_text.shorten(text)}")


def assign(state: Workflow, name: str, at: datetime) -> Workflow:
    """Assign the next attempt of a task.

    Raises Rejected if its parameters cannot be filled in.
    """
    outgoing.parameters(state, name)
    task, spec = state.tasks[name], state.spec(name)
    start_by = None if spec.start_within is None else at + timedelta(seconds=spec.start_within)
    deadline = None if spec.workflow else (start_by or at) + timedelta(seconds=spec.timeout)
    task = replace(
        task,
        status=TaskStatus.ASSIGNED,
        attempt=task.attempt + 1,
        deadline=deadline,
        start_by=start_by,
        retry_at=None,
        assigned_at=at,
        started_at=None,
        last_heartbeat_at=None,
        finished_at=None,
        agent="",
    )
    outbox_message = OutboxMessage("assign", name, task.attempt)
    held = task.error is not None and task.error.code in HELD
    if held or (task.parent and not name.startswith(UNDO)):  # a thousand items would add a thousand timeline lines
        return add(replace(state, updated=at, tasks={**state.tasks, name: task}), outbox_message)
    to = f"started as workflow {outgoing.child_id(state.workflow_id, name, task.attempt)}"
    return add(set_task(state, name, task, at, to if spec.workflow else f"assigned to {spec.queue}"), outbox_message)


# -- items --------------------------------------------------------------------------------------------------------


def _create_items(state: Workflow, name: str, items: Any, at: datetime) -> Workflow:  # noqa: ANN401 - any JSON value
    """Create a task for each item, and start the first of them."""
    if isinstance(items, dict) and "$stored" in items:
        raise Rejected(f"for_each: the list takes {items.get('bytes')} bytes; a list may take at most {INLINE}")
    if not isinstance(items, list):
        raise Rejected(f"for_each: it must be a list, and is {type(items).__name__}")
    if len(state.tasks) + len(items) > MAX_TASKS:
        raise Rejected(f"for_each: {len(items)} items; a workflow has at most {MAX_TASKS} tasks")
    task = state.tasks[name]
    if not items:
        return set_task(
            state, name, replace(task, status=TaskStatus.COMPLETED, finished_at=at), at, "completed: no items"
        )
    item_tasks = {
        f"{name}-{number}": TaskState(None, parent=name, index=number, item=item) for number, item in enumerate(items)
    }
    task = replace(task, status=TaskStatus.RUNNING, items=len(items), started_at=at)
    state = set_task(state, name, task, at, f"{len(items)} items, {state.spec(name).max_parallel} at once")
    return _start_items(replace(state, tasks={**state.tasks, **item_tasks}), name, at)


def _start_items(state: Workflow, name: str, at: datetime) -> Workflow:
    """Start as many items as the window allows; complete the task when all ended."""
    names = state.items(name)
    items = [state.tasks[item_name] for item_name in names]
    if all(outgoing.has_ended(task.status) for task in items):
        return _items_ended(state, name, at)
    free = state.spec(name).max_parallel - sum(task.status in UNDER_WAY or task.retry_at is not None for task in items)
    waiting = (item_name for item_name in names if state.tasks[item_name].status is TaskStatus.WAITING)
    for item in waiting:
        if free <= 0 or not may_begin(state):
            break
        if state.tasks[item].retry_at is not None:
            continue
        free -= 1
        try:
            state = assign(state, item, at)
        except Rejected as error:
            return failures.fail(state, item, state.tasks[item], TaskError("expression", str(error)), at)
    return state


def _close_items(state: Workflow, at: datetime) -> Workflow:
    """End each task whose items have all ended, also while no new tasks are started."""
    for name, task in state.tasks.items():
        items = state.items(name) if task.status is TaskStatus.RUNNING else []
        if items and all(outgoing.has_ended(state.tasks[item].status) for item in items):
            state = _items_ended(state, name, at)
    return state


def _items_ended(state: Workflow, name: str, at: datetime) -> Workflow:
    items = [state.tasks[item] for item in state.items(name)]
    failed = sum(item.status not in DONE for item in items)
    if failed and not state.spec(name).optional:
        task = replace(state.tasks[name], status=TaskStatus.CANCELLED, finished_at=at)
        return set_task(state, name, task, at, f"{failed} of {len(items)} items were not done")
    warned = failed or any(item.warnings for item in items)
    status = TaskStatus.COMPLETED_WITH_WARNINGS if warned else TaskStatus.COMPLETED
    task = replace(state.tasks[name], status=status, finished_at=at)
    return set_task(state, name, task, at, f"{len(items) - failed} of {len(items)} items done")


# -- compensation -------------------------------------------------------------------------------------------------


def _undoable(state: Workflow) -> dict[str, TaskState]:
    """Return the undo tasks to create: of started tasks that have a compensation.

    Tasks that are already being undone are left out.  If the workflow ended early, these are all such tasks; if not,
    only those whose compensation is marked `always`.
    """
    ended_early = state.undo and not continues(state)
    undo_tasks: dict[str, TaskState] = {}
    for name, task in state.tasks.items():
        if task.items or not task.attempt:
            continue
        compensation, existing = state.spec(name).compensation, state.tasks.get(UNDO + name)
        if (
            compensation is not None
            and (ended_early or compensation.always)
            and not (existing is not None and existing.attempt)
        ):
            undo_tasks[UNDO + name] = TaskState(None, parent=name)
    return undo_tasks


def _undo(state: Workflow, at: datetime) -> Workflow:
    """Start undoing in reverse order; a workflow that did not fail keeps its status."""
    undo_tasks = _undoable(state)
    if not undo_tasks:
        return finish(state, at, _ending(state))
    status = state.status if continues(state) else Status.COMPENSATING
    state = replace(state, status=status, tasks={**state.tasks, **undo_tasks}, clock_stopped_at=None)
    return advance(add_entry(state, at, f"undoing {len(undo_tasks)} tasks"), at)


def _blocking_undos(state: Workflow) -> dict[str, set[TaskStatus]]:
    """Return for each task of the plan the undo statuses of all that depends on it."""
    undoing: dict[str, set[TaskStatus]] = {}
    for name, task in state.tasks.items():
        if name.startswith(UNDO):
            undoing.setdefault(_planned_name(state, task.parent), set()).add(task.status)
    if not undoing:
        return {}
    return {
        name: set().union(*(undoing.get(follower, set()) for follower in later))
        for name, later in failures.dependents(state).items()
    }


def _planned_name(state: Workflow, name: str) -> str:
    """Return the task of the plan that `name` is an item of, or `name` itself."""
    return name if state.tasks[name].spec is not None else state.tasks[name].parent


def _begin_undo(state: Workflow, name: str, kept_back: dict[str, set[TaskStatus]], at: datetime) -> Workflow:
    """Start undoing a task once all tasks that depend on it are undone."""
    task = state.tasks[name]
    later = kept_back[_planned_name(state, task.parent)]
    if later & _LEFT:
        error = TaskError("not_undone", "what depends on it could not be undone")
        return set_task(state, name, cancelled(task, at, error=error), at, f"not started: {error.message}")
    if later - DONE:
        return state
    try:
        return assign(state, name, at)
    except Rejected as error:
        return failures.fail(state, name, task, TaskError("expression", str(error)), at)


# -- the end ------------------------------------------------------------------------------------------------------


def _suspend_deadline(state: Workflow, at: datetime) -> Workflow:
    """Suspend the workflow's deadline while only a person can let it continue."""
    if not continues(state):
        return replace(state, clock_stopped_at=None) if state.clock_stopped_at else state
    status = state.status
    if status is not Status.PAUSED:
        tasks = state.tasks.values()
        needs_approval = any(task.status is TaskStatus.WAITING_APPROVAL for task in tasks)
        busy = any(task.status in UNDER_WAY or task.retry_at is not None for task in tasks)
        status = Status.WAITING_APPROVAL if needs_approval and not busy else Status.RUNNING
    suspended = status is not Status.RUNNING
    if suspended and state.clock_stopped_at is None:
        return replace(state, status=status, clock_stopped_at=at)
    if not suspended and state.clock_stopped_at is not None:
        deadline = None if state.deadline is None else state.deadline + (at - state.clock_stopped_at)
        return replace(state, status=status, clock_stopped_at=None, deadline=deadline)
    return state if status is state.status else replace(state, status=status)


def _ending(state: Workflow) -> Status:
    tasks = state.tasks.items()
    if any(task.status in _LEFT for name, task in tasks if name.startswith(UNDO)):
        return Status.COMPENSATION_FAILED
    if state.status is Status.COMPENSATING:
        return Status.COMPENSATED
    if state.status is Status.CANCELLING:
        return Status.CANCELLED
    if state.failing:
        return Status.FAILED
    warned = any(task.warnings or task.status is TaskStatus.FAILED for _, task in tasks)
    return Status.COMPLETED_WITH_WARNINGS if warned else Status.COMPLETED


def finish(state: Workflow, at: datetime, status: Status) -> Workflow:
    """End the workflow: answer its request, and report to the parent if there is one."""
    state = replace(add_entry(state, at, str(status)), status=status, clock_stopped_at=None)
    if status is Status.COMPENSATION_FAILED:
        state = add(state, OutboxMessage("alert"))
    if state.parent is not None:
        state = add(state, OutboxMessage("report", state.parent.task, state.parent.attempt))
    return add(state, OutboxMessage("respond"))
