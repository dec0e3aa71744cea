"""How much may be destroyed within an hour, counted for the whole network in the bucket `budget`.

Each act takes one of so many places, which NATS frees an hour later by itself; a place bears the key of its act, so
that an act that is repeated after a death takes no second one.  A place is taken by the record of an act alone: what
others have the server write there neither takes nor frees one.
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
    """Say which act has taken a place."""

    key: str


async def spend(bus: Bus, key: str, limit: int) -> None:
    """Take a place for the act `key`; raises Denied when `limit` of them are taken."""
    while True:
        taken = await bus.kv_values(subjects.BUDGET, Spent)
        if any(spent.value is not None and spent.value.key == key for spent in taken.values()):
            return
        free = next((place for place in map(str, range(limit)) if place not in taken), None)
        if free is None:
            raise Denied(
                f"{limit} acts that destroy or execute within an hour are what [policy] destroys_per_hour allows; "
                "nothing was done: look what they were (agentd audit), then ask again later"
            )
        try:
            await bus.kv_put(subjects.BUDGET, free, Spent(key), ttl=HOUR, expect=0)
        except StaleWrite:
            continue  # somebody else took it
        return
