"""Urgent tasks, for the service of a plugin that agentd does not bring."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import (
    Call,
    Compensation,
    Context,
    Repeat,
    TaskSpec,
    Tier,
    WorkflowRequest,
    collect,
    hookimpl,
    subjects,
    tool,
)
from agentd.client import queries, requests
from agentd.plugins import manager
from agentd_orchestrator.queues import Queues
from fake_agent import orchestrators
from harness import Net, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer

SERVICE = "greeter"


class Nothing(msgspec.Struct, frozen=True):
    """No parameters."""


class Done(msgspec.Struct, frozen=True):
    """The key of the call."""

    key: str


class Greeter:
    """A role with one tool that waits until the test releases it."""

    name = SERVICE
    port = 0
    services = (SERVICE,)
    routes = ()

    def __init__(self) -> None:
        """Start with no call."""
        self.begun: list[str] = []
        self.release = asyncio.Event()

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="greet")
    async def greet(self, call: Call, p: Nothing) -> Done:  # noqa: ARG002
        """Greet when the test says so; the urgent task at once."""
        self.begun.append(call.key)
        if not call.key.startswith("urgent"):
            await self.release.wait()
        return Done(call.key)

    async def run(self, context: Context) -> None:
        """Serve the queue."""
        context.health.up()
        await context.worker.serve(SERVICE, context.stopping)

    def reload(self, settings: Any) -> None:
        """Change nothing."""


class Entry:
    """The entry point of the plugin."""

    def __init__(self, role: Greeter) -> None:
        """Make the plugin of `role`."""
        self.made = ModuleType(SERVICE)
        self.made.agentd_role = hookimpl(lambda: role)  # type: ignore[attr-defined]
        self.made.agentd_tools = hookimpl(lambda: collect(role, service=SERVICE))  # type: ignore[attr-defined]
        for hook in ("agentd_role", "agentd_tools"):
            getattr(self.made, hook).__name__ = hook

    def load(self) -> ModuleType:
        """Return the plugin."""
        return self.made


@pytest.fixture
def greeter(monkeypatch: pytest.MonkeyPatch) -> Greeter:
    """Install the plugin beside those of agentd."""
    role = Greeter()
    installed: dict[str, Any] = {**manager.installed(), SERVICE: Entry(role)}
    monkeypatch.setattr(manager, "installed", lambda: installed)
    return role


@pytest.fixture
def net(tmp_path: Any, nats_server: NatsServer, greeter: Greeter) -> Net:
    """Return a network whose agent of the plugin runs one task at a time."""
    found = Net(tmp_path, nats_server.url)
    found.settings["instances"][greeter.name] = {"roles": [SERVICE], "slots": 1}
    return found


@pytest.fixture
async def bus(net: Net) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned."""
    async with net.client() as connection:
        yield connection


async def test_an_urgent_task_runs_first(net: Net, bus: Bus, greeter: Greeter) -> None:
    """While one task runs and others wait, the task of an urgent workflow runs at once."""
    plan = [TaskSpec("greet", "greet", SERVICE, Tier.READ)]
    async with net.here(SERVICE), orchestrators(net, lambda _: plan):
        for name in ("w1", "w2", "w3"):
            await requests.submit(bus, "tester", WorkflowRequest("test", name))
        await eventually(lambda: _waiting(bus, 2), "one runs and two wait")
        await requests.submit(bus, "tester", WorkflowRequest("test", "urgent", priority=6))
        urgent = await queries.follow(bus, "urgent", lambda _: None, wait=60)
        begun = list(greeter.begun)
        greeter.release.set()
        others = [await queries.follow(bus, name, lambda _: None, wait=60) for name in ("w1", "w2", "w3")]

    assert (urgent.status, urgent.result["tasks"]["greet"]["result"]) == ("completed", {"key": "urgent.greet"})
    assert len(begun) == 2
    assert begun[1] == "urgent.greet"
    assert {answer.status for answer in others} == {"completed"}


async def _waiting(bus: Bus, number: int) -> bool:
    info = await bus.api(f"CONSUMER.INFO.{subjects.WORKFLOWS}.{SERVICE}")
    return int(info["num_pending"]) + int(info["num_ack_pending"]) == number + 1


@pytest.mark.parametrize(("priority", "lane"), [(5, ""), (6, "+urgent")])
async def test_the_queues_of_a_plan(bus: Bus, priority: int, lane: str) -> None:
    """Above 5 tasks and their undo go to the urgent queue of each service; a class, a node and others keep theirs."""
    await bus.api(f"CONSUMER.DURABLE.CREATE.{subjects.WORKFLOWS}.{SERVICE}+disk", _durable(f"{SERVICE}+disk"))
    await bus.api(f"CONSUMER.DURABLE.CREATE.{subjects.WORKFLOWS}.script", _durable("script"))
    undo = Compensation("greet", "specialist", Tier.READ)
    plan = [TaskSpec("a", "greet", queue, Tier.READ) for queue in (SERVICE, f"{SERVICE}+disk", "script")]
    plan.append(TaskSpec("b", "", subjects.ORCHESTRATOR, Tier.READ, workflow="test", compensation=undo))
    found = await Queues(bus).chosen(plan, priority)

    assert [task.queue for task in found] == [f"{SERVICE}{lane}", f"{SERVICE}+disk", "script", "orchestrator"]
    assert found[-1].compensation == msgspec.structs.replace(undo, queue=f"specialist{lane}")


def _durable(name: str) -> dict[str, Any]:
    config = {"durable_name": name, "ack_policy": "explicit", "filter_subject": subjects.assigns_of(name)}
    return {"stream_name": subjects.WORKFLOWS, "config": config}
