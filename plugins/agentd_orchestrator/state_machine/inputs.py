"""The inputs of `decide`: everything that can change a workflow's state."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from agentd import Parent, Status, TaskSpec, TaskState, Tier, WorkflowRequest, WorkflowSignal
from agentd.wire.messages import TaskCompletion


class PlannedRequest(msgspec.Struct, frozen=True):
    """A request with its plan.

    refused        why the request is rejected; `status` is then the status of the workflow
    parameters     the request's parameters with their defaults, as templates see them
    carried        tasks of the workflow that is retried which need not be executed again, by name
    parent         the task that waits for this workflow
    authenticated  the principal is proven, by its subject or by the token that it presented
    brief          keep the rejection for an hour only, because the principal has sent too many requests
    """

    request: WorkflowRequest
    plan: list[TaskSpec]
    principal: str
    tier: Tier
    refused: str = ""
    status: Status = Status.REJECTED
    parameters: dict[str, Any] | None = None
    carried: dict[str, TaskState] = {}
    parent: Parent | None = None
    authenticated: bool = True
    brief: bool = False


class AgentReport(msgspec.Struct, frozen=True):
    """A message of an agent: an attempt has ended, or has started."""

    task: str
    completion: TaskCompletion


class TimerFired(msgspec.Struct, frozen=True):
    """The timer `number` of the workflow has fired."""

    number: int


class Signal(msgspec.Struct, frozen=True):
    """A signal of a principal: cancel, pause, resume, approve or reject."""

    principal: str
    tier: Tier
    signal: WorkflowSignal


class DecideFailed(msgspec.Struct, frozen=True):
    """`decide` failed repeatedly, a bug; the workflow ends, so that a person notices."""

    error: str


Input = PlannedRequest | AgentReport | TimerFired | Signal | DecideFailed


def decide_failed(given: Input, error: str) -> Input:
    """Return the input that replaces `given`, for which `decide` fails."""
    return (
        replace(given, plan=[], refused=error, status=Status.FAILED)
        if isinstance(given, PlannedRequest)
        else DecideFailed(error)
    )
