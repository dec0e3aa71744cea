"""What a workflow can be told: the inputs of `decide`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from agentd.wire.messages import TaskCompletion, Tier, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import Parent, Status, TaskSpec, TaskState


class Begin(msgspec.Struct, frozen=True):
    """A request with its plan.

    refused  why it is not carried out, and `status` how it ends then
    parameters  the request's, with their defaults: what templates know
    carried  tasks of an earlier workflow that need not be done again, by name
    parent   the task that waits for it
    authenticated  the principal is proven: by its subject, or by the token that it showed
    brief    its refusal is kept for an hour only: the principal has asked for too much
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


class Ended(msgspec.Struct, frozen=True):
    """An agent told how an attempt ended, or that it has begun it."""

    task: str
    completion: TaskCompletion


class Due(msgspec.Struct, frozen=True):
    """The timer `number` of the workflow fired."""

    number: int


class Signal(msgspec.Struct, frozen=True):
    """A principal wants something of the workflow."""

    principal: str
    tier: Tier
    signal: WorkflowSignal


class Broken(msgspec.Struct, frozen=True):
    """Deciding failed again and again: a bug; the workflow ends, so that a person looks."""

    error: str


Input = Begin | Ended | Due | Signal | Broken


def broken(given: Input, error: str) -> Input:
    """Return what is decided over in the place of `given`, which cannot be."""
    return replace(given, plan=[], refused=error, status=Status.FAILED) if isinstance(given, Begin) else Broken(error)
