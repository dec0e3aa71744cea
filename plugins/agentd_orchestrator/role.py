"""The orchestrator role: receives requests, completions, timers and signals.

It turns them into inputs for the engine, which executes the workflows.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from agentd import (
    AgentdError,
    BusError,
    Consumer,
    Denied,
    Duty,
    GiveUp,
    InvalidMessage,
    Job,
    Parent,
    Rejected,
    Settings,
    Status,
    TemporaryError,
    Tier,
    Workflow,
    WorkflowRequest,
    WorkflowResponse,
    WorkflowSignal,
    now,
    secrets,
    subjects,
)
from agentd.tools.large_results import resolve_references
from agentd.wire.announcements import DiscoveryRequest, Presence
from agentd.wire.messages import SignalReply, TaskAssignment, TaskCompletion, TimerDue, request_digest, withheld_of
from agentd.wire.names import check_id
from agentd.wire.workflow import VERSION
from agentd_orchestrator import external_agents, schedules
from agentd_orchestrator.admission import CapacityCheck, Quota
from agentd_orchestrator.declared.library import Library
from agentd_orchestrator.engine.executor import BROKEN_AFTER, KEPT, Engine
from agentd_orchestrator.engine.inputs import AgentReport, PlannedRequest, Signal, TimerFired
from agentd_orchestrator.engine.outgoing import child_id, queue_of
from agentd_orchestrator.engine.overwritten import TimerRestorer
from agentd_orchestrator.engine.planner import Planner, is_authenticated
from agentd_orchestrator.expressions.metering import evaluate_async
from agentd_orchestrator.freeze import FreezeRequests

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from agentd import Context


VERSIONS_EVERY = 5.0
"""Seconds between two reads of the state versions that the orchestrators support."""

LOOK: float = 5.0
"""Seconds between two checks of the workflow files, so that a fault shows before a request needs the file."""


class OrchestratorSettings(Settings):
    """Settings of the orchestrator, section `[orchestrator]`."""

    slots: int = Field(256, ge=1, le=4096, description="number of messages that are processed at the same time")
    max_open_workflows: int = Field(
        5000, ge=1, description="number of unfinished workflows above which no new request is read"
    )
    open_workflows_per_principal: int = Field(
        100,
        ge=1,
        description="number of unfinished workflows of one principal above which its requests are rejected; workflows "
        "that schedules and other workflows start are never rejected",
    )
    requests_per_minute: int = Field(
        300,
        ge=1,
        description="number of requests of one principal per minute and orchestrator; further requests are rejected",
    )
    retention_days: float = Field(
        KEPT / 86_400,
        ge=1,
        le=KEPT / 86_400,
        description="days for which finished workflows and their answers are kept; to keep them longer, use `agentd "
        "export`",
    )
    workflows_dir: Path = Field(Path("/etc/agentd/workflows"), description="directory of workflow files, NAME.yaml")
    discovery_interval: float = Field(60.0, ge=1, description="seconds between two requests for the list of agents")


class Orchestrator:
    """Runs workflows; any number of orchestrators may run at the same time."""

    name = "orchestrator"
    port = 8080
    services: tuple[str, ...] = ()
    duties = frozenset({Duty.ORCHESTRATE})
    routes: tuple[BaseRoute, ...] = ()

    def __init__(self) -> None:
        """Create the role; `run` supplies the context."""
        self._context: Context
        self._engine: Engine
        self._planner: Planner
        self._library: Library
        self._quota: Quota
        self._requests: Consumer
        self._queues: set[str] = set()

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the plugin's own settings
        """Ignore new settings: they take effect at the next start."""

    async def run(self, context: Context) -> None:
        """Run until the context is stopping."""
        self._context = context
        self._engine = Engine(
            context.bus, context.agent_id, context.metrics, context.log, kept=context.settings.retention_days * 86_400
        )
        self._engine.plain = external_agents.configured_names(context.config.bus.queues, context.policy)
        settings: OrchestratorSettings = context.settings
        self._library = Library(settings.workflows_dir, context.known_tools, context.workflows)
        await self._read_files()
        self._quota = Quota(settings.requests_per_minute, settings.open_workflows_per_principal)
        self._planner = Planner(self._library, context.policy)
        self._requests = self._consumer(subjects.REQUESTS, subjects.ORCH_REQUESTS, self._on_request, 64)
        consumers = [
            self._requests,
            self._consumer(subjects.INPUT, subjects.ORCH_INPUT, self._on_input, settings.slots),
            self._consumer(subjects.WORKFLOWS, subjects.ORCH_DUE, self._on_due, settings.slots),
            self._consumer(subjects.WORKFLOWS, subjects.ORCHESTRATOR, self._on_child, 64),
        ]
        self._engine.writes = await self._version()
        network = await FreezeRequests(context).listen()
        context.health.up()
        try:
            await self._work(consumers)
        finally:
            await network.stop()

    async def _work(self, consumers: list[Consumer]) -> None:
        """Run all tasks of the orchestrator until the context is stopping."""
        context, settings = self._context, self._context.settings
        drain = context.config.drain.timeout
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discover(settings.discovery_interval))
            group.create_task(self._watch_files())
            group.create_task(self._watch(consumers, settings.max_open_workflows))
            group.create_task(self._agree_on_version())
            group.create_task(external_agents.ExternalAgents(context).run())
            group.create_task(TimerRestorer(context).run())
            for consumer in consumers:
                group.create_task(consumer.run(context.stopping, drain=drain))

    def _consumer(self, stream: str, durable: str, handle: Any, slots: int) -> Consumer:  # noqa: ANN401
        context = self._context
        journal = context.worker.journal
        return Consumer(context.bus, stream, durable, handle, slots=slots, log=context.log, journal=journal)

    async def _watch(self, consumers: list[Consumer], max_open: int) -> None:
        """Report problems, and pause requests while NATS or the orchestrator is full.

        The orchestrator is full when too many workflows are open.
        """
        context = self._context
        room = CapacityCheck(context.bus)
        while not await _stopped(context.stopping, 1.0):
            await room.look()
            refused = next((consumer.full for consumer in consumers if consumer.full), "")
            problem = (
                next((consumer.problem for consumer in consumers if consumer.problem), "") or refused or room.problem
            )
            if self._engine.open >= max_open:
                await self._engine.refresh()
            full = self._engine.open >= max_open or bool(refused or room.problem)
            if full:
                await self._requests.pause()
            elif self._requests.paused:
                self._requests.resume()
            if problem:  # reported after pausing: a reader may rely on requests being paused
                context.health.down(problem)
            else:
                context.health.up()

    async def _agree_on_version(self) -> None:
        """Write states in a version that every orchestrator of the network supports.

        An older orchestrator may still be running.
        """
        while not await _stopped(self._context.stopping, VERSIONS_EVERY):
            try:
                self._engine.writes = await self._version()
            except BusError as error:
                self._context.log.info("cannot read the list of agents", reason=str(error))

    async def _version(self) -> int:
        living = (await self._context.bus.kv_values(subjects.LIVE, Presence)).values()
        agents = [entry.value.agent for entry in living if entry.value is not None]
        return min([VERSION, *(agent.state_version for agent in agents if self.name in agent.role)])

    async def _watch_files(self) -> None:
        while not await _stopped(self._context.stopping, LOOK):
            await self._read_files()

    async def _read_files(self) -> None:
        """Read the changed workflow files; log each fault once and show it on the page."""
        if not await asyncio.to_thread(self._library.refresh):
            return
        warnings = [str(fault) for fault in self._library.faults]
        for warning in warnings:
            if warning not in self._context.health.warnings:
                self._context.log.warning("a workflow file has errors", fault=warning)
        self._context.health.warnings[:] = warnings

    async def _discover(self, every: float) -> None:
        bus = self._context.bus
        while True:
            request = DiscoveryRequest(self._context.agent_id, now())
            await bus.publish(subjects.AGENT_DISCOVERY, request)
            await bus.publish(subjects.SERVICE_DISCOVERY, request)
            if await _stopped(self._context.stopping, every):
                return

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _on_request(self, job: Job) -> None:
        """Turn a request into a workflow, or into a rejection sent to the requester."""
        plain = job.subject == subjects.WORKFLOW_REQUEST
        principal = subjects.PLAIN if plain else job.subject.split(".")[3]
        tier = self._context.policy.tier_of(principal, plain=plain)
        wanted, given_id = _peek(job.data, "workflow_id"), f"req-{job.sequence}"
        try:
            given_id = await schedules.check_id_free(self._context, wanted, principal) if wanted else given_id
            request = msgspec.structs.replace(job.decode(WorkflowRequest), workflow_id=given_id)
        except AgentdError as error:
            broken = WorkflowRequest(workflow_type=_peek(job.data, "workflow_type"), workflow_id=given_id)
            # Not counted: other clients can make the server write acknowledgements to the subject of a principal.
            begin = PlannedRequest(
                broken, [], principal, tier, refused=str(error), authenticated=not plain, brief=not wanted
            )
        else:
            refused = await self._over_quota(request, principal, job)
            if not refused:
                with self._quota.beginning(principal):
                    await self._carry_on(await self._begin(request, principal, tier, job), job)
                return
            begin = PlannedRequest(request, [], principal, tier, refused=refused, authenticated=not plain, brief=True)
        await self._carry_on(begin, job)

    async def _over_quota(self, request: WorkflowRequest, principal: str, job: Job) -> str:
        """Return why the principal is over its quota, or "".

        A redelivered request was counted before.
        """
        if job.delivered > 1:
            return ""
        refused = self._quota.refusal(principal, time.monotonic(), self._engine.open_of)
        return "" if refused and await schedules.requests_workflow(self._context, request.workflow_id) else refused

    async def _carry_on(self, begin: PlannedRequest, job: Job) -> None:
        """Feed a request to the engine; respond with a conflict if its id is in use.

        The id may belong to another request or to another principal.
        """
        kept = _for_storage(begin)
        state = await self._engine.feed(begin.request.workflow_id, kept, delivered=job.delivered)
        if state is None:
            return
        digests = {request_digest(request) for request in (begin.request, kept.request)}
        if state.digest not in digests or state.principal != begin.principal:
            await self._conflict(kept, state)

    async def _begin(
        self, request: WorkflowRequest, principal: str, tier: Tier, job: Job, parent: Parent | None = None
    ) -> PlannedRequest:
        """Return the request with its plan, or with the reason for its rejection."""
        context = self._context
        if secret := secrets.refusal(msgspec.to_builtins(request)):
            return PlannedRequest(request, [], principal, tier, parent=parent, refused=f"the request: {secret}")
        begin = PlannedRequest(
            request, [], principal, tier, parent=parent, authenticated=is_authenticated(request, principal)
        )
        waited = (context.bus.server_time() - job.stored).total_seconds()
        if waited > request.start_by and parent is None:
            text = f"waited {waited:.0f} s to be started; it was to start within {request.start_by:.0f} s"
            return msgspec.structs.replace(begin, refused=text, status=Status.EXPIRED)
        retried, refused = await self._retried(request.retry_of)
        if refused:
            return msgspec.structs.replace(begin, refused=refused)
        plain = job.subject == subjects.WORKFLOW_REQUEST
        await self._prepare(request.workflow_type)
        try:
            begin = await evaluate_async(
                partial(self._planner.begin, request, principal, tier, plain=plain, retried=retried, parent=parent)
            )
            external_agents.check(begin.plan, context.config.bus.queues, context.policy)
        except Denied as error:
            return msgspec.structs.replace(begin, plan=[], carried={}, refused=str(error))
        except Exception as error:
            if job.delivered < BROKEN_AFTER:
                raise
            context.log.exception("a plan cannot be made", workflow=request.workflow_id, kind=request.workflow_type)
            text = f"the plan of {request.workflow_type} cannot be made: {type(error).__name__}: {error}"
            return msgspec.structs.replace(begin, refused=text, status=Status.FAILED)
        unserved = "" if begin.refused or request.dry_run else await self._unserved_queue(begin)
        return msgspec.structs.replace(begin, plan=[], carried={}, refused=unserved) if unserved else begin

    async def _prepare(self, workflow_type: str) -> None:
        """Read the files that the plan of this workflow type needs."""
        if not self._library.is_builtin(workflow_type):
            await self._read_files()
        elif (prepare := self._library[workflow_type].prepare) is not None:
            await asyncio.to_thread(prepare)

    async def _retried(self, workflow_id: str) -> tuple[Workflow | None, str]:
        """Return the workflow that a request retries, or None, and why it cannot be read."""
        try:
            return await self._engine.read(workflow_id) if workflow_id else None, ""
        except (GiveUp, InvalidMessage) as error:
            return None, f"retry_of: {error}"

    async def _unserved_queue(self, begin: PlannedRequest) -> str:
        """Return why a queue of the plan cannot be used, or "".

        A task for a queue that does not exist would wait for ever.
        """
        for spec in begin.plan:
            undo = [spec.compensation.queue] if spec.compensation else []
            for queue in (queue_of(spec, begin.request.priority), *undo):
                if queue not in self._queues:
                    self._queues = await self._context.bus.durables(subjects.WORKFLOWS)
                if queue not in self._queues:
                    hint = "name it under [[bus.queues]] and run `agentd provision`"
                    return f"task {spec.name}: there is no queue {queue!r}; {hint}"
        return ""

    async def _on_child(self, job: Job) -> None:
        """Start the child workflow that a task of another workflow requests."""
        try:
            task = job.decode(TaskAssignment)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        name = task.task_id.rpartition(".")[2]
        parent = Parent(task.workflow_id, name, task.attempt, task.depth + 1)
        if not await self._engine.awaits(parent):
            self._context.log.info("not started: its caller no longer waits", task=task.task_id, attempt=task.attempt)
            return
        request = WorkflowRequest(
            task.task_type,
            child_id(task.workflow_id, name, task.attempt),
            await resolve_references(self._context.bus, task.parameters),
            requester_id=task.principal,
            timeout=task.seconds,
            authenticated=task.authenticated,
        )
        begin = await self._begin(request, task.principal, task.tier, job, parent)
        await self._engine.feed(request.workflow_id, _for_storage(begin), delivered=job.delivered)

    async def _conflict(self, begin: PlannedRequest, state: Workflow) -> None:
        """Respond that the id belongs to another workflow; that one's response stays."""
        digest = request_digest(begin.request)
        other = "with other parameters" if state.principal == begin.principal else "of another principal"
        text = f"workflow_id: {state.workflow_id!r} is a {state.workflow_type} {other} ({state.status}); use another id"
        answer = WorkflowResponse(state.workflow_id, "conflict", {}, text, self._context.agent_id)
        subject = subjects.response(subjects.conflict(state.workflow_id, digest))
        await self._context.bus.store(subject, answer, ttl=self._context.settings.retention_days * 86_400)
        if begin.principal == subjects.PLAIN:
            await self._context.bus.publish(subjects.WORKFLOW_RESPONSE, answer)

    # -- completions, signals, timers ---------------------------------------------------------------------------------

    async def _on_input(self, job: Job) -> None:
        if job.subject.startswith("ai.workflows.signal."):
            await self._on_signal(job)
        else:
            await self._on_completion(job)

    async def _on_completion(self, job: Job) -> None:
        try:
            completion = job.decode(TaskCompletion)
            if job.subject.count(".") == 5:  # noqa: PLR2004 - ai.tasks.complete.<agent>.<workflow>.<task>
                workflow, task, completion = await external_agents.verify_completion(
                    self._context, job.subject, completion
                )
            else:
                workflow, task, completion = await external_agents.complete_plain(self._context, completion)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        await self._engine.feed(workflow, AgentReport(task, completion), delivered=job.delivered)

    async def _on_signal(self, job: Job) -> None:
        """Execute a signal, and send the outcome to its reply subject."""
        _, _, _, principal, workflow = job.subject.split(".")
        try:
            signal = job.decode(WorkflowSignal)
            signal = msgspec.structs.replace(signal, reason=secrets.redacted(signal.reason))
            check_id(workflow)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        tier = self._context.policy.tier_of(principal, plain=False)
        reply = SignalReply(workflow, done=True)
        try:
            await self._engine.feed(workflow, Signal(principal, tier, signal), delivered=job.delivered)
        except (Rejected, Denied) as error:
            self._context.log.info("a signal was refused", workflow=workflow, principal=principal, reason=str(error))
            reply = SignalReply(workflow, done=False, message=str(error))
        if signal.reply:
            principals = self._context.policy.principals
            await self._context.bus.answer(signal.reply, reply, principal=principal, others=principals)

    async def _on_due(self, job: Job) -> None:
        if schedules.is_firing(job.subject):
            await schedules.fire(self._context, job)
            return
        try:
            due = job.decode(TimerDue)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        workflow = job.subject.split(".")[3]
        if await self._engine.ended(workflow):
            return
        if await self._engine.reported(workflow):
            message = f"{workflow}: a completion is waiting to be handled"
            raise TemporaryError(message, delay=0.5)
        await self._engine.feed(workflow, TimerFired(due.attempt), delivered=job.delivered)


def _for_storage(begin: PlannedRequest) -> PlannedRequest:
    """Return a request as its state keeps it for days.

    From a rejected request everything that may be a secret is removed.
    """
    if not begin.refused:
        return begin
    return msgspec.structs.replace(begin, request=withheld_of(begin.request), refused=secrets.redacted(begin.refused))


def _peek(data: bytes, field: str) -> str:
    """Return a string field of a message that may not be valid as a whole, or ""."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    text = value.get(field, "") if isinstance(value, dict) else ""
    return text if isinstance(text, str) else ""


async def _stopped(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait at most `seconds` for the stop; return whether it was requested."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True
