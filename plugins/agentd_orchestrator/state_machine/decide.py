"""The workflow state machine: a pure function from state and input to next state.

`decide(state, input, at)` returns the next state, or the same object when nothing changes; the executor folds several
inputs into one transition.  The state is complete: the plan, the result of each task, the timeline, and the outbox,
which holds the messages that this transition has to send.  There is no clock, no bus and no log here; the same inputs
give the same state in every orchestrator.

An input may arrive twice, late, in any order, or from an earlier attempt.  Only the completion of the current attempt
changes a task, a timer only causes a check of what is due, and a terminal state never changes.

What an input causes: `progress` (tasks to start, failures, compensation, the end), `timers`, `signals`.
What is derived from a state: `outgoing`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from agentd import DONE, Outcome, Rejected, Status, TaskError, TaskSpec, TaskState, TaskStatus, Workflow, subjects
from agentd.wire.messages import TaskCompletion, request_digest
from agentd.wire.workflow import PREVIEW, UNDER_WAY
from agentd_orchestrator.state_machine import failures, progress, signals, timers
from agentd_orchestrator.state_machine import plan_check as plans
from agentd_orchestrator.state_machine.inputs import (
    AgentReport,
    DecideFailed,
    Input,
    PlannedRequest,
    Signal,
    TimerFired,
)
from agentd_orchestrator.state_machine.signals import MAX_TEXT
from agentd_orchestrator.state_machine.state import add_entry, cancelled, continues, set_task

MAX_LINES: Final = 50
"""Maximum of stored warnings and log lines per task, and of timeline lines of a workflow that is too large."""


def without_outbox(state: Workflow | None) -> Workflow | None:
    """Return the state with an empty outbox, after its messages have been sent."""
    return None if state is None else replace(state, outbox=[])


def decide(state: Workflow | None, given: Input, at: datetime) -> Workflow | None:
    """Return the state after the input `given`; the same object if nothing changes.

    Raises Rejected or Denied for a signal that cannot be executed.
    """
    if isinstance(given, Signal) and (state is None or state.over):
        ended = "there is no such workflow" if state is None else f"it has ended: {state.status}"
        raise Rejected(f"{given.signal.action}: {ended}")
    if state is None:
        return timers.set_next(begin(given, at)) if isinstance(given, PlannedRequest) else None
    changed = state if state.over else _react(state, given, at)
    if changed is state or changed.over:
        return changed
    return timers.set_next(progress.advance(changed, at))


def _react(state: Workflow, given: Input, at: datetime) -> Workflow:
    match given:
        case AgentReport():
            return _on_report(state, given, at)
        case TimerFired():
            return timers.due(state, given, at)
        case Signal():
            return signals.apply_signal(state, given, at)
        case DecideFailed():
            state = replace(state, error=given.error, failing=True, tasks=_cancel_running(state, at))
            return progress.finish(add_entry(state, at, given.error), at, Status.FAILED)
        case _:
            return state


def begin(given: PlannedRequest, at: datetime) -> Workflow:
    """Return the first state of a workflow: running, or already ended.

    A rejected request and a dry run end at once.
    """
    request = given.request
    state = Workflow(
        workflow_id=request.workflow_id,
        workflow_type=request.workflow_type,
        status=Status.RUNNING,
        requester_id=request.requester_id or given.principal,
        principal=given.principal,
        tier=given.tier,
        digest=request_digest(request),
        created=at,
        updated=at,
        priority=request.priority,
        parameters=request.parameters if given.parameters is None else given.parameters,
        parent=given.parent,
        retry_of=request.retry_of,
        authenticated=given.authenticated,
    )
    if given.refused:
        state = add_entry(replace(state, error=given.refused), at, f"{given.status}: {given.refused}")
        return progress.finish(state, at, given.status)
    tasks = {spec.name: TaskState(spec) for spec in given.plan} | given.carried
    if request.dry_run:
        tasks = {name: replace(task, status=TaskStatus.SKIPPED) for name, task in tasks.items()}
        state = add_entry(replace(state, tasks=tasks), at, "planned only (dry run)")
        return progress.finish(state, at, Status.COMPLETED)
    seconds = plans.default_timeout(given.plan) if request.timeout is None else request.timeout
    carried = f", continuing {request.retry_of}" if request.retry_of else ""
    state = add_entry(state, at, f"requested by {state.requester_id}{carried}")
    return progress.advance(replace(state, deadline=at + timedelta(seconds=seconds), tasks=tasks), at)


def retry_tasks(old: Workflow) -> dict[str, TaskState]:
    """Return the tasks of an ended workflow as its retry starts with them.

    Completed tasks are not executed again, unless they were undone.  Raises Rejected if the workflow cannot be retried.
    """
    if old.status not in {Status.FAILED, Status.CANCELLED, Status.COMPENSATED} or not old.tasks:
        hint = "check what it left behind" if old.status is Status.COMPENSATION_FAILED else "request it again"
        raise Rejected(f"retry_of: {old.workflow_id} is {old.status}: there is nothing to continue; {hint}")
    if old.status is Status.COMPENSATED:
        return {name: TaskState(task.spec) for name, task in old.tasks.items() if task.spec is not None}
    return {name: task if _keeps_result(old, name, task) else _reset_task(task) for name, task in old.tasks.items()}


def _keeps_result(old: Workflow, name: str, task: TaskState) -> bool:
    """Return whether a task keeps its result.

    A preview is outdated if the task that it previews was not completed.
    """
    if old.spec(name).preview:
        return (
            old.tasks[name.removeprefix(PREVIEW)].status in DONE if name.removeprefix(PREVIEW) in old.tasks else False
        )
    return task.status in DONE


def _reset_task(task: TaskState) -> TaskState:
    """Reset a task to before its first attempt; its completed items are kept."""
    status = TaskStatus.RUNNING if task.items else TaskStatus.WAITING
    return TaskState(task.spec, status, parent=task.parent, index=task.index, item=task.item, items=task.items)


# -- completions --------------------------------------------------------------------------------------------------


def _on_report(state: Workflow, given: AgentReport, at: datetime) -> Workflow:
    completion = given.completion
    task = state.tasks.get(given.task)
    if task is None or task.status not in UNDER_WAY or task.items or completion.attempt != task.attempt:
        return state
    if completion.service_id != subjects.service_of(state.spec(given.task).queue):
        return state
    if completion.status is Outcome.RUNNING:
        return _on_started(state, given, task, at)
    warnings = [warning[:MAX_TEXT] for warning in completion.warnings[:MAX_LINES]]
    task = replace(task, agent=completion.agent_id, finished_at=at, warnings=warnings)
    if completion.status in {Outcome.FAILED, Outcome.CANCELLED}:
        return _on_failure(state, given, task, at)
    status = TaskStatus.COMPLETED_WITH_WARNINGS if completion.warnings else TaskStatus.COMPLETED
    task = replace(task, status=status, result=completion.result, error=None)
    return set_task(state, given.task, task, at, str(task.status))


def _on_failure(state: Workflow, given: AgentReport, task: TaskState, at: datetime) -> Workflow:
    completion = given.completion
    if completion.status is Outcome.FAILED:
        return failures.fail(state, given.task, task, _error_of(completion), at)
    if continues(state):
        error = TaskError("cancelled", f"{completion.agent_id or 'an agent'} cancelled it, and that was not requested")
        return failures.fail(state, given.task, task, error, at)
    error_ = _error_of(completion) if completion.error else None
    return set_task(state, given.task, cancelled(task, at, error=error_), at, str(TaskStatus.CANCELLED))


def _on_started(state: Workflow, given: AgentReport, task: TaskState, at: datetime) -> Workflow:
    """Record that the agent has started the attempt: its deadline counts from now."""
    agent, spec = given.completion.agent_id, state.spec(given.task)
    if task.status is TaskStatus.RUNNING and task.agent == agent:
        if not spec.heartbeat_timeout:
            return state
        alive = replace(task, last_heartbeat_at=at)
        return replace(state, updated=at, tasks={**state.tasks, given.task: alive})
    deadline = task.deadline if task.start_by is None else at + timedelta(seconds=spec.timeout)
    started = task.started_at or at
    task = replace(
        task,
        status=TaskStatus.RUNNING,
        agent=agent,
        started_at=started,
        last_heartbeat_at=at,
        start_by=None,
        deadline=deadline,
    )
    return set_task(state, given.task, task, at, f"started by {agent}")


def _error_of(completion: TaskCompletion) -> TaskError:
    error = completion.error
    if not isinstance(error, TaskError):
        error = TaskError("failed", error or "failed without a reason")
    return replace(error, message=error.message[:MAX_TEXT], log=[line[:MAX_TEXT] for line in error.log[-MAX_LINES:]])


# -- immediate ends -----------------------------------------------------------------------------------------------


def end_oversized(state: Workflow, size: int, most: int = Workflow.MAX_BYTES, *, new: bool) -> Workflow:
    """End a workflow that is too large for one event, and drop its large fields.

    size  bytes of the encoded state
    most  bytes that one event may have
    """
    text = f"its state takes {size} bytes, and one event carries {most}"
    kept = {} if new else _cancel_running(state, state.updated)
    tasks = {name: _without_results(task) for name, task in kept.items()}
    state = replace(state, parameters={}, tasks=tasks, outbox=[], error=text, timeline=state.timeline[-MAX_LINES:])
    return progress.finish(
        add_entry(state, state.updated, text), state.updated, Status.REJECTED if new else Status.FAILED
    )


def _without_results(task: TaskState) -> TaskState:
    spec = None
    if task.spec is not None:
        of = task.spec
        spec = TaskSpec(of.name, of.tool, of.queue, of.tier, workflow=of.workflow)
    error = None if task.error is None else TaskError(task.error.code, task.error.message[:100])
    return TaskState(
        spec,
        task.status,
        task.attempt,
        finished_at=task.finished_at,
        agent=task.agent,
        error=error,
        parent=task.parent,
        items=task.items,
    )


def _cancel_running(state: Workflow, at: datetime) -> dict[str, TaskState]:
    """Return the tasks of a workflow that ends without waiting for running attempts."""
    tasks = dict(state.tasks)
    for name, task in tasks.items():
        if task.status in UNDER_WAY:
            tasks[name] = cancelled(task, at, error=TaskError("abandoned", "the workflow ended while it ran"))
        elif task.status in {TaskStatus.WAITING, TaskStatus.WAITING_APPROVAL}:
            tasks[name] = cancelled(task, at)
    return tasks
