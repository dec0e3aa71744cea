"""Checks the Host header of requests and sets the security headers of responses.

On loopback the pages need no login, but a web page of another site can point its own name to 127.0.0.1 and read what is
served there (DNS rebinding).  Therefore the host names of this server are a list.  A numeric address is always
accepted: without a name there is no rebinding, and Prometheus scrapes by address.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_PORT: Final = 65_535
_HOST: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?))(?::(?P<port>[0-9]{1,5}))?"
)
SECURITY: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; object-src 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without a referrer, browsers send `Origin: null` with a form
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Refuses unknown host names and sets the security headers of every response."""

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower().rstrip(".") for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        host = Headers(scope=scope).get("host")
        if host is None or self._is_ours(host):  # only HTTP/1.0 may have none, and no browser uses that
            if host is not None:  # later handlers, such as the MCP SDK, compare it character by character
                rest = [(key, value) for key, value in scope["headers"] if key != b"host"]
                scope = {**scope, "headers": [(b"host", _plain(host).encode("ascii")), *rest]}
            await self._app(scope, receive, send_safely)
            return
        name = "".join(char for char in host if char.isprintable())[:100]
        text = f"This daemon does not answer to the name {name!r}; add it to web.allowed_hosts if it should.\n"
        await PlainTextResponse(text, 421)(scope, receive, send_safely)

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return name is not None and (name in self._names or _is_address(name))


def same_origin(headers: Headers) -> bool:
    """Return whether the client says that its request comes from a page of this server.

    Browsers state the origin of every request that is not a plain GET, and pages cannot change it.
    """
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


def host_name(host: str) -> str | None:
    """Return the name or address of a Host header in lower case.

    None if it is not exactly `name[:port]`.  A dot at the end of a name is removed, an IPv6 address is in brackets, and
    a user before the name is not allowed.
    """
    match = _HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > LARGEST_PORT:
        return None
    if match["six"] is None:
        return match["name"].lower().removesuffix(".")
    return match["six"].lower() if _is_address(match["six"]) else None


def _plain(host: str) -> str:
    """Return a valid Host header in lower case, without a dot at the end of its name."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or name.count("[") != name.count("]"):
        return host.lower().removesuffix(".")
    return f"{name.removesuffix('.')}:{port}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return "%" not in name  # a zone may hold any character
