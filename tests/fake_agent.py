"""Orchestrators without Proxmox: a workflow of the test's own, and an agent that answers as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.bus.delivery.consumer import Consumer
from agentd.client import queries, requests
from agentd.telemetry import logs
from agentd.telemetry.metrics import Metrics
from agentd.wire import subjects
from agentd.wire.messages import (
    Outcome,
    TaskAssignment,
    TaskCompletion,
    TaskError,
    Tier,
    WorkflowRequest,
    WorkflowResponse,
)
from agentd.wire.workflow import Definition, TaskSpec
from agentd_orchestrator.engine.executor import Engine
from agentd_orchestrator.state_machine.inputs import AgentReport, PlannedRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus
    from agentd.daemon.supervisor import Supervisor
    from harness import Net

QUEUE = "specialist"
Answer = TaskCompletion | None


class Nothing(msgspec.Struct, frozen=True):
    """A workflow of the test has no parameters."""


class Name(msgspec.Struct, frozen=True):
    """A workflow that another one starts has a name."""

    n: str = ""


def task(name: str, *after: str, timeout: float = 60.0, **more: Any) -> TaskSpec:
    """Return a task for the test's agent."""
    return TaskSpec(name, name, QUEUE, Tier.READ, after=list(after), timeout=timeout, **more)


def begin(*plan: TaskSpec, name: str = "w1", **request: Any) -> PlannedRequest:
    """Return a request with its plan."""
    return PlannedRequest(WorkflowRequest("test", name, **request), list(plan), "tester", Tier.READ)


def ended(name: str, attempt: int = 1, *, workflow: str = "w1", result: Any = None) -> AgentReport:
    """Return the completion of an attempt."""
    return AgentReport(
        name,
        TaskCompletion(
            f"{workflow}.{name}", Outcome.COMPLETED, workflow, attempt, result=result, agent_id="a", service_id=QUEUE
        ),
    )


def engine(bus: Bus, name: str = "o1", external: frozenset[str] = frozenset()) -> Engine:
    """Return an engine as an orchestrator has it."""
    return Engine(bus, name, Metrics(), logs.get_logger(), external=external)


def completion(given: TaskAssignment, error: TaskError | None = None) -> TaskCompletion:
    """Return how an agent says that it has done what it was given, or not."""
    return TaskCompletion(
        given.task_id,
        Outcome.COMPLETED if error is None else Outcome.FAILED,
        given.workflow_id,
        given.attempt,
        error=error,
        agent_id="fake",
        service_id=QUEUE,
    )


class Agent:
    """An agent of the test's own: answers each assignment as `how` says, `times` times over."""

    def __init__(self, bus: Bus, how: Callable[[TaskAssignment], Answer] = completion, times: int = 1) -> None:
        """Keep how it answers."""
        self.bus = bus
        self.how = how
        self.times = times
        self.given: list[TaskAssignment] = []
        self.hold: set[str] = set()
        self.release = asyncio.Event()

    async def __call__(self, job: Job) -> None:
        """Take one assignment."""
        given = job.decode(TaskAssignment)
        self.given.append(given)
        name = given.task_id.rpartition(".")[2]
        if name in self.hold:
            await self.release.wait()
        answer = self.how(given)
        for _ in range(self.times if answer is not None else 0):
            await self.bus.store(subjects.complete("fake", given.workflow_id, name), answer)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[Agent]:
        """Work until the end of the test."""
        log = logs.get_logger()
        loop = Consumer(self.bus, subjects.WORKFLOWS, QUEUE, self, slots=64, log=log, journal=None)
        stopping = asyncio.Event()
        running = asyncio.create_task(loop.run(stopping, drain=5))
        try:
            yield self
        finally:
            self.release.set()
            stopping.set()
            await running


@contextlib.asynccontextmanager
async def orchestrators(
    net: Net,
    plan: Callable[[Nothing], list[TaskSpec]],
    count: int = 1,
    children: dict[str, Callable[[Name], list[TaskSpec]]] | None = None,
) -> AsyncIterator[list[Supervisor]]:
    """Run orchestrators that know the workflow `test` with this plan, and those that it starts, by name."""
    names = [f"orchestrator{number}" for number in range(count)]
    net.settings["instances"] |= {name: {"roles": ["orchestrator"]} for name in names}
    daemons: list[Supervisor] = []
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            daemon = await stack.enter_async_context(net.here(name))
            daemon.workflows["test"] = Definition("test", "A test's own.", Nothing, plan)
            for child, of in (children or {}).items():
                daemon.workflows[child] = Definition(child, "One that another one starts.", Name, of)
            daemons.append(daemon)
        yield daemons


async def ask(bus: Bus, name: str = "w1", wait: float = 45) -> WorkflowResponse:
    """Ask for the workflow `test` and wait for its end."""
    await requests.submit(bus, "tester", WorkflowRequest("test", name, timeout=60.0))
    return await queries.follow(bus, name, lambda _: None, wait=wait)
