"""How a workflow proceeds: values in, values out.

`fold(state, inputs, at)` decides over inputs one after the other and returns the next state, or None when
nothing changes.  The state is everything: the plan, what became of each task, the timeline, and the outbox, that
is what has to leave because of this very change.  There is no clock, no bus and no log here; the same inputs
give the same state, whichever orchestrator decides.

Inputs may come twice, late, in any order, or from an attempt that is over: only the completion of the attempt
that is assigned now changes a task, only the timer of that attempt ends it, and a terminal state never changes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from agentd import subjects
from agentd.errors import Rejected
from agentd.messages import (
    Outcome,
    TaskAssignment,
    TaskCompletion,
    TaskError,
    Tier,
    WorkflowRequest,
    WorkflowResponse,
    request_digest,
)
from agentd.workflows import DONE, Effect, Entry, Status, TaskSpec, TaskState, TaskStatus, Workflow

MAX_REDO: Final = 5
"""How often a task may send the workflow back to an earlier one."""
MAX_BACKOFF: Final = 300.0
"""Longest pause in seconds before a retry."""
MAX_TASKS: Final = 1000
"""Tasks of one plan: they take half of the largest state, the other half is for their results."""
MAX_TIMEOUT: Final = 30 * 86_400.0
"""Longest time-out of a workflow in seconds: effect records, by which nothing is done twice, are kept for as long."""
MAX_TEXT: Final = 4000
"""Characters that are kept of an error, a warning or a reason: it stands in the state more than once."""
MAX_LINES: Final = 50
"""Warnings and lines of a log that are kept of a task, and of the timeline of a workflow that has grown too large."""

UNKNOWN: Final = {"deadline": "its deadline passed while it ran", "abandoned": "the workflow ended while it ran"}
"""Errors after which it is not known what a task has done to the world."""


class Begin(msgspec.Struct, frozen=True):
    """A request with its plan; `refused` says why it is not carried out, and with which status."""

    request: WorkflowRequest
    plan: list[TaskSpec]
    principal: str
    tier: Tier
    refused: str = ""
    status: Status = Status.REJECTED


class Ended(msgspec.Struct, frozen=True):
    """An agent told how an attempt ended."""

    task: str
    completion: TaskCompletion


class Due(msgspec.Struct, frozen=True):
    """A timer fired."""

    kind: str
    task: str
    attempt: int


class Cancel(msgspec.Struct, frozen=True):
    """A principal wants the workflow to end."""

    principal: str
    reason: str = ""


class Broken(msgspec.Struct, frozen=True):
    """Deciding failed again and again: a bug; the workflow ends, so that a person looks."""

    error: str


Input = Begin | Ended | Due | Cancel | Broken


def broken(given: Input, error: str) -> Input:
    """Return what is decided over in the place of `given`, which cannot be."""
    return replace(given, plan=[], refused=error, status=Status.FAILED) if isinstance(given, Begin) else Broken(error)


def fold(state: Workflow | None, inputs: list[Input], at: datetime) -> Workflow | None:
    """Decide over `inputs` in turn; return the next state with the outbox of all of them, or None for no change."""
    start = current = cleared(state)
    for each in inputs:
        current = decide(current, each, at)
    return None if current is start else current


def cleared(state: Workflow | None) -> Workflow | None:
    """Return the state with an empty outbox: what it held has been sent."""
    return None if state is None else replace(state, outbox=[])


def decide(  # noqa: PLR0911 - one exit for each input
    state: Workflow | None, given: Input, at: datetime
) -> Workflow | None:
    """Return the state after `given`; the very same object when it changes nothing."""
    if state is None:
        return begin(given, at) if isinstance(given, Begin) else None
    if state.over:
        return state
    match given:
        case Ended():
            return _ended(state, given, at)
        case Due():
            return _due(state, given, at)
        case Cancel():
            return _cancel(state, given, at)
        case Broken():
            state = replace(state, error=given.error, failing=True, tasks=_abandoned(state))
            return _finish(_note(state, at, given.error), at, Status.FAILED)
        case _:
            return state


def begin(given: Begin, at: datetime) -> Workflow:
    """Return the first state of a workflow: running, or ended at once when it is refused or only planned."""
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
        parameters=request.parameters,
    )
    if given.refused:
        state = replace(state, error=given.refused)
        return _finish(_note(state, at, f"{given.status}: {given.refused}"), at, given.status)
    seconds = sum(each.deadline for each in given.plan) if request.timeout is None else request.timeout
    state = replace(
        state, deadline=at + timedelta(seconds=seconds), tasks={each.name: TaskState(each) for each in given.plan}
    )
    if request.dry_run:
        skipped = {name: replace(task, status=TaskStatus.SKIPPED) for name, task in state.tasks.items()}
        return _finish(_note(replace(state, tasks=skipped), at, "planned only (dry run)"), at, Status.COMPLETED)
    state = _note(state, at, f"requested by {state.requester_id}")
    state = replace(state, outbox=[Effect("timeout", at=state.deadline)])
    return _advance(state, at)


# -- what an input does -----------------------------------------------------------------------------------------


def _ended(state: Workflow, given: Ended, at: datetime) -> Workflow:
    completion = given.completion
    task = state.tasks.get(given.task)
    if task is None or task.status is not TaskStatus.ASSIGNED or completion.attempt != task.attempt:
        return state
    if completion.service_id != service_of(task.spec.queue):
        return state
    warnings = [each[:MAX_TEXT] for each in completion.warnings[:MAX_LINES]]
    task = replace(task, agent=completion.agent_id, finished_at=at, warnings=warnings)
    if completion.status is Outcome.FAILED:
        return _failed(state, given.task, task, _error_of(completion), at)
    if completion.status is Outcome.CANCELLED and _going_on(state):
        error = TaskError("cancelled", f"{completion.agent_id or 'an agent'} cancelled it, and nobody asked for that")
        return _failed(state, given.task, task, error, at)
    if completion.status is Outcome.CANCELLED:
        task = replace(task, status=TaskStatus.CANCELLED)
    else:
        status = TaskStatus.COMPLETED_WITH_WARNINGS if completion.warnings else TaskStatus.COMPLETED
        task = replace(task, status=status, result=completion.result, error=None)
    state = _with(state, given.task, task, at, str(task.status))
    return _advance(state, at)


def _going_on(state: Workflow) -> bool:
    """Tell whether tasks are still begun: nothing has failed for good, and nobody has cancelled."""
    return not state.failing and state.status is Status.RUNNING


def _error_of(completion: TaskCompletion) -> TaskError:
    error = completion.error
    if not isinstance(error, TaskError):
        error = TaskError("failed", error or "failed without saying why")
    return replace(error, message=error.message[:MAX_TEXT], log=[each[:MAX_TEXT] for each in error.log[-MAX_LINES:]])


def _failed(state: Workflow, name: str, task: TaskState, error: TaskError, at: datetime) -> Workflow:
    """Go back, try again, or give up, after an attempt has failed."""
    task = replace(task, error=error)
    going_on = _going_on(state)
    back_to = task.spec.redo.get(error.code)
    if going_on and back_to is not None and task.redone < MAX_REDO:
        task = replace(task, redone=task.redone + 1)
        state = _with(state, name, task, at, f"failed: {error.message}; going back to {back_to}")
        return _advance(_rewind(state, back_to), at)
    if going_on and error.retry and task.retried < task.spec.retries:
        retry_at = at + timedelta(seconds=min(task.spec.backoff * 2.0 ** min(task.retried, 32), MAX_BACKOFF))
        task = replace(task, status=TaskStatus.WAITING, retry_at=retry_at, retried=task.retried + 1)
        state = _with(state, name, task, at, f"failed, to be tried again: {error.message}")
        return _add(state, Effect("retry", name, task.attempt + 1, retry_at))
    task = replace(task, status=TaskStatus.FAILED)
    state = _with(state, name, task, at, f"failed: {error.message}")
    if not state.error:
        state = replace(state, error=f"{name}: {error.message}")
    return _wind_down(replace(state, failing=True), at)


def _rewind(state: Workflow, back_to: str) -> Workflow:
    """Make `back_to` and all that depends on it wait again; attempts go on counting."""
    again = {back_to}
    for name, task in _in_order(state):
        if again.intersection(task.spec.after):
            again.add(name)
    tasks = {
        name: TaskState(task.spec, attempt=task.attempt, error=task.error, retried=task.retried, redone=task.redone)
        if name in again
        else task
        for name, task in state.tasks.items()
    }
    return replace(state, tasks=tasks)


def _in_order(state: Workflow) -> list[tuple[str, TaskState]]:
    """Return the tasks so that each stands after those that it depends on."""
    ordered: dict[str, TaskState] = {}
    left = dict(state.tasks)
    while left:
        ready = [name for name, task in left.items() if all(each in ordered for each in task.spec.after)]
        ordered |= {name: left.pop(name) for name in ready}
    return list(ordered.items())


def _due(state: Workflow, given: Due, at: datetime) -> Workflow:  # noqa: PLR0911 - stray timers leave early
    if given.kind == "timeout":
        if state.failing or state.status is Status.CANCELLING:
            return state
        text = f"not done within {_seconds(state)} s"
        return _wind_down(replace(_note(state, at, text), error=state.error or text, failing=True), at)
    task = state.tasks.get(given.task)
    if task is None:
        return state
    if given.kind == "retry":
        awaited = task.status is TaskStatus.WAITING and task.retry_at is not None and given.attempt == task.attempt + 1
        return _assign(state, given.task, at) if awaited else state
    if task.status is not TaskStatus.ASSIGNED or given.attempt != task.attempt:
        return state
    text = f"no result within {task.spec.deadline:g} s of attempt {task.attempt}"
    if _going_on(state):
        return _failed(state, given.task, task, TaskError("deadline", text, retry=True), at)
    task = replace(task, status=TaskStatus.CANCELLED, finished_at=at, error=TaskError("deadline", text))
    return _advance(_with(state, given.task, task, at, f"{text}; what it did is not known"), at)


def _seconds(state: Workflow) -> int:
    return 0 if state.deadline is None else round((state.deadline - state.created).total_seconds())


def _cancel(state: Workflow, given: Cancel, at: datetime) -> Workflow:
    if state.status is Status.CANCELLING:
        return state
    text = f"cancelled by {given.principal}" + (f": {given.reason[:MAX_TEXT]}" if given.reason else "")
    state = replace(_note(state, at, text), status=Status.CANCELLING, error=state.error or text)
    return _wind_down(state, at)


def _wind_down(state: Workflow, at: datetime) -> Workflow:
    """Begin nothing more; stop what nobody has begun; wait for what may be changing the world."""
    tasks = dict(state.tasks)
    for name, task in state.tasks.items():
        reading = task.status is TaskStatus.ASSIGNED and task.spec.tier is Tier.READ
        if task.status is TaskStatus.WAITING or reading:
            tasks[name] = replace(task, status=TaskStatus.CANCELLED, finished_at=at, retry_at=None)
        elif task.status is TaskStatus.ASSIGNED:
            state = _add(state, Effect("entomb", name, task.attempt))
    return _advance(replace(state, tasks=tasks), at)


# -- going on -----------------------------------------------------------------------------------------------------


def _advance(state: Workflow, at: datetime) -> Workflow:
    """Assign what is ready; end the workflow when nothing is left to wait for."""
    if _going_on(state):
        for name, task in state.tasks.items():
            ready = task.status is TaskStatus.WAITING and task.retry_at is None
            if ready and all(state.tasks[each].status in DONE for each in task.spec.after):
                state = _assign(state, name, at)
    if any(task.status in {TaskStatus.ASSIGNED, TaskStatus.WAITING} for task in state.tasks.values()):
        return state
    return _finish(state, at, _ending(state))


def _ending(state: Workflow) -> Status:
    if state.status is Status.CANCELLING:
        return Status.CANCELLED
    if state.failing:
        return Status.FAILED
    if any(task.warnings for task in state.tasks.values()):
        return Status.COMPLETED_WITH_WARNINGS
    return Status.COMPLETED


def _assign(state: Workflow, name: str, at: datetime) -> Workflow:
    task = state.tasks[name]
    attempt = task.attempt + 1
    deadline = at + timedelta(seconds=task.spec.deadline)
    task = replace(
        task,
        status=TaskStatus.ASSIGNED,
        attempt=attempt,
        deadline=deadline,
        retry_at=None,
        assigned_at=at,
        finished_at=None,
        agent="",
    )
    state = _with(state, name, task, at, f"assigned to {task.spec.queue}")
    return _add(state, Effect("assign", name, attempt), Effect("deadline", name, attempt, deadline))


def _finish(state: Workflow, at: datetime, status: Status) -> Workflow:
    state = replace(_note(state, at, str(status)), status=status)
    return _add(state, Effect("respond"))


def _with(state: Workflow, name: str, task: TaskState, at: datetime, what: str) -> Workflow:
    state = replace(state, tasks={**state.tasks, name: task})
    return _note(state, at, what, name, task)


def _note(state: Workflow, at: datetime, what: str, name: str = "", task: TaskState | None = None) -> Workflow:
    attempt, agent = (0, "") if task is None else (task.attempt, task.agent)
    return replace(state, updated=at, timeline=[*state.timeline, Entry(at, what, name, attempt, agent)])


def _add(state: Workflow, *effects: Effect) -> Workflow:
    return replace(state, outbox=[*state.outbox, *effects])


def overgrown(state: Workflow, size: int, *, new: bool) -> Workflow:
    """Return `state`, which one event cannot carry, ended and without what makes it large."""
    text = f"its state takes {size} bytes, and one event carries {Workflow.MAX_BYTES}"
    kept = {} if new else _abandoned(state)
    tasks = {name: _bare(task) for name, task in kept.items()}
    state = replace(state, parameters={}, tasks=tasks, outbox=[], error=text, timeline=state.timeline[-MAX_LINES:])
    return _finish(_note(state, state.updated, text), state.updated, Status.REJECTED if new else Status.FAILED)


def _bare(task: TaskState) -> TaskState:
    spec = TaskSpec(task.spec.name, task.spec.tool, task.spec.queue, task.spec.tier)
    error = None if task.error is None else TaskError(task.error.code, task.error.message[:100])
    return TaskState(spec, task.status, task.attempt, finished_at=task.finished_at, agent=task.agent, error=error)


def _abandoned(state: Workflow) -> dict[str, TaskState]:
    """Return the tasks of a workflow that ends at once: nobody waits for what runs."""
    tasks = dict(state.tasks)
    for name, task in tasks.items():
        if task.status is TaskStatus.ASSIGNED:
            error = TaskError("abandoned", "the workflow ended while it ran")
            tasks[name] = replace(task, status=TaskStatus.CANCELLED, error=error)
        elif task.status is TaskStatus.WAITING:
            tasks[name] = replace(task, status=TaskStatus.CANCELLED, retry_at=None)
    return tasks


# -- what is derived from a state ---------------------------------------------------------------------------------


def service_of(queue: str) -> str:
    """Return the service of a queue `<service>[@<node>][+<class>]`."""
    return queue.partition("+")[0].partition("@")[0]


def assignment(state: Workflow, name: str, attempt: int) -> TaskAssignment | None:
    """Return the message that assigns this attempt; None if the state has gone on since."""
    task = state.tasks[name]
    if task.attempt != attempt or task.deadline is None:
        return None
    return TaskAssignment(
        task_id=f"{state.workflow_id}.{name}",
        workflow_id=state.workflow_id,
        task_type=task.spec.tool,
        assigned_to=task.spec.queue,
        parameters=_resolve(task.spec.parameters, state),
        deadline=task.deadline,
        attempt=attempt,
        dependencies=task.spec.after,
        tier=state.tier,
        principal=state.principal,
    )


def _resolve(value: Any, state: Workflow) -> Any:  # noqa: ANN401 - JSON
    """Put results of earlier tasks in the place of `result_of(…)`."""
    if isinstance(value, dict):
        if "$result" in value:
            result = state.tasks[value["$result"]].result
            if "field" not in value or not isinstance(result, dict):
                return result
            # A large result lies in the bucket `results`: the worker takes the field when it has fetched it.
            return result | {"field": value["field"]} if "$stored" in result else result.get(value["field"])
        return {key: _resolve(each, state) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolve(each, state) for each in value]
    return value


def response(state: Workflow, agent_id: str) -> WorkflowResponse:
    """Return the answer to the request of a workflow that is over."""
    tasks: dict[str, Any] = {}
    for name, task in state.tasks.items():
        shown: dict[str, Any] = {"status": str(task.status)}
        if task.status in DONE:
            shown["result"] = task.result
        elif task.error is not None:
            shown["error"] = task.error.message
        if task.warnings:
            shown["warnings"] = task.warnings
        tasks[name] = shown
    result: dict[str, Any] = {"tasks": tasks} if tasks else {}
    if state.status in {Status.FAILED, Status.CANCELLED}:
        result["left"] = left_behind(state)
    return WorkflowResponse(state.workflow_id, str(state.status), result, state.error, agent_id)


def left_behind(state: Workflow) -> list[str]:
    """Name what a workflow that ended early has done to the world, and what it may have done."""
    left: list[str] = []
    for name, task in state.tasks.items():
        if task.spec.tier is Tier.READ or not task.attempt:
            continue
        if task.status in DONE:
            left.append(f"{name}: {_thing(task.result)}")
        elif task.error is not None and task.error.code in UNKNOWN:
            left.append(f"{name}: not known, {UNKNOWN[task.error.code]}")
    return left


def _thing(result: object) -> str:
    if isinstance(result, dict) and "vmid" in result:
        return f"VM {result['vmid']} {result.get('name', '')} on {result.get('node', 'an unknown node')}"
    return "done"


def check_plan(plan: list[TaskSpec]) -> None:
    """Raise Rejected if `plan` cannot be carried out: names, dependencies, cycles, sizes."""
    names = [each.name for each in plan]
    if not plan or len(plan) > MAX_TASKS:
        message = f"a plan has 1 to {MAX_TASKS} tasks; this one has {len(plan)}"
        raise Rejected(message)
    for each in plan:
        subjects.check_task(each.name)
        subjects.check_queue(each.queue)
        for other in [*each.after, *each.redo.values()]:
            if other not in names:
                message = f"task {each.name}: depends on {other!r}, which the plan does not have"
                raise Rejected(message)
    if len(set(names)) != len(names):
        message = "two tasks of the plan have the same name"
        raise Rejected(message)
    _check_order(plan)


def _check_order(plan: list[TaskSpec]) -> None:
    """Raise Rejected for a cycle, and for a task that would go back to one that it does not depend on."""
    before: dict[str, set[str]] = {}
    done: set[str] = set()
    left = list(plan)
    while left:
        ready = [each for each in left if done.issuperset(each.after)]
        if not ready:
            message = f"the tasks {', '.join(each.name for each in left)} wait for one another"
            raise Rejected(message)
        for each in ready:
            before[each.name] = set(each.after).union(*(before[other] for other in each.after))
            strangers = set(each.redo.values()) - before[each.name]
            if strangers:
                message = f"task {each.name}: goes back to {min(strangers)!r}, which does not come before it"
                raise Rejected(message)
            unknown = [other for other in _wanted_by(each.parameters) if other not in sorted(before[each.name])]
            if unknown:
                message = f"task {each.name}: wants the result of {unknown[0]!r}, which does not come before it"
                raise Rejected(message)
        done.update(each.name for each in ready)
        left = [each for each in left if each.name not in done]


def _wanted_by(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Return the tasks whose results stand in `value`; what is no task's name is returned as it is."""
    if isinstance(value, dict):
        return [value["$result"]] if "$result" in value else _wanted_by(list(value.values()))
    return [name for each in value for name in _wanted_by(each)] if isinstance(value, list) else []
