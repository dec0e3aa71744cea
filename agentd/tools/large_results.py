"""Keeps results that are too large for a message in the bucket `results`.

The message carries a reference instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from agentd.errors import InvalidMessage
from agentd.wire import subjects
from agentd.wire.codec import encode

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

INLINE: Final = 16 * 1024
"""Size in bytes above which a result goes to the bucket."""


async def store_if_large(bus: Bus, result: Any, key: str) -> Any:  # noqa: ANN401 - JSON
    """Return `result`, or a reference to it if it is large and was stored."""
    data = encode(result)
    if len(data) <= INLINE:
        return result
    key = subjects.result_key(bus.agent, key)
    await bus.kv_put(subjects.RESULTS, key, data)
    return {"$stored": key, "bytes": len(data)}


async def resolve_references(bus: Bus, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return `value` with every reference replaced by the stored result."""
    if isinstance(value, dict):
        if "$stored" in value:
            stored = await fetch_stored(bus, value)
            return stored.get(value["field"]) if "field" in value and isinstance(stored, dict) else stored
        return {key: await resolve_references(bus, item) for key, item in value.items()}
    if isinstance(value, list):
        return [await resolve_references(bus, item) for item in value]
    return value


async def fetch_stored(bus: Bus, reference: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return the stored result of a reference, None if it is no longer kept.

    Raises InvalidMessage.  A stored value whose size differs from that in the reference is not the original.
    """
    key, size = str(reference["$stored"]), reference.get("bytes")
    newest = await bus.kv_read(subjects.RESULTS, key, Raw, lambda raw: size in {None, len(bytes(raw))})
    if newest.doubt:
        raise InvalidMessage(f"the stored result {subjects.RESULTS}/{key} cannot be read: {newest.doubt}")
    return None if newest.value is None else msgspec.json.decode(newest.value)
