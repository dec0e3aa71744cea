"""The values of expressions (JSON of limited size), and their operators.

Every function that reads many items, or creates a large value, first calls `spend_steps` or `check_size`, which refuse
it beyond a limit: no expression can block an orchestrator or fill its memory.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from jinja2.runtime import Undefined

from agentd_orchestrator.expressions.metering import ExpressionRefused, meter

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SIZE: Final = 128 * 1024
"""Maximum size of any value that an expression creates: characters plus eight times the items."""
MAX_INT: Final = 2**63 - 1

Value = Any
"""A JSON value."""


def begin_evaluation() -> None:
    """Allow the next expression its steps."""
    meter().begin()


def spend_steps(steps: int) -> None:
    """Use `steps` of the steps left; raises Refused when there are not enough."""
    meter().spend(steps)


def count_steps(*found: Value) -> None:
    """Use a step for every item and every hundred characters in some values.

    This is what a comparison, a search or a conversion may have to read.  Raises Refused when there are not enough
    steps.
    """
    remaining = list(found)
    while remaining:
        value = remaining.pop()
        if isinstance(value, str):
            spend_steps(len(value) // 100)
        elif isinstance(value, (list, tuple)):
            spend_steps(len(value) // 2)
            remaining.extend(value)
        elif isinstance(value, dict):
            spend_steps(len(value))
            remaining.extend(value.values())
        else:
            spend_steps(0)


def check_size(size: int) -> None:
    """Raise Refused if a value of this size is too large to create."""
    if size > MAX_SIZE:
        raise ExpressionRefused(f"it makes a value of {size} characters; at most {MAX_SIZE} are allowed")


def check_defined(value: Value) -> Value:
    """Return `value` if defined; else raise UndefinedError with the missing name."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - what jinja2's own StrictUndefined calls
    return value


def type_name(value: Value) -> str:
    """Return the type of `value` in words."""
    if isinstance(value, bool):
        return "true or false"
    names: list[tuple[Any, str]] = [
        (str, "a text"), ((int, float), "a number"), ((list, tuple), "a list"), (dict, "a map")
    ]  # fmt: skip
    return next((name for types, name in names if isinstance(value, types)), "nothing" if value is None else "no value")


def check_type(value: Value, types: Any, name: str, what: str) -> Value:  # noqa: ANN401 - a type or several
    """Return `value` if it is of `types`; raises Refused in the name of a filter."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in _tuple(types)):
        raise ExpressionRefused(f"{name} takes {what}, not {type_name(value)}")
    return value


def _tuple(types: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return types if isinstance(types, tuple) else (types,)


def number(value: Value) -> Value:
    """Return a number that JSON can carry; raises Refused."""
    if isinstance(value, int) and abs(value) <= MAX_INT:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ExpressionRefused("it makes a number that is too large, or none")


# -- operators --------------------------------------------------------------------------------------------------------


def binary(operator: str, left: Value, right: Value) -> Value:
    """Return `left operator right` for numbers; `+` also joins strings or lists."""
    left, right = check_defined(left), check_defined(right)
    if operator == "+" and _can_join(left, right):
        size = len(left) + len(right)
        check_size(size if isinstance(left, str) else 8 * size)
        spend_steps(size // 100)
        return left + right
    for operand in (left, right):
        if isinstance(operand, bool) or not isinstance(operand, (int, float)):
            raise ExpressionRefused(f"{operator!r} takes numbers, not {type_name(operand)}")
    operation = _OPERATIONS.get(operator)
    if operation is None:
        raise ExpressionRefused(f"there is no {operator!r} in expressions")
    if operator in {"/", "//", "%"} and not right:
        raise ExpressionRefused("it divides by zero")
    return number(operation(left, right))


def _can_join(left: Value, right: Value) -> bool:
    return any(isinstance(left, type_) and isinstance(right, type_) for type_ in (str, list))


_OPERATIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "//": lambda left, right: left // right,
    "%": lambda left, right: left % right,
}


def unary(operator: str, value: Value) -> Value:
    """Return `-value` or `+value`."""
    return binary(operator, 0, value)


def text_of(value: Value) -> str:
    """Return `value` as part of a string, as YAML writes it; raises Refused for null."""
    value = check_defined(value)
    if isinstance(value, str):
        return value
    if value is None:
        raise ExpressionRefused("nothing (null) cannot be part of a text; give a default: | default('…', true)")
    return to_json(value)


def joined(parts: list[Value]) -> str:
    """Join the parts of a string, or of `a ~ b`, into one string."""
    texts = [text_of(piece) for piece in parts]
    check_size(sum(map(len, texts)))
    return "".join(texts)


def compare(left: Value, operator: str, right: Value) -> bool:
    """Return `left operator right`; counts steps, because it reads both values."""
    left, right = check_defined(left), check_defined(right)
    count_steps(left, right)
    result: bool = _COMPARE[operator](left, right)
    return result


_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "eq": lambda left, right: left == right,
    "ne": lambda left, right: left != right,
    "gt": lambda left, right: left > right,
    "gteq": lambda left, right: left >= right,
    "lt": lambda left, right: left < right,
    "lteq": lambda left, right: left <= right,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}


def slice_of(value: Value, start: Value, stop: Value, step: Value) -> Value:
    """Return a slice of a list or a string; counts steps."""
    value = check_type(check_defined(value), (str, list, tuple), "a slice", "a list or a text")
    spend_steps(len(value) // 100)
    for bound in (start, stop, step):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int)):
            raise ExpressionRefused(f"the bounds of a slice are whole numbers, not {type_name(bound)}")
    if step == 0:
        raise ExpressionRefused("the step of a slice is not 0")
    return value[start:stop:step]


# -- as text, and as JSON -------------------------------------------------------------------------------------------


def to_json(value: Value) -> str:
    """Return the value as JSON, keys in order."""
    count_steps(value)
    text = json.dumps(plain(value), ensure_ascii=False, sort_keys=True)
    spend_steps(len(text) // 100)
    return text


def plain(value: Value, budget: int = MAX_SIZE, depth: int = 32) -> Value:
    """Return a copy of `value` that consists of JSON types only.

    Raises Refused for a value that is too large, too deeply nested or not JSON.
    """
    copied, left = _plain(check_defined(value), budget, depth)
    spend_steps((budget - left) // 16)
    return copied


def _plain(value: Value, budget: int, depth: int) -> tuple[Value, int]:
    budget -= len(value) if isinstance(value, str) else 8
    if budget < 0 or depth < 0:
        limit = f"at most {MAX_SIZE} characters are allowed" if budget < 0 else "it is nested too deeply"
        raise ExpressionRefused(f"it makes too large a value: {limit}")
    if value is None or isinstance(value, (str, bool)):
        return value, budget
    if isinstance(value, (int, float)):
        return number(value), budget
    if isinstance(value, dict):
        return _plain_map(value, budget, depth)
    if not isinstance(value, (list, tuple)):
        raise ExpressionRefused("it gives no value")
    items = []
    for element in value:
        item, budget = _plain(check_defined(element), budget, depth - 1)
        items.append(item)
    return items, budget


def _plain_map(value: dict[Any, Value], budget: int, depth: int) -> tuple[Value, int]:
    copied: dict[str, Value] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise ExpressionRefused(f"the keys of a map are texts, not {type_name(key)}")
        copied[key], budget = _plain(check_defined(item), budget - len(key), depth - 1)
    return copied, budget
