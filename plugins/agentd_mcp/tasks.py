"""The extension `io.modelcontextprotocol/tasks`: a call that may take long is a workflow, and the client gets a handle.

The state of a task is the workflow `tool_call` on JetStream and nothing else.  So a task survives the death of client,
bridge, agent and orchestrator, and every bridge answers for it.

- The server decides: a call that changes something, or one that may wait for long, becomes a task if the client has
  declared the extension with that request.  A call that ends within QUICK seconds is answered with its result.
- The handle is returned when an orchestrator has stored the workflow, never before: `tasks/get` would not find it.
- Ids of workflows are not secret, so the id of a task contains 192 random bits, and the id of its workflow is derived
  from their SHA-256.  Besides, only the principal that created a task reaches it.
- A tool that fails is a completed task whose result has `isError`; `failed` is for errors of JSON-RPC only.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from agentd import (
    ANONYMOUS,
    AgentdError,
    Outcome,
    Status,
    TaskError,
    TemporaryError,
    Tier,
    ToolReply,
    UsageError,
    Workflow,
    WorkflowRequest,
    WorkflowSignal,
)
from agentd.client import queries, requests
from agentd.printable import printable
from agentd_mcp import approvals, elicitation
from agentd_mcp.elicitation import Context, Question
from agentd_mcp.replies import answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentd import Bus, Tool

ID: Final = "io.modelcontextprotocol/tasks"
QUICK: Final = 1.0
"""Seconds that a call may take before the client gets a handle for it instead of its result."""
POLL: Final = 2_000
"""Milliseconds after which a client should ask again."""
_TASK: Final = re.compile(r"([a-z][a-z0-9_]{0,63})\.([A-Za-z0-9_-]{32})")


class TaskParams(types.RequestParams):
    """The parameters of tasks/get and tasks/cancel."""

    task_id: str


class UpdateParams(TaskParams):
    """The parameters of tasks/update."""

    input_responses: dict[str, dict[str, Any]]


def declared(context: Context) -> bool:
    """Return whether the client has declared the extension with this request, in the protocol that has it."""
    have = context.session.client_capabilities
    extensions = None if have is None else have.extensions
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS and ID in (extensions or {})


def require(context: Context) -> None:
    """Raise the error of the protocol unless the client has declared the extension with this request."""
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", context.method)
    if not declared(context):
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"declare the extension {ID} with this request",
            {"requiredCapabilities": {"extensions": {ID: {}}}},
        )


@contextlib.contextmanager
def protocol_errors() -> Iterator[None]:
    """Turn an error of agentd into one of the protocol, with its text: the SDK would hide it."""
    try:
        yield
    except AgentdError as error:
        raise MCPError(types.INTERNAL_ERROR, f"{error.code}: {error}") from error


def suits(tool: Tool) -> bool:
    """Return whether a call of this tool may be a task: it changes something, or it may wait for long."""
    return tool.service != "" and (tool.tier is not Tier.READ or tool.stoppable)


def workflow_of(task_id: str) -> str:
    """Return the id of a task's workflow; raises the error of the protocol for what is not the id of a task."""
    found = _TASK.fullmatch(task_id)
    if found is None:
        raise _not_found()
    hidden = hashlib.sha256(found[2].encode()).hexdigest()
    return f"{requests.CALL}-{found[1][:20]}-{hidden[:32]}"


def _not_found() -> MCPError:
    return MCPError(types.INVALID_PARAMS, "there is no such task of this principal; it may have expired")


@dataclass(frozen=True)
class Tasks:
    """The tasks of all clients; it holds no state.

    approvers  the principal as which the person at the client of a principal approves, as in [mcp-bridge]
    """

    bus: Bus
    approvers: Mapping[str, str]

    async def create(self, principal: str, tool: Tool, arguments: dict[str, Any]) -> dict[str, Any] | ToolReply:
        """Submit a call as a workflow; return its task, or its reply if it has ended already.

        Raises TemporaryError if no orchestrator has stored it in time: it may still be carried out.
        """
        task_id = f"{tool.name}.{secrets.token_urlsafe(24)}"
        request = WorkflowRequest(
            requests.CALL,
            workflow_of(task_id),
            {"tool": tool.name, "parameters": arguments},
            requester_id=principal,
            authenticated=principal not in ANONYMOUS,
        )
        await requests.submit(self.bus, principal, request)
        accepted = await queries.accepted(self.bus, principal, request)
        if accepted is None:
            raise TemporaryError(
                f"no orchestrator has accepted the call within {queries.ACCEPTED:.0f} s; it is stored and may still be "
                f"carried out: do not repeat it, ask for workflow_status of {request.workflow_id}"
            )
        if not isinstance(accepted, Workflow) and accepted.error:
            return ToolReply(Outcome.FAILED, error=TaskError(accepted.status, accepted.error))
        state = await requests.wait_until_settled(self.bus, request.workflow_id, wait=QUICK)
        if state.over:
            return approvals.result(state)
        return {"resultType": "task", **_seed(task_id, state), "status": "working", "statusMessage": _message(state)}

    async def get(self, context: Context, principal: str, task_id: str) -> dict[str, Any]:
        """Return the present state of a task, with its result or what it needs from the client."""
        state = await self._state(principal, task_id)
        task = _seed(task_id, state)
        if state.status is Status.CANCELLED:
            return task | {"status": "cancelled", "statusMessage": _message(state)}
        if state.over:
            ended = answer(approvals.result(state)).model_dump(by_alias=True, mode="json", exclude_none=True)
            return task | {"status": "completed", "result": ended}
        question = self._question(principal, state)
        if isinstance(question, Question) and elicitation.can_show(context):
            return task | {
                "status": "input_required",
                "statusMessage": _message(state),
                "inputRequests": {
                    question.key: types.ElicitRequest(params=elicitation.form(question)).model_dump(
                        by_alias=True, mode="json", exclude_none=True
                    )
                },
            }
        return task | {"status": "working", "statusMessage": _message(state)}

    async def update(self, principal: str, params: UpdateParams) -> None:
        """Apply the answer of the person at the client; an answer to another question is ignored."""
        state = await self._state(principal, params.task_id)
        question = None if state.over else self._question(principal, state)
        if not isinstance(question, Question) or question.key not in params.input_responses:
            return
        try:
            given = types.ElicitResult.model_validate(params.input_responses[question.key])
        except ValidationError as error:
            raise MCPError(
                types.INVALID_PARAMS, f"inputResponses: {question.key} is not the answer to a form"
            ) from error
        if given.action != "cancel":
            await question.answer(elicitation.agrees(given))

    async def cancel(self, principal: str, task_id: str) -> None:
        """Cancel the workflow of a task; one that has ended stays as it is."""
        state = await self._state(principal, task_id)
        if state.over:
            return
        try:
            await requests.signal(
                self.bus, principal, state.workflow_id, WorkflowSignal("cancel", "tasks/cancel of the client")
            )
        except UsageError:
            return  # it has ended in the meantime

    async def _state(self, principal: str, task_id: str) -> Workflow:
        state = await requests.state_of(self.bus, workflow_of(task_id))
        if state is None or state.principal != principal:
            raise _not_found()
        return state

    def _question(self, principal: str, state: Workflow) -> ToolReply | Question:
        return approvals.question(self.bus, state, principal, self.approvers.get(principal), wait=0.0)


def _seed(task_id: str, state: Workflow) -> dict[str, Any]:
    """Return the fields that a task has in every status."""
    return {
        "taskId": task_id,
        "createdAt": state.created.isoformat(),
        "lastUpdatedAt": state.updated.isoformat(),
        "ttlMs": None,
        "pollIntervalMs": POLL,
    }


def _message(state: Workflow) -> str:
    """Return what the client may show of a task; it names the workflow, for `workflow_status` and `agentd watch`."""
    waits = [task.approval.text for task in state.tasks.values() if task.approval and not task.approval.by]
    if state.status is Status.WAITING_APPROVAL and waits:
        text = f"another principal than {state.principal} must approve: {waits[0]}"
    else:
        text = state.error or str(state.status)
    return printable(f"{state.workflow_id}: {text}", lines=True)
