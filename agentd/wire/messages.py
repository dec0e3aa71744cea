"""The messages of workflows, tasks and tools.

What agents announce is in announcements.py, what agentd keeps is in records.py; this applies to all of them.

Messages are JSON, encoded by msgspec, so that a person can read them with any NATS client.  Unknown fields are ignored,
and a missing field is an error that names the field: so old and new daemons can exchange messages during a rollout.
The first fields of a message have the names and meanings of the original protocol; fields that agentd adds have
defaults, so that an external client need not know them.  Fields that an external client reads by name (`status`,
`load`, `error`, `endpoint`, `workflow_id` …) are in the JSON even with their default value: these messages do not omit
defaults.  Times are RFC 3339 in UTC with a zone.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final

import msgspec

from agentd.wire import secrets
from agentd.wire.codec import digest

MAX_STATE: Final = 960 * 1024
"""Largest state of a workflow in bytes, and largest answer derived from it: max_payload, less room for headers."""
MAX_REQUEST: Final = 128 * 1024
"""Largest request in bytes: its parameters are stored in the state, in its plan and in the first assignment."""

Zoned = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time used in calculations; without a zone it is an error.  Times that are only shown may lack the zone."""


class Tier(StrEnum):
    """How much harm a tool can do, in rising order."""

    READ = "read"
    OPERATE = "operate"
    DESTROY = "destroy"
    EXEC = "exec"

    @property
    def rank(self) -> int:
        """0 for read to 3 for exec, for comparison."""
        return _RANKS[self]

    def covers(self, other: Tier) -> bool:
        """Return whether a principal of this tier may use a tool of tier `other`."""
        return self.rank >= other.rank


_RANKS: Final = {tier: rank for rank, tier in enumerate(Tier)}


class Outcome(StrEnum):
    """How a task ended, or that it is running."""

    RUNNING = "running"
    COMPLETED = "completed"
    WARNINGS = "completed_with_warnings"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a task failed.

    `code` is for programs (errors.py), `message` for people, `retry` says that a retry may help.
    """

    code: str
    message: str
    retry: bool = False
    log: list[str] = []


class WorkflowRequest(msgspec.Struct, frozen=True):
    """A request for a workflow.

    timeout        seconds from the start of the workflow
    start_by       seconds from the time when NATS stored the request
    authenticated  false: the publisher sends this for an anonymous client and has not authenticated the principal
    priority       1 to 10; above 5 its tasks do not wait behind the tasks of other workflows
    retry_of       a workflow that ended early and continues under this new id; `workflow_type` may then be empty
    """

    MAX_BYTES: ClassVar[int] = MAX_REQUEST

    workflow_type: str
    workflow_id: str = ""
    parameters: dict[str, Any] = {}
    requester_id: str = ""
    priority: int = 5
    timeout: float | None = None
    start_by: float = 3600.0
    dry_run: bool = False
    retry_of: str = ""
    authenticated: bool = True


class WorkflowSignal(msgspec.Struct, frozen=True):
    """A request to change a running workflow.

    action      cancel, pause, resume, approve or reject
    task        the task to approve or reject
    digest      of an approval: the digest of what the approving principal was shown
    undo        of cancel: undo what was done
    reply       the subject that a SignalReply is sent to
    """

    action: str
    reason: str = ""
    task: str = ""
    digest: str = ""
    undo: bool = False
    reply: str = ""
    workflow_id: str = ""


class SignalReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a WorkflowSignal: whether it was carried out, and if not, why."""

    workflow_id: str
    done: bool
    message: str = ""


class WorkflowResponse(msgspec.Struct, frozen=True):
    """The answer to a request: its result, or why it was rejected."""

    MAX_BYTES: ClassVar[int] = MAX_STATE

    workflow_id: str
    status: str
    result: dict[str, Any] = {}
    error: str = ""
    agent_id: str = ""

    @property
    def refused(self) -> bool:
        """Return whether the request was not accepted: no workflow was started for it."""
        return self.status in {"rejected", "conflict", "expired"}


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object that a call is about to change.

    name    the name that [policy] protected uses: guest/100, storage/local, user/eve@pve
    title   the name for people
    state   its current state, short: an approval is valid for exactly this state
    labels  further names that may protect it: tag/keep, pool/core, node/pve1
    loses   what is lost with it, for the approving principal: one line each
    risks   reasons against the change, for the approving principal; they change by themselves, so no approval is
            bound to them
    """

    name: str
    title: str
    state: dict[str, Any] = {}
    labels: list[str] = []
    loses: list[str] = []
    risks: list[str] = []


class Inverse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The call that restores the state before an act.

    guests  the name that each changed guest had then: over time VMIDs are given to other guests
    """

    tool: str
    parameters: dict[str, Any] = {}
    guests: dict[str, str] = {}


class Preview(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call would do, from a dry run; nothing was changed.

    already  the state is already as requested, so the call would do nothing
    undo     the call that would undo it; without it the call cannot be undone
    """

    tool: str
    targets: list[Target] = []
    already: bool = False
    undo: Inverse | None = None


class Consent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An approval, with its digest and the approved targets.

    `by` approved exactly the act that `digest` covers, on `targets` in their state at that time.

    call  the digest of the tool and its parameters, as in the assignment; "" in the state of an older orchestrator,
          which is not sufficient
    """

    by: str
    digest: str
    targets: list[Target] = []
    call: str = ""


class TaskAssignment(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt of a task, for the agent that takes it from the queue.

    Times are absolute.

    start_by       latest start; the agent reports that it has started
    seconds        how long it may run after its start
    heartbeat      seconds within which the agent has to report again that it runs
    depth          how many workflows have started one another
    dry_run        change nothing, and answer with a Preview
    consent        the approval
    undoes         the task of the same workflow that this one undoes; only the orchestrator that undoes it sets this
    authenticated  false: the requester needed no token and no login
    guests         the names that the changed guests must have (`Inverse.guests`); if they differ, nothing is done
    """

    task_id: str
    workflow_id: str
    task_type: str
    assigned_to: str
    parameters: dict[str, Any]
    deadline: Zoned
    attempt: int = 1
    dependencies: list[str] = []
    tier: Tier = Tier.READ
    principal: str = ""
    start_by: Zoned | None = None
    seconds: float | None = None
    heartbeat: float | None = None
    depth: int = 0
    dry_run: bool = False
    consent: Consent | None = None
    undoes: str = ""
    authenticated: bool = True
    guests: dict[str, str] = {}


class TaskCompletion(msgspec.Struct, frozen=True):
    """How one attempt ended; a repeated completion has no further effect."""

    task_id: str
    status: Outcome
    workflow_id: str = ""
    attempt: int = 0
    result: Any = None
    error: TaskError | str | None = None
    warnings: list[str] = []
    agent_id: str = ""
    service_id: str = ""
    timestamp: datetime | None = None


class TimerDue(msgspec.Struct, frozen=True):
    """Wakes a workflow when a timer fires; the workflow's state says what is due."""

    kind: str
    task: str
    attempt: int
    workflow_id: str = ""


class StopHint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Makes the agents of a service read an effect record now.

    The record says that the task has to end.
    """

    key: str


class ScheduleDue(msgspec.Struct, frozen=True):
    """Starts a workflow.

    JetStream sends this message each time a configured schedule fires.
    """

    name: str
    workflow_type: str
    cron: str
    timezone: str
    principal: str
    parameters: dict[str, Any] = {}
    overlap: str = "skip"
    start_by: float = 3600.0
    timeout: float | None = None
    workflow_id: str = ""


class ScheduleRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """The workflow of a schedule's last firing.

    `skipped` counts later firings while that workflow was still running.
    """

    workflow_id: str
    begun: datetime
    fired: datetime
    skipped: int = 0


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of a tool; a repeated call with the same `key` is the same call.

    With `dry_run` nothing is changed, and the result is a Preview; a tool of tier read runs as usual.

    principal  only for a step that an agent calls inside a task: the principal of that task; for other calls the
               subject names the principal.  The policy of the called agent decides what a principal may do.
    """

    parameters: dict[str, Any]
    key: str = ""
    principal: str = ""
    attempt: int = 1
    deadline: Zoned | None = None
    dry_run: bool = False


class ToolReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a ToolCall.

    Status `running` means: not finished, call again with the same key.

    With `dry_run` the result is a Preview: nothing was changed.  `undo` is the key for `agentd undo`.
    """

    status: str
    result: Any = None
    error: TaskError | None = None
    warnings: list[str] = []
    progress: str = ""
    dry_run: bool = False
    undo: str = ""


def withheld_of(request: WorkflowRequest) -> WorkflowRequest:
    """Return a refused request as the state keeps it for days.

    Every text that may be a secret is removed.
    """
    return msgspec.structs.replace(
        request,
        workflow_type=secrets.redacted(request.workflow_type),
        requester_id=secrets.redacted(request.requester_id),
        retry_of=secrets.redacted(request.retry_of),
        parameters=secrets.withheld(request.parameters),
    )


def request_digest(request: WorkflowRequest) -> str:
    """Return the digest that identifies a request.

    Two requests with one id are the same request if their digests are equal.

    It covers type and parameters; for a retry the id of the retried workflow, because the type and parameters are
    those of that workflow and may be left out.
    """
    if request.retry_of:
        return digest(["retry", request.retry_of, request.dry_run])
    return digest([request.workflow_type, request.parameters, request.dry_run])
