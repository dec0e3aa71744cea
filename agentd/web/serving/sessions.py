"""Which principal a request comes from: a bearer token, or the session of a browser that has presented a token.

A browser exchanges a token for a cookie that scripts cannot read and that no other site's request carries
(`SameSite=Strict`).  A request that changes something must, in addition, contain the secret of the session's pages and
come from a page of this server; a bearer token needs neither, because no browser adds it by itself.

Sessions are kept in memory: they end when the daemon stops.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from agentd.errors import Denied
from agentd.safety import tokens
from agentd.web.responses import problem_response
from agentd.web.serving.security import same_origin

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

LASTS: Final = 12 * 3600.0
"""Seconds after which a session ends, used or not."""
MOST: Final = 1000
"""Open sessions of a daemon; beyond it the oldest one ends."""
LOGIN: Final = "/login"
_OPEN: Final = frozenset({LOGIN, "/healthz", "/readyz", "/metrics"})
_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="agentd"'}
_UNKNOWN, _FORBIDDEN = 401, 403


class Session(NamedTuple):
    """The session of a browser; `csrf` is in its pages, and in each request that changes something."""

    principal: str
    csrf: str
    ends: float


class Sessions:
    """The principals of requests."""

    def __init__(self, known: Mapping[str, str], instance: str) -> None:
        """Know the digest of each principal's token.

        `instance` is part of the cookie's name. Browsers send cookies to every port of a host, and several daemons may
        run there.
        """
        self._known = known
        self.cookie = f"agentd_{instance}"
        self._open: dict[bytes, Session] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether any principal may act."""
        return bool(self._known)

    def begin(self, token: str) -> str:
        """Begin a session for the principal of a token and return its cookie.

        Raises Denied.
        """
        principal = tokens.principal_of(f"Bearer {token}", self._known) or ""
        secret = secrets.token_urlsafe(32)
        if len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        self._open[_kept(secret)] = Session(principal, secrets.token_urlsafe(32), time.monotonic() + LASTS)
        return secret

    def end(self, request: Request) -> None:
        """End the session of a request."""
        self._open.pop(_kept(request.cookies.get(self.cookie, "")), None)

    def session(self, request: Request) -> Session | None:
        """Return the session of a request, None if it has none that is open."""
        found = self._open.get(_kept(request.cookies.get(self.cookie, "")))
        return found if found is not None and found.ends > time.monotonic() else None

    def reader(self, request: Request) -> str | None:
        """Return the principal that reads, None if it is not known.

        Raises Denied for an unknown token.
        """
        session = self.session(request)
        return session.principal if session else tokens.principal_of(request.headers.get("authorization"), self._known)

    def actor(self, request: Request, csrf: str = "") -> str:
        """Return the principal that changes something.

        Raises an HTTP error if it is not proven.

        csrf  the secret of the session, from a form or a header
        """
        if not self._known:
            raise HTTPException(_FORBIDDEN, "no actions over HTTP: [web.tokens] is empty; `agentd token` helps")
        session = self.session(request)
        if session is not None and "authorization" not in request.headers:
            if not same_origin(request.headers) or not secrets.compare_digest(csrf.encode(), session.csrf.encode()):
                raise HTTPException(_FORBIDDEN, "this request does not come from a page of this session; reload it")
            return session.principal
        try:
            principal = tokens.principal_of(request.headers.get("authorization"), self._known)
        except Denied as error:
            raise HTTPException(_UNKNOWN, str(error), _CHALLENGE) from error
        if principal is None:
            raise HTTPException(_UNKNOWN, "authenticate with Authorization: Bearer TOKEN, or log in", _CHALLENGE)
        return principal


class LoginWall:
    """Refuses requests of unknown principals, for a server that other machines can reach.

    Health, readiness and metrics stay open, as do static files and the routes that authenticate by themselves.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, open_paths: Collection[str] = ()) -> None:
        self._app = app
        self._sessions = sessions
        self._open = _OPEN | set(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401; a browser is sent to the login."""
        refused = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if path in self._open or path.startswith("/static/"):
            return None
        try:
            reason = "log in, or authenticate with Authorization: Bearer TOKEN (see `agentd token`)"
            if self._sessions.reader(request) is not None:
                return None
        except Denied as error:
            reason = str(error)
        if request.method == "GET" and "text/html" in Headers(scope=request.scope).get("accept", ""):
            following = urlencode({"next": f"{path}?{request.url.query}".rstrip("?")})
            return RedirectResponse(f"{LOGIN}?{following}", 303)
        refused = problem_response(_UNKNOWN, reason)
        refused.headers.update(_CHALLENGE)
        return refused


def _kept(secret: str) -> bytes:
    """Return what is kept of a cookie.

    It is a digest, so that finding it takes the same time for every guess.
    """
    return hashlib.sha256(secret.encode()).digest()
