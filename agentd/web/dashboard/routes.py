"""The pages of the dashboard: each reads the view and responds with a page, plain text or JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import Route

from agentd.errors import AgentdError
from agentd.web import formats
from agentd.web.dashboard import forms, lists, network
from agentd.web.dashboard.charts import load_charts
from agentd.web.dashboard.listing import PARAMETERS, matching, select
from agentd.web.overview import COUNTED, read_overview, read_view, service_status
from agentd.web.plain_text import status_page_text, table_text, workflow_text
from agentd.web.responses import (
    check_parameters,
    html_response,
    json_response,
    number,
    text_response,
    wanted_format,
)
from agentd.wire.codec import now
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from agentd.client.views import AlertSummary, View, WorkflowDetail, WorkflowType
    from agentd.web.dashboard.listing import Listing
    from agentd.web.renderer import Renderer

T = TypeVar("T")

SHOWN: Final = 15
"""Workflows on the overview without `?limit=`."""
EVERY_WORKFLOW: Final = 100_000
AUDIT_LINES: Final = 1000
"""Lines of the audit that the page can filter; `agentd audit list` reads all of them."""
_MISSING: Final = 404


class Dashboard:
    """The pages about the network."""

    def __init__(self, view: View, renderer: Renderer) -> None:
        """Show what `view` returns."""
        self._view = view
        self._render = renderer

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        return [
            Route("/overview", self.overview),
            Route("/guests", self._list_page(lists.GUESTS, self._view.guests)),
            Route("/agents", self.agents),
            Route("/workflows", self._list_page(lists.WORKFLOWS, self._all_workflows)),
            Route("/workflows/{id}", self.workflow),
            Route("/submit", self.choose),
            Route("/submit/{type}", self.form),
            Route("/alerts", self.alerts),
            Route("/tools", self.tools),
            Route("/audit", self._list_page(lists.AUDIT, self._latest_audit)),
        ]

    async def overview(self, request: Request) -> Response:
        """Respond with the overview; 503, with a note, if the network cannot be read."""
        check_parameters(request, "limit", "format")
        limit = number(request.query_params, "limit", SHOWN, COUNTED)
        form = wanted_format(request)
        picture = await read_overview(self._view)
        code = 503 if picture.problems else 200
        if form == "json":
            return json_response(request, picture, code)
        if form == "text":
            return text_response(status_page_text(picture, limit), code)
        guests, loads = await asyncio.gather(_or_none(self._view.guests()), _or_none(self._view.node_loads()))
        cards = network.node_cards(picture, guests, load_charts(loads or [], picture.at))
        bars = network.workflow_chart(picture)
        text = network.workflow_chart_text(picture, bars)
        pages, frame = await self._render.pages(), self._render.frame(request)
        page = pages.overview(frame, picture, limit, cards=cards, chart=bars, chart_text=text)
        return html_response(request, page, code)

    async def workflow(self, request: Request) -> Response:
        """Respond with one workflow."""
        check_parameters(request, "format", "q")
        form = wanted_format(request)
        detail = await self.find(request)
        if form == "json":
            return json_response(request, detail)
        if form == "text":
            return text_response(workflow_text(detail, self._view.identity().frozen))
        pages, frame = await self._render.pages(), self._render.frame(request)
        return html_response(request, pages.workflow(frame, detail, request.query_params.get("q", "")[:200]))

    async def agents(self, request: Request) -> Response:
        """Respond with the list of agents."""
        found = await read_view(self._view.agents())
        return await self._list(request, lists.agents_list(found, now()), found)

    async def tools(self, request: Request) -> Response:
        """Respond with the services and the list of tools."""
        found = await read_view(self._view.tools())
        services = await read_view(self._view.services())
        return await self._list(request, lists.TOOLS, found, services=services, service_status=service_status)

    async def alerts(self, request: Request) -> Response:
        """Respond with the alerts that are firing, and those that were resolved in the last day."""
        check_parameters(request, "format", "q")
        form = wanted_format(request)
        found = [*await read_view(self._view.alert_list()), *await read_view(self._view.alert_history())]
        found.sort(key=lambda alert: (alert.ended or 0.0, alert.severity != "critical", -(alert.since or 0.0)))
        shown = matching(lists.ALERTS, found, request.query_params)
        if form == "json":
            return json_response(request, shown)
        firing, history = [a for a in shown if a.ended is None], [a for a in reversed(shown) if a.ended is not None]
        if form == "text":
            return text_response(_alerts_text(firing, history))
        watched = any("monitor" in agent.role for agent in await read_view(self._view.agents()))
        findings, unchecked = None, ""
        try:
            findings = await read_view(self._view.findings())
        except AgentdError as error:  # no agent checks the cluster: that is not "all well"
            unchecked = str(error)
        return await self._render.page(
            request,
            "alerts.html",
            now(),
            alerts=firing,
            total=sum(alert.ended is None for alert in found),
            history=history,
            listing=lists.ALERTS,
            q=request.query_params.get("q", "").strip(),
            watched=watched,
            findings=findings,
            unchecked=unchecked,
            time_of=formats.from_epoch,
        )

    async def choose(self, request: Request) -> Response:
        """Respond with the workflows that can be submitted."""
        check_parameters(request, "format")
        form, types = wanted_format(request), await read_view(self._view.workflow_types())
        if form == "json":
            return json_response(request, types)
        if form == "text":
            rows = [(found.name, found.source, found.description) for found in types]
            return text_response(table_text("WORKFLOWS", rows, "no workflow is defined here"))
        return await self._render.page(request, "choose.html", now(), types=types)

    async def form(self, request: Request) -> Response:
        """Respond with the form of one workflow."""
        check_parameters(request)
        found = await self.find_type(request.path_params["type"])
        fields = forms.fields_of(found.parameters)
        return await self._render.page(request, "submit.html", now(), found=found, fields=fields, prefix=forms.PREFIX)

    async def find_type(self, name: str) -> WorkflowType:
        """Return the definition of a workflow; raises 404."""
        types = await read_view(self._view.workflow_types())
        found = next((found for found in types if found.name == name and not found.faults), None)
        if found is None:
            raise HTTPException(_MISSING, f"there is no workflow type {name[:80]!r} here; /submit lists them")
        return found

    async def find(self, request: Request) -> WorkflowDetail:
        """Return the workflow of a path; raises 404."""
        workflow_id = check_id(request.path_params["id"])
        detail = await read_view(self._view.workflow(workflow_id))
        if detail is None:
            raise HTTPException(_MISSING, f"there is no workflow {workflow_id!r}; `agentd workflows` lists them")
        return detail

    def _list_page(
        self, listing: Listing[Any], ask: Callable[[], Awaitable[Sequence[Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await self._list(request, listing, await read_view(ask()))

        return endpoint

    async def _list(self, request: Request, listing: Listing[Any], rows: Sequence[Any], **more: Any) -> Response:  # noqa: ANN401
        check_parameters(request, *PARAMETERS)
        form, selected = wanted_format(request), select(listing, rows, request.query_params)
        if form == "json":
            return json_response(request, selected.rows, headers={"x-total-count": str(selected.matching)})
        if form == "text":
            cells = [tuple(column.text(row) for column in listing.columns) for row in selected.rows]
            note = f"{listing.title.upper()}: {selected.matching} of {selected.total}"
            return text_response(table_text(note, cells, listing.empty, [c.title for c in listing.columns]))
        return await self._render.page(
            request, "list.html", now(), listing=listing, s=selected, query=dict(request.query_params), **more
        )

    async def _all_workflows(self) -> Sequence[Any]:
        return await self._view.workflows(EVERY_WORKFLOW, "")

    async def _latest_audit(self) -> Sequence[Any]:
        return await self._view.audit(AUDIT_LINES)


def _alerts_text(firing: Sequence[AlertSummary], history: Sequence[AlertSummary]) -> str:
    now_rows = [(alert.severity, alert.name, alert.text) for alert in firing]
    rows = [(alert.severity, alert.name, _exact(alert.ended), alert.text) for alert in history]
    return "\n".join(
        (
            table_text("ALERTS", now_rows, "no alert is firing"),
            table_text("RESOLVED IN THE LAST 24 HOURS", rows, "none"),
        )
    )


def _exact(seconds: float | None) -> str:
    at = formats.from_epoch(seconds)
    return "" if at is None else formats.exact(at)


async def _or_none(question: Awaitable[T]) -> T | None:
    """Return an answer; None if no agent can give it, or the network cannot be read: it is shown as unknown."""
    try:
        return await read_view(question)
    except AgentdError:
        return None
