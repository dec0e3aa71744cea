"""Runs an agent's tools: takes assigned tasks, offers calls, reports the results.

An assignment comes from a queue of its service, a call over NATS micro; both end in `ToolRunner.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, TypeVar

from agentd.bus.delivery import dead_letters
from agentd.bus.delivery.consumer import BEGINS, Consumer
from agentd.crash_points import crash_point
from agentd.errors import AgentdError, BusUnavailable, InvalidMessage
from agentd.similar import suggestion
from agentd.tools import large_results
from agentd.tools.calls import Calls
from agentd.tools.invocation import Invocation
from agentd.tools.runner import ToolRunner
from agentd.version import __version__
from agentd.wire import subjects, tool_names
from agentd.wire.codec import digest, now
from agentd.wire.messages import Outcome, StopHint, TaskAssignment, TaskCompletion, TaskError, ToolReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from agentd.bus.delivery.job import Job
    from agentd.bus.delivery.journal import Journal
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Handler, Received, Subscription
    from agentd.safety.audit_log import AuditLog
    from agentd.safety.freeze import FreezeWatch
    from agentd.safety.lease import Lease
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger
    from agentd.telemetry.metrics import Metrics
    from agentd.tools.definition import Tool


R = TypeVar("R")

ALIAS_QUEUE: Final = "aliases"
"""Queue group of the agents that take calls under old names of tools."""


class Worker:
    """Runs the tools of one agent."""

    def __init__(  # noqa: PLR0913 - everything that running a tool needs
        self,
        bus: Bus,
        agent_id: str,
        tools: dict[str, Tool],
        *,
        policy: Policy,
        audit_log: AuditLog,
        metrics: Metrics,
        log: Logger,
        journal: Journal | None = None,
        slots: int = 16,
        freeze_watch: FreezeWatch | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Use these services to run tools; `serve` starts the work."""
        self.bus = bus
        self.agent_id = agent_id
        self.tools = tools
        self.policy = policy
        self.runner = ToolRunner(
            bus,
            agent_id,
            policy=policy,
            audit_log=audit_log,
            metrics=metrics,
            log=log,
            freeze_watch=freeze_watch,
            lease=lease,
        )
        self.metrics = metrics
        self.log = log
        self.slots = slots
        self.consumers: list[Consumer] = []
        self.journal = journal
        self.calls = Calls(bus, agent_id, tools, runner=self.runner, policy=policy, metrics=metrics)

    @property
    def load(self) -> float:
        """Share of the slots that is in use, 0 to 1."""
        total = self.slots * max(1, len(self.consumers))
        return min(1.0, sum(consumer.active for consumer in self.consumers) / total)

    async def serve(  # noqa: PLR0913 - what a role decides about its service
        self,
        service: str,
        stopping: asyncio.Event,
        *,
        queues: Iterable[str] = (),
        drain: float = 30.0,
        version: str = __version__,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Take assignments of `service` and calls of its tools until `stopping` is set.

        `ready` is called once calls are taken: before that, a caller would get the answer that no agent offers them.

        Assignments also come from the urgent queue of the service and from `queues`.  Each queue has its own slots, so
        that urgent tasks never wait behind others.
        """
        names = dict.fromkeys([service, subjects.urgent(service), *queues])
        consumers = [self._consumer(queue, service) for queue in names]
        self.consumers += consumers
        endpoints = [await self._offer(service, version), *await self._offer_aliases(service)]
        endpoints.append(await self.bus.subscribe(subjects.stop(service), self._on_stop_hint))
        ready()
        try:
            async with asyncio.TaskGroup() as group:
                for consumer in consumers:
                    group.create_task(consumer.run(stopping, drain=drain))
        finally:
            for consumer in consumers:
                self.consumers.remove(consumer)
            for endpoint in endpoints:
                await endpoint.stop()
            await self.calls.finish(drain)

    def _consumer(self, queue: str, service: str) -> Consumer:
        return Consumer(
            self.bus,
            subjects.WORKFLOWS,
            queue,
            lambda job: self._on_assignment(job, service),
            slots=self.slots,
            log=self.log,
            journal=self.journal,
        )

    async def _offer(self, service: str, version: str) -> Subscription:
        endpoints: dict[str, Handler] = {}
        for name in (tool.name for tool in self.tools.values() if tool.service == service):
            endpoints[subjects.tool_call("*", service, name)] = self.calls.answer
            endpoints[subjects.tool_step("*", service, name)] = self.calls.answer_step
        return await self.bus.serve(
            service,
            version=version,
            description=f"tools of {service}",
            endpoints=endpoints,
        )

    async def _offer_aliases(self, service: str) -> list[Subscription]:
        """Also take calls under aliases; they are no endpoints, so no list has them."""
        aliases = [
            alias
            for alias, name in tool_names.ALIASES.items()
            if alias not in self.tools and name in self.tools and self.tools[name].service == service
        ]
        return [
            await self.bus.subscribe(subject("*", service, alias), handler, queue=ALIAS_QUEUE)
            for alias in aliases
            for subject, handler in (
                (subjects.tool_call, self.calls.answer),
                (subjects.tool_step, self.calls.answer_step),
            )
        ]

    def _tool(self, name: str) -> Tool | None:
        return self.tools.get(tool_names.current(name, self.tools))

    # -- assignments ----------------------------------------------------------------------------------------------

    async def _on_assignment(self, job: Job, service: str) -> None:
        """Run one assigned attempt and report its result; returning acknowledges it."""
        crash_point("before-claim")
        try:
            task = job.decode(TaskAssignment)
        except InvalidMessage as error:
            # Not reported as a failure: the acknowledgement of any client's publish can be such a message, because the
            # publisher chooses its reply subject.  The workflow's own timer detects a lost assignment.
            self.log.exception("an assignment cannot be decoded", subject=job.subject, reason=str(error))
            await self._store_dead_letter(job, service, str(error), dead_letters.BROKEN)
            return
        name = task.task_id.rpartition(".")[2]
        seconds = self._seconds(task, job)
        if seconds <= 0:
            self.log.warning("too late, not started", task=task.task_id, attempt=task.attempt)
            return  # the orchestrator's timer decides what happens next
        job.until = time.monotonic() + seconds
        if job.begun > BEGINS:
            text = f"started {BEGINS} times, never finished: the process that runs it crashes"
            await self._store_dead_letter(job, service, text)
            reply = ToolReply(status=Outcome.FAILED, error=TaskError(code="poisoned", message=text))
        else:
            async with self._reporting_running(task, name, service):
                reply = await self._run_assignment(task, name, seconds)
        if reply.status == "running":
            self.log.warning("answered before, and tried again since", task=task.task_id, attempt=task.attempt)
            return
        await self._complete(reply, task.workflow_id, name, task.attempt, service)
        crash_point("before-ack")

    def _seconds(self, task: TaskAssignment, job: Job) -> float:
        """Return the seconds that this attempt may still take.

        Returns 0 if it should have begun earlier.
        """
        server_now = self.bus.server_time()
        if task.start_by is not None and job.delivered == 1 and server_now > task.start_by:
            return 0.0
        left = (task.deadline - server_now).total_seconds()
        return left if task.seconds is None else min(left, task.seconds)

    @contextlib.asynccontextmanager
    async def _reporting_running(self, task: TaskAssignment, name: str, service: str) -> AsyncIterator[None]:
        """Report to the orchestrator that the task is running, if the task asks for that.

        The first report is sent at the start; with a heartbeat, more follow until the task ends.
        """
        if task.start_by is None and task.heartbeat is None:
            yield
            return
        running = ToolReply(status=Outcome.RUNNING)
        await self._complete(running, task.workflow_id, name, task.attempt, service)

        async def beat(every: float) -> None:
            while True:
                await asyncio.sleep(every)
                with contextlib.suppress(BusUnavailable):  # the next one replaces it
                    await self._complete(running, task.workflow_id, name, task.attempt, service)

        beating = asyncio.create_task(beat(task.heartbeat / 3)) if task.heartbeat else None
        try:
            yield
        finally:
            if beating is not None:
                beating.cancel()

    async def _store_dead_letter(self, job: Job, service: str, reason: str, why: str = dead_letters.POISONED) -> None:
        """Store an assignment that is not run as a dead letter, for a person to read."""
        letter = job.letter(subjects.WORKFLOWS, self.agent_id, reason)
        try:
            await dead_letters.store_dead_letter(self.bus, why, service, letter, job.data)
        except BusUnavailable:
            raise
        except AgentdError as error:
            self.log.error("a dead letter cannot be kept", subject=job.subject, reason=str(error))  # noqa: TRY400

    async def _run_assignment(self, task: TaskAssignment, name: str, seconds: float) -> ToolReply:
        tool = self._tool(task.task_type)
        if tool is None:
            text = f"{self.agent_id} has no tool {task.task_type!r}{suggestion(task.task_type, sorted(self.tools))}"
            return ToolReply(status=Outcome.FAILED, error=TaskError(code="unknown_tool", message=text))
        invocation = Invocation(
            bus=self.bus,
            metrics=self.metrics,
            tool=tool,
            key=subjects.effect_key(task.workflow_id, name),
            principal=task.principal,
            tier=self.policy.granted(task.principal, task.tier),
            attempt=task.attempt,
            until=time.monotonic() + seconds,
            dry_run=task.dry_run,
            consent=task.consent,
            undoes=subjects.effect_key(task.workflow_id, task.undoes) if task.undoes else "",
            authenticated=task.authenticated,
            agent=self.agent_id,
            asked=digest([tool.name, task.parameters]),
            guests=task.guests,
        )
        parameters = await large_results.resolve_references(self.bus, task.parameters)
        return await self.runner.run(invocation, parameters, takeover=True)

    async def _complete(self, reply: ToolReply, workflow: str, task: str, attempt: int, service: str) -> None:
        completion = TaskCompletion(
            task_id=f"{workflow}.{task}",
            workflow_id=workflow,
            attempt=attempt,
            status=Outcome(reply.status),
            result=await large_results.store_if_large(self.bus, reply.result, subjects.effect_key(workflow, task)),
            error=reply.error,
            warnings=reply.warnings,
            agent_id=self.agent_id,
            service_id=service,
            timestamp=now(),
        )
        await self.bus.store(subjects.complete(self.agent_id, workflow, task), completion)

    async def _on_stop_hint(self, received: Received) -> None:
        """Read the record of a task for which a stop was requested."""
        await self.runner.read_stop_request(received.decode(StopHint).key)
