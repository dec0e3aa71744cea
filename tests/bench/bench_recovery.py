"""How long it takes until all is well again after a death: of an orchestrator, of an agent, of the leading nats-server.

Two orchestrators and two agents work on many short workflows at once.  One process is killed with SIGKILL and started
again as systemd would start it; measured is the time from there until every workflow that was open at its death is
answered.  BENCH_KILLS changes how often each dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from agentd.bus.setup.provision import provision
from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.messages import WorkflowRequest
from bench.systems import REQUEST, SLOTS, plugin
from harness import Net
from system.chaos.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from bench.conftest import Figures
    from harness import Daemon

KILLS = int(os.environ.get("BENCH_KILLS", "7"))
WIDTH = 20
"""Workflows that are open at once."""
STEADY = 3.0
"""Seconds of work between two deaths."""
PAUSE = 1.0
"""Seconds after which systemd starts a daemon again (RestartSec)."""
INSTANCES = {"o1": ("orchestrator",), "o2": ("orchestrator",), "a1": ("bench",), "a2": ("bench",)}


class Work:
    """Workflows one after the other in lanes, for as long as it runs, each of which is a future in `open`."""

    def __init__(self, bus: Bus) -> None:
        """Keep the principal."""
        self.bus = bus
        self.open: dict[str, asyncio.Future[None]] = {}
        self.answered: dict[str, asyncio.Event] = {}
        self.numbers = itertools.count()

    async def on_response(self, received: Received) -> None:
        """Wake the lane that waits for this answer."""
        event = self.answered.get(received.subject.rpartition(".")[2])
        if event is not None:
            event.set()

    async def lane(self) -> None:
        """Ask for one after the other."""
        while True:
            name = f"r{next(self.numbers)}"
            self.answered[name] = asyncio.Event()
            over = self.open[name] = asyncio.get_running_loop().create_future()
            await requests.submit(self.bus, "bench", WorkflowRequest("bench_read", name, REQUEST))
            while not self.answered[name].is_set():  # an answer may be missed while the connection is away
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self.answered[name].wait()
                if not self.answered[name].is_set() and await queries.answer_of(self.bus, name) is not None:
                    break
            del self.open[name], self.answered[name]
            over.set_result(None)

    async def settled(self) -> float:
        """Return the seconds until everything that is open now is answered."""
        begun = time.monotonic()
        await asyncio.wait(list(self.open.values()))
        return time.monotonic() - begun


@contextlib.asynccontextmanager
async def working(bus: Bus) -> AsyncIterator[Work]:
    """Let the lanes work on a network whose daemons run."""
    work = Work(bus)
    subscription = await bus.subscribe(subjects.response("*"), work.on_response)
    lanes = [asyncio.create_task(work.lane()) for _ in range(WIDTH)]
    try:
        yield work
    finally:
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        await subscription.stop()


@pytest.fixture(params=[1, 3], ids=["one server", "three servers"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """Return one nats-server, or a cluster of three."""
    return Cluster(tmp_path / "nats", request.param)


async def test_recovery(cluster: Cluster, tmp_path: Path, figures: Figures) -> None:
    """Nothing waits for longer than it takes to notice, and to start again."""
    with cluster:
        net = Net(tmp_path, cluster.urls[0])
        net.settings["bus"] = {"servers": cluster.urls, "replicas": len(cluster.nodes)}
        net.settings["log"]["level"] = "info"
        net.settings["orchestrator"] = {"requests_per_minute": 10_000_000}
        async with net.client() as bus:
            await provision(bus, ["bench"])
            with contextlib.ExitStack() as stack:
                daemons = [stack.enter_context(daemon) for daemon in _daemons(net, plugin(tmp_path))]
                async with working(bus) as work:
                    servers = f"{len(cluster.nodes)} nats-server{'s' * (len(cluster.nodes) > 1)}"
                    _note(figures, f"orchestrator killed, {servers}", await _kills(work, daemons[:2]))
                    _note(figures, f"agent killed, {servers}", await _kills(work, daemons[2:]))
                    _note(figures, f"leader of JetStream killed, {servers}", await _leaders(work, cluster))


def _daemons(net: Net, path: str) -> list[Daemon]:
    net.settings["bench"] = {"enabled": True}
    net.settings["instances"] = {name: {"roles": list(roles), "slots": SLOTS} for name, roles in INSTANCES.items()}
    return [net.daemon(name, PYTHONPATH=path, AGENTD_TEST_BLOCKBUSTER="") for name in INSTANCES]


async def _kills(work: Work, daemons: list[Daemon]) -> list[float]:
    """Kill one daemon after the other; return how long each death was felt."""

    async def again(daemon: Daemon) -> None:
        await asyncio.sleep(PAUSE)
        daemon.start()

    found = []
    for _, daemon in zip(range(KILLS), itertools.cycle(daemons), strict=False):
        await asyncio.sleep(STEADY)
        daemon.kill()
        starting = asyncio.create_task(again(daemon))
        found.append(await work.settled())
        await starting
    return found


async def _leaders(work: Work, cluster: Cluster) -> list[float]:
    """Kill the server that leads the workflows, and start it again; return how long each death was felt."""
    found = []
    for _ in range(KILLS):
        await asyncio.sleep(STEADY)
        node = cluster.nodes[await asyncio.to_thread(cluster.leader, subjects.WORKFLOWS)]
        node.kill()
        begun: Callable[[], None] = node.start
        starting = asyncio.get_running_loop().call_later(PAUSE, begun)
        found.append(await work.settled())
        await asyncio.sleep(max(0.0, starting.when() - asyncio.get_running_loop().time()))
    return found


def _note(figures: Figures, name: str, found: list[float]) -> None:
    figures.add(f"{name}, p50", median(found), "s")
    figures.add(f"{name}, max", max(found), "s")
