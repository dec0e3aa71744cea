"""Expressions of declared workflows: jinja2's sandbox, restricted further.

    {{ tasks.find.result.guests | selectattr('status', 'eq', 'running') | list }}

Only expressions are accepted: no statement, loop, macro, call or power.  A name is one of `parameters`, `tasks`,
`item`, `index` and `workflow_id`; a dot accesses keys of maps and never an attribute of a Python object, so Python's
internals are not reachable.  Operators and filters are our own (`filters.py`), with limits on what they read and
create; a template is limited in length and nesting, and its result must be JSON of limited size.  There is no clock and
no randomness: the same names give the same value in every orchestrator.

The tasks and parameters that a template refers to are known without evaluating it (`uses`), because they cannot be
computed: `tasks[…]` accepts only a quoted name.

jinja2 is imported with the first expression: an orchestrator without declared workflows does not pay for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from agentd import BadExpression
from agentd.similar import suggestion
from agentd_orchestrator.expressions.metering import ExpressionRefused, meter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import nodes
    from jinja2.environment import TemplateExpression

    from agentd_orchestrator.expressions.sandbox import Sandbox

MAX_TEMPLATE: Final = 4000
"""Characters of one template."""
MAX_NODES: Final = 400
"""Parts of one template: names, constants, operators, filters."""
MAX_DEPTH: Final = 25
"""Maximum nesting of the parts of a template."""
CACHED: Final = 1024
"""Compiled templates that are cached."""
NAMES: Final = ("parameters", "tasks", "item", "index", "workflow_id")
OF_A_TASK: Final = ("result", "status", "error", "code", "warnings")
SHOWN: Final = 160
NO_STATEMENTS: Final = "only expressions in {{ … }} are accepted, no statements ({% … %})"

_BEGINS: Final = re.compile(r"\{[{%#]")
_REFERENCE: Final = re.compile(
    r"\s*\{\{\s*tasks\.([A-Za-z][A-Za-z0-9_]*)\.result(?:\.([A-Za-z_][A-Za-z0-9_]*))?\s*\}\}\s*"
)
_WHY_NOT: Final = {
    "Call": "calls are not accepted; use a filter: {{ value | filter }}",
    "Pow": "there is no power in expressions",
    "TemplateReference": "'self' is not accepted",
}
_TAKEN: Final = frozenset(
    (
        *("Output", "TemplateData", "Name", "Const", "List", "Tuple", "Dict", "Pair", "Keyword", "CondExpr", "Filter"),
        *("Test", "Getattr", "Getitem", "Slice", "Compare", "Operand", "And", "Or", "Not", "Add", "Sub", "Mul", "Div"),
        *("FloorDiv", "Mod", "Neg", "Pos", "Concat"),
    )
)


@dataclass(frozen=True)
class Uses:
    """The names that a template refers to.

    names       those of NAMES
    tasks       names of tasks
    parameters  names of parameters; "*" for all parameters as one map
    """

    names: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()

    @property
    def early(self) -> bool:
        """Return whether the template can be evaluated once the parameters are known."""
        return self.names <= {"parameters"}


@dataclass
class _Found:
    names: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    nodes: int = 0


@dataclass(frozen=True)
class _Read:
    """A parsed template: the expression that gives its value, and the names it uses."""

    expression: nodes.Expr
    uses: Uses


# -- public functions --------------------------------------------------------------------------------------------------


def is_template(text: str) -> bool:
    """Return whether `text` contains anything to evaluate."""
    return _BEGINS.search(text) is not None


def evaluate(template: str, names: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Evaluate `template`: a single `{{ … }}` gives its value, all else a string.

    Raises BadExpression.
    """
    return _run(template, names, condition=False)


def is_true(condition: str, names: Mapping[str, Any]) -> bool:
    """Return whether `condition`, an expression without braces, is true.

    Raises BadExpression, also for a string: "false" and "no" would be true.
    """
    value = _run(condition, names, condition=True)
    if isinstance(value, str):
        _fail(condition, f"it gives the text {value[:40]!r}, neither true nor false: compare it, or use | bool", "")
    return bool(value)


def check(template: str) -> None:
    """Raise BadExpression if `template` cannot be evaluated with any values."""
    _read(template, condition=False)


def check_condition(condition: str) -> None:
    """Raise BadExpression if `condition` cannot be evaluated with any values."""
    _read(condition, condition=True)


def uses(template: str, *, condition: bool = False) -> Uses:
    """Return the names that `template` (or a condition) uses; raises BadExpression."""
    return _read(template, condition=condition).uses


def referenced_tasks(template: str) -> set[str]:
    """Return the tasks that `template` refers to; raises BadExpression."""
    return set(uses(template).tasks)


def tasks_in_condition(condition: str) -> set[str]:
    """Return the tasks that `condition` refers to; raises BadExpression."""
    return set(uses(condition, condition=True).tasks)


def reference(template: str) -> tuple[str, str] | None:
    """Return (task, field) if `template` is just a result or one field, else None.

    Such a template, {{ tasks.a.result.b }}, need not be evaluated, and its value may have any size, because it is
    passed by reference.
    """
    match = _REFERENCE.fullmatch(template)
    return (match[1], match[2] or "") if match else None


def marker_key(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return the first key in `value` that starts with "$", or "".

    A plan marks with such keys what is filled in later.
    """
    if isinstance(value, dict):
        first = next((key for key in value if isinstance(key, str) and key.startswith("$")), "")
        return first or next(filter(None, map(marker_key, value.values())), "")
    return next(filter(None, map(marker_key, value)), "") if isinstance(value, (list, tuple)) else ""


# -- reading -----------------------------------------------------------------------------------------------------------


@lru_cache(1)
def _sandbox() -> Sandbox:
    from agentd_orchestrator.expressions.sandbox import Sandbox

    return Sandbox()


@lru_cache(CACHED)
def _read(text: str, *, condition: bool) -> _Read:
    from jinja2 import TemplateSyntaxError

    if len(text) > MAX_TEMPLATE:
        _fail(text, f"it is {len(text)} characters long; at most {MAX_TEMPLATE} are taken", "")
    if condition and is_template(text):
        _fail(text, "a condition is written without braces", "{")
    meter().charge(len(text))
    sandbox = _sandbox()
    try:
        parsed = sandbox.parse(f"{{{{ {text} }}}}" if condition else text)
    except TemplateSyntaxError as error:
        if "{%" in text:
            _fail(text, NO_STATEMENTS, "{%", error.lineno)
        _fail(text, _simplify_message(str(error.message)), "", error.lineno)
    except (RecursionError, MemoryError):
        _fail(text, "it is nested too deeply", "")
    found = _Found()
    parts: list[nodes.Expr] = []
    for output in parsed.body:
        _check(text, output, found, 0)
        parts += output.nodes  # type: ignore[attr-defined]  # an Output, or it was refused
    if condition and len(parts) != 1:
        _fail(text, "a condition is one expression", "")
    expression = sandbox.joined(parts) if len(parts) != 1 or _is_data(parts[0]) else parts[0]
    used = Uses(frozenset(found.names), frozenset(found.tasks), frozenset(found.parameters))
    return _Read(sandbox.rewritten(expression), used)


def _simplify_message(message: str) -> str:
    """Return jinja2's syntax error without jinja2's internal terms."""
    return message.replace("end of print statement", "}}").replace("'}}'", "}}").rstrip(".")


def _is_data(node: nodes.Node) -> bool:
    return type(node).__name__ == "TemplateData"


def _check(text: str, node: nodes.Node, found: _Found, depth: int) -> None:
    """Check a node of a template and all below it; record the names that it uses."""
    from jinja2 import nodes

    kind = type(node).__name__
    found.nodes += 1
    if found.nodes > MAX_NODES:
        _fail(text, f"it has more than {MAX_NODES} parts", "", node.lineno)
    if depth > MAX_DEPTH:
        _fail(text, "it is nested too deeply", "", node.lineno)
    if kind not in _TAKEN:
        _fail(text, _WHY_NOT.get(kind, NO_STATEMENTS), _word(node), node.lineno)
    if isinstance(node, (nodes.Filter, nodes.Test)):
        _check_named(text, node)
    elif isinstance(node, (nodes.Getattr, nodes.Getitem)):
        _note_path(text, node, found)
    elif isinstance(node, nodes.Name):
        _note_name(text, node, found)
    for child in [] if _has_known_root(node) else node.iter_child_nodes():
        _check(text, child, found, depth + 1)


def _has_known_root(node: nodes.Node) -> bool:
    """Return whether `node` is `parameters.x` or `tasks.x`, handled by `_note_path`."""
    root = getattr(node, "node", None)
    rooted = type(root).__name__ == "Name" and getattr(root, "name", "") in {"parameters", "tasks"}
    return rooted and isinstance(_key(node), str)


def _word(node: nodes.Node) -> str:
    """Return a word that locates `node` in its line."""
    kind = type(node).__name__
    if kind == "Call":
        called = getattr(node, "node", None)
        return str(getattr(called, "attr", "") or getattr(called, "name", "")) + "("
    return {"Pow": "**"}.get(kind, "{%")


def _check_named(text: str, node: nodes.Filter | nodes.Test) -> None:
    """Refuse an unknown filter or test, and arguments with `*` and `**`."""
    from jinja2 import nodes

    from agentd_orchestrator.expressions.filters import FILTERS, TESTS

    noun, known = ("filter", FILTERS) if isinstance(node, nodes.Filter) else ("test", TESTS)
    if node.name not in known:
        _fail(text, f"there is no {noun} {node.name!r}{suggestion(node.name, sorted(known))}", node.name, node.lineno)
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        _fail(text, "arguments with * and ** are not accepted", "*", node.lineno)


def _note_name(text: str, node: nodes.Name, found: _Found) -> None:
    if node.name not in NAMES:
        _fail(text, f"there is no {node.name!r}{suggestion(node.name, sorted(NAMES))}", node.name, node.lineno)
    if node.name == "tasks":
        _fail(text, "tasks are named: tasks.<name>.result, or tasks['<name>'].result", "tasks", node.lineno)
    found.names.add(node.name)
    if node.name == "parameters":
        found.parameters.add("*")


def _note_path(text: str, node: nodes.Getattr | nodes.Getitem, found: _Found) -> None:
    """Record `parameters.x` and `tasks.x`; refuse unknown task fields and `__` names."""
    key = _key(node)
    if isinstance(key, str) and key.startswith("__"):
        _fail(text, f"{key!r} is not accessible: only items of maps and lists are", key, node.lineno)
    if _has_known_root(node):
        root = str(node.node.name)  # type: ignore[attr-defined]
        found.names.add(root)
        (found.tasks if root == "tasks" else found.parameters).add(str(key))
    elif getattr(getattr(node.node, "node", None), "name", "") == "tasks" and key not in OF_A_TASK:
        _fail(text, f"a task has {', '.join(OF_A_TASK)}, and no {key!r}", str(key), node.lineno)


def _key(node: nodes.Node) -> object:
    """Return the constant key or index of `node`; None if it is computed."""
    if hasattr(node, "attr"):
        return node.attr
    return getattr(getattr(node, "arg", None), "value", None)


def _fail(text: str, problem: str, word: str, line: int = 1) -> NoReturn:
    shown = " ".join(text.split())
    shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
    raise BadExpression(f"expression {shown!r}: {problem}", line=line, word=word)


# -- evaluating --------------------------------------------------------------------------------------------------------


@lru_cache(CACHED)
def _compiled(text: str, *, condition: bool) -> TemplateExpression:
    expression = _read(text, condition=condition).expression
    meter().charge(10 * len(text))
    return _sandbox().compiled(expression)


def _run(text: str, names: Mapping[str, Any], *, condition: bool) -> Any:  # noqa: ANN401 - JSON
    from jinja2 import TemplateError

    from agentd_orchestrator.expressions import values

    if not condition and not is_template(text):
        return text
    compiled = _compiled(text, condition=condition)
    values.begin_evaluation()
    try:
        return values.plain(compiled(names))
    except (TemplateError, ExpressionRefused) as error:
        _fail(text, str(error), "")
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        _fail(text, f"it cannot be evaluated: {error}", "")
