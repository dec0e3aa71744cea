"""One fault each, aimed at one promise of the engine; nothing but the checker of the chaos runs judges.

The mutants `chaos-*` break the engine in five places; each turns one of these red.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from harness import eventually
from system.chaos import checker, evidence
from system.chaos.clients import Clients
from system.chaos.cluster import SIZE, Cluster
from system.chaos.plan import Request
from system.chaos.processes import Processes, with_plugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from nats.aio.client import Client

    from pve.client import FakePve

BOUND = 25.0
"""Seconds in which a workflow that was not lost is over: each takes a few."""

pytestmark = pytest.mark.system


class Stage:
    """A network with one fault armed, the requests made of it, and the verdict over it."""

    def __init__(self, client: Client, processes: Processes, pve: FakePve) -> None:
        """Keep what is asked and what is judged."""
        self.client, self.processes, self.pve = client, processes, pve
        self.recorder = evidence.Recorder(client)
        self.requests: list[Request] = []

    async def ask(self, *requests: Request) -> None:
        """Send requests, all at once."""
        self.requests += requests
        clients = Clients(self.client, list(requests))
        await clients.ask()
        await clients.answer()

    async def event(self, workflow: str) -> dict[str, Any]:
        """Return the last event of a workflow, nothing if there is none."""
        return await evidence.event(self.client, workflow) or {}

    async def verdict(self) -> str:
        """Wait until all is quiet, at most as long as it may take; return the checker's report."""
        wanted = Clients(self.client, self.requests).wanted()
        names = [item["id"] for item in wanted]
        await evidence.settle(self.client, names, checker.TERMINAL, BOUND)
        found = await evidence.read(self.client, self.pve.control, wanted, self.recorder)
        return checker.report(checker.judge(found))


@pytest.fixture
def stage(tmp_path: Path, pve: FakePve, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what sets a stage: with this crash point armed once, these daemons, this many nats-servers."""
    monkeypatch.setenv("PYTHONPATH", with_plugin())

    @asynccontextmanager
    async def setting(armed: str, names: tuple[str, ...], servers: int = 1) -> AsyncIterator[Stage]:
        with Cluster(tmp_path / "nats", servers) as nats:
            async with Processes(tmp_path, nats, pve, lambda _name, _start: (armed, "0"), names) as processes:
                client = await evidence.connect(nats.urls)
                made = Stage(client, processes, pve)
                async with made.recorder:
                    yield made
                await client.close()

    return setting


async def test_the_outbox_of_a_killed_orchestrator_is_sent(stage: Callable[..., Any]) -> None:
    """An orchestrator killed between an event and its outbox leaves no workflow stuck."""
    async with stage("after-commit", ("orchestrator", "mcp-bridge")) as on:
        await on.ask(Request(0, "outbox", "chaos_fan", {"naps": 1}))
        verdict = await on.verdict()

        assert verdict == "every invariant holds"
        assert on.processes.count()["crash after-commit"] == 1


async def test_a_completed_change_is_not_repeated(stage: Callable[..., Any]) -> None:
    """A bridge killed after Proxmox has grown a disk finds it grown at the next attempt."""
    async with stage("after-post@resize", ("orchestrator", "specialist", "mcp-bridge")) as on:
        requested = {"name": "look", "template": 9000, "memory": 128, "disk": 8}
        await on.ask(Request(0, "look", "vm_deployment", requested))
        verdict = await on.verdict()

        assert verdict == "every invariant holds"
        assert on.processes.count()["crash after-post"] == 1


async def test_an_unacknowledged_request_is_redelivered(stage: Callable[..., Any]) -> None:
    """An orchestrator killed before it stored anything of a request has not acknowledged it."""
    async with stage("before-commit", ("orchestrator", "mcp-bridge")) as on:
        await on.ask(Request(0, "taken", "chaos_fan", {"naps": 1}))
        verdict = await on.verdict()

        assert verdict == "every invariant holds"
        assert on.processes.count()["crash before-commit"] == 1


async def test_a_write_under_way_is_not_a_write_done(stage: Callable[..., Any]) -> None:
    """Of completions that meet at three orchestrators over three nats-servers none is dropped for another's write."""
    names = ("orchestrator", "orchestrator2", "orchestrator3", "mcp-bridge")
    async with stage("", names, SIZE) as on:
        for number in range(3):
            await on.ask(*(Request(0, f"fan-{number}-{item}", "chaos_fan", {"naps": 40}) for item in range(4)))
            leader = on.processes.nats.leader("AI_WORKFLOWS")
            followers = [node for index, node in enumerate(on.processes.nats.nodes) if index != leader]
            for follower in followers:
                follower.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.0)  # as long as writes stay under way
            for follower in followers:
                follower.process.send_signal(signal.SIGCONT)
        verdict = await on.verdict()

    assert verdict == "every invariant holds"


async def test_a_late_end_of_an_older_attempt_is_no_end(stage: Callable[..., Any]) -> None:
    """A bridge that sleeps over its deadline and wakes while another runs the task changes nothing by its report."""
    names = ("orchestrator", "mcp-bridge", "mcp-bridge2")
    async with stage("", names) as on:
        await on.ask(Request(0, "late", "chaos_sleep", {"seconds": 4.0, "deadline": 6.0}))

        async def begun(other: str = "") -> str:
            agent = (await on.event("late")).get("tasks", {}).get("nap", {}).get("agent", "")
            return "" if agent == other else str(agent)

        agent = await eventually(begun, "the first attempt is begun")
        sleeper = on.processes.daemons[agent.removesuffix("-pve1")]
        sleeper.signal(signal.SIGSTOP)
        try:
            await eventually(lambda: begun(agent), "a later attempt is begun by the other", 40)
        finally:
            sleeper.signal(signal.SIGCONT)
        verdict = await on.verdict()

    assert verdict == "every invariant holds"
