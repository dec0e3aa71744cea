"""The bus in bad weather: one test for each way in which a long-lived NATS client was seen to die (connection.py)."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import pytest

from agentd.bus.jetstream import Bus
from agentd.bus.nats import connection, replies
from agentd.bus.setup.provision import provision
from agentd.daemon.supervisor import Supervisor
from agentd.errors import BusUnavailable, StaleWrite
from agentd.wire import announcements, subjects
from core.jetstream import Lines, answers, connected, kv_list, settings
from harness import NatsServer, Net, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.nats.subscriptions import Received

EVENT = subjects.event("w1")
FLOOD = 40
"""Mebibytes that fill every buffer between us and a server that does not read."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a silent server be given up after four seconds instead of eight, and before nats-py does, as always."""
    monkeypatch.setattr(connection, "PING_INTERVAL", 2)
    monkeypatch.setattr(connection, "SILENCE", 3.5)


async def _flood(bus: Bus) -> None:
    """Fill the out-buffer, and wait until the only publisher is stuck in it."""
    for _ in range(FLOOD):
        bus.send("flood", b"x" * 1_000_000)
    await asyncio.sleep(0.5)


async def _count_abandoned() -> int:
    gc.collect()
    return sum(isinstance(item, (asyncio.Task, replies._Waiting)) for item in gc.get_objects())  # noqa: SLF001


async def test_a_cancelled_wait_leaves_the_connection_reading(bus: Bus, nats_server: NatsServer) -> None:
    """Trap 1: cancelling a waiting call, or stopping a pull at a frozen server, does not stop the others."""
    seen_messages = asyncio.Event()

    async def on_message(_: Received) -> None:
        seen_messages.set()

    async def ignore(_: object) -> None:
        """Take what a pull brings."""

    await bus.subscribe("here", on_message)
    pull = await bus.pull("test", ignore)
    nats_server.pause()
    asked = [asyncio.create_task(bus.last(subjects.WORKFLOWS, EVENT)) for _ in range(50)]
    await asyncio.sleep(0)
    for request in asked:
        request.cancel()
    begun = time.monotonic()
    await pull.stop()
    stopped = time.monotonic() - begun
    nats_server.resume()
    await bus.publish("here", b"")
    async with asyncio.timeout(3):
        await seen_messages.wait()

    assert stopped < 4
    assert bus.counters["reconnects"] == 0


@pytest.mark.usefixtures("impatient")
async def test_a_frozen_server_blocks_no_caller(nats_server: NatsServer) -> None:
    """Trap 2: while the server is frozen and every buffer full, each call ends in time and the loop turns."""
    async with connected(nats_server.url, timeout=1.0) as bus:
        await provision(bus)
        nats_server.pause()
        begun = time.monotonic()
        await _flood(bus)
        for _ in range(FLOOD):
            await bus.publish("here", b"x" * 1_000_000)
        with pytest.raises(BusUnavailable, match="did not answer"):
            await bus.store(EVENT, b"1")
        took = time.monotonic() - begun
        nats_server.resume()
        await answers(bus)

        assert took < 3
        assert await bus.store(EVENT, b"2")


@pytest.mark.parametrize(("ping", "silence"), [(2, 3.5), (0.5, 3.5)], ids=["watchdog first", "nats-py first"])
async def test_a_frozen_server_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ping: float, silence: float
) -> None:
    """Trap 2: a server that is silent, with full buffers, is left by any call; subscriptions move too."""
    monkeypatch.setattr(connection, "PING_INTERVAL", ping)
    monkeypatch.setattr(connection, "SILENCE", silence)
    seen_messages = asyncio.Event()

    async def on_message(_: Received) -> None:
        seen_messages.set()

    async def there() -> bool:
        return bus.connected and bool(bus.counters["watchdog_aborts"])

    with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
        by_url = {one.url: one, two.url: two}
        async with connected(one.url, two.url) as bus:
            await bus.subscribe("here", on_message)
            frozen = by_url.pop(_server_of(bus))
            frozen.pause()
            await _flood(bus)
            await eventually(there, "connected to the other server", 50)
            (left,) = by_url
            async with connected(left, agent="other") as other:
                await answers(bus)
                await other.publish("here", b"")
                async with asyncio.timeout(5):
                    await seen_messages.wait()

            assert _server_of(bus) == left
            assert bus.counters["reconnects"] >= 1
            frozen.resume()


def _server_of(bus: Bus) -> str:
    found = bus._nc.connected_url  # noqa: SLF001 - only the test needs to know
    assert found is not None
    return f"nats://{found.netloc}"


@pytest.mark.usefixtures("impatient")
async def test_silence_ends_a_connection(nats_server: NatsServer) -> None:
    """Trap 2: a server that does not answer a PING is given up, even though the socket is open; the log reports it."""
    lines = Lines()
    async with connected(nats_server.url, log=lines) as bus:
        nats_server.pause()

        async def reported() -> bool:
            return bool(bus.problem) and not bus.connected

        await eventually(reported, "the connection is given up", 10)

        assert lines.events("warning") == ["NATS is silent, aborting the connection", "connection to NATS lost"]
        nats_server.resume()
        await answers(bus)
        assert bus.problem == ""


async def test_closing_while_frozen(nats_server: NatsServer) -> None:
    """Traps 2 and 11: closing ends in time although the server reads nothing and publishing swallows cancels."""
    bus = Bus(settings(nats_server.url), "tester", Lines())  # type: ignore[arg-type]
    await bus.connect(wait=10)
    nats_server.pause()
    await _flood(bus)
    begun = time.monotonic()
    try:
        async with asyncio.timeout(15):
            await bus.close()
    finally:
        nats_server.resume()

    assert time.monotonic() - begun < 12


USERS = 'authorization {{ users: [ {{ user: "tester", password: "{}" }} ] }}'


async def test_closed_for_good_is_noticed(tmp_path: Path) -> None:
    """Trap 3: a server that no longer knows us closes the client for good; `closed` says so and calls fail at once."""
    password = tmp_path / "password"
    password.write_text("old")
    with NatsServer(tmp_path, extra=USERS.format("old")) as server:
        async with connected(server.url, user="tester", password_file=str(password)) as bus:
            server.reload(USERS.format("new"))
            async with asyncio.timeout(10):
                await bus.closed.wait()

            assert not bus.connected
            assert bus.problem
            begun = time.monotonic()
            with pytest.raises(BusUnavailable, match="closed"):
                await bus.store(EVENT, b"1")
            assert time.monotonic() - begun < 1


async def test_a_daemon_without_a_connection_exits(tmp_path: Path) -> None:
    """Trap 3: the daemon exits with 75, upon which systemd starts it again."""
    password = tmp_path / "password"
    password.write_text("old")
    with NatsServer(tmp_path, extra=USERS.format("old")) as server:
        net = Net(tmp_path, server.url)
        net.settings["bus"] |= {"user": "tester", "password_file": str(password)}
        async with net.client():
            pass
        config = await asyncio.to_thread(net.config)
        supervisor = await asyncio.to_thread(Supervisor, config, "orchestrator", reload=net.config)
        running = asyncio.create_task(supervisor.run())

        async def ready() -> bool:
            return supervisor.is_ready

        await eventually(ready, "the daemon is ready")
        server.reload(USERS.format("new"))
        async with asyncio.timeout(30):
            code = await running

    assert code == 75


async def test_stored_though_timed_out(nats_server: NatsServer) -> None:
    """Trap 4: what timed out may be stored later; trying again finds it, and stores nothing twice."""
    async with connected(nats_server.url, timeout=0.5) as bus:
        await provision(bus)
        nats_server.pause()
        with pytest.raises(BusUnavailable):
            await bus.store(EVENT, b"1", expect=0)
        nats_server.resume()
        await answers(bus)
        with pytest.raises(StaleWrite):
            await bus.store(EVENT, b"1", expect=0)

        assert [record.data for record in await bus.every(subjects.WORKFLOWS, EVENT)] == [b"1"]


async def test_views_are_read_again_after_a_reconnection(bus: Bus, nats_server: NatsServer) -> None:
    """Trap 5: what changed while we were away is read again after the reconnection, within two seconds of it."""
    view: dict[str, bytes] = {}
    listed = asyncio.Event()

    async def look_again() -> None:
        view.clear()
        view.update({key: item.data for key, item in (await kv_list(bus, subjects.CONF)).items()})
        listed.set()

    async def fails() -> None:
        raise ValueError

    await bus.kv_put(subjects.CONF, "a", b"1")
    await look_again()
    listed.clear()
    bus.on_reconnect += [fails, look_again]
    nats_server.kill()
    nats_server.start()
    async with connected(nats_server.url, agent="other") as other:
        await other.kv_put(subjects.CONF, "b", b"2")
    async with asyncio.timeout(10):
        await listed.wait()
    if "b" not in view:  # we were back before the other one had written: the watch itself would report it
        await look_again()

    assert view == {"a": b"1", "b": b"2"}


async def test_an_expired_key_is_not_there(bus: Bus) -> None:
    """A key that expired reads as absent, and may be put as a new one."""
    await bus.kv_put(subjects.LIVE, "a", b"1", ttl=1, expect=0)
    await bus.kv_put(subjects.LIVE, "stays", b"2")

    async def gone() -> bool:
        return await bus.kv_get(subjects.LIVE, "a") is None

    await eventually(gone, "the key has expired")

    assert list(await kv_list(bus, subjects.LIVE)) == ["stays"]
    assert await bus.kv_put(subjects.LIVE, "a", b"3", ttl=20, expect=0)
    found = await bus.kv_get(subjects.LIVE, "a")
    assert found is not None
    assert found.data == b"3"
    with pytest.raises(StaleWrite):
        await bus.kv_put(subjects.LIVE, "a", b"4", expect=0)


@pytest.mark.parametrize("header", [{"KV-Operation": "DEL"}, {"Nats-Marker-Reason": "MaxAge"}])
async def test_a_marker_is_no_value(bus: Bus, header: dict[str, str]) -> None:
    """Trap 6: a key whose last message is a marker reads as absent, and may be put as a new one."""
    await bus.kv_put(subjects.LIVE, "a", b"1")
    await bus.kv_put(subjects.LIVE, "stays", b"2")
    await bus.store("$KV.live.a", b"", headers=header)

    assert await bus.kv_get(subjects.LIVE, "a") is None
    assert (await bus.kv_read(subjects.LIVE, "a", int)).value is None
    assert list(await kv_list(bus, subjects.LIVE)) == ["stays"]
    assert list(await bus.kv_values(subjects.LIVE, int)) == ["stays"]
    assert await bus.kv_put(subjects.LIVE, "a", b"3", ttl=20, expect=0)
    with pytest.raises(StaleWrite):
        await bus.kv_put(subjects.LIVE, "a", b"4", expect=0)


async def test_failed_calls_leave_nothing_behind(nats_server: NatsServer) -> None:
    """Traps 7 and 12: a thousand calls that fail while the server is away leave nothing behind them."""
    async with connected(nats_server.url, timeout=0.5) as bus:
        await provision(bus)
        await bus.store(EVENT, b"0")
        before = await _count_abandoned()
        nats_server.kill()
        results = await asyncio.gather(*(bus.store(EVENT, b"1") for _ in range(1000)), return_exceptions=True)
        assert all(isinstance(result, BusUnavailable) for result in results)
        results.clear()
        nats_server.start()
        await answers(bus)
        stored = await asyncio.gather(*(bus.store(EVENT, b"2") for _ in range(1000)))
        await asyncio.sleep(0)  # the gathering itself holds its tasks until it is forgotten

        assert len(set(stored)) == 1000
        assert await _count_abandoned() < before + 50


async def test_a_slow_handler_blocks_no_other(bus: Bus) -> None:
    """Trap 10: while one message or call is being handled for long, the next is handled."""
    release, seen_messages = asyncio.Event(), asyncio.Event()

    async def slow_once(received: Received) -> None:
        if received.data == b'"slow"':
            await release.wait()
        seen_messages.set()
        await received.respond(announcements.ControlRequest("done"))

    await bus.subscribe("here", slow_once)
    served = await bus.serve("ops", version="1.0.0", description="d", endpoints={"ops.go": slow_once})
    await bus.publish("here", "slow")
    await bus.publish("here", "quick")
    async with asyncio.timeout(5):
        await seen_messages.wait()
    waiting = asyncio.create_task(bus.request("ops.go", "slow", announcements.ControlRequest, wait=10))
    await bus.request("ops.go", "quick", announcements.ControlRequest, wait=2)

    assert not waiting.done()
    release.set()
    await waiting
    await served.stop()


async def test_an_unexpected_error_does_not_stop_reading(bus: Bus) -> None:
    """Trap 11: no error that nats-py reports while it reads stops the reading."""
    for error in (ValueError(), RuntimeError("Permissions Violation for what?"), OSError(5, "I/O")):
        await bus._on_error(error)  # noqa: SLF001 - nats-py calls it from its read loop

    assert await bus.store(EVENT, b"1")
