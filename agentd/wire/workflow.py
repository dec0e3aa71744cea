"""The types of a workflow.

A definition turns parameters into a plan; a plan is a graph of tasks.  These are only values; the orchestrator
(`plugins/agentd_orchestrator`) makes the decisions.  A plugin offers definitions by the hook `agentd_workflows`.  A
`Workflow` is the whole state, as each event on `ai.workflows.event.<workflow>` contains it, so that a client reads the
same state as the orchestrator.
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
"""Version of the state's format; an orchestrator does not process states of a higher version."""


class Compensation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The tool call that undoes a task.

    The tool must also succeed if there is nothing to undo.

    It runs when the workflow fails (or is cancelled with `undo`) after the task was started, once everything that
    depends on the task has been undone.  Fields are those of a TaskSpec; parameters may refer to the task itself.

    always  run it also when the workflow succeeds: what the task creates is only for the workflow itself
    """

    tool: str
    queue: str
    tier: Tier
    parameters: dict[str, Any] = {}
    timeout: float = 300.0
    retries: int = 5
    backoff: float = 2.0
    always: bool = False


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a plan: a tool call, or a workflow of its own.

    name               name of the task in this plan; a letter, then A-Z a-z 0-9 _ -
    tool               the tool to call, of the service that takes tasks from `queue`
    workflow           instead of a tool: the kind of workflow that the task starts and waits for
    parameters         for the tool; values made by `result_of` or `template` are filled in when the task is assigned
    after              names of the tasks that must have completed before
    timeout            seconds that one attempt may take; from its assignment, or its start if `start_within` is set
    start_within       seconds that an attempt may wait in its queue until an agent starts it
    heartbeat_timeout  seconds after the agent's last heartbeat after which an attempt is given up
    retries            number of retries after a temporary error
    backoff            seconds before the first retry; doubles each time up to five minutes, with jitter
    on_error           {error code: task}: on this error go back to that earlier task instead of failing
    condition          an expression (jinja2, without braces) that must be true; otherwise the task is skipped
    for_each           a list, `result_of` or `template`: one task per item, which templates know as `item` and `index`
    max_parallel       how many items of `for_each` run at once
    optional           its failure is only a warning of the workflow; tasks that depend on it continue
    approval           the text that a principal other than the requester has to approve before the task is assigned
    approve_within     seconds within which it has to be approved; None: no limit
    preview            only find out what the tool would do (a dry run), for the principal who has to approve
    compensation       the call that undoes it
    guests             the names that the changed guests must have: {"guest/105": "web"}
    reads              it changes nothing, though its tool is not of tier `read`: it leaves nothing behind
    """

    name: str
    tool: str
    queue: str
    tier: Tier
    parameters: dict[str, Any] = {}
    after: list[str] = []
    timeout: float = 300.0
    retries: int = 2
    backoff: float = 2.0
    on_error: dict[str, str] = {}
    workflow: str = ""
    start_within: float | None = None
    heartbeat_timeout: float | None = None
    condition: str = ""
    for_each: Any = None
    max_parallel: int = 10
    optional: bool = False
    approval: str = ""
    compensation: Compensation | None = None
    approve_within: float | None = None
    preview: bool = False
    guests: dict[str, str] = {}
    reads: bool = False


@dataclass(frozen=True)
class Definition:
    """A kind of workflow: `plan` is pure and turns checked parameters into tasks.

    source   the plugin or file that defines it
    prepare  called in a thread before `plan`, for a definition that has to read files
    """

    name: str
    description: str
    parameters: type[msgspec.Struct]
    plan: Callable[[Any], list[TaskSpec]]
    source: str = ""
    prepare: Callable[[], object] | None = None


def result_of(task: str, field: str = "") -> dict[str, str]:
    """Return a placeholder for the result of `task` or one field of it.

    It is used in the parameters of a later task.
    """
    return {"$result": task, "field": field} if field else {"$result": task}


def template(text: str) -> dict[str, str]:
    """Return a placeholder for a jinja2 template in the parameters.

    The template is rendered when the task is assigned.

    The template can use `parameters` (of the workflow), `tasks.<name>.result`, `.status`, `.error` and `.warnings` of
    earlier tasks, `item` and `index`, and `workflow_id`.  A single `{{ … }}` gives the value itself, anything else a
    text.
    """
    return {"$template": text}


class Status(StrEnum):
    """The status of a workflow."""

    PLANNED = "planned"
    """The plan is made, no task has started."""
    WAITING_APPROVAL = "waiting_approval"
    """A person has to approve before it continues."""
    RUNNING = "running"
    """Tasks are running, or wait for a retry."""
    PAUSED = "paused"
    """A principal paused it: running tasks finish, no new task starts, and its timeout does not count."""
    COMPLETED = "completed"
    """Every task has completed."""
    COMPLETED_WITH_WARNINGS = "completed_with_warnings"
    """Every task has completed; a person should read the warnings."""
    FAILED = "failed"
    """A task failed finally, or the timeout was reached."""
    CANCELLING = "cancelling"
    """No new tasks; running tasks finish."""
    CANCELLED = "cancelled"
    """Cancelled; the result names what was done before."""
    COMPENSATING = "compensating"
    """Completed work is being undone in reverse order."""
    COMPENSATED = "compensated"
    """It failed or was cancelled, and the completed work is undone."""
    COMPENSATION_FAILED = "compensation_failed"
    """Undoing failed: a person has to check it."""
    REJECTED = "rejected"
    """The request was refused before anything was done."""
    EXPIRED = "expired"
    """It was not started before its `start_by`."""


class TaskStatus(StrEnum):
    """The status of a task."""

    WAITING = "waiting"
    """It waits for other tasks to complete, or for its retry."""
    WAITING_APPROVAL = "waiting_approval"
    """It waits for the approval of a principal other than the requester."""
    ASSIGNED = "assigned"
    """An attempt is in its queue, or an agent has taken it."""
    RUNNING = "running"
    """An agent has reported that it started; of a task with `for_each`: its items are running."""
    COMPLETED = "completed"
    """It has completed."""
    COMPLETED_WITH_WARNINGS = "completed_with_warnings"
    """It has completed; a person should read the warnings."""
    FAILED = "failed"
    """It failed and is not retried."""
    SKIPPED = "skipped"
    """It was not needed."""
    CANCELLED = "cancelled"
    """It was cancelled before it started, or the workflow did not wait for its end."""


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
"""Prefix of the name of a task that undoes another."""
PREVIEW: Final = "preview-"
"""Prefix of the name of a task that finds out, by a dry run, what another would do."""


class OutboxMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of the outbox, to be sent because of a state change.

    Its body is derived from the state.

    assign   an attempt of a task
    entomb   no agent may start the task any more
    stop     like entomb, and the agent that runs the task has to end it
    timer    wake the workflow `at`, as number `attempt`
    respond  the answer to the request
    report   the end of a child workflow, to the task that started it
    alert    a person has to check the workflow
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
    """An approval of a task: what has to be approved, until when, and who approved it.

    `digest` covers the tool, its parameters, the targets that the dry run found, and the text that is shown.

    calls  digest of tool and parameters of the call, or of the call of each item: what the agent may do
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
    """The state of one task.

    `attempt` counts from 1; times and `deadline` belong to the attempt.

    spec               None for an item of a task with `for_each`, which has the spec of its parent
    parent             the task with `for_each` whose item this is, or the task that this one undoes
    items              number of items of a task with `for_each`
    last_heartbeat_at  when an agent last reported that it runs the task
    retried            number of retries
    sent_back          how often it sent the workflow back to an earlier task (`on_error`)
    """

    spec: TaskSpec | None
    status: TaskStatus = TaskStatus.WAITING
    attempt: int = 0
    deadline: datetime | None = None
    start_by: datetime | None = None
    retry_at: datetime | None = None
    assigned_at: datetime | None = None
    started_at: datetime | None = None
    last_heartbeat_at: datetime | None = None
    finished_at: datetime | None = None
    agent: str = ""
    retried: int = 0
    sent_back: int = 0
    result: Any = None
    error: TaskError | None = None
    warnings: list[str] = []
    parent: str = ""
    index: int = 0
    item: Any = None
    items: int = 0
    approval: Approval | None = None


class Workflow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole state of a workflow, as each event contains it.

    v                 version of the format; its default must stay 1, because a default is not written
    deadline          when the timeout is reached; it moves while the clock is stopped
    clock_stopped_at  since when the clock is stopped: the workflow is paused, or waits only for an approval
    timers            how many timers were set
    next_timer_at     the time of the last one
    undo              undo completed work as soon as no task runs any more
    parent            the task of another workflow that waits for this one
    retry_of          the workflow whose work this one continues
    authenticated     false: the requester needed no token and no login, so none of its tasks can be approved
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
    outbox: list[OutboxMessage] = []
    timeline: list[Entry] = []
    error: str = ""
    failing: bool = False
    undo: bool = False
    clock_stopped_at: datetime | None = None
    timers: int = 0
    next_timer_at: datetime | None = None
    parent: Parent | None = None
    retry_of: str = ""
    authenticated: bool = True

    def spec(self, name: str) -> TaskSpec:
        """Return the spec of the task `name`; raises KeyError."""
        task = self.tasks[name]
        if task.spec is not None:
            return task.spec
        spec = self.spec(task.parent)
        return undoing(spec) if name.startswith(UNDO) else spec

    def result(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """Return the result of the task `name`.

        For a task with `for_each` these are the results of its items, in their order.
        """
        task = self.tasks[name]
        if not task.items:
            return [] if task.spec is not None and task.spec.for_each is not None else task.result
        return [self.tasks[item].result for item in self.items(name)]

    def items(self, name: str) -> list[str]:
        """Return the names of the items of a task with `for_each`."""
        return [f"{name}-{number}" for number in range(self.tasks[name].items)]

    @property
    def over(self) -> bool:
        """Whether the workflow has ended."""
        return self.status in TERMINAL


def undoing(spec: TaskSpec) -> TaskSpec:
    """Return the task that undoes `spec`; raises ValueError if it cannot be undone."""
    undo = spec.compensation
    if undo is None:
        raise ValueError(f"{spec.name} cannot be undone")
    return TaskSpec(
        name=UNDO + spec.name,
        tool=undo.tool,
        queue=undo.queue,
        tier=undo.tier,
        parameters=undo.parameters,
        timeout=undo.timeout,
        retries=undo.retries,
        backoff=undo.backoff,
    )
