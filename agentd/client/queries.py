"""Queries of the network's state: agents, services, workflows.

Nothing is cached in memory: each query reads the streams, so that the pages of all daemons and the command line show
the same.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agentd.client.requests import POLL, state_of, still_running_error, watch_subjects
from agentd.client.views import (
    Event,
    EventKind,
    Step,
    TaskView,
    TimelineEntry,
    ToolSummary,
    WorkflowDetail,
    WorkflowSummary,
)
from agentd.errors import BusUnavailable, InvalidMessage
from agentd.wire import subjects
from agentd.wire.announcements import ARRIVING, AgentRegistration, Alert, MetricReport, Presence, ServiceRegistration
from agentd.wire.messages import WorkflowRequest, WorkflowResponse, request_digest, withheld_of
from agentd.wire.workflow import DONE, TERMINAL, TaskState, TaskStatus, Workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Handler, Received


state = state_of
ACCEPTED: Final = 5.0
"""Seconds that a submitted request waits for an orchestrator to accept or reject it."""
STEPS_SHOWN: Final = 50
"""Largest number of tasks of a workflow that a summary lists by name."""


async def presences(bus: Bus) -> list[Presence]:
    """Return every agent with a valid lease, sorted by name."""
    found = await bus.kv_values(subjects.LIVE, Presence)
    values = [found[key].value for key in sorted(found)]
    return [presence for presence in values if presence is not None and presence.agent.status != ARRIVING]


async def agents(bus: Bus) -> list[AgentRegistration]:
    """Return the registration of every running agent."""
    return [presence.agent for presence in await presences(bus)]


async def services(bus: Bus) -> list[ServiceRegistration]:
    """Return every service once, with the tools that an agent offers under its name."""
    found: dict[str, ServiceRegistration] = {}
    for presence in await presences(bus):
        for service in presence.services:
            found.setdefault(service.service_id, service)
    return list(found.values())


async def metrics(bus: Bus) -> list[MetricReport]:
    """Return the latest metrics report of each agent."""
    stored = await bus.last_many(subjects.METRICS, subjects.ALL_METRICS)
    return bus.readable(stored, MetricReport)


async def alerts(bus: Bus, state: str = "firing") -> list[Alert]:
    """Return the alerts that are firing, or that were resolved in the last day."""
    found = (entry.value for entry in (await bus.kv_values(subjects.ALERTS, Alert)).values())
    return [alert for alert in found if alert is not None and alert.state == state]


def tool_summaries(installed: list[ToolSummary], present: list[Presence]) -> list[ToolSummary]:
    """Return the installed tools and those that only other agents offer, with the agents that offer them."""
    agents_of: dict[str, list[str]] = {}
    service_of: dict[str, str] = {}
    for presence in present:
        for service in presence.services:
            for name in service.tools:
                agents_of.setdefault(name, []).append(presence.agent.agent_id)
                service_of[name] = service.service_id
    found = {tool.name: tool for tool in installed}
    found |= {name: ToolSummary(name, "", service_of[name], "", "", "") for name in agents_of if name not in found}
    return [msgspec.structs.replace(found[name], agents=sorted(agents_of.get(name, []))) for name in sorted(found)]


async def states(bus: Bus) -> list[Workflow]:
    """Return the state of every workflow: unfinished ones first, then the latest."""
    newest = await bus.newest_many(subjects.WORKFLOWS, subjects.ALL_EVENTS, Workflow)
    found = [entry.value for entry in newest.values() if entry.value is not None]
    return sorted(found, key=lambda entry: (entry.over, -entry.updated.timestamp()))


async def workflows(bus: Bus, limit: int, status: str = "") -> list[WorkflowSummary]:
    """Return at most `limit` workflows, of one status unless it is empty."""
    return [workflow_summary(entry) for entry in await states(bus) if status in {"", entry.status}][:limit]


async def workflow(bus: Bus, workflow_id: str) -> WorkflowDetail | None:
    """Return one workflow with its tasks and its timeline."""
    found = await state(bus, workflow_id)
    return None if found is None else workflow_detail(found)


async def tasks(bus: Bus) -> list[TaskView]:
    """Return the tasks that are queued or running, of all workflows."""
    return [
        task_view(found, name)
        for found in await states(bus)
        if found.status not in TERMINAL
        for name, task in found.tasks.items()
        if task.status in {TaskStatus.ASSIGNED, TaskStatus.RUNNING}
    ]


async def events(bus: Bus) -> AsyncIterator[Event]:
    """Yield changes of workflows, agents and alerts from now on."""
    queue: asyncio.Queue[Event] = asyncio.Queue(10_000)

    async def put(kind: EventKind, data: WorkflowSummary | AgentRegistration | Alert) -> None:
        if not queue.full():  # a slow reader gets a snapshot from the page's own stream
            queue.put_nowait(Event(kind, data))

    async def on_workflow(received: Received) -> None:
        await put(EventKind.WORKFLOW, workflow_summary(received.decode(Workflow)))

    async def on_agent(received: Received) -> None:
        await put(EventKind.AGENT, received.decode(AgentRegistration))

    async def on_alert(received: Received) -> None:
        await put(EventKind.ALERT, received.decode(Alert))

    handlers = {subjects.ALL_EVENTS: on_workflow, subjects.AGENT_REGISTER: on_agent, subjects.ALL_ALERTS: on_alert}
    subscriptions = [await bus.subscribe(subject, _skip_invalid(handler)) for subject, handler in handlers.items()]
    try:
        while True:
            yield await queue.get()
    finally:
        for subscription in subscriptions:
            await subscription.stop()


def _skip_invalid(handler: Handler) -> Handler:
    async def handle(received: Received) -> None:
        try:
            await handler(received)
        except InvalidMessage:
            return  # any user may publish on these subjects; messages that are not agentd's are not shown

    return handle


def workflow_summary(found: Workflow) -> WorkflowSummary:
    """Return a workflow as an entry of a list."""
    steps = [Step(name, str(task.status)) for name, task in found.tasks.items()]
    return WorkflowSummary(
        workflow_id=found.workflow_id,
        workflow_type=found.workflow_type,
        status=str(found.status),
        requester=found.requester_id,
        created=found.created,
        updated=found.updated,
        done=sum(task.status in DONE for task in found.tasks.values()),
        total=len(found.tasks),
        error=found.error,
        steps=steps if len(steps) <= STEPS_SHOWN else [],
    )


def workflow_detail(found: Workflow) -> WorkflowDetail:
    """Return a workflow with its tasks and its timeline."""
    short = workflow_summary(found)
    return WorkflowDetail(
        **{name: getattr(short, name) for name in short.__struct_fields__},
        tasks=[task_view(found, name) for name in found.tasks],
        timeline=[
            TimelineEntry(entry.at, entry.what, entry.task, entry.attempt, entry.agent) for entry in found.timeline
        ],
    )


def _approval_note(workflow_id: str, name: str, task: TaskState) -> str:
    if task.approval is None or task.status is not TaskStatus.WAITING_APPROVAL:
        return ""
    return f"{task.approval.text} (agentd approve {workflow_id} {name}, by another principal than the requester)"


def task_view(found: Workflow, name: str) -> TaskView:
    """Return one task in the form that pages and the command line show."""
    task, spec = found.tasks[name], found.spec(name)
    return TaskView(
        workflow_id=found.workflow_id,
        name=name,
        tool=spec.tool or spec.workflow,
        status=str(task.status),
        queue=spec.queue,
        attempt=task.attempt,
        agent=task.agent,
        started=task.assigned_at,
        finished=task.finished_at,
        error="" if task.error is None else task.error.message,
        warnings=task.warnings,
        after=[] if task.parent else spec.after,
        asks=_approval_note(found.workflow_id, name, task),
        digest=task.approval.digest if task.approval and task.status is TaskStatus.WAITING_APPROVAL else "",
    )


T = TypeVar("T")


async def answer_of(bus: Bus, workflow_id: str, under: str = "") -> WorkflowResponse | None:
    """Return the answer to a request, None if there is none yet.

    under  the id under which the answer to a conflict is stored; "" means `workflow_id`
    """
    subject = subjects.response(under or workflow_id)
    found = await bus.newest(
        subjects.WORKFLOWS, subject, WorkflowResponse, lambda response: response.workflow_id == workflow_id
    )
    return found.value


async def follow(
    bus: Bus,
    workflow_id: str,
    show: Callable[[Workflow], None],
    *,
    wait: float | None,
    requested: tuple[str, WorkflowRequest] | None = None,
) -> WorkflowResponse:
    """Show each change of a workflow until it is answered; return the answer.

    requested  the principal and its request under this id: if the id belongs to another one, the refusal is returned

    Raises TemporaryError after `wait` seconds; the workflow continues.
    """
    until = None if wait is None else time.monotonic() + wait
    async with watch_subjects(bus, subjects.event(workflow_id), subjects.response(workflow_id)) as changed:
        while True:
            workflow, found = await _present(bus, workflow_id, requested)
            if workflow is not None:
                show(workflow)
            if found is not None:
                return found
            left = POLL if until is None else min(POLL, until - time.monotonic())
            if left <= 0:
                raise still_running_error(workflow_id, wait or 0)
            await changed(left)


async def accepted(bus: Bus, principal: str, request: WorkflowRequest) -> Workflow | WorkflowResponse | None:
    """Return the workflow of an accepted request, or the answer if it has one.

    None if no orchestrator has done either within ACCEPTED seconds; the request stays stored.
    """
    workflow_id, until = request.workflow_id, time.monotonic() + ACCEPTED
    async with watch_subjects(bus, subjects.event(workflow_id), subjects.response(workflow_id)) as changed:
        while True:
            workflow, found = await _present(bus, workflow_id, (principal, request))
            if found is not None or (workflow is not None and not workflow.over):
                return found or workflow
            left = min(POLL, until - time.monotonic())
            if left <= 0:
                return None
            await changed(left)


async def _present(
    bus: Bus, workflow_id: str, requested: tuple[str, WorkflowRequest] | None
) -> tuple[Workflow | None, WorkflowResponse | None]:
    """Return workflow and answer if they exist; of a request with a taken id the refusal."""
    principal, request = requested or ("", None)
    # A refused request is stored without its secrets, so the digest of that form identifies it too.
    digests = () if request is None else tuple(request_digest(form) for form in (request, withheld_of(request)))
    workflow = await _or_none(state(bus, workflow_id))
    same_request = workflow is None or not digests or (workflow.digest in digests and workflow.principal == principal)
    for name in ("",) if same_request else (subjects.conflict(workflow_id, digest) for digest in digests):
        found = await _or_none(answer_of(bus, workflow_id, name))
        if found is not None:
            return workflow if same_request else None, found
    return workflow if same_request else None, None


async def _or_none(asking: Awaitable[T]) -> T | None:
    """Await a query; return None while NATS is not reachable."""
    try:
        return await asking
    except BusUnavailable:
        return None
