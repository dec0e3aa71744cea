"""The filter `wrong_variables`: variables of the inventory that do not fit the argument specs of its roles.

Ansible's own check converts: it accepts a list as a text, and a text as a list of its letters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable


ROLES = Path(__file__).parents[1] / "roles"


def wrong_variables(variables: Mapping[str, Any], *roles: str) -> list[str]:
    """Return a line for each variable of these roles that is missing or has a value of the wrong type."""
    found = []
    for role in roles:
        specs = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
        for name, option in specs["argument_specs"]["main"]["options"].items():
            if name in variables:
                fault = _fault(variables[name], option)
            else:
                fault = f"is missing: {option['description']}" if option.get("required") else ""
            found += [f"{name} {fault}"] if fault else []
    return found


def _fault(value: object, option: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, "" if nothing is."""
    kind = option["type"]
    matches, wanted = TYPES[kind]
    if not matches(value):
        quotes = '; write it in quotes: "…"' if kind in {"str", "path"} and isinstance(value, int | float) else ""
        return f"is {_kind(value)}, but has to be {wanted}{quotes}"
    if kind == "list" and option["elements"] == "str" and not all(isinstance(item, str) for item in value):  # type: ignore[attr-defined]
        return "has an element that is no text"
    return ""


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: object) -> bool:
    """Accept a text of digits: `-e nats_port=4222` gives one."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "str": (_is_text, "a text"),
    "path": (_is_text, "a path"),
    "int": (_is_number, "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "list": (_is_list, "a list, such as [a, b]"),
    "dict": (lambda value: isinstance(value, Mapping), "a dictionary, such as {a: b}"),
}
"""Each type of the specs: whether a value has it, and its name."""


def _kind(value: object) -> str:
    """Return what a value is, in words."""
    if value is None or value == "":
        return "empty"
    names = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "a text"),
        (Mapping, "a dictionary"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "a list")


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return each filter by its name."""
        return {"wrong_variables": wrong_variables}
