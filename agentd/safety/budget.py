"""Limits how many destructive operations run per hour, in the whole network.

The bucket `budget` has one slot per operation that is allowed; NATS itself frees a slot after an hour.  A slot holds
the key of its operation, so one that is repeated after a crash takes no second slot.  Only the record of an operation
takes a slot: what other clients make the server write into the bucket neither takes nor frees one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agentd.errors import Denied, StaleWrite
from agentd.wire import subjects

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

HOUR: Final = 3600.0


class Spent(msgspec.Struct, frozen=True):
    """The operation that has taken a slot."""

    key: str


async def take_slot(bus: Bus, key: str, limit: int) -> None:
    """Take a slot for the operation `key`; raises Denied if all `limit` slots are taken."""
    while True:
        slots = await bus.kv_values(subjects.BUDGET, Spent)
        if any(spent.value is not None and spent.value.key == key for spent in slots.values()):
            return
        free = next((slot for slot in map(str, range(limit)) if slot not in slots), None)
        if free is None:
            raise Denied(
                f"[policy] destructive_per_hour allows {limit} operations that destroy or execute within an hour; "
                "nothing was done: list them (agentd audit), then try again later"
            )
        try:
            await bus.kv_put(subjects.BUDGET, free, Spent(key), ttl=HOUR, expect=0)
        except StaleWrite:
            continue  # another process took this slot
        return
