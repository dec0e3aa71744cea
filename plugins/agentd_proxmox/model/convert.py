"""Read entries of the Proxmox API into Structs.

Proxmox leaves out what has its default value, sends 0 or 1 for a boolean, and some numbers as text.  Texts may come
from a guest or a log, so each becomes one line without control characters.

msgspec's own conversion does not do this: it refuses null, calls no hook for `str`, `int` and `bool`, and a field that
is renamed for the API would be renamed in the result of the tool, too.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentd import PermanentError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

S = TypeVar("S", bound=msgspec.Struct)


def text(value: object, default: str = "") -> str:
    """Return a text as one line; `default` if there is none."""
    return one_line(value) if value else default


def flag(value: Any, *, default: bool = False) -> bool:  # noqa: ANN401 - JSON
    """Return a boolean of Proxmox: 0, 1 or a text of these."""
    return default if value in (None, "") else bool(_number(value, int))


def number(value: Any, default: int = 0) -> int:  # noqa: ANN401 - JSON
    """Return a number, which may be a text."""
    return default if value in (None, "") else int(_number(value, int))


def share(value: Any, default: float = 0.0) -> float:  # noqa: ANN401 - JSON
    """Return a number with a fraction, which may be a text."""
    return default if value in (None, "") else float(_number(value, float))


def names(value: object) -> list[str]:
    """Return the sorted names of a text that separates them by commas."""
    return sorted(filter(None, text(value).split(",")))


def entry(kind: type[S], found: Mapping[str, Any], renamed: Mapping[str, str] | None = None, **given: Any) -> S:  # noqa: ANN401
    """Return an entry as a Struct.

    renamed  the keys of the entry that are not called as the field is: field, key
    given    the values of fields that are not read from one key

    A missing value is the default of the field, or "", 0 or false.  Raises PermanentError for a number that is none.
    """
    keys = renamed or {}
    values: dict[str, Any] = {}
    for field, (read, default) in _plan(kind).items():
        if field in given:
            continue
        key = keys.get(field, field)
        try:
            values[field] = read(found.get(key), default)
        except PermanentError as error:
            raise PermanentError(f"Proxmox: {one_line(key)}: {error}") from error
    return kind(**values, **given)


def _number(value: Any, kind: type[Any]) -> Any:  # noqa: ANN401
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise PermanentError(f"{one_line(value)!r} is not a number") from error


_CONVERT: Final[dict[object, tuple[Callable[[Any, Any], Any], object]]] = {
    str: (text, ""),
    int: (number, 0),
    float: (share, 0.0),
    bool: (lambda value, default: flag(value, default=default), False),
}


@functools.cache
def _plan(kind: type[msgspec.Struct]) -> dict[str, tuple[Callable[[Any, Any], Any], object]]:
    """Return how each field of a plain type is converted, and its default.

    The lookup resolves every annotation, so the result is cached.
    """
    found = {}
    for field in msgspec.structs.fields(kind):
        if field.type in _CONVERT:
            read, zero = _CONVERT[field.type]
            found[field.name] = (read, zero if field.default is msgspec.NODEFAULT else field.default)
    return found
