"""MCP tools for workflows: submit, follow, list, cancel, approve and reject them, in the name of the principal.

An orchestrator decides: it knows the principal from the subject, never lets the requester approve its own request, and
takes no decision of a client without a token.  `approve_workflow` needs the digest of what `workflow_status` has shown,
so an approval is never valid for anything else.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import (
    ANONYMOUS,
    DONE,
    Denied,
    Rejected,
    Repeat,
    TaskStatus,
    TemporaryError,
    Tier,
    Workflow,
    WorkflowRequest,
    WorkflowSignal,
)
from agentd.client import queries, requests
from agentd_mcp.direct_tools.direct import direct

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd import TaskState
    from agentd_mcp.direct_tools.direct import Asker, DirectTool

ANSWERED: Final = 5.0
"""Seconds that the answer may take after the last state of a workflow."""
TASKS_SHOWN: Final = 20

WorkflowId = Annotated[str, Meta(min_length=1, max_length=200)]
Wait = Annotated[float, Meta(ge=0, le=60, description="seconds to wait for its end or an approval that it needs")]
Reason = Annotated[str, Meta(max_length=500)]


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The workflow; a repeated request with the same `workflow_id` runs only once.

    dry_run  make and check the plan only
    """

    workflow_type: Annotated[str, Meta(min_length=1, max_length=100)]
    parameters: dict[str, Any] = {}
    workflow_id: Annotated[str, Meta(max_length=200)] = ""
    dry_run: bool = False
    wait: Wait = 0.0


class WorkflowSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A workflow, by its id."""

    workflow_id: WorkflowId
    wait: Wait = 0.0


class WorkflowFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filters: `status` such as running, waiting_approval or failed."""

    status: Annotated[str, Meta(max_length=40)] = ""
    limit: Annotated[int, Meta(ge=1, le=200)] = 20


class Cancellation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The workflow to cancel; with `undo`, what it has done is undone."""

    workflow_id: WorkflowId
    reason: Reason = ""
    undo: bool = False


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan to decide on: `digest` is that of the text in workflow_status.

    task  needed only if several tasks wait
    """

    workflow_id: WorkflowId
    digest: Annotated[str, Meta(min_length=64, max_length=64)]
    task: Annotated[str, Meta(max_length=200)] = ""
    reason: Reason = ""


class WaitingTask(msgspec.Struct, frozen=True):
    """A task that waits for an approval; `digest` is the digest of what `text` describes."""

    task: str
    text: str
    digest: str


class TaskLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a workflow."""

    name: str
    tool: str
    status: str
    agent: str = ""
    error: str = ""


class WorkflowStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The state of a workflow.

    total    number of its tasks; `tasks` shows at most 20, those that are not done first
    result   its result, once it has ended
    waits    what has to be approved, by another principal than `requester`
    """

    workflow_id: str
    workflow_type: str
    status: str
    requester: str
    updated: datetime | None = None
    done: int = 0
    total: int = 0
    error: str = ""
    result: dict[str, Any] = {}
    waits: list[WaitingTask] = []
    tasks: list[TaskLine] = []


class WorkflowLine(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One workflow of a list."""

    workflow_id: str
    workflow_type: str
    status: str
    requester: str
    updated: datetime
    done: int = 0
    total: int = 0
    error: str = ""


class WorkflowList(msgspec.Struct, frozen=True):
    """The workflows: those that have not ended first, then the latest."""

    workflows: list[WorkflowLine]


class SignalResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an orchestrator has done."""

    workflow_id: str
    action: str
    message: str = ""


async def submit_workflow(asker: Asker, p: Submission) -> WorkflowStatus:
    """Submit a workflow, such as vm_deployment or tool_call.

    It is stored before this returns and continues without the client; workflow_status shows how far it is.
    """
    request = WorkflowRequest(
        p.workflow_type,
        p.workflow_id or requests.new_id(p.workflow_type),
        p.parameters,
        requester_id=asker.principal,
        dry_run=p.dry_run,
        authenticated=asker.principal not in ANONYMOUS,
    )
    await requests.submit(asker.bus, asker.principal, request)
    accepted = await queries.accepted(asker.bus, asker.principal, request)
    if accepted is None:
        return WorkflowStatus(
            workflow_id=request.workflow_id,
            workflow_type=request.workflow_type,
            status="stored",
            requester=asker.principal,
            error="no orchestrator has accepted it yet; the first that starts does",
        )
    if not isinstance(accepted, Workflow) and accepted.refused:
        raise Rejected(f"{request.workflow_id}: {accepted.error}")
    return await workflow_status(asker, WorkflowSelector(request.workflow_id, p.wait))


async def workflow_status(asker: Asker, p: WorkflowSelector) -> WorkflowStatus:
    """Show a workflow: status, tasks, result, and what waits for an approval.

    With `wait` it answers when the workflow ends or needs an approval.
    """
    state = await requests.wait_until_settled(asker.bus, p.workflow_id, wait=p.wait, show=_noting(asker))
    return _status(state, await _result(asker, p.workflow_id) if state.over else {})


async def _result(asker: Asker, workflow_id: str) -> dict[str, Any]:
    """Return the result of a workflow that has ended: its last state is stored a moment before its answer."""
    try:
        return (await queries.follow(asker.bus, workflow_id, lambda _: None, wait=ANSWERED)).result
    except TemporaryError:
        return {}


async def list_workflows(asker: Asker, p: WorkflowFilter) -> WorkflowList:
    """List the workflows of all principals: those that have not ended first, then the latest."""
    found = await queries.workflows(asker.bus, p.limit, p.status)
    return WorkflowList(
        [WorkflowLine(**{name: getattr(line, name) for name in WorkflowLine.__struct_fields__}) for line in found]
    )


async def cancel_workflow(asker: Asker, p: Cancellation) -> SignalResult:
    """Cancel a workflow: no new tasks start, and running tasks stop where that leaves nothing half-made."""
    return await _signal(asker, p.workflow_id, WorkflowSignal("cancel", p.reason, undo=p.undo))


async def approve_workflow(asker: Asker, p: Decision) -> SignalResult:
    """Approve what a workflow of another principal waits for; it is then done, once.

    Only for a person who has read the text that workflow_status shows under `waits`.
    """
    return await _signal(asker, p.workflow_id, WorkflowSignal("approve", p.reason, p.task, p.digest))


async def reject_workflow(asker: Asker, p: Decision) -> SignalResult:
    """Reject what a workflow of another principal waits for; nothing of it is done."""
    return await _signal(asker, p.workflow_id, WorkflowSignal("reject", p.reason, p.task, p.digest))


async def _signal(asker: Asker, workflow_id: str, wanted: WorkflowSignal) -> SignalResult:
    """Send a signal; raises Denied with the orchestrator's reason if it does not carry it out."""
    if wanted.digest:
        reply = await requests.send_decision(asker.bus, asker.principal, workflow_id, wanted.task, wanted)
    else:
        reply = await requests.signal(asker.bus, asker.principal, workflow_id, wanted)
    if not reply.done:
        raise Denied(f"{workflow_id}: {reply.message}")
    return SignalResult(workflow_id, wanted.action, reply.message)


def _noting(asker: Asker) -> Callable[[Workflow], None]:
    """Return a function that sends the client one line for each state that differs from the one before."""
    sent = [""]

    def show(state: Workflow) -> None:
        done = sum(task.status in DONE for task in state.tasks.values())
        line = f"{state.status}: {done} of {len(state.tasks)} tasks done"
        if line != sent[0]:
            sent[0] = line
            asker.note(line)

    return show


def _status(state: Workflow, result: dict[str, Any]) -> WorkflowStatus:
    ordered = sorted(state.tasks, key=lambda name: state.tasks[name].status in DONE)
    return WorkflowStatus(
        workflow_id=state.workflow_id,
        workflow_type=state.workflow_type,
        status=str(state.status),
        requester=state.requester_id or state.principal,
        updated=state.updated,
        done=sum(task.status in DONE for task in state.tasks.values()),
        total=len(state.tasks),
        error=state.error,
        result=result,
        waits=[
            WaitingTask(name, task.approval.text, task.approval.digest)
            for name, task in state.tasks.items()
            if task.status is TaskStatus.WAITING_APPROVAL and task.approval is not None
        ],
        tasks=[_line(state, name, state.tasks[name]) for name in ordered[:TASKS_SHOWN]],
    )


def _line(state: Workflow, name: str, task: TaskState) -> TaskLine:
    spec = state.spec(name)
    error = "" if task.error is None else task.error.message
    return TaskLine(name, spec.tool or spec.workflow, str(task.status), task.agent, error)


def tools() -> list[DirectTool]:
    """Return the tools for workflows."""
    return [
        direct(submit_workflow, Submission, WorkflowStatus, Tier.OPERATE, Repeat.UNSAFE),
        direct(workflow_status, WorkflowSelector, WorkflowStatus, Tier.READ, Repeat.IDEMPOTENT),
        direct(list_workflows, WorkflowFilter, WorkflowList, Tier.READ, Repeat.IDEMPOTENT),
        direct(cancel_workflow, Cancellation, SignalResult, Tier.OPERATE, Repeat.IDEMPOTENT),
        direct(approve_workflow, Decision, SignalResult, Tier.OPERATE, Repeat.IDEMPOTENT),
        direct(reject_workflow, Decision, SignalResult, Tier.OPERATE, Repeat.IDEMPOTENT),
    ]
