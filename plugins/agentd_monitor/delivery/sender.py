"""Sends the messages that are due, each receiver on its own: one that hangs delays no other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from agentd_monitor.delivery.transport import SendFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd_monitor.delivery.message import Message
    from agentd_monitor.delivery.outbox import Delivery, Outbox

AT_ONCE: Final = 2
"""Messages to one receiver at the same time."""
GRACE: Final = 2.0
"""Seconds for which a stop waits for receivers: a message whose acceptance is not noted is sent again."""


class Sender:
    """Sends messages; `receivers` has a blocking function for each, which returns or raises SendFailed."""

    def __init__(
        self,
        outbox: Outbox,
        receivers: Mapping[str, Callable[[Message], None]],
        clock: Callable[[], float],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Send from `outbox`; call `ended` after each attempt."""
        self.outbox = outbox
        self._ended = ended
        self._receivers = receivers
        self._clock = clock
        self._threads = {name: ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"receiver {name}") for name in receivers}
        self._running: set[asyncio.Task[None]] = set()

    def send_due(self) -> None:
        """Start to send what is due; returns at once."""
        for delivery in self.outbox.due(self._clock()):
            sending = asyncio.create_task(self._send(delivery), name=f"notify {delivery.receiver}")
            self._running.add(sending)
            sending.add_done_callback(self._running.discard)

    def retire(self) -> None:
        """Send nothing more; what is being sent is finished."""
        for threads in self._threads.values():
            threads.shutdown(wait=False)

    async def close(self) -> None:
        """Finish what is being sent, within GRACE; messages that were not accepted stay in the queue."""
        if self._running:
            _, unfinished = await asyncio.wait(self._running, timeout=GRACE)
            for sending in unfinished:
                sending.cancel()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    async def _send(self, delivery: Delivery) -> None:
        outbox, receiver = self.outbox, self._receivers.get(delivery.receiver)
        problem, refused = "this receiver is not configured", True
        if receiver is not None:
            problem, refused = await self._attempt(receiver, delivery)
        if problem:
            outbox.failed(delivery, problem, self._clock(), refused=refused)
        else:
            outbox.accepted(delivery)
        self._ended()

    async def _attempt(self, receiver: Callable[[Message], None], delivery: Delivery) -> tuple[str, bool]:
        """Send a message; return why it was not accepted, and whether another attempt is useless for now."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads[delivery.receiver], receiver, delivery.message)
        except SendFailed as error:
            return str(error), error.refused
        except Exception as error:  # noqa: BLE001 - a fault in one message must not stop the others
            return str(error) or repr(error), True
        return "", False
