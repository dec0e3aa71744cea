"""Actions over HTTP, by clients that have the token of a principal.

`POST /api/workflows/ID/ACTION` approves, rejects, cancels, pauses or resumes a workflow, with
`Authorization: Bearer TOKEN`.  The request carries the principal's name, and an orchestrator decides whether that
principal may.  A browser sends this header only for the script of this page, so no other page can act in a user's name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from agentd.errors import Denied, InvalidMessage, TemporaryError
from agentd.printable import escaped_bytes
from agentd.safety import freeze, tokens
from agentd.safety.policy import CallsAtOnce
from agentd.wire.announcements import NetworkRequest
from agentd.wire.codec import decode, encode
from agentd.wire.messages import WorkflowSignal
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request

    from agentd.client.views import View

PATH: Final = "/api/workflows/{id}/{action}"
NETWORK: Final = "/api/{action}"
B = TypeVar("B")

LARGEST: Final = 16_384
"""Largest request in bytes."""
ACTIONS: Final = ("approve", "reject", "cancel", "pause", "resume")
_UNKNOWN, _FORBIDDEN, _MISSING, _CONFLICT, _LARGE, _TOO_MANY = 401, 403, 404, 409, 413, 429


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


class FreezeDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The details of a freeze or thaw.

    reason   why
    seconds  of a freeze: it ends by itself after this time
    """

    reason: str = ""
    seconds: float | None = None


class WorkflowActions:
    """The routes that change something."""

    def __init__(self, view: View, known: Mapping[str, str], max_concurrent_calls: int) -> None:
        self._view = view
        self._known = known
        self._calls = CallsAtOnce(max_concurrent_calls, "this daemon")

    def routes(self) -> list[Route]:
        """Return the routes."""
        network = [Route(NETWORK.format(action=action), self.network, methods=["POST"]) for action in freeze.ACTIONS]
        return [Route(PATH, self.steer, methods=["POST"]), *network]

    async def network(self, request: Request) -> Response:
        """Freeze or thaw the network; 409 with a reason if the orchestrator refuses."""
        principal = self._principal(request)
        details = await _body(request, FreezeDetails)
        action = request.url.path.rpartition("/")[2]
        with self._one(principal):
            reply = await self._view.network(principal, NetworkRequest(action, details.reason, details.seconds))
        return _reply(reply, done=reply.done)

    async def steer(self, request: Request) -> Response:
        """Carry out one action; 409 with a reason if the orchestrator refuses."""
        principal = self._principal(request)
        action, workflow_id = request.path_params["action"], check_id(request.path_params["id"])
        if action not in ACTIONS:
            raise HTTPException(_MISSING, f"there is no action {action[:40]!r}; there are {', '.join(ACTIONS)}")
        details = await _body(request, ActionDetails)
        with self._one(principal):
            if await self._view.workflow(workflow_id) is None:
                raise HTTPException(_MISSING, f"there is no workflow {workflow_id!r}; /api/workflows lists them")
            if action == "approve" and not details.digest:
                text = (
                    f"digest: name the one that was shown: /api/workflows/{workflow_id} has it beside each task that "
                    "waits"
                )
                raise InvalidMessage(text)
            signal = WorkflowSignal(action, details.reason, details.task, details.digest, undo=details.undo)
            reply = await self._view.signal(principal, workflow_id, signal)
        return _reply(reply, done=reply.done)

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

    def _principal(self, request: Request) -> str:
        if not self._known:
            raise HTTPException(_FORBIDDEN, "no actions over HTTP: [web.tokens] is empty; `agentd token` helps")
        challenge = {"www-authenticate": 'Bearer realm="agentd"'}
        try:
            principal = tokens.principal_of(request.headers.get("authorization"), self._known)
        except Denied as error:
            raise HTTPException(_UNKNOWN, str(error), challenge) from error
        if principal is None:
            raise HTTPException(_UNKNOWN, "authenticate with Authorization: Bearer TOKEN", challenge)
        return principal


def _reply(reply: object, *, done: bool) -> Response:
    code = 200 if done else _CONFLICT
    return Response(
        escaped_bytes(encode(reply)), code, {"cache-control": "no-store", "content-type": "application/json"}
    )


async def _body(request: Request, kind: type[B]) -> B:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST:
            raise HTTPException(_LARGE, f"a request has at most {LARGEST} bytes")
    return decode(data, kind) if data else kind()
