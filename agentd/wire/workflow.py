"""What a workflow is made of: a definition turns parameters into a plan, a plan is a graph of tasks.

These are values; who decides over them is the orchestrator (`plugins/agentd_orchestrator`).  A plugin offers
definitions by the hook `agentd_workflows`.  A `Workflow` is the whole state as `ai.workflows.event.<workflow>`
carries it, so that whoever watches reads the same as who decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from agentd.wire import subjects
from agentd.wire.messages import MAX_STATE, TaskError, Tier

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION: Final = 1
"""Version of the state's form; an orchestrator leaves states of a higher one to newer orchestrators."""


class Compensation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What undoes a task: the call of a tool that copes with there being nothing to undo.

    It runs when the workflow fails (or is cancelled with `compensate`) after the task was begun, once everything that
    depends on the task has been undone.  Fields are those of a TaskSpec; parameters may refer to the task itself.

    always  it runs also when the workflow has done its work: what the task makes is there for the workflow alone
    """

    tool: str
    queue: str
    tier: Tier
    parameters: dict[str, Any] = {}
    deadline: float = 300.0
    retries: int = 5
    backoff: float = 2.0
    always: bool = False


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a plan: the call of a tool, or a workflow of its own.

    name          what it is called in this plan; a letter, then A-Z a-z 0-9 _ -
    tool          which tool it calls, of the service that works on `queue`
    workflow      which kind of workflow it starts and waits for, in the place of a tool
    parameters    for the tool; what `result_of` or `template` made is filled in when the task is assigned
    after         names of the tasks that must have completed before
    deadline      seconds that one attempt may take; from its assignment, or from its start if `start_within` is set
    start_within  seconds that an attempt may wait in its queue until an agent begins it
    heartbeat     seconds after the agent's last sign of life at which an attempt is given up
    retries       how many further attempts an error that may pass gets
    backoff       seconds before the first retry; doubles each time up to five minutes, with jitter
    redo          {error code: task}: on this error go back to that earlier task instead of failing
    condition     an expression (jinja2, without braces) that must be true; otherwise the task is skipped
    each          a list, `result_of` or `template`: one task an item, which templates know as `item` and `index`
    window        how many items of `each` are worked on at once
    optional      its failure is a warning of the workflow; what depends on it goes on
    approval      what a principal other than the requester has to say yes to before the task is assigned
    approve_within  seconds within which it has to be approved; None: for ever
    look          it does nothing but look what the tool would do (a dry run), for whoever has to approve
    compensation  what undoes it
    guests        how the guests that it changes have to be called: {"guest/105": "web"}
    reads         it changes nothing, though its tool is not of tier `read`: it leaves nothing behind
    """

    name: str
    tool: str
    queue: str
    tier: Tier
    parameters: dict[str, Any] = {}
    after: list[str] = []
    deadline: float = 300.0
    retries: int = 2
    backoff: float = 2.0
    redo: dict[str, str] = {}
    workflow: str = ""
    start_within: float | None = None
    heartbeat: float | None = None
    condition: str = ""
    each: Any = None
    window: int = 10
    optional: bool = False
    approval: str = ""
    compensation: Compensation | None = None
    approve_within: float | None = None
    look: bool = False
    guests: dict[str, str] = {}
    reads: bool = False


@dataclass(frozen=True)
class Definition:
    """A kind of workflow: `plan` is pure and turns checked parameters into tasks; `source` says who brings it.

    prepare  called in a thread before `plan`, for one that has to be told something by files
    """

    name: str
    description: str
    parameters: type[msgspec.Struct]
    plan: Callable[[Any], list[TaskSpec]]
    source: str = ""
    prepare: Callable[[], object] | None = None


def result_of(task: str, field: str = "") -> dict[str, str]:
    """Stand for the result of `task` (or one field of it) among the parameters of a later task."""
    return {"$result": task, "field": field} if field else {"$result": task}


def template(text: str) -> dict[str, str]:
    """Stand for a jinja2 template among the parameters, filled in when the task is assigned.

    It knows `parameters` (of the workflow), `tasks.<name>.result`, `.status`, `.error` and `.warnings` of tasks that
    come before, `item` and `index`, and `workflow_id`.  A lone `{{ … }}` gives its value as it is, all else a text.
    """
    return {"$template": text}


class Status(StrEnum):
    """Where a workflow stands."""

    PLANNED = "planned"
    """Its plan is made, nothing has begun."""
    WAITING_APPROVAL = "waiting_approval"
    """A person has to say yes before it goes on."""
    RUNNING = "running"
    """Tasks are being worked on, or wait for a retry."""
    PAUSED = "paused"
    """A principal holds it: what runs is being finished, nothing new begins, its clock stands still."""
    COMPLETED = "completed"
    """Every task has completed."""
    COMPLETED_WITH_WARNINGS = "completed_with_warnings"
    """Every task has completed, and somebody should read the warnings."""
    FAILED = "failed"
    """A task failed for good, or the time was up."""
    CANCELLING = "cancelling"
    """No new tasks; what runs is being finished."""
    CANCELLED = "cancelled"
    """Cancelled; the result names what was done before."""
    COMPENSATING = "compensating"
    """What was done is being undone in reverse order."""
    COMPENSATED = "compensated"
    """It failed or was cancelled, and what had been done is undone."""
    COMPENSATION_FAILED = "compensation_failed"
    """Undoing failed: a person has to look."""
    REJECTED = "rejected"
    """The request was refused before anything was done."""
    EXPIRED = "expired"
    """Nobody began it before its `start_by`."""


class TaskStatus(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"
    """For others to complete, or for its retry."""
    WAITING_APPROVAL = "waiting_approval"
    """For a principal other than the requester to say yes."""
    ASSIGNED = "assigned"
    """An attempt lies in its queue, or an agent is at it."""
    RUNNING = "running"
    """An agent has said that it began; of a task with `each`: its items are being worked on."""
    COMPLETED = "completed"
    """It is done."""
    COMPLETED_WITH_WARNINGS = "completed_with_warnings"
    """It is done, and somebody should read the warnings."""
    FAILED = "failed"
    """It failed and is not tried again."""
    SKIPPED = "skipped"
    """It was not needed."""
    CANCELLED = "cancelled"
    """It was cancelled before it began, or its end was not waited for."""


TERMINAL: Final = frozenset(
    {
        Status.COMPLETED,
        Status.COMPLETED_WITH_WARNINGS,
        Status.FAILED,
        Status.CANCELLED,
        Status.COMPENSATED,
        Status.COMPENSATION_FAILED,
        Status.REJECTED,
        Status.EXPIRED,
    }
)
DONE: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.COMPLETED_WITH_WARNINGS, TaskStatus.SKIPPED})
UNDER_WAY: Final = frozenset({TaskStatus.ASSIGNED, TaskStatus.RUNNING})
UNDO: Final = "undo-"
"""What the name of a task begins with that undoes another."""
LOOK: Final = "look-"
"""What the name of a task begins with that looks what another would do."""


class Effect(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that has to leave because of a change; its body is derived from the state.

    assign   an attempt of a task            entomb  nobody may begin the task any more
    timer    come back `at`, number `attempt`  stop    as entomb, and whoever runs it ends it
    respond  the answer to the request       report  the end of a child, to the task that started it
    alert    a person has to look
    """

    kind: str
    task: str = subjects.WHOLE_WORKFLOW
    attempt: int = 0
    at: datetime | None = None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the timeline."""

    at: datetime
    what: str
    task: str = ""
    attempt: int = 0
    agent: str = ""


class Approval(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has to be said yes to: exactly what `digest` is made of, until when, and by whom it was.

    That is the tool, its parameters, what a look at what it would change has found, and the text that is shown.

    calls  the digest of the tool and the parameters of the call, or of each item's: what the agent may do
    """

    text: str
    digest: str
    asked: datetime
    until: datetime | None = None
    by: str = ""
    at: datetime | None = None
    reason: str = ""
    calls: list[str] = []


class Parent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The task of another workflow that waits for this one; `depth` counts from 1."""

    workflow_id: str
    task: str
    attempt: int
    depth: int = 1


class TaskState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one task; `attempt` counts from 1, times and `deadline` belong to the attempt.

    spec     none for an item of a task with `each`: it is its parent's
    parent   the task with `each` whose item this is, or the task that this one undoes
    items    how many items a task with `each` has
    heard    when an agent last said that it is at it
    retried  how often it was tried again
    redone   how often it sent the workflow back to an earlier task
    """

    spec: TaskSpec | None
    status: TaskStatus = TaskStatus.WAITING
    attempt: int = 0
    deadline: datetime | None = None
    start_by: datetime | None = None
    retry_at: datetime | None = None
    assigned_at: datetime | None = None
    started_at: datetime | None = None
    heard: datetime | None = None
    finished_at: datetime | None = None
    agent: str = ""
    retried: int = 0
    redone: int = 0
    result: Any = None
    error: TaskError | None = None
    warnings: list[str] = []
    parent: str = ""
    index: int = 0
    item: Any = None
    items: int = 0
    approval: Approval | None = None


class Workflow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole state of a workflow, as each event carries it.

    v             version of the form; its default is 1 for ever, for a default is not written
    deadline      when the time is up; moves while the clock stands still
    held          since when the clock stands still: it is paused, or waits for an approval alone
    timers, armed how many timers were set, and for when the last one is
    undo          what was done is to be undone once nothing runs any more
    parent        who waits for it
    retry_of      the workflow whose work it carries on
    authenticated false: its requester needed no token and no login, so nothing of it can be approved
    """

    MAX_BYTES: ClassVar[int] = MAX_STATE

    workflow_id: str
    workflow_type: str
    status: Status
    requester_id: str
    principal: str
    tier: Tier
    digest: str
    created: datetime
    updated: datetime
    v: int = 1
    priority: int = 5
    parameters: dict[str, Any] = {}
    deadline: datetime | None = None
    tasks: dict[str, TaskState] = {}
    outbox: list[Effect] = []
    timeline: list[Entry] = []
    error: str = ""
    failing: bool = False
    undo: bool = False
    held: datetime | None = None
    timers: int = 0
    armed: datetime | None = None
    parent: Parent | None = None
    retry_of: str = ""
    authenticated: bool = True

    def spec(self, name: str) -> TaskSpec:
        """Return what the task `name` is; raises KeyError."""
        task = self.tasks[name]
        if task.spec is not None:
            return task.spec
        spec = self.spec(task.parent)
        return undoing(spec) if name.startswith(UNDO) else spec

    def result(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """Return the result of the task `name`; of one with `each` the results of its items, in their order."""
        task = self.tasks[name]
        if not task.items:
            return [] if task.spec is not None and task.spec.each is not None else task.result
        return [self.tasks[each].result for each in self.items(name)]

    def items(self, name: str) -> list[str]:
        """Return the names of the items of a task with `each`."""
        return [f"{name}-{number}" for number in range(self.tasks[name].items)]

    @property
    def over(self) -> bool:
        """Tell whether the workflow has ended."""
        return self.status in TERMINAL


def undoing(spec: TaskSpec) -> TaskSpec:
    """Return the task that undoes `spec`; raises ValueError if nothing does."""
    undo = spec.compensation
    if undo is None:
        message = f"{spec.name} cannot be undone"
        raise ValueError(message)
    return TaskSpec(
        name=UNDO + spec.name,
        tool=undo.tool,
        queue=undo.queue,
        tier=undo.tier,
        parameters=undo.parameters,
        deadline=undo.deadline,
        retries=undo.retries,
        backoff=undo.backoff,
    )
