"""Checks of a plan: names, dependencies, cycles, references, sizes."""

from __future__ import annotations

import re
from typing import Any, Final

from agentd import Rejected, TaskSpec, subjects
from agentd.wire.names import check_queue, check_task
from agentd.wire.workflow import UNDO
from agentd_orchestrator.expressions import evaluate
from agentd_orchestrator.state_machine.outgoing import MAX_TIMEOUT

MAX_TASKS: Final = 1000
"""Most tasks of one workflow, items included: they take half of the largest state, their results the other half."""


def check_plan(plan: list[TaskSpec]) -> None:
    """Raise Rejected, naming the task and its fault, if `plan` is not valid."""
    names = [task.name for task in plan]
    if not plan or len(plan) > MAX_TASKS:
        raise Rejected(f"a plan has 1 to {MAX_TASKS} tasks; this one has {len(plan)}")
    for task in plan:
        _check_task(task, names)
    if len(set(names)) != len(names):
        raise Rejected("two tasks of the plan have the same name")
    _check_order(plan)


def default_timeout(plan: list[TaskSpec]) -> float:
    """Return the seconds that all attempts of all tasks may take in sequence.

    A month if that is not known, because there are items or child workflows.
    """
    if any(task.for_each is not None or task.workflow for task in plan):
        return MAX_TIMEOUT
    return min(MAX_TIMEOUT, sum((task.timeout + (task.start_within or 0)) * (1 + task.retries) for task in plan))


def _check_task(task: TaskSpec, names: list[str]) -> None:
    check_task(task.name)
    check_queue(task.queue)
    item = re.compile(re.escape(task.name) + r"-\d+\Z")
    unknown = [name for name in (*task.after, *task.on_error.values()) if name not in names]
    faults = [
        (unknown, f"depends on {unknown[0]!r}, which the plan does not have" if unknown else ""),
        (task.name.startswith(UNDO), f"names that begin with {UNDO!r} are those of what undoes a task"),
        (bool(task.tool) is bool(task.workflow), "it calls a tool or starts a workflow, one of the two"),
        (
            bool(task.workflow) is not (task.queue == subjects.ORCHESTRATOR),
            f"only workflows go to the queue {subjects.ORCHESTRATOR!r}",
        ),
        (task.for_each is not None and task.on_error, "items cannot go back to an earlier task"),
        (task.max_parallel < 1, f"max_parallel: {task.max_parallel}; it is at least 1"),
        (task.retries < 0 or task.backoff < 0, "retries and backoff are at least 0"),
        (
            task.for_each is not None and any(map(item.match, names)),
            "another task is named as one of its items would be",
        ),
    ]
    for wrong, text in faults:
        if wrong:
            raise _fault(task, text)
    for field in ("timeout", "start_within", "heartbeat_timeout"):
        value = getattr(task, field)
        if value is not None and not 0 < value <= MAX_TIMEOUT:
            raise _fault(task, f"{field}: {value:g} s; it is more than 0 and at most {MAX_TIMEOUT:.0f} s")


def _fault(task: TaskSpec, text: str) -> Rejected:
    return Rejected(f"task {task.name}: {text}")


def _check_order(plan: list[TaskSpec]) -> None:
    """Raise Rejected for a cycle, or a reference to a task that does not come before."""
    before: dict[str, set[str]] = {}
    remaining = list(plan)
    while remaining:
        ready = [task for task in remaining if all(other in before for other in task.after)]
        if not ready:
            raise Rejected(f"the tasks {', '.join(task.name for task in remaining)} wait for one another")
        for task in ready:
            before[task.name] = set(task.after).union(*(before[other] for other in task.after))
            _check_references(task, before[task.name])
        remaining = [task for task in remaining if task.name not in before]
    _check_goto(plan, before)


def _check_references(task: TaskSpec, before: set[str]) -> None:
    not_before = set(task.on_error.values()) - before
    if not_before:
        raise _fault(task, f"goes back to {min(not_before)!r}, which is not before it")
    referenced = [*_references_of(task.parameters), *_references_of(task.for_each)]
    if task.condition:
        evaluate.check_condition(task.condition)
        referenced += sorted(evaluate.referenced_tasks(f"{{{{ {task.condition} }}}}"))
    unknown = [other for other in referenced if other not in list(before)]
    if unknown:
        raise _fault(task, f"needs the result of {unknown[0]!r}, which is not before it")
    if task.compensation is not None:
        check_queue(task.compensation.queue)
        unknown = [other for other in _references_of(task.compensation.parameters) if other not in [*before, task.name]]
        if unknown:
            raise _fault(task, f"its compensation needs the result of {unknown[0]!r}, which is not before it")


def _check_goto(plan: list[TaskSpec], before: dict[str, set[str]]) -> None:
    """Raise Rejected if going back would repeat items: their names would be reused."""
    with_items = [task.name for task in plan if task.for_each is not None]
    for task in plan:
        for back_to in task.on_error.values():
            repeated = [name for name in with_items if back_to in before[name] and name in before[task.name]]
            if repeated:
                raise _fault(task, f"cannot go back over {repeated[0]!r}, which has items")


def _references_of(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """Return the tasks whose results `value` refers to, valid names or not."""
    if isinstance(value, dict):
        if "$template" in value:
            evaluate.check(value["$template"])
            return sorted(evaluate.referenced_tasks(value["$template"]))
        return [value["$result"]] if "$result" in value else _references_of(list(value.values()))
    return [name for entry in value for name in _references_of(entry)] if isinstance(value, list) else []
