"""The web application: the page of the daemon, its health and metrics, live events, static files, and errors.

The client's Accept header or `?format=` selects the form.  The API is in api/, the dashboard in dashboard/;
what changes something needs a principal (serving/sessions.py), and so does reading if the server can be reached by
other machines.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.errors import AgentdError, InvalidMessage, UsageError
from agentd.web.api.actions import ActionRoutes, Actions
from agentd.web.api.openapi import Readiness, describe
from agentd.web.api.reading import Api
from agentd.web.dashboard.form_routes import FormRoutes
from agentd.web.dashboard.rebalance import Rebalance
from agentd.web.dashboard.routes import SHOWN, Dashboard
from agentd.web.events import MOST_CLIENTS, EventResponse, Streams
from agentd.web.overview import COUNTED, read_overview
from agentd.web.plain_text import status_page_text
from agentd.web.renderer import Renderer
from agentd.web.responses import (
    FRESH,
    check_parameters,
    html_response,
    json_response,
    number,
    problem_response,
    text_response,
    wanted_format,
)
from agentd.web.serving import security
from agentd.web.serving.sessions import LoginWall, Sessions
from agentd.web.serving.shared_responses import SharedResponses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from starlette.requests import Request

    from agentd.client.views import View
    from agentd.web.page import Asset

_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_NOT_FOUND, _INTERNAL, _UNAVAILABLE = 404, 500, 503
_TITLES: Final = {
    400: "That can't be understood",
    401: "Log in first",
    403: "Not allowed",
    404: "Not here",
    409: "Refused",
    503: "The network can't be seen",
}
_LONGEST_SEQUENCE: Final = 18


def build(  # noqa: PLR0913 - the settings of WebServer
    view: View,
    *,
    allowed_hosts: Iterable[str] = (),
    streams: Streams | None = None,
    routes: Iterable[BaseRoute] = (),
    tokens: Mapping[str, str] | None = None,
    max_concurrent_calls: int = 32,
    login: bool = False,
) -> Starlette:
    """Return the web application over `view`.

    allowed_hosts  the host names of the server, besides localhost and addresses
    routes  additional routes of roles, such as `/mcp` of the bridge
    tokens  principals that may act, and the digest of the token of each
    max_concurrent_calls  actions of one principal that run at the same time
    login  reading needs a principal, too; a role's route outside of /api/ authenticates by itself
    """
    sessions = Sessions(tokens or {}, view.identity().instance)
    renderer, actions = Renderer(view, sessions), Actions(view, max_concurrent_calls)
    site, dashboard = Site(view, streams or Streams(view), renderer), Dashboard(view, renderer)
    more = list(routes)
    own_login = {route.path for route in more if isinstance(route, Route) and not route.path.startswith("/api/")}
    wall = [Middleware(LoginWall, sessions=sessions, open_paths=own_login)] if login else []
    return Starlette(
        routes=[
            *site.routes(),
            *Api(view).routes(),
            *ActionRoutes(actions, sessions).routes(),
            *dashboard.routes(),
            *Rebalance(view, renderer).routes(),
            *FormRoutes(dashboard, actions, sessions, renderer).routes(),
            *more,
        ],
        middleware=[
            Middleware(security.Guard, allowed_hosts=tuple(allowed_hosts)),
            *wall,
            Middleware(SharedResponses),
            Middleware(GZipMiddleware, minimum_size=600, compresslevel=6),
        ],
        exception_handlers=site.error_handlers(),
    )


class Site:
    """The routes about this daemon, and the responses to errors."""

    def __init__(self, view: View, streams: Streams, renderer: Renderer) -> None:
        self._view = view
        self._streams = streams
        self._render = renderer

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.status),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/api/openapi.json", self.openapi),
            Route("/events", self.events),
            Route("/static/{name}", self.static),
        ]

    async def status(self, request: Request) -> Response:
        """Respond with the page of this daemon.

        If the network cannot be read: 503, with a note.
        """
        check_parameters(request, "limit", "format")
        limit = number(request.query_params, "limit", SHOWN, COUNTED)
        form = wanted_format(request)
        picture = await read_overview(self._view)
        code = _UNAVAILABLE if picture.problems else 200
        if form == "json":
            return json_response(request, picture, code)
        if form == "text":
            return text_response(status_page_text(picture, limit), code)
        pages = await self._render.pages()
        return html_response(request, pages.status(self._render.frame(request), picture), code)

    async def healthz(self, _: Request) -> Response:
        """Respond that the process is alive; /readyz shows whether it can work."""
        return text_response("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Respond whether this daemon is ready, and if not, why."""
        check_parameters(request, "format")
        reasons = self._view.readiness()
        code = _UNAVAILABLE if reasons else 200
        identity = self._view.identity()
        frozen = identity.frozen
        if wanted_format(request) != "text":
            return json_response(request, Readiness(not reasons, reasons, frozen, identity.unreadable), code)
        text = "".join(f"{reason.source}: {reason.text}\n" for reason in reasons) or "ready\n"
        text += f"the network is {frozen}\n" if frozen else ""
        text += "".join(f"warning: {warning}\n" for warning in identity.unreadable)
        return PlainTextResponse(text, code, FRESH)

    async def metrics(self, _: Request) -> Response:
        """Respond with the metrics for Prometheus."""
        return Response(await self._view.prometheus(), headers={"content-type": _EXPOSITION})

    async def openapi(self, request: Request) -> Response:
        """Respond with the OpenAPI document."""
        return json_response(request, describe(self._view.identity().version))

    async def events(self, request: Request) -> Response:
        """Open a stream of live events."""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        if self._streams.full:
            raise HTTPException(_UNAVAILABLE, f"{MOST_CLIENTS} streams are open; close one first")
        last = request.headers.get("last-event-id", "")
        since = int(last) if last.isascii() and last.isdigit() and len(last) <= _LONGEST_SEQUENCE else 0
        return EventResponse(self._streams.follow(since), headers=headers)

    async def static(self, request: Request) -> Response:
        """Respond with a static file, cached for ever if requested by its present ETag."""
        asset = (await self._render.pages()).assets.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(_NOT_FOUND)
        lasting = request.query_params.get("v") == asset.etag
        headers = {
            "etag": f'W/"{asset.etag}"',
            "cache-control": "public, max-age=31536000, immutable" if lasting else "no-cache",
        }
        if _has(request, asset):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers={**headers, "content-type": asset.media_type})

    def error_handlers(self) -> dict[Any, Callable[[Request, Exception], Awaitable[Response]]]:
        """Return what responds to which error."""
        return {
            HTTPException: self._on_http_error,
            AgentdError: self._on_agentd_error,
            Exception: self._on_bug,
        }

    async def _on_http_error(self, request: Request, error: Exception) -> Response:
        """Respond to an HTTP error of a route."""
        if not isinstance(error, HTTPException):
            raise error
        text = error.detail
        if error.status_code == _NOT_FOUND and text == HTTPStatus.NOT_FOUND.phrase:
            text = f"there is no {request.url.path} here"
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            text = f"{request.method} is not allowed here; /api/openapi.json describes what is"
        response = await self._problem(request, error.status_code, text)
        response.headers.update(error.headers or {})
        return response

    async def _on_agentd_error(self, request: Request, error: Exception) -> Response:
        """Respond 400 or 409 to a mistake of the client, 503 if it cannot be done now."""
        code = 400 if isinstance(error, InvalidMessage) else 409 if isinstance(error, UsageError) else _UNAVAILABLE
        return await self._problem(request, code, str(error))

    async def _on_bug(self, request: Request, _: Exception) -> Response:
        """Respond 500; Starlette raises the error again, and uvicorn logs its traceback."""
        response = await self._problem(
            request, _INTERNAL, "a bug in agentd; `journalctl -u 'agentd@*'` has its traceback"
        )
        response.headers.update(security.SECURITY)  # this response does not pass through Guard
        return response

    async def _problem(self, request: Request, code: int, text: str) -> Response:
        if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return problem_response(code, text)
        title = _TITLES.get(code) or HTTPStatus(code).phrase
        soon = code == _NOT_FOUND and request.url.path.startswith("/workflows/")
        page = (await self._render.pages()).problem(self._render.frame(request), code, title, text, soon=soon)
        return html_response(request, page, code)


def _has(request: Request, asset: Asset) -> bool:
    return asset.etag in request.headers.get("if-none-match", "")
