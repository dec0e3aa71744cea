"""A record that cannot be read is skipped, counted and shown; it stops no agent, no page and no list."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from agentd.bus.delivery.dead_letters import letters
from agentd.client import queries, requests
from agentd.errors import Denied
from agentd.safety import budget
from agentd.schedules import schedules
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import SignalReply, WorkflowRequest, WorkflowSignal
from fake_agent import Agent, orchestrators, task
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.bus.jetstream import Bus
    from harness import Net

NONSENSE = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b"[]",
    b"{}",
    b'{"v": "x"}',
    b"[" * 50_000,
    encode(SignalReply("w1", done=True)),
]


@pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
async def test_lists_go_on(bus: Bus, data: bytes) -> None:
    """With foreign messages among our records, every list shows the others."""
    places: dict[str, Callable[[Bus], Awaitable[Any]]] = {
        subjects.event("broken"): queries.states,
        f"$KV.{subjects.LIVE}.broken": queries.presences,
        f"$KV.{subjects.ALERTS}.broken": queries.alerts,
        subjects.metrics("broken"): queries.metrics,
        subjects.dead_mark(7): letters,
        subjects.cron_timer("broken"): lambda bus: schedules(bus, {}),
    }
    for subject, ask in places.items():
        before = bus.unreadable.count
        await bus.store(subject, data)
        found = await ask(bus)
        again = await ask(bus)

        assert found == again == []
        assert bus.unreadable.count == before + 1, subject
        assert any(line.startswith(f"{subject} (") for line in bus.unreadable.shown())


async def test_the_budget_counts_unreadable_places(bus: Bus) -> None:
    """A place that cannot be read is taken: nothing more is destroyed because of it."""
    await bus.kv_put(subjects.BUDGET, "0", b"nonsense")
    await budget.take_slot(bus, "w.t", 2)
    with pytest.raises(Denied):
        await budget.take_slot(bus, "w.u", 2)


async def test_a_workflow_continues(quiet_net: Net, bus: Bus) -> None:
    """A state that another client wrote over a workflow is skipped: it continues from the event before."""
    agent = Agent(bus)
    agent.hold |= {"a"}
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a")], 2) as (daemon, _), agent.working():
        for name in ("w1", "w2"):
            await requests.submit(bus, "tester", WorkflowRequest("test", name))
            await eventually(lambda name=name: queries.state(bus, name), f"{name} is there")  # type: ignore[misc]
        for data in (b"not JSON", encode(SignalReply("w1", done=True))):
            await bus.store(subjects.event("w1"), data)
        shown = await asyncio.to_thread(_get, daemon.url, "/api/workflows")
        ready = await asyncio.to_thread(_get, daemon.url, "/readyz")
        agent.release.set()
        answers = [await queries.follow(bus, name, lambda _: None, wait=45) for name in ("w2", "w1")]
        metrics = (await daemon.metrics.render()).decode()

    assert {item["workflow_id"] for item in shown} == {"w1", "w2"}
    assert any("ai.workflows.event.w1" in line for line in ready["unreadable"])
    assert [answer.status for answer in answers] == ["completed", "completed"]
    assert "agentd_records_unreadable_total" in metrics


async def test_a_workflow_without_a_readable_state(quiet_net: Net, bus: Bus) -> None:
    """Inputs of a workflow without any readable state are dead letters; others are decided as ever."""
    agent = Agent(bus)
    async with orchestrators(quiet_net, lambda _: [task("a")]), agent.working():
        await bus.store(subjects.event("w1"), b"not JSON")
        await bus.store(subjects.signal("tester", "w1"), WorkflowSignal("cancel"))
        await requests.submit(bus, "tester", WorkflowRequest("test", "w2"))
        answer = await queries.follow(bus, "w2", lambda _: None, wait=45)

        async def buried() -> bool:
            return bool(await bus.every(subjects.DEAD, "ai.dead.given-up.>"))

        await eventually(buried, "the signal is a dead letter")

    assert answer.status == "completed"


def _get(url: str, path: str) -> Any:
    request = urllib.request.Request(url + path, headers={"Accept": "application/json"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read())
