"""Results that are too large for a message lie in the bucket `results` and are carried by reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import subjects
from agentd.errors import InvalidMessage
from agentd.messages import encode

if TYPE_CHECKING:
    from agentd.bus import Bus, Stored

INLINE: Final = 16 * 1024
"""Bytes of a result above which it goes to the bucket."""


async def shrink(bus: Bus, result: Any, key: str) -> Any:  # noqa: ANN401 - JSON
    """Return `result`, or where it was put under `key` because it is large."""
    data = encode(result)
    if len(data) <= INLINE:
        return result
    await bus.kv_put(subjects.RESULTS, key, data)
    return {"$stored": key, "bytes": len(data)}


async def expand(bus: Bus, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return `value` with every reference replaced by what it stands for."""
    if isinstance(value, dict):
        if "$stored" in value:
            stored = await bus.kv_get(subjects.RESULTS, value["$stored"])
            found = None if stored is None else _value(stored)
            return found.get(value["field"]) if "field" in value and isinstance(found, dict) else found
        return {key: await expand(bus, each) for key, each in value.items()}
    if isinstance(value, list):
        return [await expand(bus, each) for each in value]
    return value


def _value(stored: Stored) -> Any:  # noqa: ANN401 - JSON
    """Return a stored result; raises InvalidMessage that names it."""
    try:
        return msgspec.json.decode(stored.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"the stored result {stored.subject} cannot be read: {error}") from error
