"""Where answers may go: a reply subject is chosen by the one who asks, and need not be an inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nats.aio.client import Client

from agentd.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

ACK: Final = "$JS.ACK."
"""How the reply subject of a message begins that the server delivers from a stream."""


class Answering(Client):
    """nats-py's client, which never sees a reply subject that is neither an inbox nor ours to acknowledge.

    nats-py answers some messages itself (`$SRV.PING`, a handler that raised), so the check is here, where each message
    comes in, and in `Connection.answer`, where each answer goes out.
    """

    def __init__(self, refuse: Callable[[str, str], None]) -> None:
        """Keep what is called with the subject and the reply subject of a message that is not answered."""
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
