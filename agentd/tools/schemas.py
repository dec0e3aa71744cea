"""JSON Schemas of a tool's parameters and result, and conversion to them."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import msgspec

from agentd import formats
from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Iterator


def object_schema(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any type that msgspec knows
    """Return the JSON Schema of `kind` with its root inlined.

    Raises TypeError if it is not an object.
    """
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    if "$ref" in schema:
        schema = dict(components.pop(schema["$ref"].rpartition("/")[2]))
    if schema.get("type") != "object":
        raise TypeError(f"{kind} is not an object in JSON")
    if components:
        schema["$defs"] = components
    published: dict[str, Any] = formats.portable_schema(schema)
    return published


@functools.lru_cache(maxsize=1024)
def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the same as `object_schema`, made once for each type."""
    return object_schema(kind)


def normalized(parameters: object, schema: dict[str, Any], name: str) -> object:
    """Return `parameters` without nulls, and 100.0 as 100 where an integer is due.

    Some clients send null for what they leave out, and some have no integers.  Raises InvalidMessage for a value that
    is not a finite number (NaN, Infinity, 1e400), at any depth.
    """
    odd = [value for value in _scalars(parameters) if value is None or type(value) is float]
    if not odd:
        return parameters
    if not all(value is None or math.isfinite(value) for value in odd):
        raise InvalidMessage(f"{name}: a parameter is not a finite number (NaN, Infinity, or too large)")
    return _corrected(parameters, schema, schema.get("$defs", {}))


def _scalars(value: object) -> Iterator[Any]:
    """Yield every value in nested lists and objects that is neither."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, (dict, list)):
            yield from _scalars(item)
        else:
            yield item


def _corrected(value: object, schema: dict[str, Any], defs: dict[str, Any]) -> object:
    kinds = _kinds(schema, defs)
    if isinstance(value, dict):
        required = {name for kind in kinds for name in kind.get("required", ())}
        free = not any("properties" in kind or isinstance(kind.get("additionalProperties"), dict) for kind in kinds)
        given = {name: item for name, item in value.items() if item is not None or name in required or free}
        return {name: _corrected(item, _property(kinds, name), defs) for name, item in given.items()}
    if isinstance(value, list):
        items: dict[str, Any] = next((kind["items"] for kind in kinds if isinstance(kind.get("items"), dict)), {})
        return [_corrected(item, items, defs) for item in value]
    types = {kind.get("type") for kind in kinds}
    types |= {"integer" for kind in kinds for choice in kind.get("enum", ()) if type(choice) is int}
    if type(value) is float and value.is_integer() and "integer" in types and "number" not in types:
        return int(value)
    return value


def _kinds(schema: dict[str, Any], defs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a schema with references resolved.

    Empty if any value is allowed.
    """
    if "$ref" in schema:
        return _kinds(defs.get(schema["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in schema:
        return [kind for choice in schema["anyOf"] for kind in _kinds(choice, defs)]
    return [schema] if "type" in schema or "enum" in schema else []


def _property(kinds: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for kind in kinds:
        subschema = kind.get("properties", {}).get(name, kind.get("additionalProperties"))
        if isinstance(subschema, dict):
            return subschema
    return {}


def as_texts(parameters: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return `parameters` with integers as text where the schema expects text.

    `dport=22` means the text "22".
    """
    converted = dict(parameters)
    for name, kind in schema.get("properties", {}).items():
        types = {part.get("type") for part in (kind, *kind.get("anyOf", ()))}
        if type(parameters.get(name)) is int and "string" in types and not types & {"integer", "number"}:
            converted[name] = str(parameters[name])
    return converted
