"""One process for each agent id: a second one does not start, and one that has lost the id changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from msgspec.structs import replace

from agentd.bus.setup.provision import provision
from agentd.client.tool_calls import call_tool
from agentd.errors import BusUnavailable, ConfigError, Superseded
from agentd.safety import lease as leases
from agentd.safety.lease import Lease, Process, has_ended
from agentd.wire import subjects
from agentd.wire.announcements import AgentRegistration, Presence
from agentd.wire.messages import ToolCall
from core.jetstream import Lines, connected
from core.probe import SERVICE, Probe, a_worker, serving
from harness import NatsServer, Net, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus

WE = Presence(AgentRegistration("a", version="0.1.0", node="pve1"))
MINE = "boot/1/100/5/aaaa"
ELSEWHERE = "other/1/100/5/bbbb"


@pytest_asyncio.fixture
async def there(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned, and a queue of the service `probe`."""
    async with connected(nats_server.url) as bus:
        await provision(bus, [SERVICE])
        yield bus


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a lease last two seconds."""
    monkeypatch.setattr(leases, "SECONDS", 2.0)


def a_lease(bus: Bus, process: str = MINE) -> Lease:
    """Return a lease of the agent `a`, not taken."""
    return Lease(bus, "a", Lines(), process)  # type: ignore[arg-type]


async def take(lease: Lease) -> None:
    """Take a lease within ten seconds."""
    async with asyncio.timeout(10):
        await lease.take(WE, asyncio.Event())


def test_whether_a_process_has_ended() -> None:
    """A process of this machine is seen to live or to have ended; of any other nothing is known."""
    mine = Process().name
    boot, space, pid, started, _ = mine.split("/")

    assert has_ended(mine, mine) is False
    assert has_ended(f"{boot}/{space}/{pid}/1/x", mine) is True  # its number is another's now
    assert has_ended(f"{boot}/{space}/4194399/{started}/x", mine) is True
    assert has_ended(f"{boot}/0/{pid}/{started}/x", mine) is None  # another container
    assert has_ended(f"other/{space}/{pid}/{started}/x", mine) is None
    assert has_ended("", mine) is None
    assert has_ended("a/b", mine) is None


@pytest.mark.usefixtures("quick")
async def test_one_that_renews_keeps_it(there: Bus) -> None:
    """While a process on another machine renews its lease, a second one does not start, and names the first."""
    first = a_lease(there, ELSEWHERE)
    await take(first)

    async def renewing() -> None:
        while True:
            await asyncio.sleep(0.3)
            await first.renew()

    task = asyncio.create_task(renewing())
    with pytest.raises(ConfigError, match=r"another process runs as a .*process 100 on pve1"):
        await take(a_lease(there))
    task.cancel()
    assert not first.lost.is_set()


@pytest.mark.usefixtures("quick")
async def test_a_process_killed_on_another_machine(there: Bus) -> None:
    """The lease of a process that does not renew it any more is free once it has run out."""
    await take(a_lease(there, ELSEWHERE))
    second = a_lease(there)
    await take(second)
    await second.check()


async def test_a_process_killed_on_this_machine(there: Bus) -> None:
    """The lease of a process of this machine that has ended is taken over at once."""
    ours = (await asyncio.to_thread(Process)).name
    boot, space, *_ = ours.split("/")
    await take(a_lease(there, f"{boot}/{space}/4194399/1/dead"))
    second = a_lease(there, ours)
    async with asyncio.timeout(2):
        await second.take(WE, asyncio.Event())


async def test_a_process_without_the_lease_changes_nothing(there: Bus) -> None:
    """A process that has lost its lease refuses every change for ever, and never takes the lease back."""
    probe, first = Probe(), a_lease(there, ELSEWHERE)
    await take(first)
    worker = a_worker(there, probe)
    worker.runner.lease = first
    async with serving(worker):
        done = await call_tool(there, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.1"), seconds=5)
        stolen = replace(WE, process=MINE)
        await there.kv_put(subjects.LIVE, "a", stolen)
        with pytest.raises(Superseded):
            await first.renew()
        with pytest.raises(BusUnavailable):
            await call_tool(there, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.2"), seconds=2)
        read = await call_tool(there, subjects.tool_call("tester", SERVICE, "read_it"), ToolCall({}), seconds=5)
    await first.release()
    found = await there.kv_get(subjects.LIVE, "a")

    assert done.status == read.status == "completed"
    assert first.lost.is_set()
    assert probe.acts == 1
    assert found is not None
    assert found.decode(Presence) == stolen


@pytest.mark.usefixtures("quick")
async def test_a_lease_that_has_run_out(there: Bus) -> None:
    """A process that slept for longer than its lease renews it before it acts; if another has it, it does not act."""
    first = a_lease(there, ELSEWHERE)
    await take(first)
    await asyncio.sleep(2.5)
    await first.check()
    await asyncio.sleep(2.5)
    await take(a_lease(there))
    with pytest.raises(Superseded):
        await first.check()


@pytest.mark.parametrize("data", [b"not JSON", b"{}"])
async def test_a_lease_that_cannot_be_understood(there: Bus, data: bytes) -> None:
    """A record that is not a lease does not prevent a start."""
    await there.kv_put(subjects.LIVE, "a", data)
    await take(a_lease(there))


@pytest.mark.system
async def test_two_daemons(net: Net) -> None:
    """A second daemon with the same id ends with 78 and a reason; after a kill -9 the next one starts at once."""
    async with net.client():
        first = net.daemon("monitor")
        net.settings["node"]["state_dir"] = str(net.directory / "elsewhere")
        with first:
            net.config_file()
            second = net.daemon("monitor")
            second.log = net.directory / "second.log"
            code = await asyncio.to_thread(second.start().wait, 30)
            first.kill()
            await asyncio.to_thread(second.start().ready, 15)
            second.stop()

    assert code == 78
    assert "another process runs as monitor-pve1" in second.log.read_text()


@pytest.mark.system
async def test_a_daemon_with_a_taken_id(net: Net) -> None:
    """A daemon that finds another process under its id ends by itself, with a reason."""
    async with net.client() as bus:
        with net.daemon("monitor") as daemon:
            stored = await bus.kv_get(subjects.LIVE, "monitor-pve1")
            assert stored is not None
            await bus.kv_put(subjects.LIVE, "monitor-pve1", replace(stored.decode(Presence), process=ELSEWHERE))

            async def ended() -> bool:
                return daemon.exit_code is not None

            await eventually(ended, "the daemon ends", 30)

    assert daemon.exit_code == 78
    assert "lost the lease" in daemon.log.read_text()
