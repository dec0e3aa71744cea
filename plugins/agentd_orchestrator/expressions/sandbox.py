"""jinja2's sandbox as `expressions.py` uses it: own operators and filters, maps instead of attributes.

Kept apart so that jinja2 is loaded with the first expression and not before.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from jinja2 import ChainableUndefined, StrictUndefined, UndefinedError, nodes
from jinja2.environment import TemplateExpression
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentd_orchestrator.expressions import filters, values
from agentd_orchestrator.expressions.metering import Refused

JOIN: Final = "~"
"""The filter that stands for `~` and for a text with expressions in it; no user can write its name."""
COMPARE: Final = "<>"
"""The filter that stands for comparisons; as JOIN."""
PART: Final = "[:]"
"""The filter that stands for slices; as JOIN."""
SHOWN: Final = 12
STORED: Final = "$stored"
"""What marks a result that lies in the bucket `results`."""


class Missing(StrictUndefined, ChainableUndefined):
    """A value that is not there: it may be looked into (for `default`), and is an error wherever it is used."""

    __slots__ = ()

    __getattr__ = ChainableUndefined.__getattr__
    __getitem__ = ChainableUndefined.__getitem__

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return str(self._undefined_hint)
        return f"there is no {self._undefined_name!r} here"

    def _fail_with_undefined_error(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        raise UndefinedError(self._undefined_message)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that expressions are read and evaluated in."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self) -> None:
        """Take nothing over of what jinja2 brings but its syntax."""
        super().__init__(undefined=Missing, optimized=False, cache_size=0, keep_trailing_newline=True)
        self.filters = {**filters.FILTERS, JOIN: values.joined, COMPARE: values.compare, PART: values.part}
        self.tests = dict(filters.TESTS)
        self.globals = {}

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401
        """Return what lies under a name in a map; nothing else has attributes here."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: ANN401
        """Return an item of a map, a list or a text, or a Missing that says what there is."""
        if isinstance(obj, Missing):
            return obj
        values.known(argument)
        if isinstance(obj, Mapping):
            if isinstance(argument, str) and argument in obj:
                return obj[argument]
            return self.undefined(_no_key(obj, argument))
        whole = isinstance(argument, int) and not isinstance(argument, bool)
        if whole and isinstance(obj, (list, tuple, str)) and -len(obj) <= argument < len(obj):
            return obj[argument]
        return self.undefined(_no_item(obj, argument))

    def call(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        """Refuse every call; none gets through `expressions.py`."""
        raise Refused("calls are not taken")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401, ARG002
        """Reckon with bounds."""
        return values.binary(operator, left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:  # noqa: ANN401, ARG002
        """Reckon with bounds."""
        return values.unary(operator, arg)

    def joined(self, parts: list[nodes.Expr]) -> nodes.Expr:
        """Return the expression that makes one text of `parts`."""
        constants = [nodes.Const(each.data) if isinstance(each, nodes.TemplateData) else each for each in parts]
        return nodes.Filter(nodes.List(constants), JOIN, [], [], None, None)

    def rewritten(self, node: Any) -> Any:  # noqa: ANN401 - a node, or a part of one
        """Return the expression with each `a ~ b` as a bounded filter: that operator cannot be intercepted."""
        for name, value in list(node.iter_fields()):
            if isinstance(value, nodes.Node):
                setattr(node, name, self.rewritten(value))
            elif isinstance(value, list):
                setattr(node, name, [self.rewritten(each) if isinstance(each, nodes.Node) else each for each in value])
        if isinstance(node, nodes.Concat):
            return self.joined(node.nodes)
        if isinstance(node, nodes.Compare):
            return _compared(node)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            bounds = [each or nodes.Const(None) for each in (node.arg.start, node.arg.stop, node.arg.step)]
            return nodes.Filter(node.node, PART, bounds, [], None, None)
        return node

    def compiled(self, expression: nodes.Expr) -> TemplateExpression:
        """Return what evaluates `expression` when it is called with names."""
        expression.set_environment(self)
        assign = nodes.Assign(nodes.Name("result", "store", lineno=1), expression, lineno=1)
        template = nodes.Template([assign], lineno=1)
        template.set_environment(self)
        return TemplateExpression(self.from_string(template), undefined_to_none=False)


def _compared(node: nodes.Compare) -> nodes.Expr:
    """Return a comparison as filters that pay for what they walk; `a < b < c` is `a < b and b < c`."""
    found: nodes.Expr | None = None
    left = node.expr
    for operand in node.ops:
        pair = nodes.Filter(left, COMPARE, [nodes.Const(operand.op), operand.expr], [], None, None)
        found = pair if found is None else nodes.And(found, pair)
        left = operand.expr
    return node if found is None else found


def _no_item(found: object, argument: object) -> str:
    if isinstance(found, (list, tuple, str)) and isinstance(argument, int):
        return f"there is no item {argument}: there are {len(found)}"
    if found is None:
        return f"{argument!r} is looked for in what is nothing (null)"
    return f"{values.kind(found)} has no {argument!r}"


def _no_key(found: Mapping[Any, Any], key: object) -> str:
    if STORED in found:
        return (
            f"there is no {key!r} to be seen: the result is above 16 KiB and lies in the bucket `results`; "
            "only {{ tasks.<name>.result }} or one field of it can be passed on"
        )
    values.spend(len(found) // 10)
    names = heapq.nsmallest(SHOWN + 1, map(str, found))
    there = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"there is no {key!r}; there are {there or 'none'}"
