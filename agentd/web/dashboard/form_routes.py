"""The forms of the pages: they log in, submit, and act on workflows, agents and the network.

They work without JavaScript: each is answered with a redirect to the page that shows the result, or with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agentd.client.requests import CALL, new_id
from agentd.errors import Denied
from agentd.safety import freeze
from agentd.web.api.actions import ActionDetails, Actions, FreezeDetails, Submission, Submitted, read_body
from agentd.web.dashboard.forms import fields_of, parameters_of, parse_form
from agentd.web.responses import check_parameters
from agentd.web.serving.security import same_origin
from agentd.web.serving.sessions import LASTS, LOGIN
from agentd.wire.codec import now
from agentd.wire.messages import WorkflowRequest
from agentd.wire.tool_names import ACKNOWLEDGE_ALERT, SILENCE_ALERTS

if TYPE_CHECKING:
    from starlette.requests import Request

    from agentd.web.dashboard.routes import Dashboard
    from agentd.web.renderer import Renderer
    from agentd.web.serving.sessions import Sessions

HOUR: Final = 3600.0
HOURS: Final = 24.0
"""Hours for which an alert is acknowledged or silenced."""
_SEE, _FORBIDDEN, _UNKNOWN = 303, 403, 401


class FormRoutes:
    """The routes to which the forms of the pages are sent."""

    def __init__(self, dashboard: Dashboard, actions: Actions, sessions: Sessions, renderer: Renderer) -> None:
        """Carry out `actions` as the principal of a session."""
        self._dashboard = dashboard
        self._actions = actions
        self._sessions = sessions
        self._render = renderer

    def routes(self) -> list[Route]:
        """Return the routes."""
        network = [Route(f"/{action}", self.network, methods=["POST"]) for action in freeze.ACTIONS]
        return [
            Route(LOGIN, self.login_page),
            Route(LOGIN, self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/submit/{type}", self.submit, methods=["POST"]),
            Route("/workflows/{id}/{action}", self.control_workflow, methods=["POST"]),
            Route("/agents/{id}/{action}", self.control_agent, methods=["POST"]),
            Route("/alerts/{action}", self.alert, methods=["POST"]),
            *network,
        ]

    async def login_page(self, request: Request) -> Response:
        """Respond with the form for a token."""
        check_parameters(request, "next")
        return await self._render.page(request, "login.html", now(), next=_local(request.query_params.get("next", "")))

    async def login(self, request: Request) -> Response:
        """Begin a session for the principal of a token."""
        form = parse_form(await read_body(request))
        if not same_origin(request.headers):
            raise HTTPException(_FORBIDDEN, "this form does not come from a page of this server")
        try:
            secret = self._sessions.begin(form.get("token", ""))
        except Denied as error:
            raise HTTPException(_UNKNOWN, str(error)) from error
        response = RedirectResponse(_local(form.get("next", "")), _SEE)
        encrypted = request.headers.get("origin", "").startswith("https://")
        response.set_cookie(
            self._sessions.cookie, secret, max_age=int(LASTS), httponly=True, samesite="strict", secure=encrypted
        )
        return response

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await self._form(request)
        self._sessions.end(request)
        response = RedirectResponse("/overview", _SEE)
        response.delete_cookie(self._sessions.cookie)
        return response

    async def submit(self, request: Request) -> Response:
        """Submit the workflow of a form."""
        principal, form = await self._form(request, WorkflowRequest.MAX_BYTES)
        found = await self._dashboard.find_type(request.path_params["type"])
        parameters = parameters_of(fields_of(found.parameters), form)
        wanted = Submission(
            found.name, parameters, form.get("workflow_id", "").strip(), dry_run=bool(form.get("dry_run"))
        )
        submitted = await self._actions.submit(principal, wanted)
        return RedirectResponse(submitted.url, _SEE)

    async def control_workflow(self, request: Request) -> Response:
        """Act on a workflow."""
        principal, form = await self._form(request)
        workflow_id, action = request.path_params["id"], request.path_params["action"]
        details = ActionDetails(
            form.get("task", ""), form.get("reason", ""), undo=bool(form.get("undo")), digest=form.get("digest", "")
        )
        done = await self._actions.control_workflow(principal, workflow_id, action, details)
        return RedirectResponse(done.url if isinstance(done, Submitted) else f"/workflows/{workflow_id}", _SEE)

    async def control_agent(self, request: Request) -> Response:
        """Act on an agent."""
        principal, _ = await self._form(request)
        await self._actions.control_agent(principal, request.path_params["id"], request.path_params["action"])
        return RedirectResponse("/agents", _SEE)

    async def alert(self, request: Request) -> Response:
        """Acknowledge or silence an alert: a call of the monitor's tool, as a workflow."""
        principal, form = await self._form(request)
        hours = float(form["hours"]) if form.get("hours", "").isdecimal() else HOURS
        tool, parameters = ACKNOWLEDGE_ALERT, {"id": form.get("id", ""), "hours": hours}
        if request.path_params["action"] == "silence":
            reason = form.get("reason", "").strip() or "silenced on the dashboard"
            matchers = [line for line in form.get("matchers", "").splitlines() if line]
            tool, parameters = SILENCE_ALERTS, {"matchers": matchers, "hours": hours, "comment": reason}
        call = Submission(CALL, {"tool": tool, "parameters": parameters}, new_id(tool))
        return RedirectResponse((await self._actions.submit(principal, call)).url, _SEE)

    async def network(self, request: Request) -> Response:
        """Freeze or thaw the network."""
        principal, form = await self._form(request)
        seconds = HOUR if form.get("hour") else None
        details = FreezeDetails(form.get("reason", ""), seconds)
        await self._actions.network(principal, request.url.path.removeprefix("/"), details)
        return RedirectResponse("/overview", _SEE)

    async def _form(self, request: Request, largest: int = 16_384) -> tuple[str, dict[str, str]]:
        """Return the principal and the fields of a form.

        Raises an HTTP error if it is not from this session.
        """
        form = parse_form(await read_body(request, largest))
        return self._sessions.actor(request, form.get("csrf", "")), form


def _local(path: str) -> str:
    """Return a path of this server.

    Another site's address, or none, becomes the overview.
    """
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isascii() and path.isprintable()
    return path if safe else "/overview"
