"""Dead letters: what cannot be handled is kept whole, can be seen, replayed once and closed, and stops no others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from agentd.bus.delivery import consumer, dead_letters
from agentd.bus.delivery.consumer import Consumer
from agentd.bus.setup.provision import provision
from agentd.errors import BusError, GiveUp, NotFound, PermanentError
from agentd.wire import subjects
from agentd.wire.messages import TaskError
from agentd.wire.records import DeadLetter
from core.jetstream import Lines, Seen, all_acked, connected
from core.probe import SERVICE, Probe, a_worker, assign, completion, serving
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.delivery.job import Handle, Job
    from agentd.bus.jetstream import Bus
    from harness import NatsServer


@contextlib.asynccontextmanager
async def taking(bus: Bus, handle: Handle, log: Lines | None = None) -> AsyncIterator[Consumer]:
    """Take AI_INPUT as an orchestrator does."""
    lines: object = log or Lines()
    loop = Consumer(bus, subjects.INPUT, subjects.ORCH_INPUT, handle, slots=16, log=lines, journal=None)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(loop.run(stopping, drain=1))
    try:
        yield loop
    finally:
        stopping.set()
        await running


async def refuse(job: Job) -> None:
    """Refuse what is poisoned."""
    if job.data.startswith(b"poison"):
        raise GiveUp(f"not JSON: {job.data[:20].decode(errors='replace')}")


async def letters(bus: Bus, count: int) -> list[dead_letters.Letter]:
    """Wait for so many letters."""

    async def there() -> list[dead_letters.Letter] | None:
        found = await dead_letters.letters(bus)
        return found if len(found) >= count else None

    return await eventually(there, f"{count} letters", 60) or []  # a megabyte, on a busy machine


async def handled(bus: Bus) -> None:
    """Wait until the inputs are."""
    await all_acked(bus, subjects.INPUT, subjects.ORCH_INPUT)


async def test_a_poisoned_message_among_others(bus: Bus) -> None:
    """A poisoned message among good ones stops none of them, and is kept with where, why, by whom and its body."""
    seen = Seen()

    async def handle(job: Job) -> None:
        await refuse(job)
        await seen(job)

    subject = subjects.complete("mcp-bridge-pve1", "w1", "t")
    for number in range(100):
        data = b"poison \xff" if number == 50 else b"%d" % number
        await bus.store(subject, data, headers={"X-From": "me", "Nats-Msg-Id": f"n{number}"})
    with pytest.raises(BusError):
        await bus.store(subjects.dead("given-up", "orch", "x"), b"", headers={"Nats-Rollup": "all"})
    async with taking(bus, handle):
        await handled(bus)
    (letter,) = await letters(bus, 1)
    body = await dead_letters.read_body(bus, letter)

    assert sorted(map(int, seen.bodies)) == [number for number in range(100) if number != 50]
    assert (letter.stream, letter.subject, letter.sequence) == (subjects.INPUT, subject, 51)
    assert letter.reason == "not JSON: poison \ufffd"
    assert (letter.agent_id, letter.size, letter.state) == ("tester", 8, "open")
    assert body.data == b"poison \xff"
    assert body.text is None
    assert body.headers == {"X-From": "me", "Nats-Msg-Id": "n50"}


async def test_a_replay_is_delivered_once(bus: Bus) -> None:
    """What is replayed is handled as if it had just come; a second replay is refused with who did the first."""
    await bus.store(subjects.complete("a", "w", "t"), b"poison", headers={"X-From": "me"})
    async with taking(bus, refuse):
        await handled(bus)
    (letter,) = await letters(bus, 1)
    tries = await asyncio.gather(
        *(dead_letters.replay(bus, letter, name) for name in ("alice", "bob")), return_exceptions=True
    )
    seen = Seen()
    async with taking(bus, seen):
        await handled(bus)
    (after,) = await dead_letters.letters(bus)

    assert sorted(type(attempt).__name__ for attempt in tries) == ["PermanentError", "int"]
    assert [job.data for job in seen.jobs] == [b"poison"]
    assert seen.jobs[0].subject == letter.subject
    assert seen.jobs[0].headers == {"X-From": "me", "Agentd-Replay": str(letter.number)}
    assert (after.state, after.replayed_as) == ("replayed", seen.jobs[0].sequence)
    assert not after.open
    with pytest.raises(PermanentError, match=f"letter {letter.number} was replayed by (alice|bob) at "):
        await dead_letters.replay(bus, letter, "carol")
    with pytest.raises(PermanentError, match="was replayed by"):
        await dead_letters.close(bus, letter, "carol")


async def test_headers_of_a_dead_letter_have_no_effect(bus: Bus) -> None:
    """Headers that the server obeys are shown, and obeyed neither where a message is kept nor where it is replayed."""
    expected = {"Nats-Expected-Stream": subjects.INPUT, "Nats-Expected-Last-Sequence": "0", "X-From": "me"}
    await bus.store(subjects.complete("a", "w", "t"), b"poison", headers=expected)
    async with taking(bus, refuse):
        await handled(bus)
    (letter,) = await letters(bus, 1)
    await dead_letters.replay(bus, letter, "alice")
    again = await bus.last(subjects.INPUT, letter.subject)

    assert (await dead_letters.read_body(bus, letter)).headers == expected
    assert again is not None
    assert again.headers == {"X-From": "me", "Agentd-Replay": str(letter.number)}


async def test_a_failed_replay_is_a_new_dead_letter(bus: Bus) -> None:
    """A replay that cannot be handled either is a letter that names the first, and nothing goes round in circles."""
    await bus.store(subjects.complete("a", "w", "t"), b"poison")
    async with taking(bus, refuse):
        (first,) = await letters(bus, 1)
        await dead_letters.replay(bus, first, "alice")
        _, second = await letters(bus, 2)
        await handled(bus)
        found = await dead_letters.letters(bus)

    assert second.replay_of == first.number
    assert [item.state for item in found] == ["replayed", "open"]


async def test_a_closed_letter(bus: Bus) -> None:
    """A letter that is closed no longer counts, can still be read, and is not replayed by mistake."""
    await bus.store(subjects.complete("a", "w", "t"), b"poison")
    async with taking(bus, refuse):
        (letter,) = await letters(bus, 1)
    before = await dead_letters.count_open(bus)
    await dead_letters.close(bus, letter, "alice")
    after = await dead_letters.find(bus, letter.number)

    assert before == {subjects.INPUT: 1}
    assert await dead_letters.count_open(bus) == {}
    assert (after.state, after.closed_by) == ("closed", "alice")
    with pytest.raises(PermanentError, match="was closed by alice"):
        await dead_letters.replay(bus, after, "bob")
    with pytest.raises(NotFound, match="there is no dead letter 77; `agentd dead-letters list --all` lists them"):
        await dead_letters.find(bus, 77)


async def test_a_message_that_cannot_be_kept_is_not_terminated(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """While AI_DEAD takes nothing, the message comes again; once it does, the message is kept, and only then ended."""
    config = (await bus.api(f"STREAM.INFO.{subjects.DEAD}"))["config"]
    await bus.api(f"STREAM.UPDATE.{subjects.DEAD}", config | {"subjects": list(subjects.ADVISORIES)})
    monkeypatch.setattr(consumer, "MAX_PAUSE", 0.1)
    lines = Lines()
    await bus.store(subjects.complete("a", "w", "t"), b"poison")
    async with taking(bus, refuse, lines):

        async def tried() -> bool:
            return lines.events("error").count("a dead letter cannot be kept") > 1

        await eventually(tried, "the message came again")
        kept = (await bus.api(f"STREAM.INFO.{subjects.INPUT}"))["state"]["messages"]
        await bus.api(f"STREAM.UPDATE.{subjects.DEAD}", config)
        await handled(bus)
    found = await dead_letters.letters(bus)

    assert kept == 1
    assert [item.reason for item in found] == ["not JSON: poison"]


async def test_killed_between_keeping_and_ending(nats_server: NatsServer, bus: Bus) -> None:
    """A message is one dead letter although its first process was killed before it terminated it."""
    async with connected(nats_server.url, agent="other") as other:
        job = DeadLetter(subjects.INPUT, 1, "ai.tasks.complete.a.w.t", "x", "first", datetime.now(UTC))
        await dead_letters.store_dead_letter(other, dead_letters.GIVEN_UP, subjects.ORCH_INPUT, job, b"poison")
    await dead_letters.store_dead_letter(bus, dead_letters.GIVEN_UP, subjects.ORCH_INPUT, job, b"poison")

    assert [letter.agent_id for letter in await dead_letters.letters(bus)] == ["first"]


async def test_a_message_that_meets_a_bug_is_given_up(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that meets the same bug again and again ends as a letter; one that meets an outage never does."""
    monkeypatch.setattr(consumer, "MAX_PAUSE", 0.01)
    monkeypatch.setattr(consumer, "BUGS", 3)
    away = 0

    async def handle(job: Job) -> None:
        nonlocal away
        if job.data == b"bug":
            raise ZeroDivisionError("division by zero")
        if away < 6:
            away += 1
            raise BusError("stream not there")

    await bus.store(subjects.complete("a", "w", "t"), b"bug")
    await bus.store(subjects.complete("a", "w", "u"), b"outage")
    async with taking(bus, handle):
        await handled(bus)
    (letter,) = await letters(bus, 1)

    assert away == 6
    assert letter.reason == "ZeroDivisionError: division by zero (3 times)"


async def test_a_message_as_large_as_nats_takes(bus: Bus) -> None:
    """What is too large to be kept beside its reason is cut, says so, and is not replayed; nothing hangs on it."""
    size = bus.max_payload - 10
    await bus.store(subjects.complete("a", "w", "t"), b"poison" + b"x" * (size - 6))
    async with taking(bus, refuse):
        await handled(bus)
    (letter,) = await letters(bus, 1)

    assert (letter.size, letter.cut) == (size, True)
    assert size - 2000 < len((await dead_letters.read_body(bus, letter)).data) < size
    with pytest.raises(PermanentError, match=f"letter {letter.number} cannot be replayed: it was too large"):
        await dead_letters.replay(bus, letter, "alice")


async def test_only_dead_letters_of_an_orchestrator_are_published_again(bus: Bus) -> None:
    """A principal that may write letters must not get a signal published by one that may replay them."""
    stored = datetime.now(UTC)
    forged = DeadLetter(subjects.INPUT, 5, subjects.signal("alice", "w1"), "x", "worker", stored)
    event = DeadLetter(subjects.INPUT, 6, subjects.event("w1"), "x", "orchestrator", stored)
    assignment = DeadLetter(subjects.WORKFLOWS, 7, subjects.assign("specialist", "w", "t", 1), "x", "worker", stored)
    await dead_letters.store_dead_letter(bus, dead_letters.GIVEN_UP, "specialist", forged, b"{}")
    await dead_letters.store_dead_letter(bus, dead_letters.GIVEN_UP, subjects.ORCH_INPUT, event, b"{}")
    await dead_letters.store_dead_letter(bus, dead_letters.POISONED, "specialist", assignment, b"{}")
    await bus.store(subjects.dead(dead_letters.GIVEN_UP, "orch", "nonsense"), b"x", headers={dead_letters.LETTER: "{]"})
    found = await dead_letters.letters(bus)

    assert [item.fixed[:40] for item in found] == [
        "only what an orchestrator gave up is pub",
        "only what an orchestrator gave up is pub",
        "its workflow has counted that attempt as",
        "not a letter of agentd's: Agentd-Letter:",
    ]
    for item in found:
        with pytest.raises(PermanentError, match="cannot be replayed"):
            await dead_letters.replay(bus, item, "alice")


async def test_a_message_terminated_by_an_external_agent(bus: Bus) -> None:
    """A message that a plain agent terminated is found too, with the reason that it gave, and read in its stream."""
    subject = subjects.assign("specialist", "w", "t", 1)
    await bus.store(subject, b'{"task_id": "w.t"}')
    got: asyncio.Queue[object] = asyncio.Queue()
    pull = await bus.pull("plain", got.put)
    ask = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.WORKFLOWS}.specialist"
    bus.send(ask, json.dumps({"batch": 1, "expires": 5_000_000_000}).encode(), pull.inbox)
    async with asyncio.timeout(10):
        message = await got.get()
    bus.send(message.reply, b"+TERM I cannot read this")  # type: ignore[attr-defined]
    (letter,) = await letters(bus, 1)
    await pull.cut()

    assert (letter.why, letter.stream, letter.reason) == ("ended", subjects.WORKFLOWS, "I cannot read this")
    assert (await dead_letters.read_body(bus, letter)).text == '{"task_id": "w.t"}'


async def test_an_assignment_that_kills_its_agents_is_kept(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """An assignment that is delivered again and again is reported as poisoned without being run, and found later."""
    monkeypatch.setattr(consumer, "SUSPECT", 2)
    await bus.kv_put(subjects.RESULTS, f"begun.{SERVICE}.1", b"5")
    await provision(bus, [SERVICE])
    probe = Probe()
    await assign(bus, "read_it")
    pulled: asyncio.Queue[Any] = asyncio.Queue()
    pull = await bus.pull("dying", pulled.put)
    for _ in range(2):  # who takes it and dies
        ask = b'{"batch": 1, "expires": 10000000000}'
        bus.send(f"$JS.API.CONSUMER.MSG.NEXT.{subjects.WORKFLOWS}.{SERVICE}", ask, pull.inbox)
        async with asyncio.timeout(10):
            bus.send((await pulled.get()).reply, b"-NAK")
    await pull.stop()
    async with serving(a_worker(bus, probe)):
        done = await completion(bus)
    (letter,) = await dead_letters.letters(bus)

    assert probe.steps == []
    assert isinstance(done.error, TaskError)
    assert done.error.code == "poisoned"
    assert (letter.why, letter.stream, letter.consumer) == ("poisoned", subjects.WORKFLOWS, SERVICE)
    assert letter.reason == "started 5 times, never finished: the process that runs it crashes"
    assert '"task_id":"w.t"' in ((await dead_letters.read_body(bus, letter)).text or "")
