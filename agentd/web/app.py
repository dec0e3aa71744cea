"""The routes: each reads the view and responds with a page, JSON or plain text.

The client's Accept header or `?format=` selects the form.  All routes are GET and HEAD, except those that act on
workflows or freeze the network, which need the token of a principal (actions.py).  The page itself has no login, so it
changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from agentd.errors import AgentdError, InvalidMessage, UsageError
from agentd.printable import escaped_bytes
from agentd.web import security
from agentd.web.actions import WorkflowActions
from agentd.web.events import MOST_CLIENTS, EventResponse, Streams
from agentd.web.openapi import Problem, Readiness, describe
from agentd.web.overview import COUNTED, read_overview, read_view
from agentd.web.plain_text import status_page_text, workflow_text
from agentd.wire.codec import encode
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams

    from agentd.client.views import View
    from agentd.web.page import Asset, Pages

SHOWN: Final = 15
"""Workflows on the status page without `?limit=`."""
LISTED: Final = 50
LISTED_AT_MOST: Final = 1000
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_FORMATS = ("html", "json", "text")
_FRESH = {"cache-control": "no-cache", "vary": "accept"}
_NOT_FOUND, _INTERNAL, _UNAVAILABLE = 404, 500, 503

Endpoint = Callable[[Request], Awaitable[Response]]


def build(  # noqa: PLR0913 - the settings of WebServer
    view: View,
    *,
    allowed_hosts: Iterable[str] = (),
    streams: Streams | None = None,
    routes: Iterable[BaseRoute] = (),
    tokens: Mapping[str, str] | None = None,
    max_concurrent_calls: int = 32,
) -> Starlette:
    """Return the web application over `view`.

    allowed_hosts  the host names of the server, besides localhost and addresses
    routes  additional routes of roles, such as `/mcp` of the bridge
    tokens  principals that may act, and the digest of the token of each
    max_concurrent_calls  actions of one principal that run at the same time
    """
    site = Site(view, streams or Streams(view))
    return Starlette(
        routes=[*site.routes(), *WorkflowActions(view, tokens or {}, max_concurrent_calls).routes(), *routes],
        middleware=[
            Middleware(security.Guard, allowed_hosts=tuple(allowed_hosts)),
            Middleware(GZipMiddleware, minimum_size=600, compresslevel=6),
        ],
        exception_handlers={
            HTTPException: site.on_http_error,
            AgentdError: site.on_agentd_error,
            Exception: site.on_bug,
        },
    )


class Site:
    """All routes, over one view."""

    def __init__(self, view: View, streams: Streams) -> None:
        self._view = view
        self._streams = streams
        self._pages: Pages | None = None
        self._loading = asyncio.Lock()

    def routes(self) -> list[Route]:
        """Return all routes in the order of docs/design/wire.md."""
        view = self._view
        listed = {
            "agents": view.agents,
            "services": view.services,
            "tasks": view.tasks,
            "metrics": view.metrics,
            "alerts": view.alerts,
            "dead": view.dead,
        }
        return [
            Route("/", self.status),
            Route("/workflows/{id}", self.workflow),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            *(Route(f"/api/{name}", _listing(ask)) for name, ask in listed.items()),
            Route("/api/workflows", self.api_workflows),
            Route("/api/workflows/{id}", self.api_workflow),
            Route("/api/plugins", self.api_plugins),
            Route("/api/openapi.json", self.openapi),
            Route("/events", self.events),
            Route("/static/{name}", self.static),
        ]

    async def status(self, request: Request) -> Response:
        """Respond with the overview; 503, with a note, if the network cannot be read."""
        _known(request, "limit", "format")
        limit = _number(request.query_params, "limit", SHOWN, COUNTED)
        form = _format(request)
        picture = await read_overview(self._view)
        code = _UNAVAILABLE if picture.problems else 200
        if form == "json":
            return _json(picture, code)
        if form == "text":
            return PlainTextResponse(status_page_text(picture, limit), code, _FRESH)
        return _html((await self._load()).status(picture, limit), code)

    async def workflow(self, request: Request) -> Response:
        """Respond with one workflow."""
        _known(request, "format")
        form = _format(request)
        detail = await self._find(request)
        if form == "json":
            return _json(detail)
        if form == "text":
            return PlainTextResponse(workflow_text(detail, self._view.identity().frozen), headers=_FRESH)
        return _html((await self._load()).workflow(self._view.identity(), detail))

    async def healthz(self, _: Request) -> Response:
        """Respond that the process is alive; /readyz shows whether it can work."""
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def readyz(self, request: Request) -> Response:
        """Respond whether this daemon is ready, and if not, why."""
        _known(request, "format")
        reasons = self._view.readiness()
        code = _UNAVAILABLE if reasons else 200
        identity = self._view.identity()
        frozen = identity.frozen
        if _format(request) != "text":
            return _json(Readiness(not reasons, reasons, frozen, identity.unreadable), code)
        text = "".join(f"{reason.source}: {reason.text}\n" for reason in reasons) or "ready\n"
        text += f"the network is {frozen}\n" if frozen else ""
        text += "".join(f"warning: {warning}\n" for warning in identity.unreadable)
        return PlainTextResponse(text, code, _FRESH)

    async def metrics(self, _: Request) -> Response:
        """Respond with the metrics for Prometheus."""
        return Response(await self._view.prometheus(), headers={"content-type": _EXPOSITION})

    async def api_workflows(self, request: Request) -> Response:
        """List workflows."""
        _known(request, "limit", "status")
        limit = _number(request.query_params, "limit", LISTED, LISTED_AT_MOST)
        status = request.query_params.get("status", "")
        return _json(await read_view(self._view.workflows(limit, status)))

    async def api_workflow(self, request: Request) -> Response:
        """Respond with one workflow, as JSON."""
        _known(request)
        return _json(await self._find(request))

    async def api_plugins(self, request: Request) -> Response:
        """List the plugins of this daemon."""
        _known(request)
        return _json(self._view.plugins())

    async def openapi(self, _: Request) -> Response:
        """Respond with the OpenAPI document."""
        return _json(describe(self._view.identity().version))

    async def events(self, request: Request) -> Response:
        """Open a stream of live events."""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(headers={**headers, "content-type": "text/event-stream; charset=utf-8"})
        if self._streams.full:
            raise HTTPException(_UNAVAILABLE, f"{MOST_CLIENTS} streams are open; close one first")
        return EventResponse(self._streams.follow(), headers=headers)

    async def static(self, request: Request) -> Response:
        """Respond with a static file, cached for ever if requested by its present ETag."""
        asset = (await self._load()).assets.get(request.path_params["name"])
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

    async def on_http_error(self, request: Request, error: Exception) -> Response:
        """Respond to an HTTP error of a route."""
        if not isinstance(error, HTTPException):
            raise error
        text = error.detail
        if error.status_code == _NOT_FOUND and text == HTTPStatus.NOT_FOUND.phrase:
            text = f"there is no {request.url.path} here"
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            text = f"{request.method} is not allowed here; over HTTP workflows can be steered, see /api/openapi.json"
        response = await self._problem(request, error.status_code, text)
        response.headers.update(error.headers or {})
        return response

    async def on_agentd_error(self, request: Request, error: Exception) -> Response:
        """Respond 400 or 409 to a mistake of the client, 503 if it cannot be done now."""
        code = 400 if isinstance(error, InvalidMessage) else 409 if isinstance(error, UsageError) else _UNAVAILABLE
        return await self._problem(request, code, str(error))

    async def on_bug(self, request: Request, _: Exception) -> Response:
        """Respond 500; Starlette raises the error again, and uvicorn logs its traceback."""
        response = await self._problem(
            request, _INTERNAL, "a bug in agentd; `journalctl -u 'agentd@*'` has its traceback"
        )
        response.headers.update(security.SECURITY)  # this response does not pass through Guard
        return response

    async def _load(self) -> Pages:
        """Return the pages, loaded at the first request: a daemon whose page is never opened saves 6 MB and 0.2 s."""
        async with self._loading:
            if self._pages is None:
                self._pages = await asyncio.to_thread(_load_pages)
            return self._pages

    async def _find(self, request: Request) -> Any:  # noqa: ANN401
        workflow_id = check_id(request.path_params["id"])
        detail = await read_view(self._view.workflow(workflow_id))
        if detail is None:
            raise HTTPException(_NOT_FOUND, f"there is no workflow {workflow_id!r}; `agentd workflows` lists them")
        return detail

    async def _problem(self, request: Request, code: int, text: str) -> Response:
        if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return _json(Problem(text), code)
        title = {400: "That can't be understood", 404: "Not here", 503: "The network can't be seen"}.get(code)
        page = (await self._load()).problem(self._view.identity(), code, title or HTTPStatus(code).phrase, text)
        return _html(page, code)


def _load_pages() -> Pages:
    from agentd.web.page import Pages

    return Pages()


def _listing(ask: Callable[[], Awaitable[object]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        _known(request)
        return _json(await read_view(ask()))

    return endpoint


def _json(value: object, code: int = 200) -> Response:
    return Response(escaped_bytes(encode(value)), code, {**_FRESH, "content-type": "application/json"})


def _html(page: str, code: int = 200) -> Response:
    return Response(page, code, {**_FRESH, "content-type": "text/html; charset=utf-8"})


def _has(request: Request, asset: Asset) -> bool:
    return asset.etag in request.headers.get("if-none-match", "")


def _known(request: Request, *names: str) -> None:
    for name in request.query_params:
        if name not in names:
            allowed = f"there are {', '.join(names)}" if names else "none is taken here"
            raise HTTPException(400, f"unknown query parameter {name!r}; {allowed}")


def _number(query: QueryParams, name: str, default: int, most: int) -> int:
    given = query.get(name, str(default))
    if not (given.isascii() and given.isdigit() and len(given) < len(str(most)) + 1 and 1 <= int(given) <= most):
        raise HTTPException(400, f"{name}: {given[:40]!r} is not a number from 1 to {most}")
    return int(given)


def _format(request: Request) -> str:
    given = request.query_params.get("format")
    if given is not None:
        if given not in _FORMATS:
            raise HTTPException(400, f"format: {given[:40]!r} is not one of {', '.join(_FORMATS)}")
        return given
    accept = request.headers.get("accept", "")
    if "text/html" in accept:
        return "html"
    return "json" if "application/json" in accept else "text"
