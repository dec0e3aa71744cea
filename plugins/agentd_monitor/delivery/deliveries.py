"""Delivers notifications: from a stored queue to each receiver, and all alerts every minute to Alertmanager."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from agentd import AgentdError
from agentd_monitor.delivery.formats import RESEND
from agentd_monitor.delivery.message import message
from agentd_monitor.delivery.outbox import Outbox
from agentd_monitor.delivery.receivers import send, send_all
from agentd_monitor.delivery.sender import Sender
from agentd_monitor.delivery.transport import TIMEOUT, SendFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from agentd import Context
    from agentd_monitor.alerting.book import Notification, Record
    from agentd_monitor.delivery.message import Message
    from agentd_monitor.delivery.outbox import Delivery
    from agentd_monitor.delivery.receivers import ReceiverSettings
    from agentd_monitor.settings import MonitorSettings


class Deliveries:
    """The receivers, the queue, and the requests to Alertmanager.

    outbox    the queue; the writer of the alerts stores what it changes
    problems  why a receiver does not accept messages
    """

    def __init__(self, settings: MonitorSettings, context: Context, wake: Callable[[], None]) -> None:
        """Deliver to the receivers of `settings`; call `wake` when the queue has changed."""
        self.outbox = Outbox()
        self._policy, self._metrics, self._proxmox = context.policy, context.metrics, context.proxmox
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._refused: dict[str, str] = {}
        self._resent: dict[str, float] = {}
        self._resending: dict[str, asyncio.Task[None]] = {}
        self._sender = Sender(self.outbox, {}, time.time)
        self.configure(settings)

    def configure(self, settings: MonitorSettings) -> None:
        """Use these receivers from now on."""
        self._sender.retire()
        self._receivers, self._link = settings.receivers, settings.page_url
        queued = {name: receiver for name, receiver in self._receivers.items() if receiver.type != "alertmanager"}
        senders = {name: partial(send, name, receiver, self._link, self._read) for name, receiver in queued.items()}
        self._sender = Sender(self.outbox, senders, time.time, self._wake)

    def restore(self, stored: Iterable[Delivery]) -> None:
        """Continue with the messages that were waiting when they were stored last."""
        self.outbox = Outbox()
        self.outbox.restore(stored)
        self._sender.outbox = self.outbox

    def add(self, notifications: Iterable[Notification], at: float) -> None:
        """Queue notifications for the receivers that get them."""
        for notification in notifications:
            self.queue(message(notification), at)

    def queue(self, queued: Message, at: float) -> None:
        """Queue a message for the receivers that get it."""
        for name, receiver in self._receivers.items():
            if receiver.takes(queued, self._policy):
                self.outbox.add(name, queued, at)

    def send(self, records: Mapping[str, Record]) -> None:
        """Start to send what is due; returns at once."""
        self._sender.send_due()
        for name, receiver in self._receivers.items():
            for url in receiver.urls if receiver.type == "alertmanager" else ():
                self._resend(name, receiver, url, records.values())
        waiting = self.outbox.waiting()
        for name in self._receivers:
            self._metrics.notifications_waiting.labels(name).set(waiting[name])
            self._metrics.notifications_lost.labels(name).set(self.outbox.lost[name])

    @property
    def problems(self) -> list[str]:
        """Return a sentence for each receiver that does not accept messages."""
        queued = {
            delivery.receiver: delivery.problem for delivery in self.outbox.deliveries().values() if delivery.problem
        }
        return [f"receiver {name}: {problem}" for name, problem in sorted({**queued, **self._refused}.items())]

    async def close(self) -> None:
        """Stop sending; what was not accepted stays in the queue."""
        await self._sender.close()
        for resending in self._resending.values():
            resending.cancel()

    def _resend(self, name: str, receiver: ReceiverSettings, url: str, records: Collection[Record]) -> None:
        """Start to send all alerts to a member of Alertmanager, if it is due and the last request has ended."""
        at = time.monotonic()
        if at - self._resent.get(url, -RESEND) < RESEND or url in self._resending:
            return
        self._resent[url] = at
        sending = asyncio.create_task(self._send_all(name, receiver, url, list(records)), name=f"notify {url}")
        self._resending[url] = sending
        sending.add_done_callback(lambda _: self._resending.pop(url, None))

    async def _send_all(self, name: str, receiver: ReceiverSettings, url: str, records: list[Record]) -> None:
        try:
            await asyncio.to_thread(send_all, receiver, url, self._link, records)
        except Exception as error:  # noqa: BLE001 - shown; the next request is a minute later
            self._refused[name] = str(error)
        else:
            self._refused.pop(name, None)

    def _read(self, path: str) -> Any:  # noqa: ANN401 - any JSON from Proxmox
        """Return the response of a path of the Proxmox API; called in the threads of the sender."""
        if self._proxmox is None:
            raise SendFailed("this monitor has no section [proxmox]", refused=True)
        reading = asyncio.run_coroutine_threadsafe(self._proxmox.get(path), self._loop)
        try:
            return reading.result(TIMEOUT)
        except TimeoutError as error:
            reading.cancel()
            raise SendFailed("Proxmox does not answer") from error
        except AgentdError as error:
            raise SendFailed(f"Proxmox: {error}") from error

    def hurry(self) -> None:
        """Send to Alertmanager at once: an alert has changed."""
        self._resent.clear()
