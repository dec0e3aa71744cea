"""Messages derived from a workflow's state, and the values that fill them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec

from agentd import (
    DONE,
    Frozen,
    Outcome,
    Preview,
    Rejected,
    Status,
    TaskError,
    TaskState,
    TaskStatus,
    Tier,
    Workflow,
    WorkflowResponse,
    digest,
    encode,
    now,
    subjects,
)
from agentd.tools.large_results import INLINE
from agentd.wire.messages import Consent, TaskAssignment, TaskCompletion
from agentd.wire.names import MAX_ID
from agentd.wire.workflow import PREVIEW, UNDER_WAY, UNDO, OutboxMessage
from agentd_orchestrator.expressions import evaluate

MAX_TIMEOUT: Final = 30 * 86_400.0
"""Longest time-out of a workflow in seconds: as long as effect records, which prevent repetition, are kept."""
UNKNOWN: Final = {
    "deadline": "its deadline passed while it ran",
    "lost": "its agent sent nothing more while it ran",
    "abandoned": "the workflow ended while it ran",
}
"""Errors after which it is not known what a task has changed."""


class _Tasks(Mapping[str, dict[str, Any]]):
    """The tasks of a workflow as templates see them.

    Built on access, because there may be a thousand.
    """

    def __init__(self, state: Workflow) -> None:
        self._state = state

    def __getitem__(self, name: str) -> dict[str, Any]:
        task = self._state.tasks[name]
        result = self._state.result(name)
        if isinstance(result, dict) and "$stored" in result:
            raise Rejected(
                f"tasks.{name}.result: it takes {result.get('bytes')} bytes; a template sees at most {INLINE}"
            )
        code, error = ("", "") if task.error is None else (task.error.code, task.error.message)
        return {"result": result, "status": str(task.status), "error": error, "code": code, "warnings": task.warnings}

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.tasks)

    def __len__(self) -> int:
        return len(self._state.tasks)


def template_names(state: Workflow, name: str) -> dict[str, Any]:
    """Return the names that templates of the task `name` can use.

    An item, and the task that undoes it, also have `item` and `index`.
    """
    task = state.tasks[name]
    available = {"parameters": state.parameters, "tasks": _Tasks(state), "workflow_id": state.workflow_id}
    if task.parent and name.startswith(UNDO):
        task = state.tasks[task.parent]
    return available | ({"item": task.item, "index": task.index} if task.parent else {})


def parameters(state: Workflow, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return the current parameters of the task `name`.

    Raises Rejected for a template that cannot be filled in.
    """
    return resolve(state.spec(name).parameters, state, name)


def resolve(value: Any, state: Workflow, name: str) -> Any:  # noqa: ANN401 - JSON
    """Replace `result_of(…)` by results of earlier tasks and `template(…)` by values."""
    if isinstance(value, dict):
        if "$template" in value:
            return evaluate.evaluate(value["$template"], template_names(state, name))
        if "$result" in value:
            result = state.result(value["$result"])
            if "field" not in value:
                return result
            if not isinstance(result, dict):
                raise Rejected(
                    f"the result of {value['$result']} is {type(result).__name__}: it has no {value['field']!r}"
                )
            # A large result is stored in the bucket `results`: the worker fetches it and takes the field.
            return result | {"field": value["field"]} if "$stored" in result else result.get(value["field"])
        return {key: resolve(entry, state, name) for key, entry in value.items()}
    if isinstance(value, list):
        return [resolve(entry, state, name) for entry in value]
    return value


def previews_of(state: Workflow, name: str) -> list[Preview]:
    """Return the previews of the task `name`, one for each item; [] if there is none."""
    preview, task = PREVIEW + name, _preview_of(state, name)
    if task is None or task.status not in DONE or task.status is TaskStatus.SKIPPED:
        return []
    has_items = task.spec is not None and task.spec.for_each is not None
    results = state.result(preview) if has_items else [state.result(preview)]
    try:
        return msgspec.convert(results, list[Preview])
    except msgspec.ValidationError as error:
        raise Rejected(f"the result of {preview} cannot be shown: {error}") from error


def has_preview(state: Workflow, name: str) -> bool:
    """Return whether the plan contains a preview task for the task `name`."""
    return _preview_of(state, name) is not None


def _preview_of(state: Workflow, name: str) -> TaskState | None:
    """Return the preview task of `name`; the prefix of its name alone does not count."""
    task = state.tasks.get(PREVIEW + name)
    return task if task is not None and state.spec(PREVIEW + name).preview else None


def consent_for(state: Workflow, name: str) -> Consent | None:
    """Return the approval of the task `name` with the previewed targets, or None.

    An item has the approval of the task that it belongs to.
    """
    if name.startswith(UNDO):
        return None
    approval = state.tasks[_approval_holder(state, name)].approval
    if approval is None or approval.at is None:
        return None
    targets = [target for preview in previews_of(state, name) for target in preview.targets]
    index = state.tasks[name].index if state.tasks[name].parent else 0
    call = approval.calls[index] if index < len(approval.calls) else ""
    return Consent(approval.by, approval.digest, targets, call)


def _approval_holder(state: Workflow, name: str) -> str:
    """Return the task whose approval covers `name`: itself, or an item's parent."""
    return state.tasks[name].parent or name


def child_id(workflow: str, task: str, attempt: int) -> str:
    """Return the id of an attempt's child workflow: deterministic, of limited length."""
    name = f"{workflow}--{task}" + (f"-{attempt}" if attempt > 1 else "")
    return name if len(name) <= MAX_ID else f"{name[: MAX_ID - 17]}-{digest(name)[:16]}"


def assignment(state: Workflow, name: str, attempt: int) -> TaskAssignment | None:
    """Return the message that assigns this attempt; None if the attempt is over."""
    task = state.tasks[name]
    if task.attempt != attempt or task.status not in UNDER_WAY or task.assigned_at is None:
        return None
    spec = state.spec(name)
    return TaskAssignment(
        task_id=f"{state.workflow_id}.{name}",
        workflow_id=state.workflow_id,
        task_type=spec.workflow or spec.tool,
        assigned_to=spec.queue,
        parameters=parameters(state, name),
        deadline=task.deadline or task.assigned_at + timedelta(seconds=MAX_TIMEOUT),
        attempt=attempt,
        dependencies=spec.after,
        tier=state.tier,
        principal=state.principal,
        start_by=task.start_by,
        seconds=spec.timeout if spec.start_within or spec.workflow else None,
        heartbeat=spec.heartbeat_timeout,
        depth=0 if state.parent is None else state.parent.depth,
        dry_run=spec.preview,
        consent=consent_for(state, name),
        undoes=task.parent if name.startswith(UNDO) else "",
        authenticated=state.authenticated,
        guests=spec.guests,
    )


def held_completion(message: TaskAssignment, agent_id: str, why: str) -> TaskCompletion:
    """Return the completion of a task that a freeze of the network holds back."""
    error = TaskError(Frozen.code, f"{message.task_type}: nothing was done: {why}", retry=True)
    return TaskCompletion(
        task_id=message.task_id,
        workflow_id=message.workflow_id,
        attempt=message.attempt,
        status=Outcome.FAILED,
        error=error,
        agent_id=agent_id,
        service_id=subjects.service_of(message.assigned_to),
        timestamp=now(),
    )


def subject_of(state: Workflow, outbox_message: OutboxMessage) -> str:
    """Return the subject of an effect in AI_WORKFLOWS: assignment, response or timer."""
    if outbox_message.kind == "assign":
        return subjects.assign(
            state.spec(outbox_message.task).queue, state.workflow_id, outbox_message.task, outbox_message.attempt
        )
    if outbox_message.kind == "respond":
        return subjects.response(state.workflow_id)
    return subjects.timer(state.workflow_id, subjects.WHOLE_WORKFLOW, str(outbox_message.attempt))


def response(state: Workflow, agent_id: str) -> WorkflowResponse:
    """Return the response to the request of an ended workflow."""
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
        result["left"] = remaining_changes(state)
    return WorkflowResponse(state.workflow_id, str(state.status), result, state.error, agent_id)


def child_report(state: Workflow, agent_id: str) -> TaskCompletion:
    """Return the completion that reports a child workflow's end to its parent task."""
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


def remaining_changes(state: Workflow) -> list[str]:
    """List what a workflow that ended early has changed, or may have changed."""
    lines: list[str] = []
    removed = _undone_guests(state)
    for name, task in state.tasks.items():
        spec = state.spec(name)
        if name.startswith(UNDO) or spec.tier is Tier.READ or spec.reads or not task.attempt:
            continue
        undone = state.tasks.get(UNDO + name)
        if undone is not None and undone.status in DONE:
            continue
        not_undone = "" if undone is None else f"; not undone: {undone.error.message if undone.error else 'not begun'}"
        if task.status in DONE:
            lines += (
                []
                if _described_result(task.result) in removed
                else [f"{name}: {_described_result(task.result)}{not_undone}"]
            )
        elif task.error is not None and task.error.code in {*UNKNOWN, "cancelled"}:
            lines.append(f"{name}: not known, {UNKNOWN.get(task.error.code, task.error.message)}{not_undone}")
        elif not_undone:
            lines.append(f"{name}: {task.status}{not_undone}")
    return lines


def _undone_guests(state: Workflow) -> set[str]:
    """Return the guests that were created and undone again.

    Every other change to one of them was removed with it.
    """
    undone = (task for name, task in state.tasks.items() if (of := state.tasks.get(UNDO + name)) and of.status in DONE)
    return {
        _described_result(task.result) for task in undone if isinstance(task.result, dict) and "vmid" in task.result
    }


def _described_result(result: object) -> str:
    if isinstance(result, dict) and "vmid" in result:
        return f"VM {result['vmid']} {result.get('name', '')} on {result.get('node', 'an unknown node')}"
    if isinstance(result, dict) and "workflow_id" in result:
        return f"workflow {result['workflow_id']}"
    return "done"


def has_ended(task_status: TaskStatus) -> bool:
    """Return whether a task has ended, successfully or not."""
    return task_status in DONE or task_status in {TaskStatus.FAILED, TaskStatus.CANCELLED}
