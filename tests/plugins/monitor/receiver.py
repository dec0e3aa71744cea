"""An HTTP server that receives notifications."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Receiver:
    """An HTTP server that answers with given status codes; the last one stays."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.hang = list(answers), threading.Event()
        self.bodies: list[tuple[dict[str, str], Any]] = []
        self.raw: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keep the request and answer."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append((dict(self.headers), json.loads(body)))
                outer.raw.append(body)
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if answer == 0:
                    outer.hang.wait(30)
                self.send_response(answer or 500)
                if answer == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@contextlib.contextmanager
def receiver(*answers: int) -> Iterator[Receiver]:
    """Run a receiver."""
    running = Receiver(*answers)
    threading.Thread(target=running.server.serve_forever, daemon=True).start()
    try:
        yield running
    finally:
        running.hang.set()
        running.server.shutdown()
        running.server.server_close()
