"""Restores timers and schedules that the server overwrote for another client.

A message without a schedule on the subject of a timer ends its schedule: the server then sends nothing when the time
comes.  Each orchestrator subscribes to these subjects and stores the schedule again; a repeated timer does no harm.
Timers that were overwritten while no orchestrator ran are found at start and after a reconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from agentd import AgentdError, StaleWrite, subjects
from agentd.bus.jetstream import ROLLUP, SCHEDULE
from agentd.wire.codec import answered_by_server

if TYPE_CHECKING:
    from agentd import Context, Received

AT_ONCE: Final = 1000
"""Timers that are restored at one start or reconnect; the others are restored at the next one."""


PAUSES: Final = (0.05, 0.2, 1.0, 3.0)
"""Seconds before each check of a timer that was overwritten.

The server can deliver a message to subscribers before the stream holds it, so one check can come too early.
"""


class TimerRestorer:
    """Restores overwritten timers while `run` runs."""

    def __init__(self, context: Context) -> None:
        """Use the bus of `context`."""
        self._context = context
        self._left: dict[str, int] = {}
        """Checks that are left, by the subject of the timer."""

    async def run(self) -> None:
        """Restore overwritten timers until the context is stopping."""
        bus = self._context.bus
        subscription = await bus.subscribe(subjects.ALL_TIMERS, self._on_message)
        bus.on_reconnect.append(self.check)
        try:
            await self.check()
            await self._context.stopping.wait()
        finally:
            bus.on_reconnect.remove(self.check)
            await subscription.stop()

    async def check(self) -> None:
        """Restore every timer that was overwritten, at most AT_ONCE."""
        bus, put_back = self._context.bus, 0
        try:
            async for last in bus.lasts(subjects.WORKFLOWS, subjects.ALL_TIMERS):
                if SCHEDULE not in last.headers and put_back < AT_ONCE:
                    put_back += await self._restore(last.subject)
        except AgentdError as error:
            self._context.log.warning("timers cannot be read", reason=str(error))

    async def _on_message(self, received: Received) -> None:
        if received.data and not answered_by_server(received.data):
            return
        checked = received.subject in self._left
        if not checked and len(self._left) >= AT_ONCE:
            return
        self._left[received.subject] = len(PAUSES)
        if not checked:
            self._context.bus.spawn(self._check(received.subject))

    async def _check(self, subject: str) -> None:
        """Restore the timer after each of PAUSES; an overwriting message restarts them."""
        try:
            while left := self._left[subject]:
                self._left[subject] = left - 1
                await asyncio.sleep(PAUSES[-left])
                await self._restore(subject)
        except AgentdError as error:
            self._context.log.warning("a timer cannot be restored", timer=subject, reason=str(error))
        finally:
            del self._left[subject]

    async def _restore(self, subject: str) -> bool:
        """Store the last schedule on `subject` again if a later message ended it.

        Return whether it was ended.
        """
        bus = self._context.bus
        messages = await bus.every(subjects.WORKFLOWS, subject)
        schedule = next((stored for stored in reversed(messages) if SCHEDULE in stored.headers), None)
        if schedule is None or schedule is messages[-1]:
            return False
        bus.unreadable.note(f"{subject} ({messages[-1].seq})", "another client overwrote a timer; it was restored")
        headers = {name: value for name, value in schedule.headers.items() if name.startswith(SCHEDULE)}
        with contextlib.suppress(StaleWrite):  # another orchestrator was faster
            await bus.store(subject, schedule.data, expect=messages[-1].seq, headers=headers | {ROLLUP: "sub"})
        return True
