"""A service `probe` with small tools that note what they did, and a worker that serves it on a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.safety.audit_log import AuditLog
from agentd.safety.policy import Policy
from agentd.safety.signing import Signer
from agentd.telemetry.metrics import Metrics
from agentd.tools.declaration import by_name, collect, tool
from agentd.tools.definition import Call, Found, Repeat, Tool
from agentd.tools.worker import Worker
from agentd.wire import subjects
from agentd.wire.messages import Target, TaskAssignment, TaskCompletion, Tier
from agentd.wire.records import AuditRecord, EffectRecord
from core.chains import verify
from core.jetstream import Lines, all_acked
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored

SERVICE = "probe"
SIGNER = Signer.new()
"""The key of every agent of these tests, over their restarts."""


class Parameters(msgspec.Struct, frozen=True):
    """What a tool is asked for."""

    number: int = 0
    text: str = ""


class Done(msgspec.Struct, frozen=True):
    """What a tool answers."""

    upid: str = ""
    text: str = ""


async def nothing(_: Call) -> None:
    """Do nothing."""


class Probe:
    """The tools; a test may replace `on_check`, `on_act` and `afterwards`, which are called on the way.

    world  what was made, by the key that made it
    steps   everything that happened, in order
    """

    def __init__(self) -> None:
        self.inventory: dict[str, str] = {}
        self.steps: list[str] = []
        self.used: list[str] = []
        self.looks_like = "whole"
        self.at_work = asyncio.Event()
        self.on_check: Callable[[Call], Awaitable[None]] = nothing
        self.on_act: Callable[[Call], Awaitable[None]] = nothing
        self.afterwards: Callable[[Call], Awaitable[None]] = nothing

    @property
    def checks(self) -> int:
        """Return how often the state was checked."""
        return self.steps.count("look")

    @property
    def acts(self) -> int:
        """Return how often the world was changed."""
        return self.steps.count("act")

    async def hang(self, _: Call) -> None:
        """Work for ever."""
        self.at_work.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.steps.append("cancelled")
            raise

    async def _once(self, call: Call, *, blind: bool = False, target: bool = False) -> Done:
        async def check() -> Found | None:
            self.steps.append("look")
            await self.on_check(call)
            if target:
                call.target(Target("thing/1", "the thing", {"looks": self.looks_like}, ["tag/old"], ["all of it"]))
            return None if blind or call.key not in self.inventory else Found(self.inventory[call.key])

        async def apply() -> str:
            self.steps.append("act")
            self.inventory[call.key] = f"UPID:{call.key}:{self.acts}"
            await self.on_act(call)
            return self.inventory[call.key]

        found = await call.ensure(check, apply)
        self.used.append(found.upid)
        await self.afterwards(call)
        return Done(found.upid)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="probing")
    async def read_it(self, call: Call, p: Parameters) -> Done:
        """Read."""
        self.steps.append("read")
        await self.afterwards(call)
        return Done(text=p.text)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="probing")
    async def touch_it(self, call: Call, p: Parameters) -> Done:  # noqa: ARG002 - every tool has parameters
        """Touch the world, though it says that it only reads."""
        return await self._once(call)

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="probing")
    async def idempotent(self, call: Call, p: Parameters) -> Done:  # noqa: ARG002
        """Do what may be done twice."""
        return await self._once(call, blind=True)

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="probing", stoppable=True)
    async def marked(self, call: Call, p: Parameters) -> Done:
        """Make something that has our mark."""
        made = await self._once(call)
        return Done(made.upid, p.text)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="probing")
    async def probed(self, call: Call, p: Parameters) -> Done:  # noqa: ARG002
        """Make it so, unless it is so."""
        return await self._once(call)

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="probing")
    async def unsafe(self, call: Call, p: Parameters) -> Done:  # noqa: ARG002
        """Do what cannot be seen afterwards."""
        return await self._once(call, blind=True)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="probing")
    async def wipe(self, call: Call, p: Parameters) -> Done:  # noqa: ARG002
        """Destroy it."""
        return await self._once(call, target=True)

    @tool(tier=Tier.EXEC, repeat=Repeat.UNSAFE, capability="probing")
    async def shell(self, call: Call, p: Parameters) -> Done:  # noqa: ARG002
        """Run a command."""
        return await self._once(call)

    def tools(self) -> dict[str, Tool]:
        """Return the tools by name."""
        return by_name(item for item in collect(self, service=SERVICE) if isinstance(item, Tool))


def a_worker(bus: Bus, probe: Probe, name: str = "a", log: Lines | None = None, policy: Policy | None = None) -> Worker:
    """Return a worker of the agent `name`, not serving yet."""
    return Worker(
        bus,
        name,
        probe.tools(),
        policy=policy or Policy(default_tier=Tier.EXEC),
        audit_log=AuditLog(bus, name, signer=SIGNER),
        metrics=Metrics("test"),
        log=log or Lines(),  # type: ignore[arg-type]
        slots=8,
    )


@contextlib.asynccontextmanager
async def serving(worker: Worker, *, drain: float = 0.0) -> AsyncIterator[Worker]:
    """Let `worker` serve; at the end it hands back what still runs after `drain` seconds."""
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.serve(SERVICE, stopping, drain=drain, version="1.0.0"))

    async def serves() -> bool:
        if running.done():
            await running
        return bool(worker.consumers)

    try:
        await eventually(serves, "the worker serves")
        yield worker
    finally:
        stopping.set()
        async with asyncio.timeout(drain * 2 + 15):
            await running


async def assign(bus: Bus, tool_name: str, requested: dict[str, Any] | None = None, **more: Any) -> None:
    """Assign a task; without more it is attempt 1 of `w.t` with a minute's time.  Twice is a redelivery."""
    workflow, task, attempt = more.pop("workflow", "w"), more.pop("task", "t"), more.pop("attempt", 1)
    message = TaskAssignment(
        task_id=f"{workflow}.{task}",
        workflow_id=workflow,
        task_type=tool_name,
        assigned_to=SERVICE,
        parameters=requested or {},
        deadline=bus.server_time() + timedelta(seconds=more.pop("seconds", 60.0)),
        attempt=attempt,
        tier=more.pop("tier", Tier.OPERATE),
        principal=more.pop("principal", "tester"),
        dry_run=more.pop("dry_run", False),
        consent=more.pop("consent", None),
        authenticated=more.pop("authenticated", True),
    )
    assert not more
    await bus.store(subjects.assign(SERVICE, workflow, task, attempt), message)


async def completions(bus: Bus, agent: str = "a", task: str = "t") -> int:
    """Return how many completions of a task lie there."""
    subject = subjects.complete(agent, "w", task)
    info = await bus.api(f"STREAM.INFO.{subjects.INPUT}", {"subjects_filter": subject})
    return int((info["state"].get("subjects") or {}).get(subject, 0))


async def completion(bus: Bus, agent: str = "a", task: str = "t", *, number: int = 1) -> TaskCompletion:
    """Wait until a task was completed `number` times, and its assignment acknowledged; return the last completion."""

    async def reported() -> Stored | None:
        if await completions(bus, agent, task) < number:
            return None
        return await bus.last(subjects.INPUT, subjects.complete(agent, "w", task))

    found = await eventually(reported, f"completion {number} of {task} by {agent}")
    await all_acked(bus, subjects.WORKFLOWS, SERVICE)
    return found.decode(TaskCompletion)


async def record(bus: Bus, key: str = "w.t") -> EffectRecord:
    """Return the effect record of `key`."""
    found = await bus.last(subjects.EFFECTS, subjects.effect(SERVICE, key))
    assert found is not None
    return found.decode(EffectRecord)


async def audit(bus: Bus, agent: str = "a") -> list[AuditRecord]:
    """Return the audit chain of an agent; it must be unbroken."""
    chain = [item.decode(AuditRecord) for item in await bus.every(subjects.AUDIT, subjects.audit(agent))]
    assert verify(chain) is None
    return chain


def raising(error: Exception, times: int = 1_000_000) -> Callable[[Call], Awaitable[None]]:
    """Return what raises `error` so many times."""
    left = times

    async def step(_: Call) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error

    return step
