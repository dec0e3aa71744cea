"""One HTTP session with the API of Proxmox, for all threads of the client.

Its methods block, so they run in threads.  See client.py for the decisions.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import requests
from proxmoxer.backends.https import Backend
from proxmoxer.core import ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter

from agentd import files
from agentd.errors import AgentdError, ConfigError, Denied, PermanentError
from agentd.proxmox import pvesh
from agentd.proxmox.responses import classify, one_line
from agentd.proxmox.transport import (
    READS,
    THREADS,
    VERBS,
    PinnedAdapter,
    Serializer,
    bounded_chunks,
    lost_request,
    no_answer,
    was_not_sent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.proxmox.upload import Upload

CONNECT_TIMEOUT: Final = 10.0
DENIED_PAUSE: Final = 5.0
"""Seconds without a call after a 401.

Proxmox delays each of them by 3 s, and retrying does not make a wrong token right.
"""
FILE_LIMIT: Final = 32 << 20
"""Largest file outside the API, in bytes; the schema of PVE 9.2 has about 3 MB."""
LOCAL_SHOWN: Final = 60.0
"""Seconds for which `local` stays true after pvesh replaced an API response."""


class Access(Protocol):
    """The part of section `[proxmox]` that the client needs.

    `calls_per_node` is 1 or 2, `timeout` is in seconds and at least 35.
    """

    @property
    def url(self) -> str: ...  # noqa: D102
    @property
    def token_id(self) -> str: ...  # noqa: D102
    @property
    def ca_file(self) -> object: ...  # noqa: D102
    @property
    def fingerprint(self) -> str | None: ...  # noqa: D102
    @property
    def verify(self) -> bool: ...  # noqa: D102
    @property
    def timeout(self) -> float: ...  # noqa: D102
    @property
    def calls_per_node(self) -> int: ...  # noqa: D102
    @property
    def pvesh(self) -> str | None: ...  # noqa: D102
    @property
    def vmid_min(self) -> int: ...  # noqa: D102
    @property
    def vmid_max(self) -> int: ...  # noqa: D102
    def token(self) -> str:
        """Return the token's secret; raises ConfigError."""
        ...


class Session:
    """A session that sends the API token with each request."""

    def __init__(self, settings: Access) -> None:
        """Use these settings; the token is read with the first request."""
        self.settings = settings
        self._api: ProxmoxResource | None = None
        self._session: requests.Session | None = None
        self._connecting = threading.Lock()
        self._denied: Denied | None = None
        self._denied_until = 0.0
        self._local_at = -LOCAL_SHOWN

    @property
    def local(self) -> bool:
        """Whether the API was unreachable recently, and pvesh answered reads instead."""
        return time.monotonic() - self._local_at < LOCAL_SHOWN

    @property
    def denied(self) -> Denied | None:
        """Why no request is sent now: the token was rejected a moment ago."""
        return self._denied if time.monotonic() < self._denied_until else None

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()

    def send(self, method: str, path: str, params: dict[str, Any]) -> dict[str, Any] | AgentdError:
        """Send one request and return the response or the error.

        It does not raise.
        """
        try:
            verb = self._verb(method, path)
        except ConfigError as error:
            return error
        started = time.monotonic()
        try:
            try:
                answer: dict[str, Any] | AgentdError = verb(**params)
            except requests.ConnectionError:
                # pveproxy has just closed the kept connection.  A read may be sent again, but not after a time-out.
                if method not in READS or time.monotonic() - started > 1.0:
                    raise
                answer = verb(**params)
        except ResourceException as error:
            return self._refused(method, path, error)
        except requests.RequestException as error:
            lost = lost_request(method, path, error)
            lost.__cause__ = error
            return self._read_with_pvesh(method, path, params, lost, unsent=was_not_sent(error))
        except ValueError as error:
            text = f"{method} {path}: the answer is not from Proxmox: {error}"
            return PermanentError(text) if method in READS else no_answer(method, text)
        except OSError as error:
            return ConfigError(f"proxmox: {one_line(error)}")
        return answer

    def _read_with_pvesh(
        self, method: str, path: str, params: dict[str, Any], lost: AgentdError, *, unsent: bool
    ) -> dict[str, Any] | AgentdError:
        """Return what pvesh reads while the API is unreachable; `lost` for any write."""
        if method != "GET" or not unsent or self.settings.pvesh is None:
            return lost
        self._local_at = time.monotonic()
        return pvesh.read(self.settings.pvesh, path, params, self.settings.timeout)

    def _verb(self, method: str, path: str) -> Callable[..., dict[str, Any] | AgentdError]:
        api = self._connect()
        if method == "FILE":
            return lambda: self._file(path)
        if method == "UPLOAD":
            return lambda body: self._upload(path, body)
        verb: Callable[..., dict[str, Any]] = getattr(api(path.lstrip("/")), method.lower())
        return verb

    def _file(self, path: str) -> dict[str, Any]:
        """Return a file outside the API; the request does not carry the token.

        The token is for the API only.
        """
        assert self._session is not None  # noqa: S101 - _connect has made it
        url = self.settings.url + path
        with self._session.get(url, headers={"Authorization": None}, stream=True, timeout=self._timeouts) as answer:
            if answer.status_code != requests.codes.ok:
                raise ResourceException(answer.status_code, answer.reason, answer.reason)
            data = b"".join(bounded_chunks(answer.iter_content(1 << 16), FILE_LIMIT))
        return {"data": data}

    def _upload(self, path: str, body: Upload) -> dict[str, Any] | AgentdError:
        """Send a form while it is read from disk.

        proxmoxer, and requests by itself, would hold the file in memory.
        """
        assert self._session is not None  # noqa: S101 - _connect has made it
        url, wait = f"{self.settings.url}/api2/json{path}", self.settings.timeout
        options: dict[str, Any] = {
            "headers": {"Content-Type": body.content_type},
            "verify": self._session.auth.verify_ssl,  # type: ignore[union-attr]  # proxmoxer's own type
        }
        try:
            answer = requests.Session.request(self._session, "POST", url, data=body, timeout=(wait, wait), **options)
        except AgentdError as error:  # raised while the file is read
            return error
        except requests.RequestException as error:
            return body.lost(lost_request("UPLOAD", path, error))
        if answer.status_code >= requests.codes.bad_request:
            reason = answer.reason
            raise ResourceException(answer.status_code, reason, reason, errors=Serializer().loads_errors(answer))
        return Serializer().loads(answer)

    @property
    def _timeouts(self) -> tuple[float, float]:
        return (CONNECT_TIMEOUT, self.settings.timeout)

    def _refused(self, method: str, path: str, error: ResourceException) -> AgentdError:
        body = error.errors or {}
        method = VERBS.get(method, method)
        refusal = classify(
            method,
            error.status_code,
            error.content or "",
            body.get("errors"),
            body,
            path=path,
            token=self.settings.token_id,
        )
        if error.status_code == requests.codes.unauthorized and isinstance(refusal, Denied):
            self._denied, self._denied_until = refusal, time.monotonic() + DENIED_PAUSE
            self._api = None
        return refusal

    def _connect(self) -> ProxmoxResource:
        """Return the API with its session .

        It is created again after a 401, because the token may have been replaced.
        """
        with self._connecting:
            if self._api is not None:
                return self._api
            url = urlsplit(self.settings.url)
            user, _, name = self.settings.token_id.rpartition("!")
            ca_file, pinned = self.settings.ca_file, self.settings.fingerprint
            if ca_file and not pinned:
                files.check(Path(str(ca_file)), follow=True)
            backend = Backend(
                url.hostname or "",
                port=url.port or 8006,
                path_prefix=url.path.strip("/") or None,
                user=user,
                token_name=name,
                token_value=self.settings.token().rpartition("=")[2],  # Proxmox shows it as user@realm!name=secret
                verify_ssl=self.settings.verify and not pinned and (str(ca_file) if ca_file else True),
                timeout=self._timeouts,
            )
            session = backend.get_session()
            session.trust_env = False
            session.max_redirects = 0  # Proxmox sends none, and no other server may get the token
            session.mount(
                "https://", PinnedAdapter(pinned) if pinned else HTTPAdapter(pool_connections=1, pool_maxsize=THREADS)
            )
            if self._session is not None:
                self._session.close()
            self._session = session
            self._api = ProxmoxResource(base_url=backend.get_base_url(), session=session, serializer=Serializer())
            return self._api
