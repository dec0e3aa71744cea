"""Backup and restore: every message keeps its sequence, every consumer what it has delivered."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from agentd.bus.setup import snapshots
from agentd.bus.setup.provision import provision
from agentd.errors import BusError, UsageError
from agentd.wire import subjects
from core.jetstream import consumer_info

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Delivery

EVENT = subjects.event("w1")
LARGE = os.urandom(400_000)
"""More than one message of a snapshot."""


async def saved(bus: Bus, directory: Path) -> None:
    """Store something in streams and buckets, take one message, and save all."""
    for number in range(3):
        await bus.store(EVENT, str(number).encode() + LARGE)
    for name in ("a", "b"):
        await bus.store(subjects.complete("specialist-pve1", name, "t"), b"{}")
    given: asyncio.Queue[Delivery] = asyncio.Queue()
    inbox = await bus.pull("taken", given.put)
    bus.send(f"$JS.API.CONSUMER.MSG.NEXT.{subjects.INPUT}.{subjects.ORCH_INPUT}", reply=inbox.inbox)
    await bus.ask((await given.get()).reply, b"+ACK")
    await inbox.cut()
    await bus.kv_put(subjects.CONF, "probe", b"{}")
    for stream in snapshots.STREAMS:
        await snapshots.save(bus, stream, directory)


async def test_everything_comes_back(bus: Bus, tmp_path: Path) -> None:
    """Of a lost cluster all is restored: messages, sequences, buckets and what was acknowledged."""
    await saved(bus, tmp_path)
    before = [stored.seq for stored in await bus.every(subjects.WORKFLOWS, EVENT)]
    for stream in snapshots.STREAMS:
        await bus.api(f"STREAM.DELETE.{stream}")
    assert await snapshots.in_use(bus) == ""
    for stream in snapshots.STREAMS:
        await snapshots.restore(bus, stream, tmp_path)
    events = await bus.every(subjects.WORKFLOWS, EVENT)

    assert [stored.seq for stored in events] == before
    assert [stored.data[:1] for stored in events] == [b"0", b"1", b"2"]
    assert (await consumer_info(bus, subjects.INPUT, subjects.ORCH_INPUT))["num_pending"] == 1
    assert (await bus.api(f"STREAM.INFO.KV_{subjects.CONF}"))["state"]["messages"] == 1
    assert await provision(bus) == []
    assert await snapshots.in_use(bus) == subjects.INPUT


async def test_a_backup_that_is_not_complete(bus: Bus, tmp_path: Path) -> None:
    """A file that is missing or cut is an error, and no stream is created from it."""
    await saved(bus, tmp_path)
    file = tmp_path / f"{subjects.WORKFLOWS}.snapshot"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BusError, match="AI_WORKFLOWS cannot be restored"):
        await snapshots.restore(bus, subjects.WORKFLOWS, tmp_path)
    (tmp_path / f"{subjects.INPUT}.json").unlink()
    with pytest.raises(UsageError, match=r"is no complete backup: AI_INPUT\.json"):
        await snapshots.restore(bus, subjects.INPUT, tmp_path)

    assert (await bus.api(f"STREAM.INFO.{subjects.INPUT}"))["state"]["messages"] == 1
