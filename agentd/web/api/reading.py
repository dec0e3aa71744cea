"""The API that reads: lists and single objects as JSON; actions.py has what changes something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.routing import Route

from agentd.web.dashboard import lists
from agentd.web.dashboard.listing import matching
from agentd.web.overview import read_view
from agentd.web.responses import check_parameters, json_response, number, page_response
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from agentd.client.views import View
    from agentd.web.dashboard.listing import Listing

LISTED: Final = 50
"""Workflows in a response without `limit`."""
LISTED_AT_MOST: Final = 1000
EVERY_WORKFLOW: Final = 100_000
AUDIT_LINES: Final = 10_000
PLAIN: Final = ("agents", "services", "tasks", "metrics", "alerts", "dead")
"""Lists without a filter."""
FILTERED: Final = ("guests", "tools", "audit", "alert-history")
"""Lists with the filter and the order of their pages."""


class Api:
    """The routes that read."""

    def __init__(self, view: View) -> None:
        """Read from `view`."""
        self._view = view

    def routes(self) -> list[Route]:
        """Return the routes."""
        view = self._view
        filtered: dict[str, tuple[Listing[Any], Callable[[], Awaitable[Sequence[Any]]]]] = {
            "guests": (lists.GUESTS, view.guests),
            "tools": (lists.TOOLS, view.tools),
            "audit": (lists.AUDIT, self._audit),
            "alert-history": (lists.ALERTS, view.alert_history),
        }
        return [
            *(Route(f"/api/{name}", _listing(getattr(view, name))) for name in PLAIN),
            *(Route(f"/api/{name}", _filtered(*filtered[name])) for name in FILTERED),
            Route("/api/workflows", self.workflows, methods=["GET"]),
            Route("/api/workflows/{id}", self.workflow),
            Route("/api/workflow-types", _listing(view.workflow_types)),
            Route("/api/plugins", self.plugins),
        ]

    async def workflows(self, request: Request) -> Response:
        """List workflows."""
        check_parameters(request, "limit", "offset", "status")
        number(request.query_params, "limit", LISTED, LISTED_AT_MOST)
        status = request.query_params.get("status", "")
        found = await read_view(self._view.workflows(EVERY_WORKFLOW, status))
        return page_response(request, found, LISTED, LISTED_AT_MOST)

    async def workflow(self, request: Request) -> Response:
        """Respond with one workflow."""
        check_parameters(request)
        workflow_id = check_id(request.path_params["id"])
        detail = await read_view(self._view.workflow(workflow_id))
        if detail is None:
            raise HTTPException(404, f"there is no workflow {workflow_id!r}; `agentd workflows` lists them")
        return json_response(request, detail)

    async def plugins(self, request: Request) -> Response:
        """List the plugins of this daemon."""
        check_parameters(request, "limit", "offset")
        return page_response(request, self._view.plugins(), LISTED_AT_MOST, LISTED_AT_MOST)

    async def _audit(self) -> Sequence[Any]:
        return await self._view.audit(AUDIT_LINES)


def _listing(ask: Callable[[], Awaitable[Sequence[Any]]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        check_parameters(request, "limit", "offset")
        return page_response(request, await read_view(ask()), LISTED_AT_MOST, LISTED_AT_MOST)

    return endpoint


def _filtered(
    listing: Listing[Any], ask: Callable[[], Awaitable[Sequence[Any]]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        check_parameters(request, "q", "sort", "limit", "offset")
        found = matching(listing, await read_view(ask()), request.query_params)
        return page_response(request, found, LISTED_AT_MOST, LISTED_AT_MOST)

    return endpoint
