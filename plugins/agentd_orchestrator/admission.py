"""Whether there is room for new work: in NATS, and for one principal among others.

From 70 % of a limit of NATS on requests wait, so that what runs can end.  A principal that asks for too much is
refused, so that it does not keep the orchestrators from the requests of others.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentd.bus import capacity
from agentd.errors import BusError, Denied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentd.bus.jetstream import Bus

EVERY = 5.0
"""Seconds between two looks at how full NATS is."""


class Room:
    """Looks every now and then; `problem` says why nothing new may begin."""

    def __init__(self, bus: Bus) -> None:
        """Begin with room."""
        self.problem = ""
        self._bus = bus
        self._due = 0.0

    async def look(self) -> None:
        """Look, if it is time; what cannot be seen says nothing."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        try:
            rooms = await capacity.for_events(self._bus)
        except (BusError, Denied):
            return
        limit = capacity.EASED if self.problem else capacity.FULL
        tight = [each for each in rooms if each.share >= limit]
        self.problem = f"no new requests are taken: {tight[0].text}" if tight else ""


MINUTE = 60.0
PRINCIPALS = 1000
"""Principals whose requests are counted; where NATS proves no names, a flood can come under many."""


class Quota:
    """How much one principal may ask for at this orchestrator."""

    def __init__(self, per_minute: int, open_workflows: int) -> None:
        """Begin with nothing asked for."""
        self._per_minute = per_minute
        self._open = open_workflows
        self._beginning: Counter[str] = Counter()
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def counted(self) -> int:
        """Return how many principals are known here."""
        return len(self._asked)

    def refusal(self, principal: str, at: float, opened: Callable[[str], int]) -> str:
        """Count one more request of `principal`; return why it is refused, "" if it is not."""
        asked = self._asked.setdefault(principal, deque())
        self._asked.move_to_end(principal)
        if len(self._asked) > PRINCIPALS:
            self._asked.popitem(last=False)
        while asked and at - asked[0] >= MINUTE:
            asked.popleft()
        if len(asked) >= self._per_minute:
            return (
                f"{principal} has sent {self._per_minute} requests within a minute, as many as [orchestrator] "
                f"requests_per_minute allows; ask again in {MINUTE - (at - asked[0]):.0f} s, with another id"
            )
        if opened(principal) + self._beginning[principal] >= self._open:
            return (
                f"{principal} has {self._open} open workflows, as many as [orchestrator] open_workflows allows; "
                "ask again when one of them is over, with another id"
            )
        asked.append(at)
        return ""

    @contextmanager
    def beginning(self, principal: str) -> Iterator[None]:
        """Count a request among the open workflows of `principal` until it is one."""
        self._beginning[principal] += 1
        try:
            yield
        finally:
            self._beginning[principal] -= 1
            if not self._beginning[principal]:
                del self._beginning[principal]
