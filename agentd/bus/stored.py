"""Messages as they are stored in a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from agentd.errors import InvalidMessage
from agentd.wire import codec

if TYPE_CHECKING:
    from agentd.bus.nats.subscriptions import Delivery as Msg

M = TypeVar("M")

_GONE: Final = ("KV-Operation", "Nats-Marker-Reason")
_ANSWERED: Final = frozenset({"Nats-Sequence", "Nats-Num-Pending", "Status"})
"""Headers of the server's answers to direct gets; a message that a client stores does not have them."""


@dataclass(frozen=True)
class Stored:
    """A message as stored in a stream; `time` is the server's time."""

    subject: str
    seq: int
    data: bytes
    time: datetime
    headers: dict[str, str] = field(default_factory=dict)

    def decode(self, kind: type[M]) -> M:
        """Return the message as `kind`; raises InvalidMessage."""
        if self.answered:
            raise InvalidMessage(f"{kind.__name__}: it is an answer of the NATS server, not a message of a client")
        return codec.decode(self.data, kind)

    @property
    def answered(self) -> bool:
        """Return whether this message is an answer that the server published.

        The request had this subject as its reply subject.
        """
        return not _ANSWERED.isdisjoint(self.headers) or codec.answered_by_server(self.data)

    @property
    def gone(self) -> bool:
        """Return whether this marks a key of a bucket as deleted or expired."""
        return not self.answered and any(name in self.headers for name in _GONE)


@dataclass(frozen=True)
class Newest(Generic[M]):
    """The newest readable message on a subject.

    seq    the sequence of the last message, which a compare-and-set has to expect; 0 for none
    value  the newest readable message; None if there is none, or if the key was deleted or has expired
    time   when `value` was stored
    doubt  why a message after `value` cannot be read; "" if all of them are answers of the server
    """

    seq: int = 0
    value: M | None = None
    time: datetime | None = None
    doubt: str = ""


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return the headers of a stored message.

    `Status` is the status of the first line.
    """
    first, *lines = raw.decode(errors="replace").split("\r\n")
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines if line)}
    status = first.partition(" ")[2]
    return found | ({"Status": status} if status else {})


def from_direct_get(msg: Msg) -> Stored:
    """Return a message from a direct get.

    The server adds its subject, sequence and time as headers.
    """
    headers = dict(msg.headers or {})
    subject, seq, at = (headers.pop(f"Nats-{name}", "") for name in ("Subject", "Sequence", "Time-Stamp"))
    for name in ("Nats-Stream", "Nats-Num-Pending", "Nats-Last-Sequence"):
        headers.pop(name, None)
    return Stored(subject, int(seq), msg.data, codec.convert(at, datetime).astimezone(UTC), headers)
