"""Check reply subjects.

The requester chooses the reply subject, so a received one need not be an inbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nats.aio.client import Client

from agentd.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Callable

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
            if not (text.startswith(ACK) if pulled else subjects.is_inbox(text)):
                self._refuse(subject.decode(errors="replace"), text)
                reply = b""
        message: Msg = super()._build_message(sid, subject, reply, data, headers)
        return message
