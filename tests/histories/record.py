"""Record the histories that lie here: real daemons in this process, a real NATS, the simulated Proxmox.

    python tests/histories/record.py

Do it when a decision was changed on purpose, and look at what differs.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.client import queries, requests

sys.path.insert(0, str(Path(__file__).parents[1]))


from agentd.wire.messages import TaskError, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import Compensation, Status, TaskSpec, result_of, template
from agentd_orchestrator.state_machine import decide as wf
from fake_agent import QUEUE, Agent, Nothing, completion, orchestrators, task
from harness import NatsServer, Net, eventually
from histories import history
from pve.client import FakePve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from agentd.bus.jetstream import Bus
    from agentd.wire.workflow import Workflow
    from agentd_orchestrator.state_machine.inputs import Input

HERE = Path(__file__).parent


class Recorder:
    """Notes every decision of this process, by workflow."""

    def __init__(self) -> None:
        self.lines: dict[str, list[history.Line]] = {}
        self._decide = wf.decide

    def decide(self, state: Workflow | None, given: Input, at: datetime) -> Workflow | None:
        """Decide, and note it."""
        after = self._decide(state, given, at)
        if after is not None:
            self.lines.setdefault(after.workflow_id, []).append(history.line(given, at, state, after))
        return after


def plan(_: Nothing) -> list[TaskSpec]:
    """Return a plan with a bit of everything."""
    undo = Compensation(
        "undo", QUEUE, task("x").tier, parameters={"of": result_of("first", "n")}, retries=1, backoff=0.1
    )
    return [
        task("first", compensation=undo, backoff=0.1),
        task("skipped", "first", condition="tasks.first.result.n > 5"),
        task("each", "first", for_each=template("{{ [1, 2, 3] }}"), max_parallel=2, compensation=undo),
        task("asked", "skipped", "each", approval="Go on?"),
        task("last", "asked", retries=0),
    ]


def how(given: Any) -> Any:
    """Fail the first attempt of the first task, and the last task."""
    name = given.task_id.partition(".")[2]
    if name == "first" and given.attempt == 1:
        return completion(given, TaskError("temporary", "not yet", retry=True))
    answer = completion(given, TaskError("broken", "no disk") if name == "last" else None)
    return type(answer)(**{**{key: getattr(answer, key) for key in answer.__struct_fields__}, "result": {"n": 2}})


async def everything(net: Net, bus: Bus) -> None:
    """Run a workflow that fails at its end and is undone, with an approval and a pause on the way."""
    async with orchestrators(net, plan), Agent(bus, how).working():
        await requests.submit(bus, "tester", WorkflowRequest("test", "compensated"))
        await _until(bus, "compensated", Status.WAITING_APPROVAL)
        await requests.signal(bus, "boss", "compensated", WorkflowSignal("pause", "lunch"))
        await requests.signal(bus, "boss", "compensated", WorkflowSignal("resume"))
        await requests.send_decision(bus, "boss", "compensated", "", WorkflowSignal("approve", "fine"))
        await queries.follow(bus, "compensated", lambda _: None, wait=60)


async def deployments(net: Net, bus: Bus) -> None:
    """Deploy a VM, ask for the cluster's health, and cancel a deployment."""
    assert net.pve is not None
    async with net.here("all"):
        for kind, name, parameters in (
            ("vm_deployment", "deployed", {"name": "web1", "template": 9000}),
            ("health_check", "healthy", {}),
            ("vm_deployment", "cancelled", {"name": "web2", "template": 9000}),
        ):
            if name == "cancelled":
                net.pve.durations(qmclone=2.0)
            await requests.submit(bus, "tester", WorkflowRequest(kind, name, parameters))
            if name == "cancelled":
                await eventually(_created(bus), "the clone is under way")
                await requests.signal(bus, "tester", name, WorkflowSignal("cancel", "not needed"))
            await queries.follow(bus, name, lambda _: None, wait=60)


def _created(bus: Bus) -> Callable[[], Awaitable[bool]]:
    async def under_way() -> bool:
        state = await queries.state(bus, "cancelled")
        return state is not None and "create_vm" in state.tasks and state.tasks["create_vm"].attempt > 0

    return under_way


async def _until(bus: Bus, name: str, status: Status) -> None:
    async def stands() -> bool:
        state = await queries.state(bus, name)
        return state is not None and state.status is status

    await eventually(stands, f"{name} is {status}", 60)


async def main() -> None:
    """Record all."""
    recorder, decide = Recorder(), wf.decide
    wf.decide = recorder.decide
    for recording in (everything, deployments):
        with (
            tempfile.TemporaryDirectory() as folder,
            NatsServer(Path(folder)) as nats,
            FakePve(directory=Path(folder) / "pve") as pve,
        ):
            net = Net(Path(folder), nats.url, pve)
            async with net.client() as bus:
                await recording(net, bus)
    wf.decide = decide
    for name, lines in recorder.lines.items():
        history.write(HERE / f"{name}.jsonl", lines)
        sys.stdout.write(f"{name}: {len(lines)} inputs, {history.replay(lines).status}\n")


if __name__ == "__main__":
    asyncio.run(main())
