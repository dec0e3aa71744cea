"""The orchestrator: takes requests, completions, timers and signals, and feeds them to the engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from agentd import subjects
from agentd.consumer import Consumer, GiveUp, Job
from agentd.errors import AgentdError, Denied, InvalidMessage, Rejected, TemporaryError
from agentd.messages import (
    DiscoveryRequest,
    TaskCompletion,
    Tier,
    TimerDue,
    WorkflowRequest,
    WorkflowResponse,
    WorkflowSignal,
    fault,
    now,
    request_digest,
)
from agentd.role import Settings
from agentd.workflows import Status, TaskSpec, Workflow
from agentd_orchestrator import plain as plain_agents
from agentd_orchestrator import schedules
from agentd_orchestrator import workflow as wf
from agentd_orchestrator.engine import BROKEN_AFTER, KEPT, Engine

if TYPE_CHECKING:
    from agentd.role import Context


class OrchestratorSettings(Settings):
    """Settings of the orchestrator, section `[orchestrator]`."""

    slots: int = Field(256, ge=1, le=4096, description="inputs that are decided over at the same time")
    max_open: int = Field(5000, ge=1, description="open workflows above which no new request is taken")
    discovery_every: float = Field(60.0, ge=1, description="seconds between two discovery requests")


class Orchestrator:
    """Runs workflows; any number of orchestrators may work at once."""

    name = "orchestrator"
    port = 8080
    services: tuple[str, ...] = ()

    def __init__(self) -> None:
        """Begin without a context."""
        self._context: Context
        self._engine: Engine
        self._requests: Consumer

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the plugin's own settings
        """Take over the settings that can change while it runs: none needs more than the next start."""

    async def run(self, context: Context) -> None:
        """Work until the context says stop."""
        self._context = context
        self._engine = Engine(context.bus, context.agent_id, context.metrics, context.log)
        settings: OrchestratorSettings = context.settings
        self._requests = self._consumer(subjects.REQUESTS, subjects.ORCH_REQUESTS, self._on_request, 64)
        consumers = [
            self._requests,
            self._consumer(subjects.INPUT, subjects.ORCH_INPUT, self._on_input, settings.slots),
            self._consumer(subjects.WORKFLOWS, subjects.ORCH_DUE, self._on_due, settings.slots),
        ]
        drain = context.config.drain.timeout
        context.health.up()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discover(settings.discovery_every))
            group.create_task(self._watch(consumers, settings.max_open))
            group.create_task(plain_agents.PlainAgents(context).run())
            for each in consumers:
                group.create_task(each.run(context.stopping, drain=drain))

    def _consumer(self, stream: str, durable: str, handle: Any, slots: int) -> Consumer:  # noqa: ANN401
        context = self._context
        journal = context.worker.journal
        return Consumer(context.bus, stream, durable, handle, slots=slots, log=context.log, journal=journal)

    async def _watch(self, consumers: list[Consumer], max_open: int) -> None:
        """Say what keeps work from coming, and take no requests while too many workflows are open."""
        context = self._context
        while not await _stopped(context.stopping, 1.0):
            problem = next((each.problem for each in consumers if each.problem), "")
            if problem:
                context.health.down(problem)
            else:
                context.health.up()
            if self._engine.open >= max_open:
                await self._engine.refresh()
            full = self._engine.open >= max_open
            if self._requests.paused and not full:
                self._requests.paused = False
                self._requests.resume()
            self._requests.paused = full

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
        """Turn a request into a workflow, or into a refusal that the requester is told."""
        plain = job.subject == subjects.WORKFLOW_REQUEST
        principal = "plain" if plain else job.subject.split(".")[3]
        tier = self._context.policy.tier_of(principal, plain=plain)
        wanted, given_id = _peek(job.data, "workflow_id"), f"req-{job.sequence}"
        try:
            given_id = subjects.check_id(wanted) if wanted else given_id
            request = msgspec.structs.replace(job.decode(WorkflowRequest), workflow_id=given_id)
            begin = self._plan(request, principal, tier, job)
        except AgentdError as error:
            broken = WorkflowRequest(workflow_type=_peek(job.data, "workflow_type"), workflow_id=given_id)
            begin = wf.Begin(broken, [], principal, tier, refused=str(error))
        state = await self._engine.feed(given_id, begin, delivered=job.delivered)
        if state is not None and state.digest != request_digest(begin.request):
            await self._conflict(begin, state)

    def _plan(self, request: WorkflowRequest, principal: str, tier: Tier, job: Job) -> wf.Begin:
        """Return the request with its plan, or with why it is refused."""
        context = self._context
        plain = job.subject == subjects.WORKFLOW_REQUEST
        waited = (context.bus.server_time() - job.stored).total_seconds()
        if waited > request.start_by:
            text = f"waited {waited:.0f} s to be started; it was to start within {request.start_by:.0f} s"
            return wf.Begin(request, [], principal, tier, refused=text, status=Status.EXPIRED)
        try:
            plan = self._tasks(request, principal, tier, plain=plain)
        except (Rejected, Denied, InvalidMessage) as error:
            return wf.Begin(request, [], principal, tier, refused=str(error))
        except Exception as error:
            if job.delivered < BROKEN_AFTER:
                raise
            context.log.exception("a plan cannot be made", workflow=request.workflow_id, kind=request.workflow_type)
            text = f"the plan of {request.workflow_type} cannot be made: {type(error).__name__}: {error}"
            return wf.Begin(request, [], principal, tier, refused=text, status=Status.FAILED)
        return wf.Begin(request, plan, principal, tier)

    def _tasks(self, request: WorkflowRequest, principal: str, tier: Tier, *, plain: bool) -> list[TaskSpec]:
        """Return the checked plan; raises Rejected, Denied, InvalidMessage."""
        context = self._context
        definition = context.workflows.get(request.workflow_type)
        if definition is None:
            known = ", ".join(sorted(context.workflows))
            message = f"workflow_type: unknown {request.workflow_type!r}; there are {known}"
            raise Rejected(message)
        if request.timeout is not None and request.timeout <= 0:
            message = f"timeout: {request.timeout:g} s is over already"
            raise Rejected(message)
        if request.timeout is not None and request.timeout > wf.MAX_TIMEOUT:
            message = f"timeout: {request.timeout:g} s is too long; at most {wf.MAX_TIMEOUT:.0f} s"
            raise Rejected(message)
        plan = definition.plan(_parameters(request, definition.parameters))
        wf.check_plan(plan)
        plain_agents.check(plan, context.config.bus.queues, context.policy)
        for each in plan:
            if each.tier is not Tier.READ:
                context.policy.allow(each.tool, each.tier, tier, principal=principal, plain=plain)
        return plan

    async def _conflict(self, begin: wf.Begin, state: Workflow) -> None:
        """Tell that this id is another workflow's; the answer of that one stays its own."""
        wanted = request_digest(begin.request)
        text = (
            f"workflow_id: {state.workflow_id!r} is a {state.workflow_type} with other parameters "
            f"({state.status}); use another id"
        )
        answer = WorkflowResponse(state.workflow_id, "conflict", {}, text, self._context.agent_id)
        subject = subjects.response(subjects.conflict(state.workflow_id, wanted))
        await self._context.bus.store(subject, answer, ttl=KEPT)

    # -- what else comes in -------------------------------------------------------------------------------------------

    async def _on_input(self, job: Job) -> None:
        if job.subject.startswith("ai.workflows.signal."):
            await self._on_signal(job)
        else:
            await self._on_completion(job)

    async def _on_completion(self, job: Job) -> None:
        try:
            completion = job.decode(TaskCompletion)
            tokens = job.subject.split(".")
            if len(tokens) == 6:  # noqa: PLR2004 - ai.tasks.complete.<agent>.<workflow>.<task>
                workflow, task = tokens[4], tokens[5]
            else:
                workflow, task, completion = await plain_agents.filled(self._context, completion)
            subjects.check_id(workflow)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        await self._engine.feed(workflow, wf.Ended(task, completion), delivered=job.delivered)

    async def _on_signal(self, job: Job) -> None:
        _, _, _, principal, workflow = job.subject.split(".")
        try:
            signal = _signal(job)
            subjects.check_id(workflow)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        await self._engine.feed(workflow, wf.Cancel(principal, signal.reason), delivered=job.delivered)

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
        if due.kind == "deadline" and await self._engine.reported(workflow, due.task):
            message = f"{workflow}.{due.task}: a completion is waiting to be handled"
            raise TemporaryError(message, delay=0.5)
        await self._engine.feed(workflow, wf.Due(due.kind, due.task, due.attempt), delivered=job.delivered)


def _signal(job: Job) -> WorkflowSignal:
    """Return the signal; raises InvalidMessage for one that does not exist."""
    signal = job.decode(WorkflowSignal)
    if signal.action != "cancel":
        message = f"action: unknown {signal.action!r}; there is cancel"
        raise InvalidMessage(message)
    return signal


def _parameters(request: WorkflowRequest, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Return the request's parameters as the definition wants them; raises InvalidMessage naming the field."""
    known = kind.__struct_encode_fields__
    unknown = sorted(set(request.parameters) - set(known))
    if unknown:
        message = f"parameters: unknown {unknown[0]!r}; there are {', '.join(known)}"
        raise InvalidMessage(message)
    try:
        return msgspec.convert(request.parameters, kind)
    except msgspec.ValidationError as error:
        raise InvalidMessage(fault(error, "parameters")) from error


def _peek(data: bytes, field: str) -> str:
    """Return a text field of a message that cannot be understood as a whole, as far as it can."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    found = value.get(field, "") if isinstance(value, dict) else ""
    return found if isinstance(found, str) else ""


async def _stopped(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait for the stop, at most `seconds`; tell whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True
