"""The audit log: an agent's audit chain as AI_AUDIT keeps it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.bus.setup.provision import provision
from agentd.errors import BusUnavailable
from agentd.safety.audit_log import AuditLog
from agentd.safety.signing import Signer
from agentd.wire import subjects
from agentd.wire.messages import Tier
from agentd.wire.records import AuditRecord
from core.chains import verify
from core.jetstream import answers, connected

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import NatsServer

LINE: dict[str, Any] = {"principal": "tester", "tool": "create_vm", "tier": Tier.OPERATE, "phase": "before"}


async def chain(bus: Bus, agent: str = "a") -> list[AuditRecord]:
    """Return the chain as it is stored."""
    return [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit(agent))]


async def test_lines_form_a_chain(bus: Bus) -> None:
    """Lines written at once are one unbroken chain, and none is lost."""
    audit_log = AuditLog(bus, "a")
    await asyncio.gather(*(audit_log.write(**LINE, key=f"w.t{number}") for number in range(50)))

    found = await chain(bus)
    assert [item.seq for item in found] == list(range(1, 51))
    assert {item.key for item in found} == {f"w.t{number}" for number in range(50)}
    assert verify(found) is None


async def test_every_agent_has_its_own_chain(bus: Bus) -> None:
    """Agents do not disturb each other: each has a chain of its own."""
    one, two = AuditLog(bus, "one"), AuditLog(bus, "two")
    await asyncio.gather(*(item.write(**LINE, key="k") for item in (one, two, one, two)))

    assert [record.seq for record in await chain(bus, "one")] == [1, 2]
    assert [record.seq for record in await chain(bus, "two")] == [1, 2]


async def test_a_new_process_continues_the_chain(bus: Bus) -> None:
    """After a restart the chain goes on unbroken, with the same key."""
    signer = await asyncio.to_thread(Signer.new)
    for key in "123":
        audit_log = AuditLog(bus, "a", signer=signer)
        await audit_log.write(**LINE, key=key)
        assert not audit_log.alarm

    found = await chain(bus)
    assert [item.key for item in found] == ["1", "2", "3"]
    assert verify(found) is None


async def test_a_line_that_timed_out_and_was_stored(nats_server: NatsServer) -> None:
    """A write whose answer was lost does not break the chain: the next line follows what is stored."""
    async with connected(nats_server.url, timeout=0.5) as bus:
        await provision(bus)
        audit_log = AuditLog(bus, "a")
        await audit_log.write(**LINE, key="1")
        nats_server.pause()
        with pytest.raises(BusUnavailable):
            await audit_log.write(**LINE, key="2")
        nats_server.resume()
        await answers(bus)
        await audit_log.write(**LINE, key="3")
        found = await chain(bus)

    assert [item.key for item in found] == ["1", "2", "3"]
    assert verify(found) is None


async def test_a_change_is_found(bus: Bus) -> None:
    """A line that was changed, or left out, is found by reading the chain."""
    audit_log = AuditLog(bus, "a")
    for key in "123":
        await audit_log.write(**LINE, key=key)
    found = await chain(bus)
    changed = [found[0], msgspec.structs.replace(found[1], principal="none"), found[2]]

    assert verify(found) is None
    problem = verify(changed)
    assert problem is not None
    assert problem.seq == 2
    assert verify([found[0], found[2]]) is not None


async def test_secrets_are_not_written(bus: Bus) -> None:
    """A password among the arguments is neither in the line nor anywhere else in the stream."""
    await AuditLog(bus, "a").write(**LINE, key="k", arguments={"name": "web1", "cipassword": "hunter2"})
    (stored,) = await bus.every(subjects.AUDIT, subjects.audit("a"))

    assert b"hunter2" not in stored.data
    assert stored.decode(AuditRecord).arguments["name"] == "web1"
