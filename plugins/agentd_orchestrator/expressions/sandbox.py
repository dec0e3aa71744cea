"""jinja2's sandbox with our own operators and filters and no attributes.

A module of its own, so that jinja2 is loaded with the first expression and not before.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from jinja2 import ChainableUndefined, StrictUndefined, UndefinedError, nodes
from jinja2.environment import TemplateExpression
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agentd_orchestrator.expressions import filters, values
from agentd_orchestrator.expressions.metering import ExpressionRefused

JOIN: Final = "~"
"""The filter that replaces `~` and a string that contains expressions; users cannot write its name."""
COMPARE: Final = "<>"
"""The filter that replaces comparisons; users cannot write its name."""
PART: Final = "[:]"
"""The filter that replaces slices; users cannot write its name."""
SHOWN: Final = 12
STORED: Final = "$stored"
"""Key that marks a result stored in the bucket `results`."""


class Missing(StrictUndefined, ChainableUndefined):
    """A missing value: its keys may be read (for `default`), other uses are errors."""

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
    """The environment in which expressions are parsed and evaluated."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self) -> None:
        """Use only the syntax of jinja2, not its filters, tests and globals."""
        super().__init__(undefined=Missing, optimized=False, cache_size=0, keep_trailing_newline=True)
        self.filters = {**filters.FILTERS, JOIN: values.joined, COMPARE: values.compare, PART: values.slice_of}
        self.tests = dict(filters.TESTS)
        self.globals = {}

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401
        """Return the value of a key in a map; nothing else has attributes here."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: ANN401
        """Return an item of a map, a list or a string, or a Missing that lists the keys."""
        if isinstance(obj, Missing):
            return obj
        values.check_defined(argument)
        if isinstance(obj, Mapping):
            if isinstance(argument, str) and argument in obj:
                return obj[argument]
            return self.undefined(_no_key(obj, argument))
        is_index = isinstance(argument, int) and not isinstance(argument, bool)
        if is_index and isinstance(obj, (list, tuple, str)) and -len(obj) <= argument < len(obj):
            return obj[argument]
        return self.undefined(_no_item(obj, argument))

    def call(self, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        """Refuse every call; `evaluate.py` has already refused them."""
        raise ExpressionRefused("calls are not accepted")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401, ARG002
        """Evaluate a binary operator within the limits."""
        return values.binary(operator, left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:  # noqa: ANN401, ARG002
        """Evaluate a unary operator within the limits."""
        return values.unary(operator, arg)

    def joined(self, parts: list[nodes.Expr]) -> nodes.Expr:
        """Return the expression that joins `parts` into one string."""
        constants = [nodes.Const(part.data) if isinstance(part, nodes.TemplateData) else part for part in parts]
        return nodes.Filter(nodes.List(constants), JOIN, [], [], None, None)

    def rewritten(self, node: Any) -> Any:  # noqa: ANN401 - a node, or a part of one
        """Replace `~`, comparisons and slices by limited filters.

        jinja2 cannot intercept these operators.
        """
        for name, value in list(node.iter_fields()):
            if isinstance(value, nodes.Node):
                setattr(node, name, self.rewritten(value))
            elif isinstance(value, list):
                setattr(node, name, [self.rewritten(item) if isinstance(item, nodes.Node) else item for item in value])
        if isinstance(node, nodes.Concat):
            return self.joined(node.nodes)
        if isinstance(node, nodes.Compare):
            return _compared(node)
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
            return nodes.Filter(node.node, PART, bounds, [], None, None)
        return node

    def compiled(self, expression: nodes.Expr) -> TemplateExpression:
        """Return a callable that evaluates `expression` with given names."""
        expression.set_environment(self)
        assign = nodes.Assign(nodes.Name("result", "store", lineno=1), expression, lineno=1)
        template = nodes.Template([assign], lineno=1)
        template.set_environment(self)
        return TemplateExpression(self.from_string(template), undefined_to_none=False)


def _compared(node: nodes.Compare) -> nodes.Expr:
    """Return a comparison as filters that count their steps.

    `a < b < c` becomes `a < b and b < c`.
    """
    result: nodes.Expr | None = None
    left = node.expr
    for operand in node.ops:
        pair = nodes.Filter(left, COMPARE, [nodes.Const(operand.op), operand.expr], [], None, None)
        result = pair if result is None else nodes.And(result, pair)
        left = operand.expr
    return node if result is None else result


def _no_item(found: object, argument: object) -> str:
    if isinstance(found, (list, tuple, str)) and isinstance(argument, int):
        return f"there is no item {argument}: there are {len(found)}"
    if found is None:
        return f"{argument!r} is searched in a value that is nothing (null)"
    return f"{values.type_name(found)} has no {argument!r}"


def _no_key(found: Mapping[Any, Any], key: object) -> str:
    if STORED in found:
        return (
            f"{key!r} cannot be read here: the result is above 16 KiB and is stored in the bucket `results`; "
            "only {{ tasks.<name>.result }} or one field of it can be passed on"
        )
    values.spend_steps(len(found) // 10)
    names = heapq.nsmallest(SHOWN + 1, map(str, found))
    listed = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"there is no {key!r}; there are {listed or 'none'}"
