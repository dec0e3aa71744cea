"""The orchestrator role: receives requests, completions, timers and signals.

It turns them into inputs for the engine, which executes the workflows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import (
    BusError,
    Consumer,
    Denied,
    Duty,
    GiveUp,
    InvalidMessage,
    Job,
    Rejected,
    TemporaryError,
    WorkflowSignal,
    now,
    secrets,
    subjects,
)
from agentd.wire.announcements import DiscoveryRequest, Presence
from agentd.wire.messages import SignalReply, TaskCompletion, TimerDue
from agentd.wire.names import check_id
from agentd.wire.workflow import VERSION
from agentd_orchestrator import external_agents, schedules
from agentd_orchestrator.admission import CapacityCheck
from agentd_orchestrator.engine.executor import Engine
from agentd_orchestrator.engine.overwritten import TimerRestorer
from agentd_orchestrator.freeze import FreezeRequests
from agentd_orchestrator.requests import Requests
from agentd_orchestrator.state_machine.inputs import AgentReport, Signal, TimerFired

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from agentd import Context
    from agentd_orchestrator.settings import OrchestratorSettings


VERSIONS_EVERY: Final = 5.0
"""Seconds between two reads of the state versions that the orchestrators support."""

FILES_CHECK: Final[float] = 5.0
"""Seconds between two checks of the workflow files, so that a fault shows before a request needs the file."""


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
        self._requests: Requests
        self._intake: Consumer

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the plugin's own settings
        """Ignore new settings: they take effect at the next start."""

    async def run(self, context: Context) -> None:
        """Run until the context is stopping."""
        self._context = context
        self._engine = Engine(
            context.bus,
            context.agent_id,
            context.metrics,
            context.log,
            kept=context.settings.retention_days * 86_400,
            external=external_agents.configured_names(context.config.bus.queues, context.policy),
        )
        settings: OrchestratorSettings = context.settings
        self._requests = Requests(context, self._engine)
        await self._requests.read_files()
        self._intake = self._consumer(subjects.REQUESTS, subjects.ORCH_REQUESTS, self._requests.handle, 64)
        consumers = [
            self._intake,
            self._consumer(subjects.INPUT, subjects.ORCH_INPUT, self._on_input, settings.slots),
            self._consumer(subjects.WORKFLOWS, subjects.ORCH_DUE, self._on_due, settings.slots),
            self._consumer(subjects.WORKFLOWS, subjects.ORCHESTRATOR, self._requests.handle_child, 64),
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
        capacity = CapacityCheck(context.bus)
        while not await _stopped(context.stopping, 1.0):
            await capacity.check()
            refused = next((consumer.full for consumer in consumers if consumer.full), "")
            failed = next((consumer.problem for consumer in consumers if consumer.problem), "")
            problem = failed or refused or capacity.problem
            if self._engine.open >= max_open:
                await self._engine.refresh()
            full = self._engine.open >= max_open or bool(refused or capacity.problem)
            if full:
                await self._intake.pause()
            elif self._intake.paused:
                self._intake.resume()
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
        while not await _stopped(self._context.stopping, FILES_CHECK):
            await self._requests.read_files()

    async def _discover(self, every: float) -> None:
        bus = self._context.bus
        while True:
            request = DiscoveryRequest(self._context.agent_id, now())
            await bus.publish(subjects.AGENT_DISCOVERY, request)
            await bus.publish(subjects.SERVICE_DISCOVERY, request)
            if await _stopped(self._context.stopping, every):
                return

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
            raise TemporaryError(f"{workflow}: a completion is waiting to be handled", delay=0.5)
        await self._engine.feed(workflow, TimerFired(due.attempt), delivered=job.delivered)


async def _stopped(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait at most `seconds` for the stop; return whether it was requested."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True
