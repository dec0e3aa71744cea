"""Admission control: free capacity in NATS, and a quota for each principal.

From 70 % of a NATS limit on, new requests wait, so that running workflows can end.  A request over its principal's
quota is rejected, so that one principal does not block the requests of others.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from agentd import BusError, Denied, capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentd import Bus

EVERY: Final = 5.0
"""Seconds between two checks of the capacity of NATS."""


class CapacityCheck:
    """Periodic check of NATS capacity; `problem` says why no request may start."""

    def __init__(self, bus: Bus) -> None:
        """Start with free capacity."""
        self.problem = ""
        self._bus = bus
        self._due = 0.0

    async def check(self) -> None:
        """Check if the check is due; if NATS cannot be asked, `problem` stays as it is."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        try:
            uses = await capacity.event_limits(self._bus)
        except (BusError, Denied):
            return
        limit = capacity.EASED if self.problem else capacity.FULL
        tight = [use for use in uses if use.share >= limit]
        self.problem = f"no new requests are taken: {tight[0].text}" if tight else ""


MINUTE: Final = 60.0
PRINCIPALS: Final = 1000
"""Principals whose requests are counted; where NATS does not prove names, a flood can use many names."""


class Quota:
    """Limits the requests and open workflows of each principal at this orchestrator."""

    def __init__(self, per_minute: int, open_workflows: int) -> None:
        """Start with no requests counted."""
        self._per_minute = per_minute
        self._open = open_workflows
        self._beginning: Counter[str] = Counter()
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def counted(self) -> int:
        """Return the number of principals whose requests are counted."""
        return len(self._asked)

    def refusal(self, principal: str, at: float, opened: Callable[[str], int]) -> str:
        """Count one more request of `principal`; return why it is rejected, or ""."""
        times = self._asked.setdefault(principal, deque())
        self._asked.move_to_end(principal)
        if len(self._asked) > PRINCIPALS:
            self._asked.popitem(last=False)
        while times and at - times[0] >= MINUTE:
            times.popleft()
        if len(times) >= self._per_minute:
            return (
                f"{principal} has sent {self._per_minute} requests within a minute, as many as [orchestrator] "
                f"requests_per_minute allows; try again in {MINUTE - (at - times[0]):.0f} s, with another id"
            )
        if opened(principal) + self._beginning[principal] >= self._open:
            return (
                f"{principal} has {self._open} open workflows, as many as [orchestrator] "
                "open_workflows_per_principal allows; "
                "try again when one of them has ended, with another id"
            )
        times.append(at)
        return ""

    @contextmanager
    def beginning(self, principal: str) -> Iterator[None]:
        """Count a request as an open workflow of `principal` until the workflow exists."""
        self._beginning[principal] += 1
        try:
            yield
        finally:
            self._beginning[principal] -= 1
            if not self._beginning[principal]:
                del self._beginning[principal]
