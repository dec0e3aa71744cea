"""Kill orchestrators while a schedule fires: every run that was begun ends, each firing is one run at most."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from agentd import schedules
from agentd.bus.setup import provision
from agentd.client import queries
from agentd.config.settings import Schedule
from agentd.wire import subjects
from agentd.wire.messages import ScheduleRun
from harness import eventually
from system.kills.restarting_daemons import RestartingDaemons, note

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Net

pytestmark = pytest.mark.system
OFTEN = Schedule(workflow="health_check", cron="* * * * * *", overlap="allow")
KILLS = 8


async def _give_up_after(bus: Bus, seconds: float) -> None:
    """Redeliver the messages of a killed process sooner than after half a minute."""
    for stream, config in provision.consumers({}):
        body = {"stream_name": stream, "config": config | {"ack_wait": int(seconds * 1e9)}}
        await bus.api(f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}", body)


async def test_orchestrators_die_while_it_fires(net: Net) -> None:
    """Two orchestrators are killed in turn, and together, while each second brings a run; none is lost or doubled."""
    async with (
        net.client() as bus,
        RestartingDaemons(net, ("orchestrator", "orchestrator2", "specialist", "mcp-bridge")) as daemons,
    ):
        await schedules.provision(bus, {"often": OFTEN})
        await _give_up_after(bus, 8.0)
        begun, killed = time.monotonic(), tuple[str, ...]()

        async def ids() -> list[str]:
            found = await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS)
            return [item.subject.split(".")[3] for item in found]

        for number in range(KILLS):
            before = len(await ids())

            async def one_more(before: int = before) -> bool:
                return len(await ids()) > before

            await eventually(one_more, "a run is begun", 60)
            both = ("orchestrator", "orchestrator2")
            killed += (dying := both if number % 4 == 3 else both[number % 2 :][:1])
            daemons.kill(*dying)

            async def noticed(count: int = len(killed)) -> bool:
                return len(daemons.restarts) == count

            await eventually(noticed, "the dead are started again")
            await daemons.ready()
        await schedules.provision(bus, {})
        seconds = time.monotonic() - begun

        async def taken() -> bool:
            """Return whether nothing is left that could begin one more."""
            for stream, durable in (
                (subjects.REQUESTS, subjects.ORCH_REQUESTS),
                (subjects.WORKFLOWS, subjects.ORCH_DUE),
            ):
                info = await bus.api(f"CONSUMER.INFO.{stream}.{durable}")
                if info["num_ack_pending"] or (stream == subjects.REQUESTS and info["num_pending"]):
                    return False
            return True

        await eventually(taken, "every firing is handled", 60)
        answers = [await queries.follow(bus, id_, lambda _: None, wait=90) for id_ in await ids()]
        responses = await bus.every(subjects.WORKFLOWS, subjects.response("*"))
        last = await bus.kv_get(subjects.CONF, subjects.schedule_key("often"))
        note("runs", f"{len(answers)} in {seconds:.0f} s with {len(daemons.restarts)} deaths")

    assert Counter(name for name, _ in daemons.restarts) == Counter(killed)
    assert len(answers) >= KILLS
    assert set(Counter(answer.status for answer in answers)) <= {"completed", "completed_with_warnings"}
    assert len(responses) == len(answers)
    assert last is not None
    assert last.decode(ScheduleRun).workflow_id in {answer.workflow_id for answer in answers}
