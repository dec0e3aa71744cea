"""The queue of messages to receivers.  Pure: times are parameters, in seconds since 1970.

The rules:
- A message stays until its receiver has accepted it, or until KEEP seconds have passed; then it is counted as lost.
- Each receiver has its own queue: one that does not answer delays no other.
- Messages about one incident are sent in their order, so that its end never arrives before its beginning.  A message
  about another incident does not wait for them.
- A reminder is not queued while another message about the same incident waits.
- After a failed attempt the next one waits twice as long, up to LONGEST.  A receiver that refuses (HTTP 400, 401 …) is
  tried again after LONGEST, because its configuration can be corrected.
- `next_at` and `attempts` are stored, so that a restart is not an attempt.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from agentd_monitor.delivery.message import APPROVAL, Message

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

FIRST: Final = 5.0
"""Seconds between the first attempt and the second."""
LONGEST: Final = 900.0
"""Maximum seconds between two attempts."""
KEEP: Final = 3 * 86_400.0
"""Seconds after which a message is given up."""
MOST: Final = 10_000
"""Maximum number of waiting messages of a receiver."""


class Delivery(msgspec.Struct, frozen=True):
    """A message to one receiver, as it is stored; `order` is its place in the queue."""

    receiver: str
    message: Message
    order: int
    created: float
    next_at: float = 0.0
    attempts: int = 0
    problem: str = ""

    @property
    def key(self) -> str:
        """Return the key of the record; it is the same when the message is queued again."""
        return f"{self.receiver}.{self.message.id}"


class Outbox:
    """The queues of all receivers; `changed` has the keys of the records to store or to remove."""

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self.lost: Counter[str] = Counter()
        self._queue: dict[str, Delivery] = {}
        self._sending: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._firing: Counter[tuple[str, str]] = Counter()
        self._order = 0

    def deliveries(self) -> Mapping[str, Delivery]:
        """Return every waiting message, by key."""
        return self._queue

    def waiting(self) -> Counter[str]:
        """Return the number of waiting messages of each receiver."""
        return self._waiting

    def withdraw_requests(self, waiting: Collection[str]) -> None:
        """Remove the requests for approval that are decided.

        `waiting` has the ids of the others.
        """
        for key, delivery in list(self._queue.items()):
            message = delivery.message
            if message.reason == APPROVAL and message.id not in waiting and key not in self._sending:
                self._remove(key)

    def restore(self, stored: Iterable[Delivery]) -> None:
        """Restore the messages that were waiting before a restart."""
        for delivery in sorted(stored, key=lambda delivery: delivery.order):
            self._queue[delivery.key] = delivery
            self._count(delivery, 1)
            self._order = max(self._order, delivery.order)

    def add(self, receiver: str, message: Message, at: float) -> None:
        """Queue a message; a message that is queued already is not queued again."""
        delivery = Delivery(receiver, message, self._order + 1, at, at)
        superfluous = message.reason == "reminder" and self._firing[receiver, message.incident] > 0
        if superfluous or delivery.key in self._queue:
            return
        if self._waiting[receiver] >= MOST:
            self.lost[receiver] += 1
            return
        self._order += 1
        self._count(delivery, 1)
        self._store(delivery)

    def due(self, at: float) -> list[Delivery]:
        """Return the messages to send now.

        They are not returned again before `accepted` or `failed`.
        """
        found: list[Delivery] = []
        seen: set[tuple[str, str]] = set()
        for key, delivery in sorted(self._queue.items(), key=lambda item: item[1].order):
            incident = (delivery.receiver, delivery.message.incident)
            if incident in seen:
                continue
            seen.add(incident)
            if at - delivery.created > KEEP:
                self.lost[delivery.receiver] += 1
                self._remove(key)
            elif key not in self._sending and (delivery.next_at <= at or delivery.next_at - at > LONGEST):
                # A next attempt that is far in the future means that the clock was set back.
                self._sending.add(key)
                found.append(delivery)
        return found

    def accepted(self, delivery: Delivery) -> None:
        """Remove a message that its receiver has accepted."""
        self._sending.discard(delivery.key)
        self._remove(delivery.key)

    def failed(self, delivery: Delivery, problem: str, at: float, *, refused: bool = False) -> None:
        """Record a failed attempt."""
        self._sending.discard(delivery.key)
        attempts = delivery.attempts + 1
        pause = LONGEST if refused else min(FIRST * 2 ** min(attempts - 1, 20), LONGEST)
        self._store(
            msgspec.structs.replace(delivery, attempts=attempts, next_at=at + pause, problem=problem),
        )

    def _store(self, delivery: Delivery) -> None:
        self._queue[delivery.key] = delivery
        self.changed.add(delivery.key)

    def _remove(self, key: str) -> None:
        self._count(self._queue.pop(key), -1)
        self.changed.add(key)

    def _count(self, delivery: Delivery, change: int) -> None:
        """Count the waiting messages of a receiver, and those about an open incident."""
        self._waiting[delivery.receiver] += change
        if not delivery.message.resolved:
            self._firing[delivery.receiver, delivery.message.incident] += change
