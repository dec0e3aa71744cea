"""The simulated EC2: moto in server mode, with faults.  It runs in an environment of its own (.venv-cloud).

python moto_server.py KEY     prints the port on loopback that it took, and ends with its standard input

What moto 5.1.10 and libcloud 3.9.1 read differently is translated here; both are right by themselves: the final slash
of the XML namespace, lists that begin at 0, and DetachVolume without an instance.

POST /faults   {"action": "RunInstances", "kind": "lose", "count": 1, "seconds": 0}
    lose      carry it out, and break the connection instead of answering
    hold      carry it out, and answer after `seconds`
    hang      answer after `seconds`, and carry nothing out
    throttle  answer RequestLimitExceeded
    error     answer 500
POST /reset    start again with an empty account
GET  /seen     the actions of all requests since then, in order
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

os.environ.setdefault("AWS_ACCESS_KEY_ID", "unused")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "unused")

from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import run_wsgi_app

NAMESPACE = re.compile(rb'http://ec2\.amazonaws\.com/doc/[0-9-]+/?"')
KNOWN = b'http://ec2.amazonaws.com/doc/2016-11-15/"'
ERROR = "<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors></Response>"


class Server:
    """The WSGI application: control, faults, translation, moto."""

    def __init__(self, key: str) -> None:
        """Admit the access key `key`."""
        self.key = key
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.faults: list[dict[str, Any]] = []
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if path in {"/faults", "/reset", "/seen"}:
            return self._control(path, body, start)
        query = dict(parse_qsl(environ["QUERY_STRING"] or body.decode(), keep_blank_values=True))
        action = query.get("Action", "")
        self.seen.append(action)
        if f"Credential={self.key}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return _answer(start, "401 Unauthorized", ERROR.format("AuthFailure", f"not valid: {query}"))
        fault = self._fault(action)
        kind = fault.get("kind", "")
        if kind == "throttle":
            return _answer(start, "503 Unavailable", ERROR.format("RequestLimitExceeded", "Request limit exceeded."))
        if kind == "error":
            return _answer(start, "500 Error", ERROR.format("InternalError", f"Signature={self.key} failed"))
        if kind == "hang":
            time.sleep(fault["seconds"])
            return _answer(start, "500 Error", ERROR.format("InternalError", "too late"))
        with self.lock:
            answer, status, headers = self._ask(environ, action, query)
        if kind == "lose":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if kind == "hold":
            time.sleep(fault["seconds"])
        start(status, [item for item in headers if item[0].lower() != "content-length"])
        return [NAMESPACE.sub(KNOWN, answer)]

    def _ask(self, environ: dict[str, Any], action: str, query: dict[str, str]) -> tuple[bytes, str, list[Any]]:
        if action == "CreateTags":
            query = {_from_one(name): value for name, value in query.items()}
        if action == "DetachVolume":
            attachment = _backend().get_volume(query["VolumeId"]).attachment
            query["InstanceId"] = attachment.instance.id if attachment else "i-0"
        encoded = urlencode(query).encode()
        asked = {
            **environ,
            "REQUEST_METHOD": "POST",
            "QUERY_STRING": "",
            "CONTENT_TYPE": "application/x-www-form-urlencoded",
            "CONTENT_LENGTH": str(len(encoded)),
            "wsgi.input": io.BytesIO(encoded),
        }
        answer, status, headers = run_wsgi_app(self.moto, asked, buffered=True)
        return b"".join(answer), status, list(headers)

    def _fault(self, action: str) -> dict[str, Any]:
        with self.lock:
            for fault in self.faults:
                if fault["action"] == action and fault["count"] > 0:
                    fault["count"] -= 1
                    return fault
        return {}

    def _control(self, path: str, body: bytes, start: Any) -> list[bytes]:
        if path == "/faults":
            self.faults.append({"count": 1, "seconds": 0, **json.loads(body)})
        if path == "/reset":
            with self.lock:
                get_backend("ec2").reset()
                self.faults.clear()
                self.seen.clear()
        return _answer(start, "200 OK", json.dumps(self.seen))


def _backend() -> Any:
    return get_backend("ec2")["123456789012"]["us-east-1"]


def _from_one(name: str) -> str:
    """Return the name of a list's entry, counted from 1."""
    return re.sub(r"^(ResourceId|Tag)\.(\d+)", lambda found: f"{found[1]}.{int(found[2]) + 1}", name)


def _answer(start: Any, status: str, text: str) -> list[bytes]:
    start(status, [("Content-Type", "text/xml")])
    return [text.encode()]


def main() -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, Server(sys.argv[1]), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
