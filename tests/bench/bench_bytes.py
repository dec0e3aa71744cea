"""What a workflow of 3, 10, 100 and 1,000 tasks costs: bytes on the wire, bytes and messages in the streams."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import Tier, WorkflowRequest
from agentd.wire.workflow import TaskSpec, template
from fake_agent import QUEUE, Agent, Nothing, orchestrators
from harness import NatsServer, Net

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.conftest import Figures

SIZES = (3, 10, 100, 990)
"""Tasks; the last is as many items as one workflow may have, within ten."""


def several(size: int) -> Callable[[Nothing], list[TaskSpec]]:
    """Return a plan of one task with so many items."""
    requested = {"vmid": template("{{ item }}")}
    spec = TaskSpec("t", "t", QUEUE, Tier.READ, for_each=list(range(size)), max_parallel=100, parameters=requested)
    return lambda _: [spec]


def planned(size: int) -> Callable[[Nothing], list[TaskSpec]]:
    """Return a plan of so many tasks."""
    return lambda _: [TaskSpec(f"t{number}", "t", QUEUE, Tier.READ, {"vmid": number}) for number in range(size)]


def _wire(server: NatsServer) -> int:
    """Return the bytes that the server has taken and given."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.monitor}/varz", timeout=5) as answer:
        found = json.load(answer)
    return int(found["in_bytes"]) + int(found["out_bytes"])


async def _cost(folder: Path, plan: Callable[[Nothing], list[TaskSpec]]) -> tuple[int, int, int, int]:
    """Return the bytes on the wire, bytes and messages stored, and the size of the last state, of one workflow."""
    with NatsServer(folder) as server:
        net = Net(folder, server.url)
        async with net.client() as bus, orchestrators(net, plan), Agent(bus).working():
            before, seq = _wire(server), (await bus.api(f"STREAM.INFO.{subjects.WORKFLOWS}"))["state"]["last_seq"]
            await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
            answer = await queries.follow(bus, "w1", lambda _: None, wait=120)
            wire, state = _wire(server) - before, (await bus.api(f"STREAM.INFO.{subjects.WORKFLOWS}"))["state"]
            last = await queries.state(bus, "w1")
        assert answer.status == "completed", answer
        assert last is not None
        return wire, int(state["bytes"]), int(state["last_seq"]) - seq, len(encode(last))


async def test_bytes_of_a_workflow(tmp_path: Path, figures: Figures) -> None:
    """Measure each size, as a plan and as items."""
    for kind, make in (("tasks", planned), ("items", several)):
        for size in SIZES:
            folder = tmp_path / f"{kind}{size}"
            folder.mkdir()
            wire, stored, messages, state = await _cost(folder, make(size))
            figures.add(f"{size} {kind}: on the wire", wire / 1024, "KiB")
            figures.add(f"{size} {kind}: in AI_WORKFLOWS", stored / 1024, "KiB")
            figures.add(f"{size} {kind}: messages stored there", messages, "")
            figures.add(f"{size} {kind}: last state", state / 1024, "KiB")
