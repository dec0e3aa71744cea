"""Explain an error in the configuration.

The error names the setting, the origin of its value, and what is accepted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from pydantic import BaseModel

from agentd.config.secret_files import is_secret
from agentd.config.show import _hidden, _toml
from agentd.similar import suggestion
from agentd.wire import secrets

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_WANTED: Final = {
    "list": "a list",
    "tuple": "a list",
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a table",
    "model": "a table",
}


_LIMITS: Final = ("greater_than", "less_than", "literal_error", "too_short", "string_pattern")


_MESSAGE: Final = re.compile(r"Input should be( a valid)?")


Raw = dict[str, Any]


Origins = dict[str, str]


def _without_annotations(annotation: object) -> object:
    """Return `annotation` without Annotated and `| None`."""
    arguments = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _without_annotations(arguments[0])
    if type(None) in arguments:
        return _without_annotations(next(argument for argument in arguments if argument is not type(None)))
    return annotation


def is_list_type(annotation: object) -> bool:
    """Return whether a value of this type is a list in TOML."""
    return (get_origin(annotation) or annotation) in {list, tuple, set, frozenset}


def inner_type(kind: object, key: str | int) -> object:
    """Return the type of the value under `key` in a value of type `kind`.

    None if there is none.
    """
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(key))
        return _without_annotations(field.annotation) if field else None
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return _without_annotations(arguments[1])
    return _without_annotations(arguments[0]) if arguments and is_list_type(kind) else None


def fault_line(kind: object, fault: ErrorDetails, origins: Origins, prefix: str) -> str:
    """Return one line for one fault.

    It has the file, the dotted key, what is wrong and what is accepted.
    """
    where, field, parent, siblings = prefix, None, kind, list[str]()
    for part in fault["loc"]:
        if part == "[key]":
            break
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
        if isinstance(parent, type) and issubclass(parent, BaseModel):
            field = parent.model_fields.get(str(part))
            siblings = list(parent.model_fields)
        parent = inner_type(parent, part)
    if fault["type"] == "extra_forbidden":
        text = f"unknown key{suggestion(str(fault['loc'][-1]), siblings)}"
    else:
        text = _fault(where, fault, (field.description or "") if field else "")
    return f"{origin_of(origins, where)}: {where}: {text}"


SECRET_TABLES: Final = frozenset({"tokens"})
"""Tables whose values are digests of secrets, so a secret can be written there by mistake."""


def _shown(where: str, given: object) -> str:
    """Return the value of a setting for an error; what may be a secret is hidden.

    A secret can be set by mistake in the place of its file, its digest or its name.
    """
    value = _hidden(where.rpartition(".")[2], given)
    inside_secret = any(part in SECRET_TABLES or is_secret(part) for part in re.split(r"[.\[\]]", where))
    secret = inside_secret or "=" in str(value) or secrets.looks_secret(str(value))
    return _toml(secrets.HIDDEN if secret else value)


def _fault(where: str, fault: ErrorDetails, description: str) -> str:
    """Return what is wrong with a value, in the terms of TOML instead of pydantic."""
    kind, given = fault["type"], fault["input"]
    if kind == "missing":
        return f"is missing: {description}" if description else "is missing"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    wanted = _WANTED.get(kind.partition("_")[0]) if kind.endswith(("_type", "_parsing", "_from_float")) else None
    message = f"should be {wanted}" if wanted else _MESSAGE.sub("should be", fault["msg"])
    if kind == "too_short":
        message = "should not be empty"
    elif kind == "string_pattern_mismatch":
        message = f"cannot be {_shown(where, given)}"
    elif isinstance(given, (str, int, float)):
        # A secret that was set by mistake instead of its file must not be repeated in a log.
        message += f", not {_shown(where, given)}"
    return f"{message}: {description}" if kind.startswith(_LIMITS) and description else message


def origin_of(origins: Origins, where: str) -> str:
    """Return the file or variable that set `where`, or the nearest table above it."""
    dotted = where.partition("[")[0]
    while dotted and dotted not in origins:
        dotted = dotted.rpartition(".")[0]
    return origins.get(dotted, "configuration")
