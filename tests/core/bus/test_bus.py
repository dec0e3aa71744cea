"""The bus in good weather: storing, reading, asking, offering, buckets."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

import pytest

from agentd.bus.jetstream import Bus
from agentd.bus.setup.provision import provision
from agentd.client import requests
from agentd.errors import BusError, BusUnavailable, InvalidMessage, NoResponder, NotProvisioned, StaleWrite
from agentd.wire import codec, subjects
from agentd.wire.announcements import ControlReply, ControlRequest
from agentd.wire.messages import WorkflowRequest
from core.jetstream import Lines, connected, kv_list, make_stream, settings
from harness import NatsServer, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.nats.subscriptions import Received

EVENT = subjects.event("w1")


async def test_store_and_read(bus: Bus) -> None:
    """What was stored is read as it was, with its sequence, its headers and the server's time."""
    seq = await bus.store(EVENT, ControlRequest("drain"), headers={"Who": "we"})
    found = await bus.last(subjects.WORKFLOWS, EVENT)

    assert found is not None
    assert (found.subject, found.seq, found.decode(ControlRequest)) == (EVENT, seq, ControlRequest("drain"))
    assert found.headers["Who"] == "we"
    assert found.time.tzinfo is UTC
    assert abs(codec.now() - found.time) < timedelta(seconds=10)
    assert await bus.last(subjects.WORKFLOWS, subjects.event("other")) is None


async def test_compare_and_set(bus: Bus) -> None:
    """Of two writers that saw the same message one wins; the other gets an error and reloads."""
    first = await bus.store(EVENT, b"1", expect=0)
    second = await bus.store(EVENT, b"2", expect=first)

    with pytest.raises(StaleWrite):
        await bus.store(EVENT, b"other", expect=first)
    with pytest.raises(StaleWrite):
        await bus.store(EVENT, b"other", expect=0)
    found = await bus.last(subjects.WORKFLOWS, EVENT)
    assert found is not None
    assert (found.seq, found.data) == (second, b"2")


async def test_ttl(bus: Bus) -> None:
    """A message with a time to live is gone after it."""
    await bus.store(EVENT, b"1", ttl=1)

    async def gone() -> bool:
        return await bus.last(subjects.WORKFLOWS, EVENT) is None

    await eventually(gone, "the message has expired")


async def test_lists(bus: Bus) -> None:
    """Lists come in the order of their sequences: the last of each subject, or every message."""
    for workflow, text in [("b", b"1"), ("a", b"2"), ("b", b"3")]:
        await bus.store(subjects.event(workflow), text)

    last = await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS)
    every = await bus.every(subjects.WORKFLOWS, subjects.ALL_EVENTS)
    none = await bus.every(subjects.WORKFLOWS, subjects.ALL_DUE)

    assert [(item.subject, item.data) for item in last] == [(subjects.event("a"), b"2"), (subjects.event("b"), b"3")]
    assert [record.data for record in every] == [b"1", b"2", b"3"]
    assert none == []


async def test_a_long_list(bus: Bus) -> None:
    """A list of thousands is complete."""
    await asyncio.gather(*(bus.store(subjects.event(f"w{number}"), b"x" * 300) for number in range(3000)))

    assert len(await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS)) == 3000


async def test_nothing_provisioned(nats_server: NatsServer) -> None:
    """Without streams the error advises to run `agentd provision`."""
    async with connected(nats_server.url) as bus:
        with pytest.raises(NotProvisioned, match="agentd provision"):
            await bus.last(subjects.WORKFLOWS, EVENT)
        with pytest.raises(BusUnavailable, match="agentd provision"):
            await bus.store(EVENT, b"1")


async def test_full_stream_is_temporary(nats_server: NatsServer) -> None:
    """A stream that is full refuses for now: the writer waits and tries again."""
    async with connected(nats_server.url) as bus:
        await make_stream(bus, "SMALL", "small", max_msgs=1, discard="new")
        await bus.store("small", b"1")

        with pytest.raises(BusUnavailable, match="maximum messages"):
            await bus.store("small", b"2")


async def test_requests(bus: Bus) -> None:
    """A request is answered by its server; no server and an invalid request are errors of their own."""

    async def answer(received: Received) -> None:
        await received.respond(ControlReply("a", done=True, message=received.decode(ControlRequest).action))

    async def nonsense(received: Received) -> None:
        await received.respond(b'{"agent_id": 1}')

    served = await bus.serve("ops", version="1.0.0", description="d", endpoints={"ops.go": answer, "ops.bad": nonsense})

    assert await bus.request("ops.go", ControlRequest("x"), ControlReply) == ControlReply("a", done=True, message="x")
    with pytest.raises(InvalidMessage, match="ControlReply"):
        await bus.request("ops.bad", ControlRequest("x"), ControlReply)
    with pytest.raises(NoResponder, match=r"ops\.none"):
        await bus.request("ops.none", ControlRequest("x"), ControlReply)

    await served.stop()
    with pytest.raises(NoResponder):
        await bus.request("ops.go", ControlRequest("x"), ControlReply)


async def test_a_service_is_found_by_any_client(bus: Bus) -> None:
    """A service and its endpoints are described to any NATS client on $SRV.INFO."""
    served = await bus.serve("ops", version="1.0.0", description="What it does", endpoints={"ops.go": _nothing})

    info = await bus.request("$SRV.INFO.ops", b"", dict)

    assert info["description"] == "What it does"
    assert [endpoint["subject"] for endpoint in info["endpoints"]] == ["ops.go"]
    await served.stop()


async def _nothing(_: Received) -> None:
    """Take a message and do nothing."""


async def test_a_failed_handler_is_logged(nats_server: NatsServer) -> None:
    """A handler's exception is logged, and the next message is handled."""
    lines, got = Lines(), asyncio.Event()

    async def handle(received: Received) -> None:
        if received.data == b"bad":
            raise ValueError(received.data)
        got.set()

    async with connected(nats_server.url, log=lines) as bus:
        await bus.subscribe("here", handle)
        await bus.publish("here", b"bad")
        await bus.publish("here", b"good")
        async with asyncio.timeout(5):
            await got.wait()

    assert "background work failed" in lines.events("exception")


async def test_one_bad_message_does_not_stop_the_others(bus: Bus) -> None:
    """What cannot be sent is an error for its sender alone."""
    with pytest.raises(BusError, match="cannot publish"):
        await bus.store("not a subject", b"")
    with pytest.raises(BusError, match="cannot publish"):
        await bus.store(EVENT, b"", headers={"Number": 5})  # type: ignore[dict-item]
    with pytest.raises(BusError, match="cannot publish"):
        await bus.store(EVENT, b"x" * (2 << 20))

    assert await bus.store(EVENT, b"fine")


async def test_buckets(bus: Bus) -> None:
    """A key is put, put only when new, changed only when unchanged, listed and deleted."""
    seq = await bus.kv_put(subjects.CONF, "a", ControlRequest("1"), expect=0)
    with pytest.raises(StaleWrite, match="conf/a exists"):
        await bus.kv_put(subjects.CONF, "a", ControlRequest("2"), expect=0)
    await bus.kv_put(subjects.CONF, "a", ControlRequest("3"), expect=seq)
    with pytest.raises(StaleWrite):
        await bus.kv_put(subjects.CONF, "a", ControlRequest("4"), expect=seq)
    await bus.kv_put(subjects.CONF, "b", ControlRequest("5"))

    listed = await kv_list(bus, subjects.CONF)
    assert {key: item.decode(ControlRequest).action for key, item in listed.items()} == {"a": "3", "b": "5"}

    await bus.kv_delete(subjects.CONF, "a")
    await bus.kv_delete(subjects.CONF, "never")
    assert await bus.kv_get(subjects.CONF, "a") is None
    assert list(await kv_list(bus, subjects.CONF)) == ["b"]
    assert await bus.kv_put(subjects.CONF, "a", ControlRequest("6"), expect=0)


async def test_clock(bus: Bus) -> None:
    """The server's clock is known: on one machine it is ours."""
    offset = await bus.measure_clock(subjects.WORKFLOWS)

    assert abs(offset) < 2
    assert abs(bus.server_time() - codec.now()) < timedelta(seconds=3)


async def test_no_server_then_a_server(tmp_path: Path) -> None:
    """Without NATS connecting fails in time, with the addresses and the advice; later the same object connects."""
    server = NatsServer(tmp_path)
    bus = Bus(settings(server.url), "tester", Lines())  # type: ignore[arg-type]
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(BusUnavailable, match=rf"no NATS at {server.url} .*\[bus\] servers"):
            await bus.connect(wait=0.5)
        assert time.monotonic() - begun < 5
        assert not bus.connected

    with server:
        await bus.connect(wait=10)
        assert (bus.connected, bus.problem) == (True, "")
        assert bus.server_version
        await bus.close()


async def test_closing_sends_what_is_waiting(nats_server: NatsServer) -> None:
    """What was handed over before closing still arrives."""
    got: list[bytes] = []

    async def take(received: Received) -> None:
        got.append(received.data)

    async with connected(nats_server.url) as listener:
        await listener.subscribe("here", take)
        await listener.api("INFO")  # a round trip: the subscription is known
        async with connected(nats_server.url, agent="other") as other:
            for _ in range(500):
                await other.publish("here", b"x" * 1000)

        async def all_there() -> bool:
            return len(got) == 500

        await eventually(all_there, "every message arrives")


async def test_asking_a_closed_connection(nats_server: NatsServer) -> None:
    """A connection that is closed says so at once."""
    async with connected(nats_server.url) as bus:
        pass

    with pytest.raises(BusUnavailable, match="closed"):
        await bus.api("INFO")


async def test_a_request_is_sent_until_its_stream_takes_it(bus: Bus) -> None:
    """A request is stored once the stream takes messages again, such as after the election of a leader; and once."""
    await bus.api(f"STREAM.DELETE.{subjects.REQUESTS}")
    submitting = asyncio.create_task(requests.submit(bus, "alice", WorkflowRequest("test", "w1")))
    await asyncio.sleep(1)
    waiting = not submitting.done()
    await provision(bus)
    await submitting

    assert waiting
    assert (await bus.api(f"STREAM.INFO.{subjects.REQUESTS}"))["state"]["messages"] == 1
