"""The HTTP connection to Proxmox.

It pins certificates, limits the size of responses, and decides what a lost request means.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import requests
from proxmoxer.backends.https import JsonSerializer
from requests.adapters import HTTPAdapter

from agentd.errors import AgentdError, ProxmoxUnavailable, UnknownOutcome
from agentd.proxmox.responses import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


THREADS: Final = 16


READS: Final = ("GET", "FILE")


VERBS: Final = {"FILE": "GET", "UPLOAD": "POST"}
"""The HTTP verbs of methods that are not verbs of the API."""


class Serializer(JsonSerializer):  # type: ignore[misc]  # proxmoxer has no types
    """Keeps the whole response.

    `total` is beside `data`, and the message of an error is in the body.
    """

    def loads(self, response: requests.Response) -> dict[str, Any]:
        """Return the body; raises ValueError if it is not a JSON object."""
        return _object(response)

    def loads_errors(self, response: requests.Response) -> dict[str, Any]:
        """Return the body of an error, which is often empty."""
        try:
            return _object(response)
        except ValueError:
            return {}


def _object(response: requests.Response) -> dict[str, Any]:
    if not response.content:
        raise ValueError("it is empty")
    body = json.loads(response.content.decode())
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one type for "this does not come from Proxmox"
    return body


class PinnedAdapter(HTTPAdapter):
    """Trusts one certificate by its SHA-256 fingerprint, regardless of its issuer.

    Nothing is sent before the fingerprint is compared.
    """

    def __init__(self, fingerprint: str) -> None:
        """Use this fingerprint.

        It is set first, because HTTPAdapter creates its pools at once.
        """
        self._fingerprint = fingerprint
        super().__init__(pool_connections=1, pool_maxsize=THREADS)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the signature of requests
        """Make every connection compare the fingerprint."""
        super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, **kwargs)


def bounded_chunks(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Yield `chunks`; raises ValueError after `limit` bytes."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise ValueError(f"more than {limit} bytes")
        yield chunk


def lost_request(method: str, path: str, error: requests.RequestException) -> AgentdError:
    """Return the error for a request without a response.

    It depends on whether the request can have been sent.
    """
    where = f"{VERBS.get(method, method)} {path}"
    cause = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    if "Fingerprints did not match" in str(error):
        return ProxmoxUnavailable(
            f"{where}: the server's certificate is not the pinned one; if it was renewed, update proxmox.fingerprint"
            f" ({one_line(cause)})",
            delay=30.0,
        )
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ProxmoxUnavailable(f"{where}: the server's certificate is not trusted: {one_line(cause)}", delay=30.0)
    if was_not_sent(error):
        return ProxmoxUnavailable(f"{where}: Proxmox is not reachable: {one_line(cause)}", delay=3.0)
    if isinstance(error, requests.Timeout):
        return no_answer(method, f"{where}: no answer in time")
    return no_answer(method, f"{where}: the connection was lost: {one_line(cause)}")


def was_not_sent(error: requests.RequestException) -> bool:
    """Return whether a request cannot have been sent: there was no connection."""
    cause = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    # urllib3 is an internal of requests: its error is detected by name (NameResolutionError is a subclass).
    refused = any(kind.__name__ == "NewConnectionError" for kind in type(cause).__mro__)
    return refused or isinstance(error, requests.ConnectTimeout)


def no_answer(method: str, text: str) -> AgentdError:
    """Return the error for a request without a response.

    A read is unavailable, a write has an unknown outcome.
    """
    if method in READS:
        return ProxmoxUnavailable(text, delay=2.0)
    return UnknownOutcome(f"{text}; it may have happened", delay=2.0)
