"""What happens at each limit of NATS: requesters get an error, what runs waits and goes on, nothing is lost.

Streams are shrunk, and the account is given little room and more again, on a real nats-server.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.bus import capacity
from agentd.cli.setup import doctor
from agentd.client import queries, requests
from agentd.errors import BusFull, BusUnavailable
from agentd.telemetry import logs
from agentd.wire import subjects
from agentd.wire.announcements import Alert
from agentd.wire.messages import WorkflowRequest
from agentd_monitor import checks
from agentd_orchestrator import admission
from core.cli.test_cli import agentd
from fake_agent import Agent, Nothing, ask, completion, orchestrators, task
from harness import NatsServer, Net, eventually
from pve.client import FakePve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.daemon.supervisor import Supervisor
    from agentd.wire.workflow import TaskSpec

MIB = 1 << 20
ACCOUNT = """
accounts {{
  A {{ jetstream {{ max_file: {room}, max_mem: 64MB }}, users: [{{ user: a, password: a }}] }}
  SYS {{ users: [{{ user: s, password: s }}] }}
}}
system_account: SYS
no_auth_user: a
"""


def three(_: Nothing) -> list[TaskSpec]:
    """Return a plan of three tasks in a row."""
    return [task("a"), task("b", "a"), task("c", "b")]


@pytest.fixture
def quiet_net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return the configuration of a network without Proxmox."""
    return Net(tmp_path, nats_server.url)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check often how full NATS is."""
    monkeypatch.setattr(admission, "EVERY", 0.2)
    monkeypatch.setattr(checks, "EVERY", 0.2)


DRIFT = ("streams", "consumers")
"""What doctor calls the streams and consumers that a test has changed."""


async def shrink(bus: Bus, stream: str, size: int) -> None:
    """Let a stream hold no more than this."""
    config = (await bus.api(f"STREAM.INFO.{stream}"))["config"]
    await bus.api(f"STREAM.UPDATE.{stream}", config | {"max_bytes": size})


async def fill(bus: Bus, subject: str, *, size: int = 100_000) -> int:
    """Store junk until there is no room; return how much was stored."""
    number = 0
    with contextlib.suppress(BusFull):
        while True:
            await bus.store(subject.format(number), b"x" * size)
            number += 1
    return number


async def hold(bus: Bus, stream: str, durable: str, seconds: float) -> None:
    """Let a consumer deliver nothing for a time, as without any puller; 0 ends it."""
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    await bus.api(f"CONSUMER.PAUSE.{stream}.{durable}", {"pause_until": until.isoformat()})


async def running(bus: Bus, workflow_id: str, name: str) -> None:
    """Wait until a task is under way."""

    async def assigned() -> bool:
        state = await queries.state(bus, workflow_id)
        return state is not None and state.tasks[name].assigned_at is not None

    await eventually(assigned, f"{name} is assigned")


async def readyz(daemon: Supervisor, words: str) -> str:
    """Wait until /readyz of a daemon says 503 with these words; return all that it says."""

    def get() -> str:
        try:
            with urllib.request.urlopen(f"{daemon.url}/readyz?format=text", timeout=5):  # noqa: S310 - loopback
                return ""
        except urllib.error.HTTPError as error:
            text: str = error.read().decode()
            return text if words in text else ""

    return await eventually(lambda: asyncio.to_thread(get), words, 40) or ""


async def _ask_until_refused(bus: Bus) -> tuple[int, BusFull]:
    """Submit workflows until there is no room; return how many were taken, and the error then."""
    waiting = 0
    while True:
        try:
            await requests.submit(bus, "tester", WorkflowRequest("test", f"waiting{waiting}", timeout=60.0))
        except BusFull as error:
            return waiting, error
        waiting += 1


async def test_requests_are_full(quiet_net: Net) -> None:
    """Requesters learn that there is no room and what to do; what runs goes on, what waits is done in its turn."""
    async with quiet_net.client() as bus:
        await shrink(bus, subjects.REQUESTS, 20_000)
        agent = Agent(bus)
        agent.hold = {"b"}
        async with orchestrators(quiet_net, three), agent.working():
            await requests.submit(bus, "tester", WorkflowRequest("test", "before", timeout=60.0))
            await running(bus, "before", "b")
            await hold(bus, subjects.REQUESTS, subjects.ORCH_REQUESTS, 60)
            waiting, refused = await _ask_until_refused(bus)
            line = await asyncio.to_thread(agentd, "submit", "test", config=quiet_net.config_file())
            agent.release.set()
            before = await queries.follow(bus, "before", lambda _: None, wait=45)
            await hold(bus, subjects.REQUESTS, subjects.ORCH_REQUESTS, 0)
            after = [
                await queries.follow(bus, f"waiting{number}", lambda _: None, wait=45) for number in range(waiting)
            ]
            again = await ask(bus, "again")

    assert str(refused) == (
        "ai.workflows.request.tester: maximum bytes exceeded: the stream is full until what waits in it is worked "
        "off: is an orchestrator at work? see its /readyz"
    )
    assert line.stderr == f"agentd: {refused}\n"
    assert line.returncode == 69
    assert waiting > 10
    assert {item.status for item in [before, *after, again]} == {"completed"}


async def test_inputs_are_full(net: Net) -> None:
    """A completion that finds no room waits with its agent, and comes in when there is: nothing is done again."""
    async with net.client() as bus, net.here("all") as daemon:
        await shrink(bus, subjects.INPUT, 200_000)
        await hold(bus, subjects.INPUT, subjects.ORCH_INPUT, 60)
        await fill(bus, subjects.complete("a", "ghost", "t"), size=1000)
        requested = WorkflowRequest("vm_deployment", "web1", {"name": "web1", "node": "pve1"})
        await requests.submit(bus, "tester", requested)
        await running(bus, "web1", "validate_vm_parameters")

        async def refused() -> bool:
            assert daemon.worker is not None  # only the worker knows which of its queues is stopped
            return any(consumer.full for consumer in daemon.worker.consumers)

        await eventually(refused, "the completion finds no room")
        await hold(bus, subjects.INPUT, subjects.ORCH_INPUT, 0)
        answer = await queries.follow(bus, "web1", lambda _: None, wait=60)

    assert answer.status.startswith("completed")
    assert net.pve is not None
    assert len(net.pve.creates()) == 1


@contextlib.asynccontextmanager
async def small(tmp_path: Path) -> AsyncIterator[tuple[NatsServer, Net, Bus]]:
    """Yield a network in an account of 40 MiB, whose streams reserve little of it."""
    with NatsServer(tmp_path, extra=ACCOUNT.format(room="1GB")) as server:
        net = Net(tmp_path, server.url)
        async with net.client() as bus:
            for stream in (subjects.REQUESTS, subjects.INPUT, subjects.DEAD):
                await shrink(bus, stream, 4 * MIB)
            await limit(server, bus, "40MB")
            yield server, net, bus


async def limit(server: NatsServer, bus: Bus, room: str) -> None:
    """Give the account another limit."""
    server.reload(ACCOUNT.format(room=room))
    wanted = int(room.removesuffix("MB")) * MIB

    async def there() -> bool:
        try:
            info = await bus.api("INFO", wait=1.0)
        except BusUnavailable:
            return False
        return bool(info["limits"]["max_storage"] == wanted)

    await eventually(there, f"the account has {room}")


async def test_the_account_is_full(tmp_path: Path) -> None:
    """Running workflows wait while every event is refused, and end when there is room; no request is begun before."""
    async with small(tmp_path) as (server, net, bus):
        agent = Agent(bus)
        agent.hold = {"b"}
        alerts: list[Alert] = []
        net.settings["instances"]["m"] = {"roles": ["monitor"]}

        async def on_alert(received: Any) -> None:
            alerts.append(received.decode(Alert))

        await bus.subscribe(subjects.alert(">"), on_alert)
        async with net.here("m"), orchestrators(net, three) as (orchestrator,), agent.working():
            await requests.submit(bus, "tester", WorkflowRequest("test", "before", timeout=120.0))
            await running(bus, "before", "b")
            await fill(bus, "ai.effects.junk.w.t{}")
            await fill(bus, "ai.effects.junk.v.t{}", size=100)
            agent.release.set()

            async def reported() -> list[Alert] | None:
                return [item for item in alerts if item.alert_type == "nats_storage"] or None

            (alert,) = await eventually(reported, "an alert") or []
            reasons = await readyz(orchestrator, "the NATS account")
            await limit(server, bus, "41MB")  # room for a request, and more than 70 % full all the same
            await requests.submit(bus, "tester", WorkflowRequest("test", "late", timeout=120.0))
            await asyncio.sleep(2)
            stands = await queries.state(bus, "before")
            begun = await queries.state(bus, "late")
            await limit(server, bus, "200MB")
            before = await queries.follow(bus, "before", lambda _: None, wait=60)
            late = await queries.follow(bus, "late", lambda _: None, wait=60)

            async def resolved() -> bool:
                return ("nats_storage", "resolved") in [(item.alert_type, item.state) for item in alerts]

            await eventually(resolved, "the alert is resolved")

    assert "no new requests are taken: the NATS account is 100% full (40.0 of 40 MiB)" in reasons
    assert stands is not None
    assert begun is None, "no request is begun while there is no room"
    assert (before.status, late.status) == ("completed", "completed")
    assert alert.message.startswith("the NATS account is ")
    assert "most is in AI_EFFECTS" in alert.message


async def test_from_70_percent_on_no_request_starts(tmp_path: Path) -> None:
    """At 70 % of the account what runs ends, requests wait, and are begun below 65 %; doctor says why."""
    async with small(tmp_path) as (server, net, bus):
        agent = Agent(bus)
        agent.hold = {"b"}
        async with orchestrators(net, three) as (orchestrator,), agent.working():
            await requests.submit(bus, "tester", WorkflowRequest("test", "before", timeout=120.0))
            await running(bus, "before", "b")
            for number in range(29):
                await bus.store(f"ai.effects.junk.w.t{number}", b"x" * (MIB * 98 // 100))
            reasons = await readyz(orchestrator, "no new requests")
            await requests.submit(bus, "tester", WorkflowRequest("test", "late", timeout=120.0))
            agent.release.set()
            before = await queries.follow(bus, "before", lambda _: None, wait=45)
            begun = await queries.state(bus, "late")
            found = await doctor.run_checks(await asyncio.to_thread(net.config), logs.get_logger())
            await limit(server, bus, "60MB")
            late = await queries.follow(bus, "late", lambda _: None, wait=45)
            better = await doctor.run_checks(await asyncio.to_thread(net.config), logs.get_logger())

    (reported,) = [item for item in found if not item.good and item.what not in DRIFT]
    assert before.status == "completed"
    assert begun is None
    assert late.status == "completed"
    assert reasons.startswith("orchestrator: no new requests are taken: the NATS account is 71% full (28.4 of 40 MiB)")
    assert (reported.what, reported.text) == ("storage", "the NATS account is 71% full (28.4 of 40 MiB)")
    assert reported.advice.startswith("most is in AI_EFFECTS 28.4 MiB")
    assert all(item.good for item in better if item.what not in DRIFT)
    assert [item.text for item in better if item.what == "storage"] == ["the NATS account is 47% full (28.4 of 60 MiB)"]


async def test_the_server_is_full(tmp_path: Path) -> None:
    """Without a limit of the account the refusal itself says it; work goes on when there is room again."""
    with NatsServer(tmp_path, jetstream="max_file_store: 640MB") as server:
        net = Net(tmp_path, server.url)
        async with net.client() as bus:
            for stream in (subjects.REQUESTS, subjects.INPUT, subjects.DEAD):
                await shrink(bus, stream, 4 * MIB)
            await bus.api("STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["other.*"], "storage": "file"})
            agent = Agent(bus)
            agent.hold = {"b"}
            async with orchestrators(net, three) as (orchestrator,), agent.working():
                await requests.submit(bus, "tester", WorkflowRequest("test", "before", timeout=120.0))
                await running(bus, "before", "b")
                await hold(bus, subjects.INPUT, subjects.ORCH_INPUT, 60)
                agent.release.set()

                async def completed() -> bool:
                    return bool((await bus.api(f"STREAM.INFO.{subjects.INPUT}"))["state"]["messages"])

                await eventually(completed, "a completion waits")
                await fill(bus, "other.{}", size=1_000_000)
                with pytest.raises(BusFull, match="insufficient resources: JetStream has no room; raise max_file"):
                    await requests.submit(bus, "tester", WorkflowRequest("test", "late", timeout=120.0))
                await hold(bus, subjects.INPUT, subjects.ORCH_INPUT, 0)
                reasons = await readyz(orchestrator, "insufficient")
                await bus.api("STREAM.PURGE.OTHER", {"keep": 400})
                before = await queries.follow(bus, "before", lambda _: None, wait=60)
                late = await ask(bus, "late", wait=60)

    assert (before.status, late.status) == ("completed", "completed")
    assert "insufficient resources: JetStream has no room" in reasons


async def test_max_storage_is_the_limit(quiet_net: Net) -> None:
    """Where the account has no limit, `max_storage` under [bus] says what there is, and 70 % of it is the end."""
    quiet_net.settings["bus"]["max_storage"] = 8 * MIB
    async with quiet_net.client() as bus, orchestrators(quiet_net, three) as (orchestrator,):
        for number in range(6):
            await bus.store(f"ai.effects.junk.w.t{number}", b"x" * (MIB * 98 // 100))
        reasons = await readyz(orchestrator, "no new requests")
        rooms = await capacity.event_limits(bus)

    assert "JetStream's storage (bus.max_storage) is 74% full (5.9 of 8 MiB)" in reasons
    assert [room.what for room in rooms] == ["JetStream's storage (bus.max_storage)", "AI_INPUT"]


async def test_messages_smaller_than_a_state(tmp_path: Path) -> None:
    """A server whose max_payload is below what a state may take ends the workflow that outgrows it, with the reason."""
    with NatsServer(tmp_path, extra="max_payload: 64KB") as server:
        net = Net(tmp_path, server.url)
        async with net.client() as bus:
            agent = Agent(bus, lambda given: msgspec.structs.replace(completion(given), result="x" * 30_000))
            async with orchestrators(net, three), agent.working():
                answer = await ask(bus)
            found = await doctor.run_checks(await asyncio.to_thread(net.config), logs.get_logger())

    (reported,) = [item for item in found if not item.good]
    assert answer.status == "failed"
    assert answer.error.startswith("its state takes 6")
    assert answer.error.endswith("bytes, and one event carries 61440")
    assert (reported.what, reported.text) == ("max_payload", "messages of 65536 bytes")
    assert reported.advice.startswith("set max_payload of nats-server to 1MB")


async def test_the_audit_is_full(tmp_path: Path) -> None:
    """When the audit cannot be written nothing above tier read is done; it is done once there is room, and once."""
    async with small(tmp_path) as (server, _, bus):
        with FakePve(directory=tmp_path / "pve") as pve:
            net = Net(tmp_path, server.url, pve)
            async with net.here("all"):
                requested = WorkflowRequest("vm_deployment", "web1", {"name": "web1", "node": "pve1"})
                await hold(bus, subjects.WORKFLOWS, "mcp-proxmox", 60)
                await requests.submit(bus, "tester", requested)
                await running(bus, "web1", "create_vm")
                await fill(bus, "ai.audit.junk{}")
                await fill(bus, "ai.audit.junk{}", size=100)
                await hold(bus, subjects.WORKFLOWS, "mcp-proxmox", 0)
                await asyncio.sleep(3)
                made = pve.creates()
                found = await doctor.run_checks(await asyncio.to_thread(net.config), logs.get_logger())
                await limit(server, bus, "200MB")
                answer = await queries.follow(bus, "web1", lambda _: None, wait=60)

            assert made == []
            assert answer.status.startswith("completed"), answer
            assert len(pve.creates()) == 1
    (reported,) = [item for item in found if item.what == "storage"]
    assert "AI_AUDIT is kept for ever unless you set its max_age (archive it first)" in reported.advice
