"""Call the simulator as a plain client of the API; for its own tests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from pve.client import FakePve

Json = Any
NEW_VM = {"vmid": 300, "name": "new", "memory": 512, "scsi0": "local-lvm:8", "net0": "virtio,bridge=vmbr0"}


class Api:
    """Call the simulator as a plain client of the API."""

    def __init__(self, pve: FakePve, token: str = "full") -> None:  # noqa: S107 - the name of a token
        """Log in with the named token."""
        self.base = pve.url + "/api2/json"
        self.session = requests.Session()
        # REQUESTS_CA_BUNDLE in the environment would override `verify`.
        self.session.trust_env = False
        self.session.verify = str(pve.ca)
        self.session.headers.update(pve.headers(token))

    def __call__(self, method: str, path: str, /, **data: Json) -> requests.Response:
        """Send a request; parameters go into the query of a GET and the form of a write."""
        reads = method in ("GET", "DELETE")
        query, form = (data, None) if reads else (None, data)
        return self.session.request(method, self.base + path, params=query, data=form, timeout=20)

    def data(self, method: str, path: str, /, **data: Json) -> Json:
        """Send a request that must succeed and return its data."""
        answer = self(method, path, **data)
        assert answer.status_code == 200, (answer.status_code, answer.reason, answer.text)
        return answer.json()["data"]

    def exit(self, method: str, path: str, /, **data: Json) -> str:
        """Send a request that starts a task and return the task's exit status."""
        upid = self.data(method, path, **data)
        return str(poll(lambda: self.status(upid).get("exitstatus")))

    def status(self, upid: str) -> dict[str, Any]:
        """Return a task's status, asked at its own node."""
        return dict(self.data("GET", f"/nodes/{upid.split(':')[1]}/tasks/{upid}/status"))


def poll(what: Callable[[], Json], timeout: float = 10.0) -> Json:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + timeout
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return found
