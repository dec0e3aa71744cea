"""A mail server that keeps what it gets."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from email import message_from_bytes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message


class MailServer:
    """A mail server without TLS; `refuse` is its answer to a recipient, or ""."""

    def __init__(self, refuse: str = "") -> None:
        self.mails: list[tuple[list[str], Message]] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                """Speak SMTP."""
                recipients: list[str] = []
                self.answer("220 test")
                while line := self.rfile.readline():
                    word = line[:4].upper()
                    if word == b"RCPT" and refuse:
                        self.answer(refuse)
                        continue
                    if word == b"RCPT":
                        recipients.append(line.decode().partition("<")[2].partition(">")[0])
                    if word == b"DATA":
                        self.answer("354 go on")
                        body = b"".join(iter(self.rfile.readline, b".\r\n"))
                        outer.mails.append((recipients, message_from_bytes(body)))
                    self.answer("221 bye" if word == b"QUIT" else "250 ok")

            def answer(self, text: str) -> None:
                """Send an answer."""
                self.wfile.write(f"{text}\r\n".encode())

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]


@contextlib.contextmanager
def mail_server(refuse: str = "") -> Iterator[MailServer]:
    """Run a mail server."""
    running = MailServer(refuse)
    threading.Thread(target=running.server.serve_forever, daemon=True).start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
