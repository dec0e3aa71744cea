"""Turns a declared workflow and the parameters of a request into tasks; pure.

The same request gives the same tasks.  Expressions that use only `parameters` are evaluated here, so that a plan shows
what will be done; those that need the result of a task stay in the plan and are filled in when the task is assigned.
The parameters of a request are never evaluated as templates: they become values in the plan, and the keys that mark
references and templates in a plan are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import (
    BadExpression,
    Compensation,
    Definition,
    InvalidMessage,
    Rejected,
    TaskSpec,
    Tier,
    result_of,
    subjects,
    template,
)
from agentd.wire.codec import fault
from agentd.wire.names import check_queue
from agentd_orchestrator.declared import parameters
from agentd_orchestrator.declared.file_format import seconds
from agentd_orchestrator.expressions import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentd import Tool
    from agentd_orchestrator.declared.file_format import Call, Task, Undo, Workflow

MAX_PARALLEL: Final = 1000
RETRIES: Final = TaskSpec("", "", "", Tier.READ).retries
"""The default of a plan."""


@dataclass(frozen=True)
class Declared:
    """A workflow that was read from a file without faults.

    tools  the tools that installed plugins define
    """

    name: str
    form: Workflow
    tools: Mapping[str, Tool]

    def definition(self) -> Definition:
        """Return the definition, in the form that plugins provide."""
        kind = parameters.struct(self.name, self.form.parameters)
        return Definition(self.name, self.form.description, kind, self.plan)

    def plan(self, request: msgspec.Struct) -> list[TaskSpec]:
        """Return the tasks of a request; raises Rejected or InvalidMessage."""
        names = {"parameters": parameters.values(request)}
        known = [task.name for task in self.form.tasks]
        return [_TaskBuilder(self, names, task).spec(known) for task in self.form.tasks]


@dataclass(frozen=True)
class _TaskBuilder:
    """The conversion of one declared task into a task of a plan."""

    of: Declared
    names: dict[str, Any]
    task: Task

    def spec(self, known: list[str]) -> TaskSpec:
        task = self.task
        tool = "" if task.workflow else task.tool
        return TaskSpec(
            name=task.name,
            tool=tool,
            workflow=task.workflow,
            queue=subjects.ORCHESTRATOR if task.workflow else self._queue(task),
            tier=self._tier(task),
            parameters=self._parameters(task, task.workflow or tool),
            after=[*task.after, *(name for name in known if name in used_tasks(task) and name not in task.after)],
            timeout=seconds(task.timeout) or 0.0,
            retries=RETRIES if task.retries is None else task.retries,
            backoff=seconds(task.backoff) or 0.0,
            on_error=task.on_error,
            start_within=seconds(task.start_within),
            heartbeat_timeout=seconds(task.heartbeat_timeout),
            condition=self._condition(task.when),
            for_each=self._for_each(task.for_each),
            max_parallel=self._max_parallel(task.max_parallel),
            optional=task.optional,
            approval=self._text(task.approval, "approval"),
            compensation=None if task.undo is None else self._undo(task.undo),
            reads=task.tool in self.of.tools and self.of.tools[task.tool].reads,
        )

    def _undo(self, undo: Undo) -> Compensation:
        compensation = Compensation(
            tool=undo.tool,
            queue=self._queue(undo),
            tier=self._tier(undo),
            parameters=self._parameters(undo, undo.tool),
            timeout=seconds(undo.timeout) or 0.0,
            backoff=seconds(undo.backoff) or 0.0,
            always=undo.always,
        )
        return compensation if undo.retries is None else msgspec.structs.replace(compensation, retries=undo.retries)

    def _tier(self, call: Call) -> Tier:
        """Return the tier that a call needs.

        A parameter that is a template counts as the value that needs the highest tier.
        """
        tool = self.of.tools.get(call.tool)
        beside = [task.tool for task in self.of.form.tasks]
        return call.tier or Tier.READ if tool is None else tool.tier_for(call.with_, beside)

    def _queue(self, call: Call) -> str:
        tool = self.of.tools.get(call.tool)
        service = call.service or ("" if tool is None else tool.service)
        node, kind = self._text(call.node, "node"), self._text(call.class_, "class")
        queue = service + (f"@{node}" if node else "") + (f"+{kind}" if kind else "")
        try:
            return check_queue(queue)
        except InvalidMessage as error:
            raise Rejected(f"task {self.task.name}: {error}") from error

    def _parameters(self, call: Call, owner: str) -> dict[str, Any]:
        filled = self._resolved(call.with_, "with")
        if not isinstance(filled, dict):
            raise Rejected(f"task {self.task.name}: with: {call.with_} gives {filled!r:.80}, and a map is needed")
        # A parameter whose expression gives null is left out, so that the tool's default applies.
        explicit = (
            {key for key, value in call.with_.items() if value is None} if isinstance(call.with_, dict) else set()
        )
        filled = {key: value for key, value in filled.items() if value is not None or key in explicit}
        tool = self.of.tools.get(owner)
        for text in () if tool is None else parameter_faults(tool, filled):
            raise Rejected(f"task {self.task.name}: {text}")
        return filled

    def _resolved(self, value: Any, where: str) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, dict):
            return {key: self._resolved(item, f"{where}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if not isinstance(value, str) or not evaluate.is_template(value):
            return value
        result = evaluate.reference(value)
        if result is not None:
            return result_of(*result)
        return self._evaluate_early(value, where) if evaluate.uses(value).early else template(value)

    def _evaluate_early(self, text: str, where: str) -> Any:  # noqa: ANN401 - JSON
        try:
            value = evaluate.evaluate(text, self.names)
        except BadExpression as error:
            raise BadExpression(f"task {self.task.name}: {where}: {error}") from error
        key = evaluate.marker_key(value)
        if key:
            raise BadExpression(f"task {self.task.name}: {where}: {text} makes the key {key!r}, and $ is agentd's own")
        return value

    def _text(self, text: str, where: str) -> str:
        value = self._evaluate_early(text, where)
        return "" if value is None else str(value)

    def _condition(self, when: str) -> str:
        """Return the condition, as "true" or "false" if the parameters decide it."""
        if not when or not evaluate.uses(when, condition=True).early:
            return when
        try:
            return "true" if evaluate.is_true(when, self.names) else "false"
        except BadExpression as error:
            raise BadExpression(f"task {self.task.name}: when: {error}") from error

    def _for_each(self, listed: Any) -> Any:  # noqa: ANN401 - JSON
        filled = self._resolved(listed, "for_each")
        late = isinstance(filled, dict) and bool(evaluate.marker_key(filled))
        if filled is None and listed is not None:
            filled = []
        if filled is not None and not late and not isinstance(filled, list):
            raise Rejected(f"task {self.task.name}: for_each: {listed} gives {filled!r:.80}, and a list is needed")
        return filled

    def _max_parallel(self, given: int | str) -> int:
        value = self._evaluate_early(given, "max_parallel") if isinstance(given, str) else given
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_PARALLEL:
            raise Rejected(
                f"task {self.task.name}: max_parallel: {value!r:.80} is no whole number from 1 to {MAX_PARALLEL}"
            )
        return value


def parameter_faults(tool: Tool, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults in the parameters of a tool, as far as they are known already."""
    for field in msgspec.structs.fields(tool.parameters):
        value = given.get(field.encode_name)
        if field.encode_name not in given or evaluate.marker_key(value):
            continue
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            yield fault(error, f"{tool.name}.{field.encode_name}")


def texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield every template in `value`."""
    if isinstance(value, str):
        if evaluate.is_template(value):
            yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def used_tasks(task: Task) -> set[str]:
    """Return the other tasks whose results `task`, or its undo, uses."""
    in_undo = set() if task.undo is None else _in_all(task.undo.with_)
    own = _in_all(task.with_) | _in_all(task.for_each)
    return own | (in_undo - {task.name}) | (evaluate.tasks_in_condition(task.when) if task.when else set())


def _in_all(value: Any) -> set[str]:  # noqa: ANN401 - JSON
    return {name for text in texts(value) for name in evaluate.referenced_tasks(text)}
