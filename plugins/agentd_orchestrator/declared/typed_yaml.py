"""Converts the values of a workflow file to the types of `file_format.py`.

All faults of format are reported at once.  A faulty value is replaced by its default, so that the rest of the file can
still be checked; a file with faults is never used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_args, get_origin

import msgspec

from agentd.similar import suggestion
from agentd.wire.codec import fault
from agentd_orchestrator.declared.file_format import FileSection, Template
from agentd_orchestrator.declared.yaml_source import Position, Report, Value

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound=FileSection)

MEANT: Final = {
    "parameters": "with", "args": "with", "params": "with", "inputs": "parameters", "if": "when", "condition": "when",
    "needs": "after", "depends_on": "after", "dependencies": "after", "loop": "for_each", "with_items": "for_each",
    "each": "for_each", "foreach": "for_each", "matrix": "for_each", "rollback": "undo", "compensation": "undo",
    "deadline": "timeout", "timeout_minutes": "timeout", "timeout-minutes": "timeout", "heartbeat": "heartbeat_timeout",
    "redo": "on_error", "catch": "on_error", "window": "max_parallel", "max-parallel": "max_parallel",
    "ignore_errors": "optional", "continue_on_error": "optional", "continue-on-error": "optional", "host": "node",
    "steps": "tasks", "jobs": "tasks", "vars": "parameters", "options": "enum", "choices": "enum", "title": "name",
    "delay": "backoff", "parallel": "max_parallel", "throttle": "max_parallel",
}  # fmt: skip
"""The names of keys in other tools, and names that are easily mistaken."""
_DURATION: Final = "a number of seconds, or such as 90s, 10m, 1h30m, 2d; at most 30d"
_PART: Final = "1 to 64 of A-Z a-z 0-9 _ and -, or an expression"
_HINTS: Final = {
    "timeout": _DURATION,
    "backoff": _DURATION,
    "start_within": _DURATION,
    "heartbeat_timeout": _DURATION,
    "name": "a letter, then up to 63 of A-Z a-z 0-9 _ and -",
    "parameters": "a parameter's name is a small letter, then up to 63 of a-z 0-9 and _",
    "node": _PART,
    "class": _PART,
    "for_each": 'a list, or an expression in quotes: "{{ … }}"',
    "with": 'a map, or an expression in quotes: "{{ … }}"',
    "max_parallel": 'a whole number from 1 to 1000, or an expression in quotes: "{{ … }}"',
}
TEXTS: Final = {"for_each": Template}
"""The type of a string where the type of the field cannot express it (file_format.py)."""
_INDEX: Final = re.compile(r"\[(\d+)\]")


def read(kind: type[F], value: Value, report: Report, where: str = "") -> F:
    """Return `value` as `kind`; faults are in the report."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if not isinstance(value.value, dict):
        report.add(value.at, where, f"should be a map with {', '.join(fields)}")
        return _construct(kind, {}, fields)
    for key, at in value.keys.items():
        if key not in fields:
            expected = MEANT.get(key)
            hint = f"; here it is called {expected}" if expected in fields else suggestion(key, sorted(fields))
            report.add(at, _inner(where, key), f"unknown key{hint}")
    missing = [key for key, field in fields.items() if field.required and key not in value.keys]
    if missing:
        report.add(value.at, where, f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    good = {}
    for key, field in fields.items():
        if key in value.value:
            text = TEXTS.get(key) if isinstance(value.value[key].value, str) else None
            found = _field(text or field.type, value.value[key], report, _inner(where, key), key)
            if found is not msgspec.UNSET:
                good[field.name] = found
    return _construct(kind, good, fields)


def _inner(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _construct(kind: type[F], good: dict[str, Any], fields: dict[str, Any]) -> F:
    empty = {"tasks": [], "type": "string"}
    for field in fields.values():
        if field.required and field.name not in good:
            good[field.name] = empty.get(field.name, "")
    return kind(**good)


def _field(kind: Any, value: Value, report: Report, where: str, key: str) -> Any:  # noqa: ANN401 - any field
    form, how = _section_in(kind)
    if form is None:
        return _leaf(kind, value, report, where, key)
    if how is dict and isinstance(value.value, dict):
        _keys(get_args(_unwrapped(kind))[0], value, report, where)
        return {name: read(form, item, report, _inner(where, name)) for name, item in value.value.items()}
    if how is list and isinstance(value.value, list):
        _leaf(_lengths(kind), Value(value.at, [Value(value.at, 0)] * len(value.value)), report, where, key)
        return [read(form, item, report, title(item, where, index)) for index, item in enumerate(value.value)]
    if how is None:
        return read(form, value, report, where)
    report.add(value.at, where, "should be a map" if how is dict else "should be a list: lines that begin with -")
    return msgspec.UNSET


def title(value: Value, where: str, index: int) -> str:
    """Return the path of a list item in a fault: with its name, if it has one."""
    name = value.value.get("name") if isinstance(value.value, dict) else None
    named = name is not None and isinstance(name.value, str) and name.value
    return f"{where}.{name.value}" if name is not None and named else f"{where}[{index}]"


def _leaf(kind: Any, value: Value, report: Report, where: str, key: str) -> Any:  # noqa: ANN401
    try:
        return msgspec.convert(value.plain, kind)
    except msgspec.ValidationError as error:
        at, text = locate_error(value, error, _HINTS.get(key, ""))
        report.add(at, where, text)
        return msgspec.UNSET


def locate_error(value: Value, error: msgspec.ValidationError, hint: str) -> tuple[Position, str]:
    """Return position and message of msgspec's error; `hint` says what is valid."""
    text, _, path = str(error).partition(" - at `$")
    current = value
    for part in _INDEX.findall(path):
        if not isinstance(current.value, list) or int(part) >= len(current.value):
            break
        current = current.value[int(part)]
    message = fault(msgspec.ValidationError(text), "").removeprefix(": ")
    regex = message.find(" matching regex")
    shown = repr(current.value) if isinstance(current.value, str) else ""
    message = f"{shown[:80]} cannot be that" if regex >= 0 and shown else message
    return current.at, f"{message}; {hint}" if hint else message


def description_of(kind: Any) -> str:  # noqa: ANN401 - any annotation
    """Return the description in the annotation of a field, or ""."""
    if get_origin(kind) is Annotated:
        descriptions = [
            meta.description for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta) and meta.description
        ]
        return descriptions[0] if descriptions else description_of(get_args(kind)[0])
    return next((found for argument in get_args(kind) if (found := description_of(argument))), "")


def _keys(kind: Any, value: Value, report: Report, where: str) -> None:  # noqa: ANN401
    for name, at in value.keys.items():
        try:
            msgspec.convert(name, kind)
        except msgspec.ValidationError:
            report.add(at, _inner(where, name), f"{name[:80]!r} cannot be a name; {_HINTS['parameters']}")


def _unwrapped(kind: Any) -> Any:  # noqa: ANN401 - any annotation
    """Return an annotation without Annotated and without None."""
    if get_origin(kind) is Annotated:
        return _unwrapped(get_args(kind)[0])
    others = [argument for argument in get_args(kind) if argument is not type(None)]
    return _unwrapped(others[0]) if type(None) in get_args(kind) and len(others) == 1 else kind


def _section_in(kind: Any) -> tuple[type[FileSection] | None, Callable[..., Any] | None]:  # noqa: ANN401
    """Return the Form in an annotation, and `list` or `dict` if it holds Forms."""
    bare = _unwrapped(kind)
    if isinstance(bare, type) and issubclass(bare, FileSection):
        return bare, None
    origin = get_origin(bare)
    inner = _unwrapped(get_args(bare)[-1]) if origin in {list, dict} else None
    return (inner, origin) if isinstance(inner, type) and issubclass(inner, FileSection) else (None, None)


def _lengths(kind: Any) -> Any:  # noqa: ANN401
    """Return the annotation of a list of Forms as a list of any items.

    It keeps the limits of its length.
    """
    return Annotated[(list[Any], *get_args(kind)[1:])] if get_origin(kind) is Annotated else list[Any]
