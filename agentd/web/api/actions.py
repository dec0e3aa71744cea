"""Actions over HTTP, by clients that have the token of a principal or a session (serving/sessions.py).

Each request carries the principal's name, and an orchestrator or the agent concerned decides whether that principal
may: with the same policy, tiers and approvals as for the command line and MCP.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from agentd.client.requests import new_id
from agentd.errors import InvalidMessage, TemporaryError
from agentd.printable import escaped_bytes
from agentd.safety import freeze
from agentd.safety.policy import CallsAtOnce
from agentd.wire.announcements import NetworkRequest
from agentd.wire.codec import decode, encode
from agentd.wire.messages import WorkflowRequest, WorkflowSignal
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

    from agentd.client.views import View
    from agentd.web.serving.sessions import Sessions

SUBMIT: Final = "/api/workflows"
PATH: Final = "/api/workflows/{id}/{action}"
AGENT: Final = "/api/agents/{id}/{action}"
NETWORK: Final = "/api/{action}"
CSRF: Final = "x-csrf-token"
B = TypeVar("B")

LARGEST: Final = 16_384
"""Largest request in bytes; one that submits a workflow may be as large as the message (MAX_REQUEST)."""
ACTIONS: Final = ("approve", "reject", "cancel", "pause", "resume")
RETRY: Final = "retry"
AGENT_ACTIONS: Final = ("drain", "restart", "reload")
_MISSING, _CONFLICT, _LARGE, _TOO_MANY = 404, 409, 413, 429


class ActionDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The details of an action; all fields are optional.

    task        the task to approve or reject, if several wait
    digest      for approve, required: the digest that was shown, from /api/workflows/ID
    reason      is kept with the workflow
    undo        for cancel: undo what was done
    """

    task: str = ""
    reason: str = ""
    undo: bool = False
    digest: str = ""


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a workflow; with the same `workflow_id` it runs only once."""

    workflow_type: str
    parameters: dict[str, Any] = {}
    workflow_id: str = ""
    priority: int = 5
    timeout: float | None = None
    dry_run: bool = False


class Submitted(msgspec.Struct, frozen=True):
    """A request that was stored; `url` is the page of its workflow."""

    workflow_id: str
    url: str


class FreezeDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The details of a freeze or thaw.

    reason   why
    seconds  of a freeze: it ends by itself after this time
    """

    reason: str = ""
    seconds: float | None = None


class NoDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An action without details."""


class Actions:
    """What changes something, as a principal; a refusal is an HTTP error with the reason."""

    def __init__(self, view: View, max_concurrent_calls: int) -> None:
        """Limit the actions of one principal that run at the same time."""
        self._view = view
        self._calls = CallsAtOnce(max_concurrent_calls, "this daemon")

    async def submit(self, principal: str, wanted: Submission, *, retry_of: str = "") -> Submitted:
        """Submit a workflow; raises 409 if an orchestrator rejects it."""
        name = wanted.workflow_id or new_id(wanted.workflow_type or retry_of)
        request = WorkflowRequest(
            wanted.workflow_type,
            name,
            wanted.parameters,
            priority=wanted.priority,
            timeout=wanted.timeout,
            dry_run=wanted.dry_run,
            retry_of=retry_of,
        )
        with self._one(principal):
            answer = await self._view.submit(principal, request)
        if answer is not None:
            raise HTTPException(_CONFLICT, answer.error or answer.status)
        return Submitted(name, f"/workflows/{name}")

    async def control_workflow(self, principal: str, workflow_id: str, action: str, details: ActionDetails) -> object:
        """Approve, reject, cancel, pause, resume or retry a workflow.

        Raises 409 if the orchestrator refuses.
        """
        if action not in {*ACTIONS, RETRY}:
            known = ", ".join((*ACTIONS, RETRY))
            raise HTTPException(_MISSING, f"there is no action {action[:40]!r}; there are {known}")
        with self._one(principal):
            if await self._view.workflow(check_id(workflow_id)) is None:
                raise HTTPException(_MISSING, f"there is no workflow {workflow_id!r}; /api/workflows lists them")
        if action == RETRY:
            return await self.submit(principal, Submission(""), retry_of=workflow_id)
        if action == "approve" and not details.digest:
            raise InvalidMessage(
                f"digest: name the one that was shown: /api/workflows/{workflow_id} has it beside each task that waits"
            )
        signal = WorkflowSignal(action, details.reason, details.task, details.digest, undo=details.undo)
        with self._one(principal):
            reply = await self._view.signal(principal, workflow_id, signal)
        return _done(reply, done=reply.done, message=reply.message)

    async def control_agent(self, principal: str, agent_id: str, action: str) -> object:
        """Drain or reload an agent; raises 409 if the agent refuses."""
        if action not in AGENT_ACTIONS:
            raise HTTPException(_MISSING, f"there is no action {action[:40]!r}; there are {', '.join(AGENT_ACTIONS)}")
        with self._one(principal):
            reply = await self._view.control_agent(principal, check_id(agent_id, "agent"), action)
        return _done(reply, done=reply.done, message=reply.message)

    async def network(self, principal: str, action: str, details: FreezeDetails) -> object:
        """Freeze or thaw the network; raises 409 if the orchestrator refuses."""
        with self._one(principal):
            reply = await self._view.network(principal, NetworkRequest(action, details.reason, details.seconds))
        return _done(reply, done=reply.done, message=reply.message)

    @contextmanager
    def _one(self, principal: str) -> Iterator[None]:
        """Count an action while it runs; responds 429 if the principal has too many."""
        try:
            self._calls.begin(principal)
        except TemporaryError as error:
            raise HTTPException(_TOO_MANY, str(error), {"retry-after": "1"}) from error
        try:
            yield
        finally:
            self._calls.end(principal)


class ActionRoutes:
    """The routes of the API that change something."""

    def __init__(self, actions: Actions, sessions: Sessions) -> None:
        """Carry out `actions` as the principals of `sessions`."""
        self._actions = actions
        self._sessions = sessions

    def routes(self) -> list[Route]:
        """Return the routes."""
        network = [Route(NETWORK.format(action=action), self.network, methods=["POST"]) for action in freeze.ACTIONS]
        return [
            Route(SUBMIT, self.submit, methods=["POST"]),
            Route(PATH, self.control_workflow, methods=["POST"]),
            Route(AGENT, self.control_agent, methods=["POST"]),
            *network,
        ]

    async def submit(self, request: Request) -> Response:
        """Submit a workflow; 202 with its id."""
        principal = self._principal(request)
        wanted = await _body(request, Submission, WorkflowRequest.MAX_BYTES)
        return _reply(await self._actions.submit(principal, wanted), 202)

    async def control_workflow(self, request: Request) -> Response:
        """Carry out one action on a workflow."""
        principal, path = self._principal(request), request.path_params
        details = await _body(request, ActionDetails)
        return _reply(await self._actions.control_workflow(principal, path["id"], path["action"], details))

    async def control_agent(self, request: Request) -> Response:
        """Carry out one action on an agent."""
        principal, path = self._principal(request), request.path_params
        await _body(request, NoDetails)
        return _reply(await self._actions.control_agent(principal, path["id"], path["action"]))

    async def network(self, request: Request) -> Response:
        """Freeze or thaw the network."""
        principal = self._principal(request)
        details = await _body(request, FreezeDetails)
        return _reply(await self._actions.network(principal, request.url.path.rpartition("/")[2], details))

    def _principal(self, request: Request) -> str:
        return self._sessions.actor(request, request.headers.get(CSRF, ""))


def _done(reply: object, *, done: bool, message: str) -> object:
    if not done:
        raise HTTPException(_CONFLICT, message)
    return reply


def _reply(reply: object, code: int = 200) -> Response:
    headers = {"cache-control": "no-store", "content-type": "application/json"}
    return Response(escaped_bytes(encode(reply)), code, headers)


async def read_body(request: Request, largest: int = LARGEST) -> bytes:
    """Return the body of a request; responds 413 if it is too large."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > largest:
            raise HTTPException(_LARGE, f"a request has at most {largest} bytes")
    return data


async def _body(request: Request, kind: type[B], largest: int = LARGEST) -> B:
    data = await read_body(request, largest)
    return decode(data or b"{}", kind)
