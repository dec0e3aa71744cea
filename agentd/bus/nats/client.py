"""What nats-py's client does not do by itself.

It does not check reply subjects: the requester chooses the reply subject, so a received one need not be an inbox.  Its
own close waits for a peer that does not answer, and it reports errors as texts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import nats.errors
from nats.aio.client import Client

from agentd.wire.names import is_inbox

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from nats.aio.msg import Msg

ACK: Final = "$JS.ACK."
"""Prefix of the reply subject of a message that the server delivers from a stream."""


class Answering(Client):
    """nats-py's client, which removes reply subjects that are not allowed.

    Allowed are an inbox, and the acknowledgement of our own delivery.

    nats-py answers some messages itself (`$SRV.PING`, a handler that raised).  So reply subjects are checked here, for
    each received message, and in `Connection.answer`, for each sent answer.
    """

    def __init__(self, refuse: Callable[[str, str], None]) -> None:
        """Call `refuse` for each message whose reply subject is removed.

        `refuse` gets the subject and the reply subject.
        """
        super().__init__()
        self._refuse = refuse

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        sub = self._subs.get(sid)
        if reply and sub is not None:
            text = reply.decode(errors="replace")
            pulled = sub.subject.startswith("_INBOX.")
            if not (text.startswith(ACK) if pulled else is_inbox(text)):
                self._refuse(subject.decode(errors="replace"), text)
                reply = b""
        message: Msg = super()._build_message(sid, subject, reply, data, headers)
        return message


def abort(client: Client) -> None:
    """Abort the socket: nats-py's own close waits for a peer that does not answer."""
    transport = _socket(client)
    if transport is not None:
        transport.abort()


def is_stuck(client: Client) -> bool:
    """Return whether a reconnect waits for the old socket to send its remaining data."""
    transport = _socket(client)
    return transport is not None and transport.get_write_buffer_size() > 0


def certificate_end(client: Client) -> str:
    """Return when the server's certificate ends, in the form of `ssl`; "" without TLS."""
    transport = _socket(client)
    found = None if transport is None else transport.get_extra_info("peercert")
    return str((found or {}).get("notAfter", ""))


def _socket(client: Client) -> asyncio.WriteTransport | None:
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
    found: asyncio.WriteTransport | None = None if writer is None else writer.transport
    return found


async def ignore_closed(ending: Awaitable[None]) -> None:
    """Await `ending`; ignore errors of a closed connection.

    uvloop raises a RuntimeError for it.
    """
    with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
        await ending


def error_text(error: Exception) -> str:
    """Return the text of an error; its type if it has none."""
    return str(error) or type(error).__name__


def is_refusal(text: str) -> bool:
    """Return whether the server rejected our credentials."""
    return any(words in text.lower() for words in ("authorization violation", "authentication"))


def status_of(msg: Msg) -> str:
    """Return the status of a message that has a status instead of data, else ""."""
    return "" if msg.headers is None else str(msg.headers.get("Status", ""))
