"""The form of a workflow, from the JSON Schema of its parameters, and the parameters of a submitted form.  Pure.

A field that the schema describes with one simple type becomes an input of that type; any other takes JSON.  What is
left empty is not part of the parameters, so that the defaults of the workflow apply.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl

from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "p."
"""Begins the name of every field that is a parameter."""
_SIMPLE: Final = {"string": "text", "integer": "number", "number": "number", "boolean": "checkbox"}
MOST_FIELDS: Final = 500


class Field(NamedTuple):
    """One field of a form.

    kind     text, number, checkbox, select, lines (a list of texts) or json
    default  the value that applies if the field is left empty, as text
    limits   attributes of the input: min, max, step, pattern, maxlength
    """

    name: str
    kind: str
    required: bool
    help: str
    default: str
    choices: list[str]
    limits: dict[str, str]


def fields_of(schema: Mapping[str, Any]) -> list[Field]:
    """Return the fields of a form, the required ones first."""
    required, defs = set(schema.get("required", ())), schema.get("$defs", {})
    found = [_field(name, kind, name in required, defs) for name, kind in schema.get("properties", {}).items()]
    return sorted(found, key=lambda field: not field.required)


def _field(name: str, schema: Mapping[str, Any], required: bool, defs: Mapping[str, Any]) -> Field:  # noqa: FBT001
    described, default = schema, schema.get("default")
    schema = _resolved(schema, defs)
    kind = _SIMPLE.get(str(schema.get("type")), "json")
    if "enum" in schema:
        kind = "select"
    elif schema.get("type") == "array" and _resolved(schema.get("items", {}), defs).get("type") == "string":
        kind = "lines"
    shown = "" if default in (None, "", [], {}) else str(default) if isinstance(default, str) else json.dumps(default)
    text = described.get("description") or schema.get("description") or ""
    choices = [str(choice) for choice in schema.get("enum", ()) if choice is not None]
    return Field(name, kind, required and kind != "checkbox", str(text), shown, choices, _limits(schema, kind))


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of the one type that is not null, without a reference."""
    for _ in range(4):
        if "$ref" in schema:
            schema = defs.get(str(schema["$ref"]).rpartition("/")[2], {})
        kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
        if len(kinds) == 1:
            schema = kinds[0]
    return schema


def _limits(schema: Mapping[str, Any], kind: str) -> dict[str, str]:
    named = {"minimum": "min", "maximum": "max"} if kind == "number" else {"maxLength": "maxlength"}
    found = {attribute: str(schema[key]) for key, attribute in named.items() if key in schema}
    if schema.get("type") == "number":
        found["step"] = "any"
    return found


def parse_form(body: bytes) -> dict[str, str]:
    """Return the fields of a form that a browser sent.

    The last value of a name counts.
    """
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, strict_parsing=False))
    except ValueError as error:
        raise InvalidMessage("the form cannot be read") from error


def parameters_of(fields: list[Field], form: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters that a form contains.

    Raises InvalidMessage naming the field.
    """
    found = {}
    for field in fields:
        given = form.get(PREFIX + field.name, "")
        if field.kind == "checkbox":
            if given or field.default == "true":
                found[field.name] = bool(given)
        elif given.strip():
            found[field.name] = _value(field, given)
    return found


def _value(field: Field, given: str) -> Any:  # noqa: ANN401 - JSON
    if field.kind in {"text", "select"}:
        return given
    if field.kind == "lines":
        return [line.strip() for line in given.replace("\r", "").replace(",", "\n").split("\n") if line.strip()]
    try:
        return json.loads(given)
    except ValueError as error:
        raise InvalidMessage(
            f"{field.name}: {given[:40]!r} is not {'a number' if field.kind == 'number' else 'JSON'}"
        ) from error
