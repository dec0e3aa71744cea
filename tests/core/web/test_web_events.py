"""Live changes as server-sent events, and the server inside a running loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentd.client.views import Event, EventKind
from agentd.errors import BusUnavailable, ConfigError
from agentd.web import events
from agentd.web.serving.server import WebServer
from agentd.wire.announcements import AgentRegistration
from core.web_client import Client, Stream, serving
from core.web_networks import busy_network
from core.web_view import MemoryView, summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def network() -> MemoryView:
    """Give a network with a bit of everything."""
    return busy_network()


@pytest.fixture
async def get(network: MemoryView) -> AsyncIterator[Client]:
    """Give a client of a server that shows `network`."""
    async with serving(network) as client:
        yield client


async def test_a_stream_sends_a_snapshot_and_then_changes(network: MemoryView, get: Client) -> None:
    """First the whole picture, then each change as it happens."""
    feed = await Stream.open(get.port)
    retry = await feed.chunk()
    kind, picture = await feed.event()
    network.emit(EventKind.WORKFLOW, summary(network.details["web2-7f31"]))
    changed, data = await feed.event()
    await feed.close()

    assert retry == "retry: 3000\n\n"
    assert (kind, picture["level"]) == ("snapshot", "bad")
    assert (changed, data["workflow_id"]) == ("workflow", "web2-7f31")
    assert "x-accel-buffering: no" in feed.head
    assert "content-type: text/event-stream" in feed.head


async def test_a_stream_continues_where_it_ended(network: MemoryView, get: Client) -> None:
    """With the id of its last event a client gets what changed since; without a known id, or too much, a snapshot."""
    feed = await Stream.open(get.port)
    await feed.event()
    await feed.close()
    network.sequence, network.changed = 5, {4: "web2-7f31", 5: "web1-0a2c"}
    resumed = await Stream.open(get.port, last_id="4")
    kind, data = await resumed.event()
    await resumed.close()
    network.changed = {100 + number: "web2-7f31" for number in range(3)}
    foreign = await Stream.open(get.port, last_id="999")
    whole, _ = await foreign.event()
    await foreign.close()

    assert feed.last_id == "1"
    assert (kind, resumed.last_id) == ("resumed", "5")
    assert [item["workflow_id"] for item in data["workflows"]] == ["web1-0a2c"]
    assert whole == "snapshot"


async def test_changes_are_coalesced(network: MemoryView, get: Client) -> None:
    """Of a hundred changes of one thing within a pause only the last is sent, at most twice a second."""
    loop = asyncio.get_running_loop()
    feed = await Stream.open(get.port)
    await feed.event()
    begun = loop.time()
    one = summary(network.details["web2-7f31"])
    for done in range(100):
        network.emit(EventKind.WORKFLOW, msgspec.structs.replace(one, done=done))
    network.emit(EventKind.ALERT, network.alerts_stored[0])
    first, second = await feed.event(), await feed.event()
    took = loop.time() - begun
    await feed.close()

    assert (first[0], first[1]["done"]) == ("workflow", 99)
    assert second[0] == "alert"
    assert took >= events.PAUSE * 0.8


async def test_a_full_mailbox_becomes_a_snapshot(network: MemoryView, get: Client) -> None:
    """A client with more changes than fit gets a fresh snapshot instead of a part."""
    feed = await Stream.open(get.port)
    await feed.event()
    for number in range(events.ROOM + 5):
        network.emit(EventKind.AGENT, AgentRegistration(f"a{number}"))
    network.agent_list = []
    kind, picture = await feed.event()
    await feed.close()

    assert kind == "snapshot"
    assert picture["agents"] == []


async def test_a_slow_client_costs_bounded_memory() -> None:
    """A mailbox never holds more than its room, and what is sent while a snapshot is due is covered by it."""
    box = events.Mailbox()
    box.put(Event(EventKind.AGENT, AgentRegistration("early")))
    first = box.take()
    for number in range(10 * events.ROOM):
        box.put(Event(EventKind.AGENT, AgentRegistration(f"a{number}")))

    assert first == (True, [])
    assert box.take() == (True, [])
    assert box.take() == (False, [])


async def test_silence_is_filled_with_comments(get: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle stream sends a comment, so that proxies keep it."""
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    feed = await Stream.open(get.port)
    await feed.event()
    comment = await feed.chunk()
    await feed.close()

    assert comment.startswith(":")


async def test_streams_end_at_once_when_the_daemon_stops(network: MemoryView) -> None:
    """Open streams, one of them waiting for a network that hangs, don't hold up a stop."""
    server = WebServer(network, port=0)
    port = await server.start()
    feed = await Stream.open(port)
    await feed.event()
    network.slow = 60.0
    hanging = await Stream.open(port)
    await hanging.chunk()

    loop = asyncio.get_running_loop()
    begun = loop.time()
    await server.stop()
    took = loop.time() - begun

    assert took < 1.5
    assert (await feed.event())[0] == "end"
    await feed.close()
    await hanging.close()


async def test_a_feed_that_ends_hangs_up(
    network: MemoryView, get: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the view's events end, clients are let go and see the truth when they come back; a bug is logged."""
    feed = await Stream.open(get.port)
    await feed.event()
    network.hang_up()
    ended = await feed.event()
    await feed.close()

    async def broken() -> AsyncIterator[Event]:
        raise BusUnavailable("gone")
        yield  # type: ignore[unreachable]

    monkeypatch.setattr(network, "events", broken)
    with caplog.at_level(logging.WARNING, "agentd.web"):
        again = await Stream.open(get.port)
        last = await again.event()
    await again.close()

    assert ended[0] == "end"
    assert last[0] in ("end", "snapshot")
    assert "live changes ended: gone" in caplog.text


async def test_the_last_client_ends_the_subscription(network: MemoryView, get: Client) -> None:
    """The last client to go takes the subscription with it; the next one starts it again."""
    feed = await Stream.open(get.port)
    await feed.event()
    await asyncio.wait_for(network.followed.wait(), 3)
    await feed.close()
    await asyncio.wait_for(network.left.wait(), 3)
    again = await Stream.open(get.port)
    await again.event()
    network.emit(EventKind.AGENT, network.agent_list[0])
    kind, _ = await again.event()
    await again.close()

    assert kind == "agent"


async def test_streams_are_counted(network: MemoryView, get: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream too many is refused with a reason; a HEAD opens none."""
    monkeypatch.setattr(events, "MOST_CLIENTS", 1)
    head = await get("/events", "HEAD")
    opened = len(network.queues)
    feed = await Stream.open(get.port)
    await feed.event()
    refused = await get("/events")
    await feed.close()

    assert head.headers["content-type"].startswith("text/event-stream")
    assert refused.code == 503
    assert "streams are open" in refused.json()["detail"]
    assert opened == 0


async def test_a_port_in_use_is_one_line() -> None:
    """A port that another process holds is a configuration error that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = WebServer(MemoryView(), port=port)

        with pytest.raises(ConfigError) as caught:
            await server.start()
        await server.stop()

    text = str(caught.value)
    assert f"127.0.0.1:{port}" in text
    assert "web.port" in text
    assert "\n" not in text


@pytest.mark.parametrize(("host", "words_"), [("192.0.2.1", "no such address"), ("no.such.host.invalid", "no address")])
async def test_a_wrong_address_is_one_line(host: str, words_: str) -> None:
    """An address that isn't ours and a name without an address are distinguished."""
    with pytest.raises(ConfigError, match=words_):
        await WebServer(MemoryView(), host=host, port=0).start()


async def test_stop_frees_the_port_and_start_works_again() -> None:
    """A server can be stopped twice and started again on the same port."""
    server = WebServer(MemoryView(), port=0)
    port = await server.start()
    with pytest.raises(RuntimeError):
        await server.start()
    await server.stop()
    await server.stop()
    again = WebServer(MemoryView(), port=port)

    assert await again.start() == port
    assert (await Client(port)("/healthz")).code == 200
    await again.stop()


async def test_ipv6_loopback() -> None:
    """An IPv6 address can be bound and is written with brackets in errors."""
    server = WebServer(MemoryView(), host="::1", port=0)
    try:
        port = await server.start()
    except ConfigError:
        pytest.skip("this machine has no IPv6 loopback")
    taken = WebServer(MemoryView(), host="::1", port=port)

    with pytest.raises(ConfigError, match=rf"\[::1\]:{port}"):
        await taken.start()
    await server.stop()


async def test_clients_share_a_page_that_is_not_older_than_their_request(network: MemoryView, get: Client) -> None:
    """Six simultaneous requests of a page cost at most two readings; a later one has what is new."""
    await get.page("/overview")
    network.asked.clear()
    network.slow = 0.05
    pages = await asyncio.gather(*(get.page("/overview") for _ in range(6)))
    cost = network.asked.count("workflows")
    network.add_workflow("brand-new", ["running"], "running", 0, kind="one")
    later = await get.page("/overview")
    text, other = await get("/overview"), await get.page("/overview?limit=1")

    assert {got.code for got in pages} == {200}
    assert len({got.text for got in pages}) <= 2
    assert cost <= 2
    assert all("brand-new" in got.text for got in (later, text, other))
