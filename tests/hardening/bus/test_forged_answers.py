"""What the NATS server writes as an answer, to a subject that the asker names, displaces no record and is none.

A principal of tier read can have the server write `{"stream": …, "seq": …}`, an answer of the API, or a copy of a
message that it may read, to any subject: into any stream and any key of a bucket, as often as it likes.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nats
import pytest
import pytest_asyncio

from agentd.bus.delivery import dead_letters
from agentd.bus.jetstream import SCHEDULE, SCHEDULE_TARGET
from agentd.bus.nats.subscriptions import Received
from agentd.client import queries, requests
from agentd.errors import Denied, Frozen, InvalidMessage, PermanentError
from agentd.safety import budget, freeze
from agentd.safety.audit_log import AuditLog
from agentd.safety.lease import Lease
from agentd.safety.signing import Signer
from agentd.schedules import schedules
from agentd.tools import large_results
from agentd.wire import subjects
from agentd.wire.announcements import Alert, NetworkRequest, Presence
from agentd.wire.codec import now as the_time
from agentd.wire.messages import ScheduleRun, Tier, WorkflowRequest
from agentd.wire.records import AuditKeys, DeadLetter
from agentd_orchestrator.engine.overwritten import TimerRestorer
from core.daemon.test_presence import WE
from core.jetstream import Lines
from core.probe import SERVICE
from fake_agent import QUEUE, Agent, orchestrators, task
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client

    from agentd.bus.jetstream import Bus
    from harness import NatsServer, Net

FLOOD = 30
"""Answers that are written over one record: more than any history of a key-value bucket that people use."""


class Forger:
    """A client that publishes only what a principal of tier read may, with a reply subject of its choice."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def acknowledge(self, subject: str, times: int = 1) -> None:
        """Have the server write acknowledgements of something else to `subject`."""
        for _ in range(times):
            await self._client.publish(subjects.signal("rita", "nothing"), b"{}", reply=subject)
        await self._settled()

    async def api(self, name: str, body: Any, subject: str) -> None:
        """Have the server write the answer of its API to `subject`."""
        await self._client.publish(f"$JS.API.{name}", json.dumps(body).encode(), reply=subject)
        await self._settled()

    async def _settled(self) -> None:
        await self._client.flush()
        await asyncio.sleep(0.1)


@pytest_asyncio.fixture
async def forger(nats_server: NatsServer, bus: Bus) -> AsyncIterator[Forger]:
    """Yield a client that forges; `bus` has made the streams."""
    del bus
    made = await nats.connect(nats_server.url)
    yield Forger(made)
    await made.close()


async def _no_note(outcome: str, found: Any) -> None:
    """Write no audit line."""


async def _change(bus: Bus, action: str, **more: Any) -> Any:
    request = NetworkRequest(action, "storage is being moved", **more)
    return await freeze.carry_out(bus, "o", "alice", Tier.OPERATE, request, _no_note)


def _key(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


FREEZE = _key(subjects.FREEZE, freeze.KEY)


@pytest.mark.parametrize("begun", [False, True])
async def test_forged_answers_do_not_freeze(bus: Bus, forger: Forger, *, begun: bool) -> None:
    """Answers of the server over the state freeze nothing, whether the network was frozen before or never."""
    if begun:
        await _change(bus, "freeze")
        await _change(bus, "thaw")
    await forger.acknowledge(FREEZE, FLOOD)
    await forger.api("INFO", {}, FREEZE)
    await forger.api("STREAM.MSG.GET.KV_live", {"last_by_subj": "x"}, FREEZE)

    assert await freeze.read(bus) is None
    assert (await _change(bus, "freeze")).done
    assert (await freeze.read(bus)).by == "alice"  # type: ignore[union-attr]


async def test_forged_answers_do_not_thaw(bus: Bus, forger: Forger) -> None:
    """Answers of the server over a freeze do not thaw; an allowed principal can still thaw."""
    await _change(bus, "freeze")
    await forger.acknowledge(FREEZE, FLOOD)
    await forger.api("INFO", {}, FREEZE)
    freeze_watch = freeze.FreezeWatch(bus)

    with pytest.raises(Frozen, match="frozen by alice"):
        await freeze_watch.act("create_vm")
    assert bus.unreadable.count >= FLOOD
    assert (await _change(bus, "thaw")).done
    await freeze_watch.act("create_vm")


async def test_a_freeze_that_ends_by_itself_ends(bus: Bus, forger: Forger) -> None:
    """A freeze with a time ends though answers were written over it, and does not come back."""
    await _change(bus, "freeze", seconds=1.0)
    await forger.acknowledge(FREEZE, 3)
    assert await freeze.read(bus) is not None
    await asyncio.sleep(2.5)

    assert await freeze.read(bus) is None


@pytest.mark.parametrize("subject", [FREEZE, subjects.event("victim"), subjects.effect(SERVICE, "w.t")])
async def test_no_copy_of_readable_streams(bus: Bus, forger: Forger, subject: str) -> None:
    """A direct get copies no message of the streams that principals read, so neither headers nor states travel.

    The copy of a state that is over would roll up the victim's subject; that of a deleted key would delete another.
    """
    await _change(bus, "freeze")
    for stored in (subjects.event("victim"), subjects.effect(SERVICE, "w.t")):
        await bus.store(stored, b"mine")
    await bus.store(subjects.event("over"), b"{}", headers={"Nats-Rollup": "sub"})
    await bus.kv_put(subjects.LIVE, "gone", b"{}")
    await bus.kv_delete(subjects.LIVE, "gone")
    before = [stored.seq for stored in await bus.every(_stream(subject), subject)]
    for stream, name in ((subjects.WORKFLOWS, subjects.event("over")), ("KV_live", _key(subjects.LIVE, "gone"))):
        for body in ({"last_by_subj": name}, {"multi_last": [name]}, {"seq": 1, "next_by_subj": name, "batch": 1}):
            await forger.api(f"DIRECT.GET.{stream}", body, subject)
        await forger.api(f"DIRECT.GET.{stream}.{name}", {}, subject)

    assert [stored.seq for stored in await bus.every(_stream(subject), subject)] == before
    assert await freeze.read(bus) is not None


def _stream(subject: str) -> str:
    first = subject.split(".")[1]
    named = {"workflows": subjects.WORKFLOWS, "effects": subjects.EFFECTS}
    return named.get(first, f"KV_{first}")


async def test_the_budget_is_neither_reset_nor_used_up(bus: Bus, forger: Forger) -> None:
    """Answers over places of the budget free none and take none."""
    await budget.take_slot(bus, "w.a", 2)
    for place in ("0", "1"):
        await forger.acknowledge(_key(subjects.BUDGET, place), FLOOD)
    await budget.take_slot(bus, "w.a", 2)  # the same act again
    await budget.take_slot(bus, "w.b", 2)

    with pytest.raises(Denied):
        await budget.take_slot(bus, "w.c", 2)


async def test_no_other_key_signs_a_chain(bus: Bus, forger: Forger) -> None:
    """The pinned keys of an agent are the last readable ones; its own key stays pinned, another one alarms."""
    line: dict[str, Any] = {
        "principal": "t",
        "tool": "create_vm",
        "tier": Tier.OPERATE,
        "phase": "before",
        "key": "w.t",
    }
    signer, other = await asyncio.to_thread(Signer.new), await asyncio.to_thread(Signer.new)
    await AuditLog(bus, "a", signer=signer).write(**line)
    for key in (subjects.audit_key("a"), subjects.audit_head("a")):
        await forger.acknowledge(_key(subjects.CHAINS, key), FLOOD)
    same, other_log = AuditLog(bus, "a", signer=signer), AuditLog(bus, "a", signer=other)
    await same.open()
    await other_log.open()
    pinned = await bus.kv_read(subjects.CHAINS, subjects.audit_key("a"), AuditKeys)

    assert same.alarm == ""
    assert "is not the pinned one" in other_log.alarm
    assert [key.public for key in pinned.value.keys] == [signer.public]  # type: ignore[union-attr]


async def test_keys_that_were_not_pinned_yet(bus: Bus, forger: Forger) -> None:
    """An answer where the keys of an agent will be pinned keeps it from nothing."""
    await forger.acknowledge(_key(subjects.CHAINS, subjects.audit_key("a")), FLOOD)
    audit_log = AuditLog(bus, "a", signer=await asyncio.to_thread(Signer.new))
    await audit_log.open()
    pinned = await bus.kv_read(subjects.CHAINS, subjects.audit_key("a"), AuditKeys)

    assert audit_log.alarm == ""
    assert pinned.value is not None


async def test_agents_alerts_and_runs_stay_listed(bus: Bus, forger: Forger) -> None:
    """Agents, alerts, runs of schedules and stored results are the last readable ones."""
    at = the_time()
    alert = Alert(alert_type="high_cpu", message="m", timestamp=at, source="s", labels={"node": "n"})
    run = ScheduleRun("cron-x-1", begun=at, fired=at)
    large = {"text": "x" * 20_000}
    reference = await large_results.store_if_large(bus, large, "w.t")
    await bus.kv_put(subjects.LIVE, "a", WE, ttl=60)
    await bus.kv_put(subjects.ALERTS, "a", alert)
    await bus.kv_put(subjects.CONF, "schedule.x", run)
    for bucket, key in (
        ("live", "a"),
        ("alerts", "a"),
        ("conf", "schedule.x"),
        ("results", reference["$stored"]),
        ("live", "b"),
    ):
        await forger.acknowledge(_key(bucket, key), FLOOD)

    assert [presence.agent.agent_id for presence in await queries.presences(bus)] == [WE.agent.agent_id]
    assert await queries.alerts(bus) == [alert]
    assert (await bus.kv_read(subjects.CONF, "schedule.x", ScheduleRun)).value == run
    assert await large_results.resolve_references(bus, reference) == large
    assert await schedules(bus, {}) == []


async def test_another_value_is_no_result(bus: Bus) -> None:
    """A stored result of another size than its reference says is an error that names it, not a result."""
    reference = await large_results.store_if_large(bus, {"text": "x" * 20_000}, "w.t")
    await bus.store(_key(subjects.RESULTS, reference["$stored"]), b'{"text": "forged"}', headers={"Nats-Rollup": "sub"})
    with pytest.raises(InvalidMessage, match=r"results/.*w\.t cannot be read"):
        await large_results.resolve_references(bus, reference)


async def test_a_workflow_outlives_any_number(quiet_net: Net, bus: Bus, forger: Forger) -> None:
    """A workflow goes on from its last state, however many answers were written over its state, tasks and answer."""
    agent = Agent(bus)
    agent.hold |= {"a"}
    for subject in (subjects.response("w1"), *(subjects.timer("w1", "_", str(number)) for number in range(3))):
        await forger.acknowledge(subject, 2)
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a")], 1), agent.working():
        await requests.submit(bus, "tester", WorkflowRequest("test", "w1"))
        await eventually(lambda: queries.state(bus, "w1"), "w1 is there")
        await forger.acknowledge(subjects.assign(QUEUE, "w1", "b", 1), 2)
        await forger.acknowledge(subjects.event("w1"), FLOOD)
        shown = [state.workflow_id for state in await queries.states(bus)]
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a")], 1), agent.working():
        agent.release.set()
        answer = await queries.follow(bus, "w1", lambda _: None, wait=45)

    assert shown == ["w1"]
    assert answer.status == "completed"
    assert (await queries.answer_of(bus, "w1")) is not None


async def test_an_agent_keeps_its_lease(bus: Bus, forger: Forger) -> None:
    """An answer over the lease of an agent neither ends it nor lets another process take the id."""
    mine = Lease(bus, WE.agent.agent_id, Lines(), "boot/ns/1/1/a")  # type: ignore[arg-type]
    await mine.take(WE, asyncio.Event())
    await forger.acknowledge(_key(subjects.LIVE, WE.agent.agent_id), FLOOD)
    newest = await bus.kv_read(subjects.LIVE, WE.agent.agent_id, Presence)
    await mine.renew(WE)

    assert newest.value is not None
    assert newest.value.process == "boot/ns/1/1/a"
    assert not mine.lost.is_set()
    assert the_time() - (await bus.kv_read(subjects.LIVE, WE.agent.agent_id, Presence)).time < timedelta(seconds=30)  # type: ignore[operator]


async def test_a_dead_letter_is_kept_and_replayed_once(bus: Bus, forger: Forger) -> None:
    """An answer where a letter will be keeps no letter out; answers over its mark do not open it again."""
    letter = DeadLetter(subjects.INPUT, 7, subjects.signal("rita", "nothing"), "because", "a", the_time())
    await forger.acknowledge(subjects.dead("given-up", "orch", f"7-{round(letter.stored.timestamp() * 1000)}"), 2)
    for _ in range(2):
        await dead_letters.store_dead_letter(bus, dead_letters.GIVEN_UP, "orch", letter, b"{}")
    (kept,) = [item for item in await dead_letters.letters(bus) if item.reason == "because"]
    await dead_letters.close(bus, kept, "alice")
    await forger.acknowledge(subjects.dead_mark(kept.number), FLOOD)
    (after,) = [item for item in await dead_letters.letters(bus) if item.reason == "because"]

    assert not after.open
    with pytest.raises(PermanentError, match="was closed by alice"):
        await dead_letters.close(bus, after, "bob")


async def test_a_timer_is_put_back_though_the_stream_is_late(bus: Bus, forger: Forger) -> None:
    """The message that ends a timer can be received before the stream holds it; the timer is put back all the same."""
    subject, silent = subjects.timer("w1", "a", "1"), SimpleNamespace(bus=bus, log=Lines())
    at = the_time() + timedelta(hours=1)
    schedule = {SCHEDULE: f"@at {at.strftime('%Y-%m-%dT%H:%M:%SZ')}", SCHEDULE_TARGET: subjects.due("w1", "a", "1")}
    first = await bus.store(subject, b"{}", headers=schedule)
    timers = TimerRestorer(silent)  # type: ignore[arg-type]
    await timers._on_message(Received(subject, b"", "", bus))  # noqa: SLF001 - as the subscription calls it
    await asyncio.sleep(0.1)  # the first check has found nothing
    await forger.acknowledge(subject)

    async def put_back() -> bool:
        last = (await bus.every(subjects.WORKFLOWS, subject))[-1]
        return SCHEDULE in last.headers and last.seq > first

    await eventually(put_back, "the timer is there again", 10)


async def _overwrite_timers(bus: Bus, forger: Forger) -> list[str]:
    async def timers() -> list[str]:
        return [message.subject for message in await bus.last_many(subjects.WORKFLOWS, subjects.ALL_TIMERS)]

    found = await eventually(timers, "the workflow has a timer")
    for subject in found:
        await forger.acknowledge(subject, 2)
    return found


@pytest.mark.parametrize("away", [False, True])
async def test_timers_are_put_back(quiet_net: Net, bus: Bus, forger: Forger, *, away: bool) -> None:
    """A time-out comes though answers were written over its timer, with an orchestrator there or without."""
    agent, plan = Agent(bus), [task("a", timeout=4.0, retries=0)]
    agent.hold |= {"a"}
    async with agent.working():
        async with orchestrators(quiet_net, lambda _: plan):
            await requests.submit(bus, "tester", WorkflowRequest("test", "w1", timeout=60.0))
            await eventually(lambda: queries.state(bus, "w1"), "w1 is there")
            if not away:
                await _overwrite_timers(bus, forger)
                await queries.follow(bus, "w1", lambda _: None, wait=40)
        if away:
            await _overwrite_timers(bus, forger)
        async with orchestrators(quiet_net, lambda _: plan):
            answer = await queries.follow(bus, "w1", lambda _: None, wait=40)

    assert answer.status == "failed"
    assert "deadline" in str(answer.error) or "within" in str(answer.error)
