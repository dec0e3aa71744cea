"""What follows from a workflow's state: the messages that leave, and what they are filled in with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec

from agentd.errors import Frozen, Rejected
from agentd.tools.large_results import INLINE
from agentd.wire import subjects
from agentd.wire.codec import digest, encode, now
from agentd.wire.messages import (
    Consent,
    Outcome,
    Preview,
    TaskAssignment,
    TaskCompletion,
    TaskError,
    Tier,
    WorkflowResponse,
)
from agentd.wire.workflow import DONE, LOOK, UNDER_WAY, UNDO, Effect, Status, TaskSpec, TaskState, TaskStatus, Workflow
from agentd_orchestrator.expressions import evaluate

MAX_TIMEOUT: Final = 30 * 86_400.0
"""Longest time-out of a workflow in seconds: effect records, by which nothing is done twice, are kept for as long."""
URGENT: Final = 5
"""Priority above which tasks go to the lane of their service that nothing else waits in."""
UNKNOWN: Final = {
    "deadline": "its deadline passed while it ran",
    "lost": "its agent was not heard of again while it ran",
    "abandoned": "the workflow ended while it ran",
}
"""Errors after which it is not known what a task has done to the world."""


class _Tasks(Mapping[str, dict[str, Any]]):
    """The tasks of a workflow as templates know them; made when they are asked for, for there may be a thousand."""

    def __init__(self, state: Workflow) -> None:
        self._state = state

    def __getitem__(self, name: str) -> dict[str, Any]:
        task = self._state.tasks[name]
        result = self._state.result(name)
        if isinstance(result, dict) and "$stored" in result:
            message = f"tasks.{name}.result: it takes {result.get('bytes')} bytes; a template sees at most {INLINE}"
            raise Rejected(message)
        error = "" if task.error is None else task.error.message
        return {"result": result, "status": str(task.status), "error": error, "warnings": task.warnings}

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.tasks)

    def __len__(self) -> int:
        return len(self._state.tasks)


def names(state: Workflow, name: str) -> dict[str, Any]:
    """Return what templates of the task `name` know; for an item, and for what undoes it, the item too."""
    task = state.tasks[name]
    known = {"parameters": state.parameters, "tasks": _Tasks(state), "workflow_id": state.workflow_id}
    if task.parent and name.startswith(UNDO):
        task = state.tasks[task.parent]
    return known | ({"item": task.item, "index": task.index} if task.parent else {})


def parameters(state: Workflow, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return what the task `name` is called with now; raises Rejected for a template that cannot be filled in."""
    return resolve(state.spec(name).parameters, state, name)


def resolve(value: Any, state: Workflow, name: str) -> Any:  # noqa: ANN401 - JSON
    """Put results of earlier tasks in the place of `result_of(…)`, and values in the place of `template(…)`."""
    if isinstance(value, dict):
        if "$template" in value:
            return evaluate.evaluate(value["$template"], names(state, name))
        if "$result" in value:
            result = state.result(value["$result"])
            if "field" not in value:
                return result
            if not isinstance(result, dict):
                message = f"the result of {value['$result']} is {type(result).__name__}: it has no {value['field']!r}"
                raise Rejected(message)
            # A large result lies in the bucket `results`: the worker takes the field when it has fetched it.
            return result | {"field": value["field"]} if "$stored" in result else result.get(value["field"])
        return {key: resolve(each, state, name) for key, each in value.items()}
    if isinstance(value, list):
        return [resolve(each, state, name) for each in value]
    return value


def seen(state: Workflow, name: str) -> list[Preview]:
    """Return what was seen of what the task `name`, or each of its items, would change; [] if nobody looked."""
    look, task = LOOK + name, _look_of(state, name)
    if task is None or task.status not in DONE or task.status is TaskStatus.SKIPPED:
        return []
    several = task.spec is not None and task.spec.each is not None
    results = state.result(look) if several else [state.result(look)]
    try:
        return msgspec.convert(results, list[Preview])
    except msgspec.ValidationError as error:
        message = f"what {look} has seen cannot be shown: {error}"
        raise Rejected(message) from error


def looked(state: Workflow, name: str) -> bool:
    """Return True if a task of the plan looks what the task `name` would change."""
    return _look_of(state, name) is not None


def _look_of(state: Workflow, name: str) -> TaskState | None:
    """Return the task that looks for the task `name`, which is more than to be called so."""
    task = state.tasks.get(LOOK + name)
    return task if task is not None and state.spec(LOOK + name).look else None


def consent(state: Workflow, name: str) -> Consent | None:
    """Return who approved the task `name` or the one whose item it is, with what was seen; None if nobody did."""
    if name.startswith(UNDO):
        return None
    approval = state.tasks[_asked(state, name)].approval
    if approval is None or approval.at is None:
        return None
    targets = [target for preview in seen(state, name) for target in preview.targets]
    index = state.tasks[name].index if state.tasks[name].parent else 0
    call = approval.calls[index] if index < len(approval.calls) else ""
    return Consent(approval.by, approval.digest, targets, call)


def _asked(state: Workflow, name: str) -> str:
    """Return the task that is approved for `name` to be done: itself, or the one whose item it is."""
    return state.tasks[name].parent or name


def service_of(queue: str) -> str:
    """Return the service of a queue `<service>[@<node>][+<class>]`."""
    return queue.partition("+")[0].partition("@")[0]


def queue_of(spec: TaskSpec, priority: int) -> str:
    """Return the queue that a task of a workflow of this priority goes to."""
    if priority > URGENT and spec.queue in subjects.SERVICES:
        return subjects.urgent(spec.queue)
    return spec.queue


def child_id(workflow: str, task: str, attempt: int) -> str:
    """Return the id of the workflow that an attempt of a task starts: short enough, and the same each time."""
    name = f"{workflow}--{task}" + (f"-{attempt}" if attempt > 1 else "")
    return name if len(name) <= subjects.MAX_ID else f"{name[: subjects.MAX_ID - 17]}-{digest(name)[:16]}"


def assignment(state: Workflow, name: str, attempt: int) -> TaskAssignment | None:
    """Return the message that assigns this attempt; None if the state has gone on since."""
    task = state.tasks[name]
    if task.attempt != attempt or task.status not in UNDER_WAY or task.assigned_at is None:
        return None
    spec = state.spec(name)
    return TaskAssignment(
        task_id=f"{state.workflow_id}.{name}",
        workflow_id=state.workflow_id,
        task_type=spec.workflow or spec.tool,
        assigned_to=queue_of(spec, state.priority),
        parameters=parameters(state, name),
        deadline=task.deadline or task.assigned_at + timedelta(seconds=MAX_TIMEOUT),
        attempt=attempt,
        dependencies=spec.after,
        tier=state.tier,
        principal=state.principal,
        start_by=task.start_by,
        seconds=spec.deadline if spec.start_within or spec.workflow else None,
        heartbeat=spec.heartbeat,
        depth=0 if state.parent is None else state.parent.depth,
        dry_run=spec.look,
        consent=consent(state, name),
        undoes=task.parent if name.startswith(UNDO) else "",
        authenticated=state.authenticated,
        guests=spec.guests,
    )


def held_back(message: TaskAssignment, agent_id: str, why: str) -> TaskCompletion:
    """Return what is stored of a task that the orchestrator does not assign while the network is frozen."""
    error = TaskError(Frozen.code, f"{message.task_type}: nothing was done: {why}", retry=True)
    return TaskCompletion(
        task_id=message.task_id,
        workflow_id=message.workflow_id,
        attempt=message.attempt,
        status=Outcome.FAILED,
        error=error,
        agent_id=agent_id,
        service_id=service_of(message.assigned_to),
        timestamp=now(),
    )


def subject_of(state: Workflow, effect: Effect) -> str:
    """Return the subject in AI_WORKFLOWS on which an effect is stored: an assignment, an answer or a timer."""
    if effect.kind == "assign":
        queue = queue_of(state.spec(effect.task), state.priority)
        return subjects.assign(queue, state.workflow_id, effect.task, effect.attempt)
    if effect.kind == "respond":
        return subjects.response(state.workflow_id)
    return subjects.timer(state.workflow_id, subjects.WHOLE_WORKFLOW, str(effect.attempt))


def response(state: Workflow, agent_id: str) -> WorkflowResponse:
    """Return the answer to the request of a workflow that is over."""
    tasks: dict[str, Any] = {}
    for name, task in state.tasks.items():
        shown: dict[str, Any] = {"status": str(task.status)}
        if task.items:
            shown["items"] = task.items
        elif task.status in DONE:
            shown["result"] = task.result
        if task.status not in DONE and task.error is not None:
            shown["error"] = task.error.message
        if task.warnings:
            shown["warnings"] = task.warnings
        tasks[name] = shown
    result: dict[str, Any] = {"tasks": tasks} if tasks else {}
    if state.status in {Status.FAILED, Status.CANCELLED, Status.COMPENSATED, Status.COMPENSATION_FAILED}:
        result["left"] = left_behind(state)
    return WorkflowResponse(state.workflow_id, str(state.status), result, state.error, agent_id)


def report(state: Workflow, agent_id: str) -> TaskCompletion:
    """Return what the task that started this workflow is told of its end."""
    assert state.parent is not None  # noqa: S101 - only a child has a report to send
    outcome = {
        Status.COMPLETED: Outcome.COMPLETED,
        Status.COMPLETED_WITH_WARNINGS: Outcome.WARNINGS,
        Status.CANCELLED: Outcome.CANCELLED,
        Status.COMPENSATED: Outcome.CANCELLED if not state.failing else Outcome.FAILED,
    }.get(state.status, Outcome.FAILED)
    result: dict[str, Any] = {"workflow_id": state.workflow_id, "status": str(state.status)}
    results = {name: task.result for name, task in state.tasks.items() if task.status in DONE and not task.parent}
    if len(encode(results)) <= INLINE:
        result["results"] = results
    error = TaskError("child_failed", f"workflow {state.workflow_id} {state.status}: {state.error}")
    return TaskCompletion(
        task_id=f"{state.parent.workflow_id}.{state.parent.task}",
        status=outcome,
        workflow_id=state.parent.workflow_id,
        attempt=state.parent.attempt,
        result=result,
        error=error if outcome is Outcome.FAILED else None,
        warnings=[f"workflow {state.workflow_id} has warnings"] if outcome is Outcome.WARNINGS else [],
        agent_id=agent_id,
        service_id=subjects.ORCHESTRATOR,
        timestamp=state.updated,
    )


def left_behind(state: Workflow) -> list[str]:
    """Name what a workflow that ended early has done to the world, and what it may have done."""
    left: list[str] = []
    gone = _undone(state)
    for name, task in state.tasks.items():
        spec = state.spec(name)
        if name.startswith(UNDO) or spec.tier is Tier.READ or spec.reads or not task.attempt:
            continue
        undone = state.tasks.get(UNDO + name)
        if undone is not None and undone.status in DONE:
            continue
        not_undone = "" if undone is None else f"; not undone: {undone.error.message if undone.error else 'not begun'}"
        if task.status in DONE:
            left += [] if _thing(task.result) in gone else [f"{name}: {_thing(task.result)}{not_undone}"]
        elif task.error is not None and task.error.code in {*UNKNOWN, "cancelled"}:
            left.append(f"{name}: not known, {UNKNOWN.get(task.error.code, task.error.message)}{not_undone}")
        elif not_undone:
            left.append(f"{name}: {task.status}{not_undone}")
    return left


def _undone(state: Workflow) -> set[str]:
    """Return the guests that were made and are undone: what else was done to one of them has gone with it."""
    undone = (task for name, task in state.tasks.items() if (of := state.tasks.get(UNDO + name)) and of.status in DONE)
    return {_thing(task.result) for task in undone if isinstance(task.result, dict) and "vmid" in task.result}


def _thing(result: object) -> str:
    if isinstance(result, dict) and "vmid" in result:
        return f"VM {result['vmid']} {result.get('name', '')} on {result.get('node', 'an unknown node')}"
    if isinstance(result, dict) and "workflow_id" in result:
        return f"workflow {result['workflow_id']}"
    return "done"


def gone(task_status: TaskStatus) -> bool:
    """Tell whether a task has come to its end, well or not."""
    return task_status in DONE or task_status in {TaskStatus.FAILED, TaskStatus.CANCELLED}
