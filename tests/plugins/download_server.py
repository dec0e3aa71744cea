"""A web server with two files to download, one of which breaks off."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = b"an image" * 1000


class DownloadServer(BaseHTTPRequestHandler):
    """Serves /image.iso, and /cut.iso only half."""

    def do_GET(self) -> None:
        """Answer."""
        known = self.path in {"/image.iso", "/cut.iso"}
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(IMAGE)))
        self.end_headers()
        if known:
            self.wfile.write(IMAGE if self.path == "/image.iso" else IMAGE[:100])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Serve files on loopback and yield the address."""
    with HTTPServer(("127.0.0.1", 0), DownloadServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
