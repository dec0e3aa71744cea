"""Checks of a workflow file beyond its format.

They cover names, dependencies, tools with their parameters, and expressions.  Every fault that can be known before a
request arrives is reported here, all at once, each with its position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentd import BadExpression
from agentd.similar import suggestion
from agentd.wire import tool_names
from agentd.wire.workflow import UNDO
from agentd_orchestrator.declared import file_format, parameters, typed_yaml, workflow
from agentd_orchestrator.declared.typed_yaml import locate_error
from agentd_orchestrator.declared.yaml_source import Position, Report, Value
from agentd_orchestrator.declared.yaml_source import read as read_yaml
from agentd_orchestrator.expressions import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentd import Tool
    from agentd_orchestrator.declared.file_format import Call, Task, Workflow

EARLY: Final = frozenset({"parameters"})
C = TypeVar("C", bound="Call")
LATE: Final = frozenset({"parameters", "tasks", "workflow_id"})
ITEM: Final = frozenset({"item", "index"})


@dataclass(frozen=True)
class KnownNames:
    """What a file may refer to by name: tools, and the parameters of other workflows.

    The parameters of a workflow are None while they are not known yet.
    """

    tools: Mapping[str, Tool]
    workflows: Mapping[str, type[msgspec.Struct] | None]


def read(data: bytes, file: str, name: str, known: KnownNames) -> tuple[workflow.Declared | None, Report]:
    """Return the workflow `name` that `data` declares, or None, and every fault."""
    report = Report(file)
    tree = read_yaml(data, report)
    if tree is None:
        return None, report
    form = _current(typed_yaml.read(file_format.Workflow, tree, report), known.tools)
    if form.name not in {"", name}:
        at = tree.value["name"].at
        report.add(at, "name", f"the file is called {name}, and this is {form.name}; leave it out, or rename the file")
    _Check(form, tree, report, known).all()
    return (None if report.faults else workflow.Declared(name, form, known.tools)), report


def _current(form: Workflow, tools: Mapping[str, Tool]) -> Workflow:
    """Return the workflow with current names in place of old tool names."""

    def renamed(call: C) -> C:
        name = tool_names.current(call.tool, tools)
        if name == call.tool or name not in tools or call.service not in {"", tools[name].service}:
            return call  # another service may have a tool of that name
        return msgspec.structs.replace(call, tool=name)

    tasks = [
        msgspec.structs.replace(renamed(task), undo=None if task.undo is None else renamed(task.undo))
        for task in form.tasks
    ]
    return msgspec.structs.replace(form, tasks=tasks)


class _Check:
    def __init__(self, found: Workflow, tree: Value, report: Report, known: KnownNames) -> None:
        self._form = found
        self._report = report
        self._known = known
        lists = tree.value.get("tasks") if isinstance(tree.value, dict) else None
        places = lists.value if lists is not None and isinstance(lists.value, list) else []
        self._tasks = [
            _TaskCheck(self, task, at, typed_yaml.title(at, "tasks", index))
            for index, (task, at) in enumerate(zip(found.tasks, places, strict=True))
        ]
        self._declared = tree.value.get("parameters") if isinstance(tree.value, dict) else None
        self.names = {task.name for task in found.tasks if task.name}

    def all(self) -> None:
        if self._declared is not None and self._form.parameters:
            parameters.check(self._form.parameters, self._declared, self._report)
        seen: dict[str, Position] = {}
        for task in self._tasks:
            if task.name and task.name in seen:
                text = f"there is a task of this name already, in line {seen[task.name].line}"
                self._report.add(task.place("name"), f"{task.where}.name", text)
            seen.setdefault(task.name, task.place("name"))
            task.all()
            item = re.compile(re.escape(task.name) + r"-\d+\Z")
            for name in sorted(filter(item.match, self.names if task.name and task.several else ())):
                self._report.add(task.place("name"), f"{task.where}.name", f"its items would be called as {name} is")
        self._order()

    def add(self, at: Position, where: str, text: str) -> None:
        self._report.add(at, where, text)

    @property
    def known(self) -> KnownNames:
        return self._known

    @property
    def declared(self) -> Mapping[str, Any]:
        return self._form.parameters

    def expression(self, value: Value, text: str, where: str, allowed: frozenset[str], *, condition: bool) -> set[str]:
        """Check an expression; return the tasks that it refers to."""
        try:
            uses = evaluate.uses(text, condition=condition)
        except BadExpression as error:
            self.add(self._report.find(value, error.line, error.word), where, str(error))
            return set()
        for name in sorted(uses.names - allowed):
            self.add(self._report.find(value, 1, name), where, _out_of_scope(name, allowed))
        for name in sorted(uses.parameters - {"*", *self.declared}):
            hint = suggestion(name, sorted(self.declared))
            self.add(self._report.find(value, 1, name), where, f"there is no parameter {name!r}{hint}")
        return set(uses.tasks) if "tasks" in allowed else set()

    def task(self, value: Value, name: str, where: str) -> bool:
        """Return whether the task `name` exists; report it if not."""
        if name in self.names:
            return True
        self.add(
            self._report.find(value, 1, name), where, f"there is no task {name!r}{suggestion(name, sorted(self.names))}"
        )
        return False

    def _order(self) -> None:
        """Report cycles, and tasks that go back to a task that does not come before them."""
        before: dict[str, set[str]] = {}
        remaining = {task.name: task for task in self._tasks}
        while ready := [task for task in remaining.values() if task.after <= set(before)]:
            for task in ready:
                before[task.name] = task.after.union(*(before[other] for other in task.after))
                del remaining[task.name]
        if remaining:
            cycle = _circle(remaining)
            names = " → ".join([*cycle, cycle[0]])
            self.add(
                remaining[cycle[0]].place("name"), remaining[cycle[0]].where, f"these wait for one another: {names}"
            )
        for task in self._tasks:
            over = [other.name for other in self._tasks if other.several and other.name in before.get(task.name, ())]
            for name in [name for name in over if before[name] & set(task.on_error)]:
                self.add(
                    task.place("on_error"),
                    f"{task.where}.on_error",
                    f"cannot go back over {name!r}, which has for_each",
                )
            for target in sorted(set(task.on_error) - before.get(task.name, set(task.on_error))):
                text = f"goes back to {target!r}, which is not before it; add it under after"
                self.add(task.place("on_error"), f"{task.where}.on_error", text)


def _circle(remaining: Mapping[str, _TaskCheck]) -> list[str]:
    """Return one cycle among tasks that wait for one another."""
    path = [min(remaining)]
    while (following := min(name for name in remaining[path[-1]].after if name in remaining)) not in path:
        path.append(following)
    return path[path.index(following) :]


def _out_of_scope(name: str, allowed: frozenset[str]) -> str:
    if name in ITEM:
        return f"{name!r} is known only in with and undo, of a task that has for_each"
    return f"{name!r} is not known here, before anything has run; only {', '.join(sorted(allowed))} is"


class _TaskCheck:
    """Checks one task."""

    def __init__(self, of: _Check, task: Task, value: Value, where: str) -> None:
        self._of = of
        self.where = where
        self._task = task
        self._value = value
        self.name = task.name
        self.after: set[str] = set()
        self.on_error: list[str] = []

    def place(self, *path: str) -> Position:
        """Return the position of a field, or of the nearest enclosing field."""
        return self._at(*path).at

    def _at(self, *path: str) -> Value:
        current = self._value
        for key in path:
            if not isinstance(current.value, dict) or key not in current.value:
                return current
            current = current.value[key]
        return current

    @property
    def several(self) -> bool:
        """Return whether the task has `for_each`, so that it becomes one task per item."""
        return self._given("for_each")

    def _given(self, key: str) -> bool:
        return key in self._value.keys

    def all(self) -> None:
        if not isinstance(self._value.value, dict):  # a fault of format, already reported
            return
        task, where = self._task, self.where
        if self._given("tool") == self._given("workflow"):
            self._of.add(self._value.at, where, "needs either tool or workflow: what it does")
        if task.name.startswith(UNDO):
            self._of.add(self.place("name"), f"{where}.name", f"names with {UNDO} are those of what undoes a task")
        late = LATE | ITEM if self.several else LATE
        self._call(task, self._value, where, late)
        if task.undo is not None:
            self._undo(f"{where}.undo", late)
        if self._given("workflow"):
            self._workflow(where)
        if task.when:
            self._add_dependencies(
                self._expression("when", task.when, LATE, condition=True), self._at("when"), f"{where}.when"
            )
        self._templates(self._at("for_each"), f"{where}.for_each", LATE)
        for key in ("max_parallel", "approval"):
            self._templates(self._at(key), f"{where}.{key}", EARLY)
        self._check_references(where)

    def _expression(self, key: str, text: str, allowed: frozenset[str], *, condition: bool) -> set[str]:
        return self._of.expression(self._at(key), text, f"{self.where}.{key}", allowed, condition=condition)

    def _add_dependencies(self, names: set[str], value: Value, where: str, *, itself: bool = False) -> None:
        """Record that the task uses the results of other tasks."""
        for name in sorted(names):
            if name == self.name and not itself:
                self._of.add(value.at, where, "a task cannot use its own result")
            elif name != self.name and self._of.task(value, name, where):
                self.after.add(name)

    def _check_references(self, where: str) -> None:
        """Check the tasks that `after` and `on_error` name."""
        for index, name in enumerate(self._task.after):
            value = self._at("after")
            value = value.value[index] if isinstance(value.value, list) else value
            if name == self.name:
                self._of.add(value.at, f"{where}.after", "a task cannot be after itself")
            elif self._of.task(value, name, f"{where}.after"):
                self.after.add(name)
        on_error = self._task.on_error.items()
        if self.several and on_error:
            self._of.add(self.place("on_error"), f"{where}.on_error", "a task that has for_each cannot go back")
        self.on_error = [
            name
            for code, name in on_error
            if self._of.task(self._at("on_error", code), name, f"{where}.on_error.{code}")
        ]

    def _undo(self, where: str, allowed: frozenset[str]) -> None:
        undo, value = self._task.undo, self._at("undo")
        if undo is None or not isinstance(value.value, dict):
            return
        if "tool" not in value.keys:
            self._of.add(value.at, where, "tool is missing: what undoes the task")
        self._call(undo, value, where, allowed, itself=True)

    def _call(self, call: Call, value: Value, where: str, allowed: frozenset[str], *, itself: bool = False) -> None:
        """Check what is called, where, and with which parameters."""
        for key in ("node", "class"):
            if isinstance(value.value, dict) and key in value.value:
                self._templates(value.value[key], f"{where}.{key}", EARLY)
        given = value.value.get("with")
        if given is not None:
            self._templates(given, f"{where}.with", allowed, itself=itself)
            self._keys(given, f"{where}.with")
        if call.tool:
            self._tool(call, value, where, itself=itself)

    def _templates(self, value: Value, where: str, allowed: frozenset[str], *, itself: bool = False) -> None:
        """Check every expression in `value`."""
        if value is self._value:  # the field is not there
            return
        for text, inner in _strings(value, where):
            if evaluate.is_template(text.value):
                used = self._of.expression(text, text.value, inner, allowed, condition=False)
                self._add_dependencies(used, text, inner, itself=itself)

    def _keys(self, value: Value, where: str) -> None:
        """Report keys that a plan reserves for itself, and expressions as keys."""
        for key, at in value.keys.items():
            if key.startswith("$") or evaluate.is_template(key):
                text = "keys that begin with $ are agentd's own" if key[0] == "$" else "a key cannot be an expression"
                self._of.add(at, f"{where}.{key}", text)
        below = value.value.items() if isinstance(value.value, dict) else ()
        for key, item in below:
            self._keys(item, f"{where}.{key}")
        for index, item in enumerate(value.value if isinstance(value.value, list) else ()):
            self._keys(item, f"{where}[{index}]")

    # -- tools ---------------------------------------------------------------------------------------------------------

    def _tool(self, call: Call, value: Value, where: str, *, itself: bool) -> None:
        tools, at = self._of.known.tools, value.value["tool"].at
        tool = tools.get(call.tool)
        if tool is None:
            self._check_unknown_tool(call, at, where)
            return
        if tool.undoes and not itself:
            self._of.add(at, f"{where}.tool", f"{tool.name} only undoes a task: name it under `undo` of that task")
        if call.service and call.service != tool.service:
            text = f"{tool.name} is a tool of {tool.service}, not of {call.service}; leave service out"
            self._of.add(value.value["service"].at, f"{where}.service", text)
        if call.tier is not None and call.tier != tool.tier:
            text = f"{tool.name} is of tier {tool.tier}, not {call.tier}; leave tier out"
            self._of.add(value.value["tier"].at, f"{where}.tier", text)
        if isinstance(call.with_, dict):
            given = value.value.get("with", Value(at, {}))
            self._struct(tool.name, tool.parameters, given, f"{where}.with")

    def _check_unknown_tool(self, call: Call, at: Position, where: str) -> None:
        """Check a tool that no installed plugin defines: an external agent may offer it."""
        tools = self._of.known.tools
        is_installed = call.service in {tool.service for tool in tools.values()}
        if call.service and call.tier is not None and not is_installed:
            return
        hint = suggestion(call.tool, sorted(tools), listed="`agentd tools` lists them") if tools else ""
        advice = (
            f"{call.service} has none of that name"
            if is_installed
            else "if an external agent offers it, give service and tier"
        )
        self._of.add(at, f"{where}.tool", f"no installed plugin defines a tool {call.tool!r}{hint} ({advice})")

    def _workflow(self, where: str) -> None:
        name, known = self._task.workflow, self._of.known.workflows
        if name and name not in known:
            text = f"there is no workflow {name!r}{suggestion(name, sorted(known))}"
            self._of.add(self.place("workflow"), f"{where}.workflow", text)
        kind = known.get(name)
        if kind is not None and isinstance(self._task.with_, dict):
            given = self._value.value.get("with", Value(self.place("workflow"), {}))
            self._struct(name, kind, given, f"{where}.with")
        for key in ("service", "node", "class", "tier", "undo"):
            if self._given(key):
                self._of.add(self.place(key), f"{where}.{key}", "belongs to a tool, and this starts a workflow")

    def _struct(self, owner: str, kind: type[msgspec.Struct], given: Value, where: str) -> None:
        """Check the given parameters, as far as they are known, against the type `kind`."""
        if not isinstance(given.value, dict):
            return
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key, at in given.keys.items():
            if key not in fields:
                self._of.add(at, f"{where}.{key}", f"{owner} takes no {key!r}{suggestion(key, sorted(fields))}")
        missing = [key for key, field in fields.items() if field.required and key not in given.keys]
        if missing:
            self._of.add(given.at, where, f"{owner} needs {', '.join(missing)}")
        for key, value in given.value.items():
            if key in fields and not any(workflow.texts(value.plain)):
                self._fits(value, fields[key].type, f"{where}.{key}")

    def _fits(self, value: Value, kind: Any, where: str) -> None:  # noqa: ANN401 - any field
        try:
            msgspec.convert(value.plain, kind)
        except msgspec.ValidationError as error:
            at, text = locate_error(value, error, typed_yaml.description_of(kind))
            self._of.add(at, where, text)


def _strings(value: Value, where: str) -> Iterator[tuple[Value, str]]:
    """Yield every string in `value`, with its path."""
    if isinstance(value.value, str):
        yield value, where
    elif isinstance(value.value, dict):
        for key, item in value.value.items():
            yield from _strings(item, f"{where}.{key}")
    elif isinstance(value.value, list):
        for index, item in enumerate(value.value):
            yield from _strings(item, f"{where}[{index}]")
