"""The journal: what a killed process had open is handed back by the next one, at once."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentd.bus.delivery.consumer import Consumer
from agentd.bus.delivery.journal import SLOT, SLOTS, Journal
from agentd.errors import ConfigError
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import TaskAssignment, TaskCompletion
from core.jetstream import Lines, Seen, all_acked, connected, make_consumer, make_stream
from harness import NatsServer, Net, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd.bus.stored import Stored

HOLD = Path(__file__).parents[3] / "child" / "hold.py"


def test_open_deliveries_are_kept(tmp_path: Path) -> None:
    """What was added and not removed is what the next process finds; it is reported once."""
    first = Journal(tmp_path / "new" / "j")
    for name in ("$JS.ACK.a", "$JS.ACK.b", "$JS.ACK.ü"):
        first.add(name)
    first.remove("$JS.ACK.a")
    first.remove("never added")
    first.close()

    second = Journal(tmp_path / "new" / "j")
    assert sorted(second.left_open) == ["$JS.ACK.b", "$JS.ACK.ü"]
    second.close()
    third = Journal(tmp_path / "new" / "j")
    assert third.left_open == []
    third.close()


def test_places_are_used_again(tmp_path: Path) -> None:
    """A million deliveries need no more than the file's places; its size does not change."""
    journal = Journal(tmp_path / "j")
    for number in range(3 * SLOTS):
        journal.add(f"reply.{number}")
        journal.remove(f"reply.{number}")
    journal.add("last")
    journal.close()

    assert (tmp_path / "j").stat().st_size == SLOT * (SLOTS + 1)
    again = Journal(tmp_path / "j")
    assert again.left_open == ["last"]
    again.close()


def test_more_than_it_holds(tmp_path: Path) -> None:
    """What is too many or too long is not noted, and harms nothing: it waits for ack_wait."""
    journal = Journal(tmp_path / "j")
    journal.add("x" * SLOT)
    for number in range(SLOTS + 10):
        journal.add(f"reply.{number}")
    journal.remove(f"reply.{SLOTS + 5}")
    journal.remove("reply.0")
    journal.add("late")
    journal.close()

    again = Journal(tmp_path / "j")
    assert len(again.left_open) == SLOTS
    assert "late" in again.left_open
    again.close()


def test_one_process_an_instance(tmp_path: Path) -> None:
    """A second process of the same instance is refused with a reason; the first goes on."""
    first = Journal(tmp_path / "j")
    first.add("a")
    with pytest.raises(ConfigError, match="this instance runs already"):
        Journal(tmp_path / "j")
    first.close()

    again = Journal(tmp_path / "j")
    assert again.left_open == ["a"]
    again.close()


def test_a_damaged_file(tmp_path: Path) -> None:
    """A file of any content or size opens: at worst something is returned that no process had."""
    (tmp_path / "j").write_bytes(b"\xff" * 1000)
    journal = Journal(tmp_path / "j")
    journal.add("a")
    journal.close()

    again = Journal(tmp_path / "j")
    assert again.left_open == ["a"]
    again.close()


@contextlib.contextmanager
def holding(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run hold.py; at the end it is killed."""
    process = subprocess.Popen([sys.executable, str(HOLD), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _taken(process: subprocess.Popen[str], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


async def test_kill_9_hands_back_at_once(tmp_path: Path, nats_server: NatsServer) -> None:
    """Deliveries that were open when a process was killed come to the next one in seconds, not after ack_wait."""
    path = tmp_path / "j"
    seen = Seen()
    async with connected(nats_server.url) as bus:
        await make_stream(bus, "WORK", "work")
        await make_consumer(bus, "WORK", "w", ack_wait=120)
        for number in range(5):
            await bus.store("work", b"%d" % number)
        with holding(nats_server.url, "WORK", "w", str(path), "5") as process:
            taken = await asyncio.to_thread(_taken, process, 5)
        journal = await asyncio.to_thread(Journal, path)
        loop = Consumer(bus, "WORK", "w", seen, slots=5, log=Lines(), journal=journal)  # type: ignore[arg-type]
        stopping = asyncio.Event()
        begun = time.monotonic()
        for reply in journal.left_open:
            bus.send(reply, b"-NAK")
        running = asyncio.create_task(loop.run(stopping))
        await all_acked(bus, "WORK", "w")
        took = time.monotonic() - begun
        stopping.set()
        await running
        journal.close()
        journal = await asyncio.to_thread(Journal, path)
        journal.close()

    assert sorted(taken) == [1, 2, 3, 4, 5]
    assert sorted(seen.bodies) == [b"0", b"1", b"2", b"3", b"4"]
    assert [job.delivered for job in seen.jobs] == [2] * 5
    assert took < 3
    assert journal.left_open == [], "what was answered is no longer open"


async def test_a_daemon_continues_the_task_of_its_predecessor(tmp_path: Path, nats_server: NatsServer) -> None:
    """A daemon that starts after a kill -9 works on its predecessor's task within seconds (ack_wait is 30 s)."""
    net = Net(tmp_path, nats_server.url)
    path = tmp_path / "state" / "specialist.journal"
    task = TaskAssignment("w.t", "w", "no_such_tool", "specialist", {}, now() + timedelta(seconds=60))
    async with net.client() as bus:
        await bus.store(subjects.assign("specialist", "w", "t", 1), task)
        with holding(nats_server.url, subjects.WORKFLOWS, "specialist", str(path), "1") as process:
            await asyncio.to_thread(_taken, process, 1)
        net.settings["instances"]["specialist"] = {"roles": ["specialist"]}
        async with net.here("specialist"):
            begun = time.monotonic()

            async def completed() -> Stored | None:
                return await bus.last(subjects.INPUT, subjects.complete("specialist-pve1", "w", "t"))

            found = await eventually(completed, "the task is completed")
            took = time.monotonic() - begun

    assert took < 5
    assert found.decode(TaskCompletion).task_id == "w.t"
