"""The path and the parameters of a request, and what its answer holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from agentd import Rejected, Upid

if TYPE_CHECKING:
    from agentd_proxmox import api_schema


CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def fill_path(endpoint: api_schema.Endpoint, parameters: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the values of the path's variables, and the other parameters.

    The values are taken from the path, or else from `parameters`.
    """
    values, rest = dict(endpoint.values), dict(parameters)
    for name in endpoint.variables:
        given = rest.get(name)
        if isinstance(given, float) and given.is_integer():
            given = rest[name] = int(given)
        if name not in values and isinstance(given, str | int) and not isinstance(given, bool):
            values[name] = str(rest.pop(name))
        elif given is not None and str(given) == values.get(name):
            rest.pop(name)
    return values, rest


def upid_in(answer: object) -> str | None:
    """Return the answer if it is a UPID; None for other texts (a name, a ticket)."""
    try:
        return Upid.parse(answer).text if isinstance(answer, str) and answer.startswith("UPID:") else None
    except Rejected:
        return None


def without_control_characters(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return `value` without control characters.

    Texts also come from guests and logs.
    """
    if isinstance(value, str):
        return CONTROL.sub(" ", value)
    if isinstance(value, list):
        return [without_control_characters(item) for item in value]
    return (
        {str(key): without_control_characters(item) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )
