"""Requests for approval as notifications.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agentd import ANONYMOUS, TERMINAL, Approval, TaskStatus, Tier, digest
from agentd_monitor.delivery.message import APPROVAL, Message

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN: Final = 2000
"""Maximum characters of the text of an approval in a notification."""


class WaitingSpec(msgspec.Struct, frozen=True):
    """The fields of a task's spec that a request for its approval needs."""

    tier: Tier = Tier.READ


class WaitingTask(msgspec.Struct, frozen=True):
    """The fields of a task that a request for its approval needs."""

    status: str = ""
    approval: Approval | None = None
    spec: WaitingSpec | None = None


class WaitingWorkflow(msgspec.Struct, frozen=True):
    """The fields of a workflow event that requests for approval need."""

    workflow_id: str
    status: str
    workflow_type: str = ""
    error: str = ""
    principal: str = ""
    requester_id: str = ""
    authenticated: bool = True
    tasks: dict[str, WaitingTask] = {}


class ApprovalRequests:
    """The requests that wait for a decision now, by id."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Message]] = {}

    def waiting(self) -> Mapping[str, Message]:
        """Return the requests that wait, by id."""
        return {key: request for requests in self._waiting.values() for key, request in requests.items()}

    def observe(self, workflow: WaitingWorkflow) -> bool:
        """Record the state of a workflow; return whether its requests have changed."""
        before = self._waiting.pop(workflow.workflow_id, {})
        made = {} if workflow.status in TERMINAL else {request.id: request for request in _requests(workflow)}
        if made:
            self._waiting[workflow.workflow_id] = made
        return before.keys() != made.keys()


def _requests(workflow: WaitingWorkflow) -> list[Message]:
    """Return the requests of a workflow; no principal may approve a task of a requester that is not authenticated."""
    if not workflow.authenticated or workflow.principal in ANONYMOUS:
        return []
    return [
        _request(workflow, name, task.approval, Tier.READ if task.spec is None else task.spec.tier)
        for name, task in workflow.tasks.items()
        if task.status == TaskStatus.WAITING_APPROVAL and task.approval is not None
    ]


def _request(workflow: WaitingWorkflow, task: str, approval: Approval, tier: Tier) -> Message:
    identity = digest([workflow.workflow_id, task, approval.digest])
    until = "" if approval.until is None else f" It expires at {approval.until:%Y-%m-%d %H:%M} UTC."
    return Message(
        id=identity,
        incident=identity,
        fingerprint="",
        reason=APPROVAL,
        name=workflow.workflow_type or APPROVAL,
        severity="warning",
        labels={"workflow": workflow.workflow_id, "task": task, "principal": workflow.principal, "tier": tier},
        text=f"{workflow.workflow_id} of {workflow.principal} waits for an approval: {approval.text[:SHOWN]}",
        advice=f"Read it with `agentd show {workflow.workflow_id}` and decide with `agentd approve` or `agentd reject`."
        + until,
        starts=approval.asked.timestamp(),
        digest=approval.digest,
        requesters=(workflow.principal, workflow.requester_id),
    )
