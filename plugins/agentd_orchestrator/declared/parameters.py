"""Parameters of a declared workflow: builds the type that checks a request.

It is a msgspec Struct like that of a workflow in Python, so that an invalid request gets the same error messages.
"""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from agentd import InvalidMessage, formats
from agentd_orchestrator.expressions.evaluate import marker_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd_orchestrator.declared.file_format import Parameter
    from agentd_orchestrator.declared.yaml_source import Report, Value

TYPES: Final[dict[str, Any]] = {
    "string": str, "int": int, "number": float, "bool": bool, "list": list[Any], "map": dict[str, Any]
}  # fmt: skip
_NUMBERS: Final = {"int", "number"}


def check(declared: Mapping[str, Parameter], tree: Value, report: Report) -> None:
    """Report inconsistent declarations."""
    for name, parameter in declared.items():
        if isinstance(tree.value[name].value, dict):  # else a fault of format, already reported
            _check_one(f"parameters.{name}", parameter, tree.value[name], report)


def _check_one(where: str, declared: Parameter, tree: Value, report: Report) -> None:
    inner = (declared.items or "") if declared.type == "list" else declared.type
    numeric = inner in _NUMBERS
    wrong = {
        "items": "" if declared.type == "list" else f"only a list has items, and this is of type {declared.type}",
        "minimum": "" if numeric else "only an int or a number has one, or a list whose items are such",
        "maximum": "" if numeric else "only an int or a number has one, or a list whose items are such",
        "pattern": _no_pattern(declared.pattern, inner),
        "enum": ""
        if _fits(declared.enum or [], _list(TYPES.get(inner, Any)))
        else f"these are not all of type {inner}",
        "default": "what is required has no default; leave one of the two out" if declared.required else "",
    }
    if not any(wrong[key] for key in tree.keys if key in wrong):
        wrong["default"] = _value_fault(declared.default, declared)
    for key, text in wrong.items():
        if key in tree.value and text:
            report.add(tree.value[key].at, f"{where}.{key}", text)


def _no_pattern(pattern: str | None, inner: str) -> str:
    try:
        re.compile(pattern or "")
    except re.error as error:
        return f"this is no regular expression: {error}"
    return "" if inner == "string" else "only a string has one"


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _value_fault(value: object, declared: Parameter) -> str:
    if value is None or value is msgspec.UNSET:
        return ""
    try:
        msgspec.convert(value, annotation(declared))
    except (msgspec.ValidationError, TypeError, re.error) as error:
        return f"does not fit: {str(error).replace('`', '')}"
    return ""


def annotation(declared: Parameter) -> Any:  # noqa: ANN401 - a type
    """Return the type that checks a parameter."""
    if declared.type == "list":
        return _list(_bounded(declared.items, declared) if declared.items else Any)
    return _bounded(declared.type, declared)


def _bounded(kind: str, declared: Parameter) -> Any:  # noqa: ANN401 - a type
    if declared.enum is not None:
        return Literal[tuple(declared.enum)]
    base = TYPES[kind]
    if kind in _NUMBERS:
        convert = int if kind == "int" else float
        least, most = (None if bound is None else convert(bound) for bound in (declared.minimum, declared.maximum))
        return Annotated[base, Meta(ge=least, le=most)]
    return (
        Annotated[base, Meta(pattern=formats.python_pattern(declared.pattern))]
        if kind == "string" and declared.pattern
        else base
    )


def _list(of: Any) -> Any:  # noqa: ANN401 - a type
    return list.__class_getitem__(of)


def struct(name: str, declared: Mapping[str, Parameter]) -> type[msgspec.Struct]:
    """Return the type that checks a request's parameters."""
    required = [(f"p_{key}", annotation(parameter)) for key, parameter in declared.items() if parameter.required]
    optional: list[Any] = []
    for key, parameter in declared.items():
        if not parameter.required:
            unset = parameter.default is msgspec.UNSET or parameter.default is None
            default = None if unset else msgspec.convert(parameter.default, annotation(parameter))
            kind = annotation(parameter) | None if unset else annotation(parameter)
            mutable = isinstance(default, (list, dict))
            initial = msgspec.field(default_factory=partial(copy.deepcopy, default)) if mutable else default
            optional.append((f"p_{key}", kind, initial))
    rename = {f"p_{key}": key for key in declared}
    return msgspec.defstruct(
        name, [*required, *optional], frozen=True, kw_only=True, forbid_unknown_fields=True, rename=rename
    )


def values(request: msgspec.Struct) -> dict[str, Any]:
    """Return the parameters with their defaults.

    Raises InvalidMessage for keys that a plan reserves for itself.
    """
    plain: dict[str, Any] = msgspec.to_builtins(request)
    refuse_markers(plain)
    return plain


def refuse_markers(parameters: Mapping[str, Any]) -> None:
    """Raise InvalidMessage if a request contains keys that mark references in a plan."""
    for name, value in parameters.items():
        key = marker_key({name: value})
        if key:
            raise InvalidMessage(f"parameters.{name}: the key {key!r} is not accepted: keys with $ are agentd's own")
