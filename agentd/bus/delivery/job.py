"""One delivery of a message to a consumer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from agentd.wire import codec, records
from agentd.wire.subjects import ACK_WAIT

if TYPE_CHECKING:
    from agentd.bus.nats.subscriptions import Delivery

M = TypeVar("M")

HELD: Final = ACK_WAIT - 2.0
"""Seconds after the last progress report during which a message is certainly still ours.

After that another process may have it (this process was stopped, or had no connection), and a NAK of our delivery would
give it to a third process while the second one works on it [seen].
"""


@dataclass
class Job:
    """One delivery of a message.

    sequence   sequence of the message in its stream
    delivered  number of deliveries, including this one
    begun      number of starts since it is a suspect, including this one; 0 while it is none
    stored     when the server stored it
    until      monotonic time after which it is no longer reported as in progress; None: no limit
    reported   monotonic time of the delivery or of the last progress report to the server
    """

    subject: str
    data: bytes
    reply: str
    sequence: int
    delivered: int
    stored: datetime
    headers: dict[str, str]
    until: float | None = None
    begun: int = 0
    reported: float = field(default_factory=time.monotonic)

    @property
    def ours(self) -> bool:
        """Return whether this message certainly belongs to this process.

        No other process can have received it since the last report.
        """
        return time.monotonic() - self.reported < HELD

    def decode(self, kind: type[M]) -> M:
        """Return the message as `kind`; raises InvalidMessage."""
        return codec.decode(self.data, kind)

    def letter(self, stream: str, agent_id: str, reason: str) -> records.DeadLetter:
        """Return the dead letter of this message of `stream`, which `agent_id` gives up."""
        return records.DeadLetter(
            stream=stream,
            sequence=self.sequence,
            subject=self.subject,
            reason=reason,
            agent_id=agent_id,
            stored=self.stored,
            delivered=self.delivered,
            headers=self.headers,
        )


Handle = Callable[[Job], Awaitable[None]]


def job_of(msg: Delivery) -> Job:
    """Read the delivery's numbers from its reply subject, `$JS.ACK.…` (old or new form)."""
    tokens = msg.reply.split(".")
    shift = 2 if len(tokens) > 9 else 0  # noqa: PLR2004 - the new form has a domain and an account hash
    return Job(
        subject=msg.subject,
        data=msg.data,
        reply=msg.reply,
        delivered=int(tokens[4 + shift]),
        sequence=int(tokens[5 + shift]),
        stored=datetime.fromtimestamp(int(tokens[7 + shift]) / 1e9, UTC),
        headers=dict(msg.headers or {}),
    )
