"""Effect records: which process may change things, and what was known when one was killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.bus.setup.provision import provision
from agentd.errors import BusUnavailable, Fenced, PermanentError
from agentd.tools import effects
from agentd.tools.effects import (
    CANCELLED,
    CLAIMED,
    DONE,
    FAILED,
    Claim,
    ClaimDecision,
    ClaimRequest,
    claim,
    decide,
    write_tombstone,
)
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import TaskError
from agentd.wire.records import EffectRecord
from agentd.wire.subjects import ACK_WAIT
from core.jetstream import answers, connected

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import NatsServer

WANTED = ClaimRequest("mcp-proxmox", "w.t", "create_vm", "d1", attempt=2, owner="me", takeover=False)
SUBJECT = subjects.effect("mcp-proxmox", "w.t")
RETRY = TaskError("deadline", "too late", retry=True)
FINAL = TaskError("rejected", "no")


def record(phase: str, **more: Any) -> EffectRecord:
    """Return a record of another process's, of the first attempt."""
    plain = EffectRecord("w.t", "create_vm", 3, "other", phase, now(), digest="d1")
    return msgspec.structs.replace(plain, **more)


def wanted(**more: Any) -> ClaimRequest:
    """Return what we want, changed."""
    return ClaimRequest(**{name: getattr(WANTED, name) for name in WANTED.__dataclass_fields__} | more)


@pytest.mark.parametrize(
    ("found", "want", "age", "decision"),
    [
        (None, WANTED, 0, ClaimDecision.TAKE),
        (record(CLAIMED), WANTED, 1, ClaimDecision.BUSY),
        (record(CLAIMED), WANTED, ACK_WAIT - 1, ClaimDecision.BUSY),
        (record(CLAIMED), WANTED, ACK_WAIT + 1, ClaimDecision.TAKE),
        (record(CLAIMED, owner="me"), WANTED, 1, ClaimDecision.TAKE),
        (record(CLAIMED), wanted(takeover=True), 1, ClaimDecision.TAKE),
        (record(DONE), WANTED, 1, ClaimDecision.DONE),
        (record(DONE), wanted(takeover=True), 9999, ClaimDecision.DONE),
        (record(DONE, digest="d2"), WANTED, 1, ClaimDecision.CONFLICT),
        (record(DONE, digest="d2"), wanted(takeover=True), 1, ClaimDecision.CONFLICT),
        (record(CANCELLED), WANTED, 9999, ClaimDecision.CANCELLED),
        (record(CANCELLED, digest=""), wanted(takeover=True), 1, ClaimDecision.CANCELLED),
        (record(FAILED, attempt=1), WANTED, 1, ClaimDecision.TAKE),
        (record(FAILED, attempt=1, digest="d2"), WANTED, 1, ClaimDecision.TAKE),
        (record(FAILED, attempt=2), WANTED, 1, ClaimDecision.DONE),
        (record(FAILED, attempt=2), wanted(takeover=True), 9999, ClaimDecision.DONE),
        (record(FAILED, attempt=3), WANTED, 1, ClaimDecision.DONE),
        (record(FAILED, attempt=2, digest="d2"), WANTED, 1, ClaimDecision.CONFLICT),
    ],
)
def test_judge(found: EffectRecord | None, want: ClaimRequest, age: float, decision: ClaimDecision) -> None:
    """Each state of a record means one thing for each process that wants the effect."""
    assert decide(found, want, age=age) is decision


async def take(bus: Bus, **more: Any) -> Claim:
    """Claim, and demand that it is ours."""
    found = await claim(bus, wanted(**more), now())
    assert isinstance(found, Claim), found
    return found


async def refused(bus: Bus, **more: Any) -> EffectRecord:
    """Claim, and demand that it is not ours; return the record that is in the way."""
    found = await claim(bus, wanted(**more), now())
    assert isinstance(found, EffectRecord)
    return found


async def stored(bus: Bus) -> EffectRecord:
    """Return the record as it is stored."""
    found = await bus.last(subjects.EFFECTS, SUBJECT)
    assert found is not None
    return found.decode(EffectRecord)


async def test_take_and_settle(bus: Bus) -> None:
    """A free effect is claimed, its UPID and its result are written down, and it is not done again."""
    mine = await take(bus)
    assert (mine.record.epoch, mine.record.phase, mine.fresh, mine.resumed) == (1, CLAIMED, True, False)
    await mine.settle(upid="UPID:x")
    await mine.settle(phase=DONE, result={"vmid": 104})

    again = await refused(bus, owner="other", attempt=3, takeover=True)
    assert (again.phase, again.result, again.upid, again.epoch) == (DONE, {"vmid": 104}, "UPID:x", 1)
    assert await stored(bus) == again


async def test_of_many_one(bus: Bus) -> None:
    """Of twenty that want the same effect at once, one gets it."""
    found = await asyncio.gather(*(claim(bus, wanted(owner=f"w{number}"), now()) for number in range(20)))

    claims = [item for item in found if isinstance(item, Claim)]
    assert len(claims) == 1
    assert {item.owner for item in found if isinstance(item, EffectRecord)} == {claims[0].record.owner}


async def test_busy(bus: Bus) -> None:
    """An effect in another live process's hands is left to it; a renewal keeps it so."""
    mine = await take(bus)
    assert (await refused(bus, owner="other")).owner == "me"
    before = await bus.last(subjects.EFFECTS, SUBJECT)
    await mine.renew()
    after = await bus.last(subjects.EFFECTS, SUBJECT)

    assert before is not None
    assert after is not None
    assert after.seq > before.seq
    assert after.time > before.time
    assert after.data == before.data


async def test_takeover_fences(bus: Bus) -> None:
    """A process that takes over knows the UPID; the former owner can never write again."""
    old = await take(bus)
    await old.settle(upid="UPID:x", acting=True)
    new = await take(bus, owner="other", takeover=True)

    assert (new.record.epoch, new.record.upid, new.record.acting, new.resumed) == (2, "UPID:x", True, True)
    with pytest.raises(Fenced, match="held by other"):
        await old.renew()
    with pytest.raises(Fenced):
        await old.settle(phase=DONE, result=1)
    await new.settle(phase=DONE, result=2)
    assert (await stored(bus)).result == 2


async def test_the_same_owner_is_fenced_too(bus: Bus) -> None:
    """A process that claims again fences its own earlier claim: the epoch counts, not the name."""
    old = await take(bus)
    new = await take(bus)

    with pytest.raises(Fenced):
        await old.renew()
    await new.renew()
    assert new.record.epoch == 2


async def test_conflict(bus: Bus) -> None:
    """A key that was used with other parameters is refused for good, with what to do."""
    mine = await take(bus)
    await mine.settle(phase=DONE)

    with pytest.raises(PermanentError, match="use another key"):
        await take(bus, digest="d2")


@pytest.mark.parametrize(
    ("error", "upid", "acting"), [(RETRY, "UPID:x", True), (FINAL, "", False)], ids=["may pass", "final"]
)
async def test_failed(bus: Bus, error: TaskError, upid: str, acting: bool) -> None:  # noqa: FBT001
    """A failure is its own attempt's answer; the next attempt starts again, but knows what may still run."""
    mine = await take(bus)
    await mine.settle(upid="UPID:x", acting=True, phase=FAILED, error=error)

    assert (await refused(bus, owner="other", takeover=True)).error == error
    again = await take(bus, owner="other", attempt=3)
    assert (again.record.epoch, again.record.attempt, again.record.error) == (2, 3, None)
    assert (again.record.upid, again.record.acting) == (upid, acting)


async def test_tombstone(bus: Bus) -> None:
    """What was cancelled before it began is never started; what has begun cannot be entombed."""
    assert await write_tombstone(bus, "mcp-proxmox", "w.t", "orchestrator", now())
    assert (await refused(bus, takeover=True)).phase == CANCELLED

    other = wanted(key="w.u")
    assert isinstance(await claim(bus, other, now()), Claim)
    assert not await write_tombstone(bus, "mcp-proxmox", "w.u", "orchestrator", now())


async def test_freshness(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim is fresh while no other process can have taken it as abandoned; a write makes it fresh again."""
    monkeypatch.setattr(effects, "ACK_WAIT", 1.0)
    mine = await take(bus)
    fresh = [mine.fresh]
    await asyncio.sleep(0.6)
    fresh.append(mine.fresh)
    await mine.renew()

    assert [*fresh, mine.fresh] == [True, False, True]


async def test_stored_though_timed_out(nats_server: NatsServer) -> None:
    """A write with a lost answer is recognised as our own: the next one continues from it, and is not fenced."""
    async with connected(nats_server.url, timeout=0.5) as bus:
        await provision(bus)
        mine = await take(bus)
        nats_server.pause()
        with pytest.raises(BusUnavailable):
            await mine.write(upid="UPID:x")
        with pytest.raises(BusUnavailable):
            await mine.write(upid="UPID:x")
        nats_server.resume()
        await answers(bus)
        await mine.settle(upid="UPID:x", phase=DONE)
        found = await stored(bus)

    assert (found.phase, found.upid, found.epoch) == (DONE, "UPID:x", 1)


async def test_own_writes_between(bus: Bus) -> None:
    """However many writes of ours come to light one after the other, the last one is written."""
    mine = await take(bus)
    late = 3

    async def store(subject: str, message: EffectRecord, *, expect: int) -> int:
        nonlocal late
        if late:  # another answer that was lost: its write is stored just before ours
            late -= 1
            await real(subject, msgspec.structs.replace(message, upid=f"late{late}"))
        return await real(subject, message, expect=expect)

    real = bus.store
    bus.store = store  # type: ignore[method-assign, assignment]
    await mine.write(upid="UPID:x")
    bus.store = real  # type: ignore[method-assign]

    assert (await stored(bus)).upid == "UPID:x"


async def test_settle_waits_for_nats(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must not be lost is written as soon as NATS is back, however long that takes."""
    async with connected(nats_server.url, timeout=0.5) as bus:
        await provision(bus)
        mine = await take(bus)
        real, tried = bus.store, asyncio.Event()

        async def store(subject: str, message: Any, **more: Any) -> int:
            try:
                return await real(subject, message, **more)
            except BusUnavailable:
                tried.set()
                raise

        monkeypatch.setattr(bus, "store", store)
        nats_server.kill()
        settling = asyncio.create_task(mine.settle(phase=DONE, result=7))
        await tried.wait()
        assert not settling.done()
        nats_server.start()
        async with asyncio.timeout(15):
            await settling

        assert (await stored(bus)).result == 7
