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


class Sender:
    """Sends messages; `receivers` has a blocking function for each, which returns or raises SendFailed."""

    def __init__(
        self, outbox: Outbox, receivers: Mapping[str, Callable[[Message], None]], clock: Callable[[], float]
    ) -> None:
        self._outbox = outbox
        self._receivers = receivers
        self._clock = clock
        self._threads = {name: ThreadPoolExecutor(AT_ONCE, thread_name_prefix=f"receiver {name}") for name in receivers}
        self._running: set[asyncio.Task[None]] = set()

    def send_due(self) -> None:
        """Start to send what is due; returns at once."""
        for delivery in self._outbox.due(self._clock()):
            sending = asyncio.create_task(self._send(delivery), name=f"notify {delivery.receiver}")
            self._running.add(sending)
            sending.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Stop; messages that were not accepted stay in the queue."""
        for sending in self._running:
            sending.cancel()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    async def _send(self, delivery: Delivery) -> None:
        receiver = self._receivers.get(delivery.receiver)
        if receiver is None:
            self._outbox.failed(delivery, "this receiver is not configured", self._clock(), refused=True)
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads[delivery.receiver], receiver, delivery.message)
        except SendFailed as error:
            self._outbox.failed(delivery, str(error), self._clock(), refused=error.refused)
        except Exception as error:  # noqa: BLE001 - a fault in one message must not stop the others
            self._outbox.failed(delivery, repr(error), self._clock(), refused=True)
        else:
            self._outbox.accepted(delivery)
