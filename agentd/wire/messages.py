"""Every message on the wire: JSON by msgspec, so that a person can read it with any NATS client.

Unknown fields are ignored, missing ones are errors that name the field: an old and a new daemon understand
each other during a rollout.  Names and meanings of the first fields are the seed's; what agentd adds has
defaults, so that a plain client need not know it.  What a plain client reads by its
name (`status`, `load`, `error`, `endpoint`, `workflow_id` …) is in the JSON also when it has its default value: these
messages do not omit defaults.  Times are RFC 3339 in UTC with a zone.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import msgspec

from agentd.wire import secrets
from agentd.wire.codec import digest

ARRIVING = "arriving"
"""Status of an agent that has taken its lease and does not work yet: it is not listed."""


MAX_STATE = 960 * 1024
"""Largest state of a workflow in bytes, and largest answer made of it: max_payload, less room for headers."""
MAX_REQUEST = 128 * 1024
"""Largest request in bytes: its parameters stand in the state, in its plan and in the first assignment."""

Zoned = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time that is reckoned with; one without a zone is an error.  Times that are only shown may lack it."""


class Tier(StrEnum):
    """What harm a tool can do, in rising order."""

    READ = "read"
    OPERATE = "operate"
    DESTROY = "destroy"
    EXEC = "exec"

    @property
    def rank(self) -> int:
        """0 for read to 3 for exec, for comparison."""
        return _RANKS[self]

    def covers(self, other: Tier) -> bool:
        """Tell whether who holds this tier may use a tool of tier `other`."""
        return self.rank >= other.rank


_RANKS = {tier: rank for rank, tier in enumerate(Tier)}


class Outcome(StrEnum):
    """How a task ended, or that it began."""

    RUNNING = "running"
    COMPLETED = "completed"
    WARNINGS = "completed_with_warnings"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a task failed: `code` for programs (errors.py), `message` for people, `retry` if another try may help."""

    code: str
    message: str
    retry: bool = False
    log: list[str] = []


class WorkflowRequest(msgspec.Struct, frozen=True):
    """Ask for a workflow; `timeout` (s) counts from its start, `start_by` from when NATS stored the request.

    authenticated  false: who publishes this has not authenticated the principal, and asks for an anonymous client
    priority  1 to 10; above 5 its tasks do not wait behind those of others
    retry_of  a workflow that ended early and is carried on under this new id; `workflow_type` may then be empty
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
    """Change a running workflow; `reply` is a subject on which somebody waits to hear whether it was done.

    action      cancel, pause, resume, approve or reject
    task        which one is approved or rejected
    digest      of the approval: what was shown to who approves
    compensate  of cancel: undo what was done
    """

    action: str
    reason: str = ""
    task: str = ""
    digest: str = ""
    compensate: bool = False
    reply: str = ""
    workflow_id: str = ""


class SignalReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say whether a WorkflowSignal was carried out, and if not, why."""

    workflow_id: str
    done: bool
    message: str = ""


class WorkflowResponse(msgspec.Struct, frozen=True):
    """Answer a request once it is over, or say why it was rejected."""

    MAX_BYTES: ClassVar[int] = MAX_STATE

    workflow_id: str
    status: str
    result: dict[str, Any] = {}
    error: str = ""
    agent_id: str = ""


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call is about to change.

    name    as protection knows it: guest/100, storage/local, user/eve@pve
    title   what a person calls it
    state   how it looks now, short: an approval holds for exactly this
    labels  further names that may protect it: tag/keep, pool/core, node/pve1
    loses   what goes with it, for who has to approve: one line each
    risks   what speaks against it, for who has to approve: it changes by itself, so no approval is bound to it
    """

    name: str
    title: str
    state: dict[str, Any] = {}
    labels: list[str] = []
    loses: list[str] = []
    risks: list[str] = []


class Inverse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Name the call that makes things as they were before an act.

    guests  how each guest that the act changed was called then: ids are given to other guests in time
    """

    tool: str
    parameters: dict[str, Any] = {}
    guests: dict[str, str] = {}


class Preview(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say what a call would do; nothing was done.

    already  things are as wanted, so it would do nothing
    undo     the call by which it would be taken back; without it nothing does that
    """

    tool: str
    targets: list[Target] = []
    already: bool = False
    undo: Inverse | None = None


class Consent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say who approved an act, what exactly (`digest`), and how that looked which it changes.

    call  the digest of the tool and its parameters, as the assignment has them; "" in a state of an older orchestrator,
          which is not enough
    """

    by: str
    digest: str
    targets: list[Target] = []
    call: str = ""


class TaskAssignment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Give one attempt of a task to whoever takes it from the queue; times are absolute.

    start_by   until when it may be begun; who begins it says so
    seconds    that it may take once it was begun
    heartbeat  seconds within which whoever runs it says so again and again
    depth      how many workflows have started one another
    dry_run    look only, and answer with a Preview
    consent    who approved it
    undoes     the task of the same workflow that this one undoes; only the orchestrator that undoes it sets this
    authenticated  false: the requester needed no token and no login
    guests     how the guests that it changes have to be called (`Inverse.guests`), or nothing is done
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
    """Tell how one attempt ended; the same completion twice means no more than once."""

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
    """Come back when a schedule fires; the workflow itself knows what is due then."""

    kind: str
    task: str
    attempt: int
    workflow_id: str = ""


class StopHint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tell the agents of a service to look at an effect record now: it says that the task is to end."""

    key: str


class ScheduleDue(msgspec.Struct, frozen=True):
    """Begin a workflow because it is time: what a schedule of the configuration has JetStream send, again and again."""

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
    """Note what the last firing of a schedule became; `skipped` counts those since that found it still running."""

    workflow_id: str
    begun: datetime
    fired: datetime
    skipped: int = 0


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """Call a tool; `key` makes the repeated call the same call.

    With `dry_run` it only looks, and its result is a Preview; a tool of tier read is simply run.

    principal  only of a step that an agent calls inside a task: for whom that task is; else the subject says who asks.
               What a principal may do is for the policy of the called agent to say.
    """

    parameters: dict[str, Any]
    key: str = ""
    principal: str = ""
    attempt: int = 1
    deadline: Zoned | None = None
    dry_run: bool = False


class ToolReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer a ToolCall; status `running` means: still at it, call again with the same key.

    With `looked` the result is a Preview: nothing was done.  `undo` is the key by which `agentd undo` takes it back.
    """

    status: str
    result: Any = None
    error: TaskError | None = None
    warnings: list[str] = []
    progress: str = ""
    looked: bool = False
    undo: str = ""


class EffectRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Write down what an agent is about to do, is doing and did to the world; `epoch` is the fence.

    stop  whoever is at it is to end it
    undo  what makes it as it was before, written down before the act
    acted the acts that were ever begun under this key, `<tool> <target>` each; written before the act, and kept when
          an attempt fails and when the record is taken over: a mark in Proxmox counts only with this
    """

    key: str
    tool: str
    epoch: int
    owner: str
    phase: str
    claimed_at: datetime
    attempt: int = 1
    digest: str = ""
    acting: bool = False
    stop: bool = False
    upid: str = ""
    result: Any = None
    error: TaskError | None = None
    warnings: list[str] = []
    undo: Inverse | None = None
    acted: list[str] = []


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an agent's hash chain: who had what done, before and after the act, and who had approved it.

    process    which process of the agent wrote it: one that another has followed never writes again
    signer     the agent's public key, and its `signature` of the hash
    """

    seq: int
    previous: str
    timestamp: datetime
    agent_id: str
    principal: str
    tool: str
    tier: Tier
    phase: str
    key: str = ""
    digest: str = ""
    arguments: dict[str, Any] = {}
    outcome: str = ""
    upid: str = ""
    approved_by: str = ""
    process: str = ""
    signer: str = ""
    hash: str = ""
    signature: str = ""


class AuditKey(msgspec.Struct, frozen=True):
    """Name the public key that signs the lines of an audit chain from line `first` on."""

    public: str
    first: int


class AuditKeys(msgspec.Struct, frozen=True):
    """Pin the keys of one agent's audit chain, the oldest first."""

    agent_id: str
    keys: list[AuditKey]


class AuditExport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stand at the top of an export: what its lines are held against, by agent.

    since     only lines of this time or later are in it
    max_age   seconds after which the stream lets lines expire, 0 for never
    """

    exported: Zoned
    keys: dict[str, AuditKeys]
    heads: dict[str, AuditRecord] = {}
    max_age: float = 0.0
    since: Zoned | None = None


class AuditAcceptance(msgspec.Struct, frozen=True):
    """Acknowledge the alarm of an agent's own audit chain."""

    reason: str


class AgentRegistration(msgspec.Struct, frozen=True):
    """Introduce a running instance; `load` is from 0 (idle) to 1 (full)."""

    agent_id: str
    capabilities: list[str] = []
    load: float = 0.0
    status: str = "available"
    node: str = ""
    role: str = ""
    version: str = ""
    state_version: int = 0
    url: str = ""
    timestamp: datetime | None = None


class ServiceRegistration(msgspec.Struct, frozen=True):
    """Introduce a service and the tools that it offers."""

    service_id: str
    service_type: str
    capabilities: list[str] = []
    endpoint: str = ""
    status: str = "available"
    timestamp: datetime | None = None
    tools: list[str] = []


class Presence(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instance says of itself, as the bucket `live` keeps it while the instance lives.

    process  which process it is (presence.py): only one may have the agent's id
    """

    agent: AgentRegistration
    services: list[ServiceRegistration] = []
    metrics: dict[str, float] = {}
    process: str = ""


class ControlRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tell one agent to drain or reload."""

    action: str


class ControlReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say what an agent did with a ControlRequest."""

    agent_id: str
    done: bool
    message: str = ""


class Freeze(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say that the network is frozen: nothing is changed until `until`, or until a principal thaws it.

    id  of the request that froze it: two orchestrators hear the same request
    """

    by: str
    since: Zoned
    reason: str
    until: Zoned | None = None
    id: str = ""


class NetworkRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ask the orchestrators to freeze or to thaw the network; `seconds` after which it thaws by itself."""

    action: str
    reason: str = ""
    seconds: float | None = None
    id: str = ""


class NetworkReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say what an orchestrator did with a NetworkRequest, and how the network stands now."""

    agent_id: str
    done: bool
    message: str = ""
    freeze: Freeze | None = None


class DiscoveryRequest(msgspec.Struct, frozen=True):
    """Ask everybody to register again."""

    requester: str
    timestamp: datetime | None = None


class Heartbeat(msgspec.Struct, frozen=True):
    """Say that an agent lives."""

    agent_id: str
    timestamp: datetime
    status: str = "available"


class MetricReport(msgspec.Struct, frozen=True):
    """Report figures of an agent; percentages are 0 to 100, sizes are bytes."""

    agent_id: str
    timestamp: datetime
    metrics: dict[str, float]
    tags: dict[str, str] = {}


class Alert(msgspec.Struct, frozen=True):
    """Tell that something needs attention, or no longer does."""

    alert_type: str
    message: str
    timestamp: datetime
    source: str
    severity: str = "warning"
    labels: dict[str, str] = {}
    state: str = "firing"


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say where a message was that was given up, why and by whom; the message itself is the body beside it.

    stored     when it was stored, and as which `sequence` of which `stream`
    headers    those that it had: in AI_DEAD they would act on AI_DEAD
    cut        it, its headers or its reason did not fit beside this, and is not whole
    replay_of  the letter that it was replayed from, 0 for none
    """

    stream: str
    sequence: int
    subject: str
    reason: str
    agent_id: str
    stored: datetime
    delivered: int = 1
    size: int = 0
    headers: dict[str, str] = {}
    cut: bool = False
    replay_of: int = 0


class DeadMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """Say what became of a dead letter: replaying, replayed (as which message of its stream) or dropped."""

    action: str
    principal: str
    timestamp: Zoned
    sequence: int = 0


class CriticalError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tell that a service met an error that it could not handle."""

    service_id: str
    error: str
    timestamp: datetime


def withheld_of(request: WorkflowRequest) -> WorkflowRequest:
    """Return a refused request as its state keeps it for days: without any text that may be a secret."""
    return msgspec.structs.replace(
        request,
        workflow_type=secrets.redacted(request.workflow_type),
        requester_id=secrets.redacted(request.requester_id),
        retry_of=secrets.redacted(request.retry_of),
        parameters=secrets.withheld(request.parameters),
    )


def request_digest(request: WorkflowRequest) -> str:
    """Return what makes two requests with one id the same request: their type and parameters.

    Of a retry it is which workflow is carried on: type and parameters are that one's, and may be left out.
    """
    if request.retry_of:
        return digest(["retry", request.retry_of, request.dry_run])
    return digest([request.workflow_type, request.parameters, request.dry_run])
