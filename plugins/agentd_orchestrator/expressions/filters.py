"""The filters and tests that an expression may use: few, pure and limited.

They have the names that users of Ansible know, and take and return only JSON values.  Each counts its steps before it
works: the items that an expression may read and the size of the values that it may create are limited, so that no
expression can block an orchestrator.  Nothing else exists: no regular expressions (they can run for ever), no
formatting by width, no clock, no randomness.

Differences from Ansible: filters return lists, never generators; `default` also replaces null; `round` returns an
integer for no digits.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Final

import msgspec
from jinja2.runtime import Undefined

from agentd_orchestrator.expressions.metering import ExpressionRefused
from agentd_orchestrator.expressions.values import (
    Value,
    binary,
    check_defined,
    check_size,
    check_type,
    compare,
    count_steps,
    number,
    spend_steps,
    text_of,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DIGITS: Final = 15
"""Maximum of decimal digits that `round` keeps: a float has no more."""


def _text(value: Value, name: str) -> str:
    text: str = check_type(value, str, name, "a text")
    spend_steps(len(text) // 100)
    return text


def _items(value: Value, name: str) -> list[Value]:
    """Return the items of a list (or the keys of a map); counts steps."""
    items = list(check_type(value, (list, tuple, dict), name, "a list"))
    spend_steps(len(items))
    return items


# -- filters ----------------------------------------------------------------------------------------------------------


def default(value: Value, instead: Value = "", boolean: Value = False) -> Value:  # noqa: FBT002 - as jinja2 has it
    """Return `value`, or `instead` if it is undefined or null.

    With `boolean` also if it is empty or false.
    """
    missing = isinstance(value, Undefined) or value is None or (boolean is True and not value)
    return instead if missing else value


def to_bool(value: Value) -> bool:
    """Return true for true, 1, "true", "yes", "on", "1", false for their opposites."""
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    parsed = words.get(str(value).lower()) if isinstance(value, (bool, int, str)) else None
    if parsed is None:
        raise ExpressionRefused(f"bool takes true, false, yes, no, on, off, 1 or 0, not {_short(value)}")
    return parsed


def to_int(value: Value, instead: Value = None) -> Value:
    """Return `value` as an integer; if that fails, `instead`, if it is given."""
    try:
        return number(int(float(value)) if isinstance(value, float) else int(_is_small(value)))
    except (ValueError, OverflowError):
        if instead is not None:
            return instead
        raise ExpressionRefused(f"{_short(value)} is not a whole number") from None


def to_float(value: Value, instead: Value = None) -> Value:
    """Return `value` as a float; if that fails, `instead`, if it is given."""
    try:
        return number(float(_is_small(value)))
    except (ValueError, OverflowError):
        if instead is not None:
            return instead
        raise ExpressionRefused(f"{_short(value)} is not a number") from None


def _is_small(value: Value) -> Value:
    if isinstance(value, str) and len(value) > 40:  # noqa: PLR2004 - longer than any number
        raise ValueError(value)
    return check_type(value, (str, int, float, bool), "int or float", "a text or a number")


def replace(value: Value, old: Value, new: Value) -> str:
    """Replace every `old` in the string by `new`."""
    text, search, substitute = _text(value, "replace"), _text(old, "replace"), _text(new, "replace")
    if not search:
        raise ExpressionRefused("replace: what to replace is empty")
    check_size(len(text) + text.count(search) * (len(substitute) - len(search)))
    return text.replace(search, substitute)


def join(value: Value, between: Value = "", attribute: Value = None) -> str:
    """Join the items into one string, separated by `between`."""
    items = _items(value, "join")
    if attribute is not None:
        items = [check_defined(pick(item, attribute)) for item in items]
    texts = [text_of(item) for item in items]
    separator = _text(between, "join")
    check_size(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def split(value: Value, at: Value = None) -> list[str]:
    """Split a string at `at`, by default at whitespace."""
    text = _text(value, "split")
    if at == "":
        raise ExpressionRefused("split: what to cut at is empty")
    check_size(8 * (len(text) + 1 if at is None else text.count(_text(at, "split")) + 1))
    parts = text.split(at)
    spend_steps(len(parts))
    return parts


def length(value: Value) -> int:
    """Return the number of items, keys or characters."""
    return len(check_type(value, (str, list, tuple, dict), "length", "a list, a map or a text"))


def first(value: Value) -> Value:
    """Return the first item."""
    return _end_item(value, "first", 0)


def last(value: Value) -> Value:
    """Return the last item."""
    return _end_item(value, "last", -1)


def _end_item(value: Value, name: str, index: int) -> Value:
    items = check_type(value, (list, tuple, str), name, "a list")
    if not items:
        raise ExpressionRefused(f"{name}: the list is empty")
    return items[index]


def pick(value: Value, path: Value) -> Value:
    """Return the value at a dotted path (`config.name`, `disks.0`), or an Undefined."""
    for part in _text(path, "attribute").split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, (list, tuple)) and part.isdecimal() and int(part[:9]) < len(value):
            value = value[int(part)]
        else:
            return Undefined(f"{_short(path)} is not in {_short(value)}")
    return value


def select(value: Value, test: Value = None, *arguments: Value) -> list[Value]:
    """Return the items that pass a test."""
    return [item for item in _items(value, "select") if _passes_test(item, test, arguments)]


def reject(value: Value, test: Value = None, *arguments: Value) -> list[Value]:
    """Return the items that do not pass a test."""
    return [item for item in _items(value, "reject") if not _passes_test(item, test, arguments)]


def select_attribute(value: Value, attribute: Value, test: Value = None, *arguments: Value) -> list[Value]:
    """Return the items whose attribute passes a test."""
    return [item for item in _items(value, "selectattr") if _passes_test(pick(item, attribute), test, arguments)]


def reject_attribute(value: Value, attribute: Value, test: Value = None, *arguments: Value) -> list[Value]:
    """Return the items whose attribute does not pass a test."""
    return [item for item in _items(value, "rejectattr") if not _passes_test(pick(item, attribute), test, arguments)]


def _passes_test(value: Value, test: Value, arguments: tuple[Value, ...]) -> bool:
    if test is None:
        return not isinstance(value, Undefined) and bool(value)
    if test not in TESTS:
        raise ExpressionRefused(f"there is no test {_short(test)}; there are {', '.join(sorted(TESTS))}")
    return bool(TESTS[test](value, *arguments))


def map_(
    value: Value, name: Value = None, *arguments: Value, attribute: Value = None, default: Value = None
) -> list[Value]:
    """Return an attribute of each item, or the result of a filter for each item."""
    items = _items(value, "map")
    if attribute is not None:
        attributes = [pick(item, attribute) for item in items]
        return [
            default if isinstance(picked, Undefined) and default is not None else check_defined(picked)
            for picked in attributes
        ]
    if name not in FILTERS or name == "map":
        raise ExpressionRefused(f"map: there is no filter {_short(name)}; or use map(attribute='…')")
    return [FILTERS[name](item, *arguments) for item in items]


def unique(value: Value, attribute: Value = None) -> list[Value]:
    """Return the items without duplicates."""
    distinct: dict[str, Value] = {}
    for item in _items(value, "unique"):
        distinct.setdefault(to_json(item if attribute is None else check_defined(pick(item, attribute))), item)
    return list(distinct.values())


def sort(value: Value, reverse: Value = False, attribute: Value = None) -> list[Value]:  # noqa: FBT002
    """Return the items in order; they must be all numbers or all strings."""
    items = _items(value, "sort")
    keys = [item if attribute is None else check_defined(pick(item, attribute)) for item in items]
    same = all(isinstance(key, str) for key in keys) or all(isinstance(key, (int, float)) for key in keys)
    if not same:
        raise ExpressionRefused("sort takes a list of numbers or a list of texts; or use sort(attribute='…')")
    count_steps(keys)
    order = sorted(range(len(items)), key=keys.__getitem__, reverse=reverse is True)
    return [items[index] for index in order]


def smallest(value: Value, attribute: Value = None) -> Value:
    """Return the smallest item."""
    return first(sort(value, attribute=attribute))


def largest(value: Value, attribute: Value = None) -> Value:
    """Return the largest item."""
    return last(sort(value, attribute=attribute))


def total(value: Value, attribute: Value = None, start: Value = 0) -> Value:
    """Return the sum of the items."""
    result = start
    for item in _items(value, "sum"):
        result = binary("+", result, item if attribute is None else check_defined(pick(item, attribute)))
    return result


def round_(value: Value, digits: Value = 0) -> Value:
    """Round a number; no digits give an integer."""
    check_type(value, (int, float), "round", "a number")
    if not isinstance(digits, int) or not 0 <= digits <= MAX_DIGITS:
        raise ExpressionRefused(f"round keeps 0 to {MAX_DIGITS} digits")
    return round(value, digits) if digits else round(value)


def to_list(value: Value) -> list[Value]:
    """Return the items of a list, the keys of a map, or the characters of a string."""
    items = list(check_type(value, (list, tuple, dict, str), "list", "a list"))
    check_size(8 * len(items))
    spend_steps(len(items))
    return items


def combine(value: Value, *others: Value) -> dict[str, Value]:
    """Merge maps into one; later ones take precedence."""
    merged: dict[str, Value] = {}
    for mapping in (value, *others):
        merged |= check_type(mapping, dict, "combine", "maps")
        spend_steps(len(merged))
    return merged


def from_json(value: Value) -> Value:
    """Parse a JSON string."""
    try:
        return msgspec.json.decode(_text(value, "from_json"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ExpressionRefused(f"from_json: {error}") from error


def _short(value: Value) -> str:
    count_steps(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"  # noqa: PLR2004 - of an error's line


def _reject_undefined(work: Callable[..., Value]) -> Callable[..., Value]:
    """Wrap `work` so that an undefined argument is an error."""

    @wraps(work)
    def checked(value: Value, *arguments: Value, **named: Value) -> Value:
        spend_steps(0)
        return work(
            check_defined(value),
            *map(check_defined, arguments),
            **{name: check_defined(argument) for name, argument in named.items()},
        )

    return checked


_FILTERS: Final[dict[str, Callable[..., Value]]] = {
    "bool": to_bool,
    "int": to_int,
    "float": to_float,
    "string": text_of,
    "lower": lambda value: _text(value, "lower").lower(),
    "upper": lambda value: _text(value, "upper").upper(),
    "trim": lambda value: _text(value, "trim").strip(),
    "replace": replace,
    "join": join,
    "split": split,
    "length": length,
    "count": length,
    "first": first,
    "last": last,
    "unique": unique,
    "sort": sort,
    "map": map_,
    "select": select,
    "reject": reject,
    "selectattr": select_attribute,
    "rejectattr": reject_attribute,
    "list": to_list,
    "round": round_,
    "abs": lambda value: abs(check_type(value, (int, float), "abs", "a number")),
    "min": smallest,
    "max": largest,
    "sum": total,
    "tojson": to_json,
    "to_json": to_json,
    "from_json": from_json,
    "combine": combine,
}
_TESTS: Final[dict[str, Callable[..., Value]]] = {
    "none": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "mapping": lambda value: isinstance(value, dict),
    "sequence": lambda value: isinstance(value, (list, tuple)),
    "true": lambda value: value is True,
    "false": lambda value: value is False,
    "==": lambda value, other: compare(value, "eq", other),
    "eq": lambda value, other: compare(value, "eq", other),
    "equalto": lambda value, other: compare(value, "eq", other),
    "!=": lambda value, other: compare(value, "ne", other),
    "ne": lambda value, other: compare(value, "ne", other),
    ">": lambda value, other: compare(value, "gt", other),
    "gt": lambda value, other: compare(value, "gt", other),
    ">=": lambda value, other: compare(value, "gteq", other),
    "ge": lambda value, other: compare(value, "gteq", other),
    "<": lambda value, other: compare(value, "lt", other),
    "lt": lambda value, other: compare(value, "lt", other),
    "<=": lambda value, other: compare(value, "lteq", other),
    "le": lambda value, other: compare(value, "lteq", other),
    "in": lambda value, other: compare(value, "in", other),
    "contains": lambda value, other: compare(other, "in", value),
}

FILTERS: Final[dict[str, Callable[..., Value]]] = {
    "default": default,
    "d": default,
    **{name: _reject_undefined(work) for name, work in _FILTERS.items()},
}
TESTS: Final[dict[str, Callable[..., Value]]] = {
    "defined": lambda value: not isinstance(value, Undefined),
    "undefined": lambda value: isinstance(value, Undefined),
    **{name: _reject_undefined(work) for name, work in _TESTS.items()},
}
