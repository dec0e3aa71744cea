"""A publisher names where the server writes its acknowledgement; wherever that is, nothing is lost or believed.

The server writes `{"stream": …, "seq": …}` to the reply subject of a message that a stream stores, and the answer to a
request of its API likewise, without asking what the publisher may publish: so a principal of tier read can put such a
message into any stream.  Measured with nats-server 2.15.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import nats
import pytest
import pytest_asyncio

from agentd.safety.audit_log import AuditLog
from agentd.safety.signing import Signer
from agentd.wire import subjects
from agentd.wire.messages import Outcome, Tier
from agentd.wire.records import AuditRecord
from core.probe import SERVICE, Probe, a_worker, assign, completion, serving
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer

Acknowledge = Callable[[str], Awaitable[None]]
LINE: dict[str, Any] = {"principal": "tester", "tool": "create_vm", "tier": Tier.OPERATE, "phase": "before"}


@pytest_asyncio.fixture
async def acknowledge(nats_server: NatsServer, probing: Bus) -> AsyncIterator[Acknowledge]:
    """Have the server write an acknowledgement of something else to a subject."""
    del probing  # it makes the streams
    client = await nats.connect(nats_server.url)

    async def write(reply: str) -> None:
        await client.publish(subjects.signal("rita", "nothing"), b"{}", reply=reply)
        await client.flush()

    yield write
    await client.close()


async def _stored(bus: Bus, stream: str, subject: str, number: int) -> None:
    async def there() -> bool:
        return len(await bus.every(stream, subject)) >= number

    await eventually(there, f"{number} messages at {subject}")


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_chain_continues(probing: Bus, acknowledge: Acknowledge, *, restarted: bool) -> None:
    """An acknowledgement among the lines of a chain raises no alarm, at once or after a restart; the chain goes on."""
    signer = await asyncio.to_thread(Signer.new)
    audit_log = AuditLog(probing, "a", signer=signer)
    for number in range(3):
        await audit_log.write(**LINE, key=f"w.t{number}")
        for _ in range(2):
            await acknowledge(subjects.audit("a"))
        await _stored(probing, subjects.AUDIT, subjects.audit("a"), 3 * (number + 1))
        if restarted:
            audit_log = AuditLog(probing, "a", signer=signer)
        await audit_log.check_head()
    await audit_log.write(**LINE, key="w.last")
    lines = probing.readable(await probing.every(subjects.AUDIT, subjects.audit("a")), AuditRecord)

    assert audit_log.alarm == ""
    assert [line.seq for line in lines] == [1, 2, 3, 4]
    assert [line.previous for line in lines[1:]] == [line.hash for line in lines[:-1]]


async def test_a_chain_without_a_line(probing: Bus, acknowledge: Acknowledge) -> None:
    """An acknowledgement before the first line is no line: the chain begins with 1."""
    await acknowledge(subjects.audit("a"))
    await _stored(probing, subjects.AUDIT, subjects.audit("a"), 1)
    audit_log = AuditLog(probing, "a", signer=await asyncio.to_thread(Signer.new))
    await audit_log.write(**LINE, key="w.t")

    assert audit_log.alarm == ""
    assert probing.readable(await probing.every(subjects.AUDIT, subjects.audit("a")), AuditRecord)[0].seq == 1


async def test_a_task_is_not_reported_as_failed(probing: Bus, acknowledge: Acknowledge, probe: Probe) -> None:
    """An acknowledgement among the assignments of a task reports nothing: the task's own result is its only one."""
    await acknowledge(subjects.assign(SERVICE, "w", "t", 1))
    await _stored(probing, subjects.WORKFLOWS, "ai.tasks.assign.>", 1)
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked", {"text": "x"}, task="t")
        done = await completion(probing)

    assert done.status == Outcome.COMPLETED
    assert len(await probing.every(subjects.INPUT, "ai.tasks.complete.>")) == 1


async def test_an_effect_happens_once(probing: Bus, acknowledge: Acknowledge, probe: Probe) -> None:
    """An acknowledgement over the record of an effect hides nothing: a redelivery finds what was done."""
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked", {"text": "x"})
        first = await completion(probing)
        subject = subjects.effect(SERVICE, "w.t")
        stored = len(await probing.every(subjects.EFFECTS, subject))
        for _ in range(2):
            await acknowledge(subject)
        await _stored(probing, subjects.EFFECTS, subject, stored + 2)
        await assign(probing, "marked", {"text": "x"}, attempt=2)
        second = await completion(probing, number=2)

    assert first.status == second.status == Outcome.COMPLETED
    assert probe.acts == 1


async def test_an_effect_that_has_not_started(probing: Bus, acknowledge: Acknowledge, probe: Probe) -> None:
    """An acknowledgement where the record of an effect will be does not prevent it: it is done, once."""
    await acknowledge(subjects.effect(SERVICE, "w.t"))
    await _stored(probing, subjects.EFFECTS, subjects.effect(SERVICE, "w.t"), 1)
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked", {"text": "x"})
        first = await completion(probing)
        await assign(probing, "marked", {"text": "x"}, attempt=2)
        await completion(probing, number=2)

    assert first.status == Outcome.COMPLETED
    assert probe.acts == 1


async def test_an_effect_without_a_readable_record(probing: Bus, acknowledge: Acknowledge, probe: Probe) -> None:
    """Where there is a record and none can be read, nothing is done: the error says so."""
    await probing.store(subjects.effect(SERVICE, "w.t"), b'{"phase": "of a later version"}')
    await acknowledge(subjects.effect(SERVICE, "w.t"))
    await _stored(probing, subjects.EFFECTS, subjects.effect(SERVICE, "w.t"), 2)
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked", {"text": "x"})
        done = await completion(probing)

    assert done.status == Outcome.FAILED
    assert "can be read: what was done is not known" in done.error.message  # type: ignore[union-attr]
    assert probe.acts == 0
