"""Schedules: what is configured is in force, each firing is one workflow, and what was missed is made up for once."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agentd import cron, schedules
from agentd.client import queries
from agentd.client import requests as client_requests
from agentd.config.settings import Schedule
from agentd.errors import ConfigError, UsageError
from agentd.plugins import manager
from agentd.wire import subjects
from agentd.wire.messages import ScheduleDue, ScheduleRun
from fake_agent import Agent, Nothing, orchestrators, task
from harness import Net, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored
    from agentd.wire.workflow import TaskSpec
    from harness import NatsServer

NAME = "tick"
BERLIN = Schedule(workflow="test", cron="30 2 * * *", timezone="Europe/Berlin")


@pytest.fixture
def quiet_net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return the configuration of a network without Proxmox, with exact permissions."""
    return Net(tmp_path, nats_server.url, exact=True)


def every_second(**setting: Any) -> Schedule:
    """Return a schedule of the workflow `test`, each second unless `setting` has another `cron`."""
    return Schedule.model_validate({"workflow": "test", "cron": "* * * * * *"} | setting)


def one(_: Nothing) -> list[TaskSpec]:
    """Return a plan of one task."""
    return [task("only")]


async def put(bus: Bus, **setting: Any) -> list[str]:
    """Put one schedule in force."""
    return await schedules.provision(bus, {NAME: every_second(**setting)})


async def begun(bus: Bus) -> list[Stored]:
    """Return the first event of each workflow that the schedule became."""
    found: dict[str, Stored] = {}
    for event in await bus.every(subjects.WORKFLOWS, subjects.ALL_EVENTS):
        if subjects.schedule_of(event.subject.split(".")[3]) == NAME:
            found.setdefault(event.subject, event)
    return list(found.values())


async def until_begun(bus: Bus, count: int) -> list[Stored]:
    """Wait until it has become so many workflows."""

    async def enough() -> list[Stored] | None:
        found = await begun(bus)
        return found if len(found) >= count else None

    return await eventually(enough, f"{count} workflows of the schedule", 60) or []


async def fired(bus: Bus) -> Stored | None:
    """Return the firing that was not replaced yet."""
    return await bus.last(subjects.WORKFLOWS, subjects.cron_due(NAME))


# -- in force ---------------------------------------------------------------------------------------------------------


async def test_configured_schedules_are_in_force(bus: Bus) -> None:
    """Provision says what it made, changed and removed; what has not changed stays as it is, with its firings."""
    nightly = BERLIN
    later = nightly.model_copy(update={"cron": "30 3 * * *", "parameters": {"a": 1}})
    off = nightly.model_copy(update={"enabled": False})

    reply = [
        await schedules.provision(bus, item)
        for item in ({"a": nightly, "b": nightly, "c": off}, {"a": nightly, "b": nightly}, {"a": later}, {"a": later})
    ]
    stored = await bus.last_many(subjects.WORKFLOWS, subjects.ALL_CRON)
    none = await schedules.provision(bus, {})

    assert reply == [
        ["made schedule a: 0 30 2 * * * Europe/Berlin", "made schedule b: 0 30 2 * * * Europe/Berlin"],
        [],
        ["changed schedule a: cron, parameters", "removed schedule b"],
        [],
    ]
    assert [item.headers["Nats-Schedule"] for item in stored] == ["0 30 3 * * *"]
    assert none == ["removed schedule a"]
    assert await bus.last_many(subjects.WORKFLOWS, subjects.ALL_CRON) == []


async def test_a_removed_schedule_does_not_fire(bus: Bus) -> None:
    """A schedule that was taken away sends nothing more, and its firing that was not delivered is gone too."""
    await put(bus)
    await eventually(lambda: fired(bus), "a firing")
    await schedules.provision(bus, {})

    assert await fired(bus) is None
    await asyncio.sleep(2.2)  # two seconds in which it would have fired
    assert await fired(bus) is None


ZONES = {item: ZoneInfo(item) for item in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")}


async def test_the_server_computes_the_same_times(bus: Bus) -> None:
    """When a schedule comes next, as the server says with each firing, is when the list says that it comes."""
    soon = (bus.server_time() + timedelta(seconds=5)).replace(microsecond=0)
    wanted: dict[str, Schedule] = {}
    for number, (name, zone) in enumerate(ZONES.items()):
        at = soon.astimezone(zone)
        time, today = f"{at.second} {at.minute}", at.isoweekday() % 7
        patterns = [
            f"{time} {at.hour} * * *",
            f"{time} {at.hour} 13 * {today}",  # one of the two days is enough
            f"{time} {at.hour} */2,{at.day} * *",
            f"{time} */1 {at.day} {at.month},2 ?",
            f"{at.second}{'/7' if at.second + 7 < 60 else ''} {at.minute},{(at.minute + 17) % 60} * ? * {today}-6",
            f"{time} {at.hour} 29,{at.day} feb,{at.strftime('%b')} *",
        ]
        wanted |= {
            f"s{number}{index}": BERLIN.model_copy(update={"cron": pattern, "timezone": name})
            for index, pattern in enumerate(patterns)
        }
    await schedules.provision(bus, wanted)

    async def all_fired() -> dict[str, Stored] | None:
        found = await bus.last_many(subjects.WORKFLOWS, "ai.workflows.due.*._.cron")
        return {item.decode(ScheduleDue).name: item for item in found} if len(found) == len(wanted) else None

    fired_now = await eventually(all_fired, "each has fired", 30)
    assert fired_now is not None
    for name, firing in fired_now.items():
        due = firing.decode(ScheduleDue)
        reply = datetime.fromisoformat(firing.headers["Nats-Schedule-Next"])
        when = firing.time.replace(microsecond=0)

        assert cron.next_after(cron.parse(due.cron), when, ZONES[due.timezone]) == reply, (name, due.cron, due.timezone)


# -- firing -----------------------------------------------------------------------------------------------------------


async def test_every_firing_is_one_workflow(quiet_net: Net, bus: Bus) -> None:
    """With two orchestrators every second brings one workflow, done by the schedule's principal."""
    agent = Agent(bus)
    async with orchestrators(quiet_net, one, 2), agent.working():
        await put(bus, overlap="allow")
        events = await until_begun(bus, 4)
        await schedules.provision(bus, {})
        ids = [event.subject.split(".")[3] for event in events]
        answers = [await queries.follow(bus, id_, lambda _: None, wait=45) for id_ in ids]
        states = [await queries.state(bus, id_) for id_ in ids]
        counted = {id_: len(await bus.every(subjects.WORKFLOWS, subjects.response(id_))) for id_ in ids}

    assert {answer.status for answer in answers} == {"completed"}
    assert {(state.principal, state.requester_id) for state in states if state is not None} == {
        ("cron", "schedule tick")
    }
    assert counted == dict.fromkeys(ids, 1)
    assert {assignment.workflow_id for assignment in agent.given} >= set(ids)
    assert len(agent.given) == len({assignment.task_id for assignment in agent.given})


async def test_missed_firings_are_one_workflow(quiet_net: Net, bus: Bus) -> None:
    """Firings while no orchestrator lives become one workflow, not many."""
    await put(bus, overlap="allow")
    first = await eventually(lambda: fired(bus), "a firing")
    assert first is not None

    async def three_more() -> bool:
        found = await fired(bus)
        return found is not None and (found.time - first.time).total_seconds() > 2.5

    await eventually(three_more, "three more firings")
    await put(bus, cron="0 0 1 1 *")  # what it sent stays, and it sends no more
    waiting = await bus.every(subjects.WORKFLOWS, subjects.cron_due(NAME))
    async with orchestrators(quiet_net, one, 2), Agent(bus).working():
        events = await until_begun(bus, 1)
        await queries.follow(bus, events[0].subject.split(".")[3], lambda _: None, wait=45)

        async def drained() -> bool:
            info = await bus.api(f"CONSUMER.INFO.{subjects.WORKFLOWS}.{subjects.ORCH_DUE}")
            return not info["num_pending"] and not info["num_ack_pending"]

        await eventually(drained, "all firings are handled", 60)

    assert len(waiting) == 1
    assert [item.subject for item in await begun(bus)] == [
        subjects.event(subjects.cron_workflow(NAME, waiting[0].seq)),
    ]


async def test_a_firing_is_skipped_while_the_last_run_continues(quiet_net: Net, bus: Bus) -> None:
    """By default a firing that finds its predecessor at work is skipped and counted; when that is over it goes on."""
    agent = Agent(bus)
    agent.hold = {"only"}
    async with orchestrators(quiet_net, one, 2), agent.working():
        await put(bus)

        async def skipped() -> bool:
            run = await bus.kv_get(subjects.CONF, subjects.schedule_key(NAME))
            return run is not None and run.decode(ScheduleRun).skipped >= 2

        await eventually(skipped, "two firings are skipped")
        meanwhile = await begun(bus)
        agent.release.set()
        await until_begun(bus, 2)

    assert len(meanwhile) == 1


async def test_a_server_that_restarts(quiet_net: Net, bus: Bus, nats_server: NatsServer) -> None:
    """A nats-server that is killed and comes back goes on firing, and no firing becomes two workflows."""
    async with orchestrators(quiet_net, one), Agent(bus).working():
        await put(bus)
        before = len(await until_begun(bus, 1))
        nats_server.kill()
        await asyncio.to_thread(nats_server.start)
        events = await until_begun(bus, before + 2)

    assert len({event.subject for event in events}) == len(events)


async def test_a_run_that_was_noted_and_never_asked_for(quiet_net: Net, bus: Bus) -> None:
    """An orchestrator killed between its record and its request loses nothing: the next firing requests it again."""
    at = bus.server_time()
    await bus.kv_put(subjects.CONF, subjects.schedule_key(NAME), ScheduleRun("cron-tick-7", begun=at, fired=at))
    async with orchestrators(quiet_net, one), Agent(bus).working():
        await put(bus)
        events = await until_begun(bus, 2)

    assert events[0].subject == subjects.event("cron-tick-7")


async def test_a_last_run_that_is_kept_no_longer(quiet_net: Net, bus: Bus) -> None:
    """A schedule that comes so seldom that its last run is forgotten is begun, not taken for one that still runs."""
    at = bus.server_time() - timedelta(days=31)
    await bus.kv_put(subjects.CONF, subjects.schedule_key(NAME), ScheduleRun("cron-tick-7", begun=at, fired=at))
    async with orchestrators(quiet_net, one), Agent(bus).working():
        await put(bus)
        events = await until_begun(bus, 2)

    assert subjects.event("cron-tick-7") not in {event.subject for event in events}


async def test_too_late(quiet_net: Net, bus: Bus) -> None:
    """A firing that is found after its start_by is an expired workflow, not a late one."""
    due = schedules.due(NAME, every_second(start_by=0.2))
    await bus.store(subjects.cron_due(NAME), due)
    await asyncio.sleep(0.3)
    async with orchestrators(quiet_net, one):
        events = await until_begun(bus, 1)
        answer = await queries.follow(bus, events[0].subject.split(".")[3], lambda _: None, wait=45)

    assert answer.status == "expired"


# -- seen and run by hand ---------------------------------------------------------------------------------------------


async def test_the_list(quiet_net: Net, bus: Bus) -> None:
    """The list says what is in force, when it comes next, what became of the last run, and what differs."""
    hourly = Schedule(workflow="test", cron="0 * * * *")
    async with orchestrators(quiet_net, one), Agent(bus).working():
        await put(bus)
        events = await until_begun(bus, 1)
        name = events[0].subject.split(".")[3]
        await queries.follow(bus, name, lambda _: None, wait=45)
        await schedules.provision(bus, {NAME: every_second(cron="0 0 1 1 *"), "hourly": hourly})
    configured = {NAME: every_second(), "off": hourly.model_copy(update={"enabled": False}), "new": hourly}
    views = {schedule.name: schedule for schedule in await schedules.schedules(bus, configured)}

    assert {name: view.state for name, view in views.items()} == {
        NAME: "in force; configured otherwise: run `agentd provision`",
        "hourly": "in force; not in this configuration",
        "off": "disabled",
        "new": "not in force: run `agentd provision`",
    }
    assert views[NAME].status == "completed"
    assert views["hourly"].next is not None
    assert (views["hourly"].next.minute, views["hourly"].next.second) == (0, 0)
    assert views["off"].next is None


async def test_once_more_by_hand(quiet_net: Net, bus: Bus) -> None:
    """A schedule can be started now by a principal, with its own id; one that is not in force is an error."""
    await put(bus, cron="0 0 1 1 *")
    async with orchestrators(quiet_net, one), Agent(bus).working():
        requests = [await schedules.extra_run(bus, NAME) for _ in range(2)]
        for request in requests:
            await client_requests.submit(bus, "tester", request)
        answers = [await queries.follow(bus, request.workflow_id, lambda _: None, wait=45) for request in requests]
        state = await queries.state(bus, requests[0].workflow_id)

    assert [answer.status for answer in answers] == ["completed"] * 2
    assert state is not None
    assert state.principal == "tester"
    with pytest.raises(UsageError, match="no schedule 'other' is in force"):
        await schedules.extra_run(bus, "other")


# -- bad input --------------------------------------------------------------------------------------------------------

NIGHTLY = '[schedules.nightly]\nworkflow = "health_check"\ncron = "30 2 * * *"\n'


def checked(net: Net) -> None:
    """Check the configuration as `agentd config check` and `agentd provision` do."""
    config = net.config()
    schedules.check(config, manager.Plugins(config, {"orchestrator"}).workflows())


@pytest.mark.parametrize(
    ("text", "reply"),
    {
        NIGHTLY.replace("30 2", "30 25"): "schedules.nightly.cron: '25' in the field hour: it is from 0 to 23",
        NIGHTLY.replace("30 2 * * *", "0 0 30 2 *"): "schedules.nightly.cron: '0 0 30 2 *' never occurs",
        NIGHTLY.replace("30 2 * * *", "@every 1h"): "schedules.nightly.cron: '@every 1h' is not accepted",
        NIGHTLY + 'timezone = "Mars/Base"': "schedules.nightly.timezone: there is no time zone 'Mars/Base'",
        NIGHTLY + 'timezone = "../etc/passwd"': "schedules.nightly.timezone: there is no time zone '../etc/passwd'",
        NIGHTLY.replace("health_check", "nothing"): "schedules.nightly.workflow: unknown 'nothing'; there are backup_",
        NIGHTLY + "parameters = { node = 1 }": "schedules.nightly.parameters.node: expected str or nothing, got int",
        NIGHTLY + "parameters = { nod = 1 }": "schedules.nightly.parameters.nod: unknown; did you mean node?",
        NIGHTLY + 'overlap = "maybe"': "schedules.nightly.overlap: should be 'skip' or 'allow'",
        NIGHTLY + "start_by = 0": "schedules.nightly.start_by: should be greater than 0",
        NIGHTLY + 'parameters = { node = "https://u:hunter2@a" }': "schedules.nightly.parameters: 'node': is a secret",
        NIGHTLY + "zone = 1": "schedules.nightly.zone: unknown key",
        NIGHTLY + 'principal = "a b"': "schedules.nightly.principal: 'a b' is not an id",
        NIGHTLY.replace("nightly", "n" * 41): "is too long for a schedule; at most 40 characters",
        NIGHTLY.replace("nightly", "'a.b'"): "'a.b' is not an id",
        NIGHTLY.replace("health_check", "vm_deployment") + 'parameters = { name = "x" }': (
            "schedules.nightly.principal: create_vm needs tier operate; cron has read; "
            'grant it with [policy.principals] cron = "operate"'
        ),
    }.items(),
)
def test_bad_configuration(quiet_net: Net, text: str, reply: str) -> None:
    """A schedule that cannot be is an error that names its field, before anything is put in force."""
    quiet_net.settings["policy"] = {"default_tier": "read"}
    part = quiet_net.directory / "conf.d" / "schedules.toml"
    part.parent.mkdir()
    part.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(reply)):
        checked(quiet_net)


async def test_a_schedule_that_the_server_refuses(bus: Bus) -> None:
    """A zone that only the server does not know is reported with the field."""
    odd = every_second().model_copy(update={"timezone": "Mars/Base"})
    with pytest.raises(ConfigError, match=r"schedules\.tick\.timezone: the NATS server does not take it"):
        await schedules.provision(bus, {NAME: odd})


async def test_a_firing_that_is_nonsense(quiet_net: Net, bus: Bus) -> None:
    """A firing that cannot be understood is a dead letter; the next one is carried out."""
    nonsense = [b"{}", b"x", json.dumps({"name": NAME}).encode()]
    good = ScheduleDue(NAME, "test", "0 0 0 1 1 *", "Nowhere/Known", "cron")
    broken = msgspec.structs.replace(good, cron="no cron", timezone="UTC")
    async with orchestrators(quiet_net, one), Agent(bus).working():
        for item in (*nonsense, broken, good):
            await bus.store(subjects.cron_due(NAME), item)
        await until_begun(bus, 1)

        async def dead() -> bool:
            return len(await bus.every(subjects.DEAD, "$JS.EVENT.ADVISORY.>")) == len(nonsense) + 1

        await eventually(dead, "dead letters")
