"""One principal that asks for too much is refused with what to do, and the requests of others are done meanwhile."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from msgspec.structs import replace

from agentd.bus.delivery.consumer import Consumer
from agentd.bus.setup.provision import WAITING
from agentd.client import queries, requests
from agentd.errors import BusError, BusFull, TooManyWaiting
from agentd.safety import tokens
from agentd.telemetry import logs
from agentd.web.serving.server import WebServer
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import Outcome, ScheduleRun, Tier, ToolReply, WorkflowRequest
from agentd.wire.workflow import Parent, Status, TaskSpec
from agentd_mcp.role import Bridge
from agentd_orchestrator.admission import PRINCIPALS, Quota
from agentd_orchestrator.engine import executor
from agentd_orchestrator.engine.executor import BRIEF
from agentd_orchestrator.engine.open_workflows import OpenWorkflows
from agentd_orchestrator.state_machine import decide as wf
from core import web_client
from core.web_networks import busy_network
from fake_agent import Agent, begin, orchestrators, task
from plugins.mcp.test_mcp_role import page, running, surroundings

if TYPE_CHECKING:
    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus
    from harness import Net

FLOOD = 10_000
SERVED = 5.0
"""Seconds within which the request of another principal is done, on a busy machine."""


# -- what one principal may ask for ------------------------------------------------------------------------------------


def test_so_many_requests_within_a_minute() -> None:
    """The next one is refused with the setting; other principals are not, and a minute later none is."""
    quota = Quota(3, 1000)
    reply = [quota.refusal("alice", at, lambda _: 0) for at in (0.0, 1.0, 2.0, 3.0, 59.0, 60.0, 60.5)]

    assert [bool(text) for text in reply] == [False, False, False, True, True, False, True]
    assert "alice has sent 3 requests within a minute, as many as [orchestrator] requests_per_minute" in reply[3]
    assert "try again in 57 s, with another id" in reply[3]
    assert quota.refusal("bob", 3.0, lambda _: 0) == ""


def test_a_flood_under_many_names() -> None:
    """What is counted for each principal does not fill the memory."""
    quota = Quota(3, 1000)
    for number in range(PRINCIPALS * 3):
        quota.refusal(f"p{number}", 0.0, lambda _: 0)

    assert quota.counted == PRINCIPALS


def test_open_workflows_are_counted() -> None:
    """By principal; without those that another workflow started, that are over, or that were forgotten."""

    def state(name: str, principal: str, status: Status = Status.RUNNING) -> Any:
        made = wf.decide(None, begin(task("a"), name=name), now())
        assert made is not None
        return replace(made, principal=principal, status=status)

    opened = OpenWorkflows(3)
    opened.keep(state("a1", "alice"), 1)
    opened.keep(state("a1", "alice"), 2)
    opened.keep(state("b1", "bob"), 1)
    opened.keep(replace(state("c1", "alice"), parent=Parent("a1", "t", 1, 1)), 1)
    assert (opened.of("alice"), opened.of("bob"), len(opened)) == (1, 1, 3)
    opened.keep(state("a2", "alice"), 1)  # the oldest, a1, is forgotten
    assert ("a1" in opened, opened.of("alice")) == (False, 1)
    opened.keep(state("a2", "alice", Status.COMPLETED), 2)
    opened.drop("b1")
    opened.drop("b1")
    assert (opened.of("alice"), opened.of("bob"), len(opened)) == (0, 0, 1)


async def test_so_many_open_workflows(quiet_net: Net, bus: Bus) -> None:
    """A request above the limit of its principal is rejected with the setting, and kept for an hour, not 30 days."""
    quiet_net.settings["orchestrator"] = {"open_workflows_per_principal": 2, "requests_per_minute": 100}
    agent = Agent(bus)
    agent.hold.add("a")
    async with orchestrators(quiet_net, lambda _: [task("a")]), agent.working():
        for number in range(3):
            await requests.submit(bus, "alice", WorkflowRequest("test", f"w{number}"))
        await requests.submit(bus, "bob", WorkflowRequest("test", "b0"))
        refused = await queries.follow(bus, "w2", lambda _: None, wait=30)
        kept = [await bus.last(subjects.WORKFLOWS, of("w2")) for of in (subjects.event, subjects.response)]
        agent.release.set()
        others = [await queries.follow(bus, name, lambda _: None, wait=30) for name in ("w0", "w1", "b0")]
        await requests.submit(bus, "alice", WorkflowRequest("test", "w3"))
        later = await queries.follow(bus, "w3", lambda _: None, wait=30)
        done = await bus.last(subjects.WORKFLOWS, subjects.event("w0"))

    assert refused.status == "rejected"
    assert "alice has 2 open workflows, as many as [orchestrator] open_workflows_per_principal allows" in str(
        refused.error
    )
    assert {answer.status for answer in [*others, later]} == {"completed"}
    assert [stored.headers["Nats-TTL"] for stored in kept if stored is not None] == [f"{BRIEF:.0f}s"] * 2
    assert done is not None
    assert done.headers["Nats-TTL"] == f"{executor.KEPT:.0f}s"


async def test_schedules_and_workflows_are_not_counted(quiet_net: Net, bus: Bus) -> None:
    """A scheduled request starts for any number of open workflows; a similar id of another client is refused."""
    quiet_net.settings["orchestrator"] = {"open_workflows_per_principal": 1}
    run = ScheduleRun("cron-nightly-7", begun=now(), fired=now())
    await bus.kv_put(subjects.CONF, subjects.schedule_key("nightly"), run)
    agent = Agent(bus)
    agent.hold.add("b")
    plan = [
        TaskSpec(name, "", subjects.ORCHESTRATOR, Tier.READ, workflow="child", parameters={"n": name})
        for name in ("a", "c")
    ]
    async with orchestrators(quiet_net, lambda _: plan, children={"child": lambda _: [task("b")]}), agent.working():
        await requests.submit(bus, "alice", WorkflowRequest("test", "w0"))
        for _ in range(200):
            if len(agent.given) == 2:  # both children have begun, though alice may have one
                break
            await asyncio.sleep(0.1)
        for name in ("cron-nightly-7", "cron-nightly-8", "cron-weekly-1"):
            await requests.submit(bus, "alice", WorkflowRequest("child", name, parameters={}))
        refused = [
            await queries.follow(bus, name, lambda _: None, wait=30) for name in ("cron-nightly-8", "cron-weekly-1")
        ]
        agent.release.set()
        done = [await queries.follow(bus, name, lambda _: None, wait=30) for name in ("w0", "cron-nightly-7")]

    assert [answer.status for answer in refused] == ["rejected"] * 2
    assert [answer.status for answer in done] == ["completed"] * 2


# -- what waits --------------------------------------------------------------------------------------------------------


async def test_requests_that_wait(bus: Bus) -> None:
    """NATS stores only so many of one principal and refuses the next with what to do; what it stored stays."""

    async def ask(principal: str, name: str) -> int:
        return await requests.submit(bus, principal, WorkflowRequest("test", name))

    await asyncio.gather(*(ask("rita", f"r{number}") for number in range(WAITING)))
    with pytest.raises(TooManyWaiting, match="this one was not stored; send it again, with the same id") as refused:
        await ask("rita", "more")
    await ask("oscar", "o1")
    with pytest.raises(TooManyWaiting):
        await ask("rita", "more")
    stream = await bus.api(f"STREAM.INFO.{subjects.REQUESTS}")
    await bus.api(f"STREAM.PURGE.{subjects.REQUESTS}", {"filter": subjects.request("rita"), "keep": WAITING - 1})
    again = await ask("rita", "more")

    assert not isinstance(refused.value, BusFull)  # that would keep orchestrators from all requests
    assert refused.value.exit_code == 75
    assert stream["state"]["messages"] == WAITING + 1
    assert again > 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("count", [1, 2])
async def test_ten_thousand_requests_of_one(quiet_net: Net, bus: Bus, count: int) -> None:
    """Another principal's requests are done within seconds meanwhile; each that was stored is answered, once."""
    agent = Agent(bus)
    waits: list[float] = []
    async with orchestrators(quiet_net, lambda _: [task("a"), task("b", "a")], count), agent.working():
        flooding = asyncio.create_task(flood(bus, "rita"))
        while not flooding.done() or len(waits) < 5:
            begun = time.monotonic()
            await requests.submit(bus, "oscar", WorkflowRequest("test", f"o{len(waits)}"))
            answer = await queries.follow(bus, f"o{len(waits)}", lambda _: None, wait=60)
            waits.append(time.monotonic() - begun)
            assert answer.status == "completed"
        stored = await flooding
        answers = [await queries.follow(bus, name, lambda _: None, wait=60) for name in stored]
    figures = f"p50 {sorted(waits)[len(waits) // 2]:.2f} s, longest {max(waits):.2f} s, {len(stored)} stored"
    logs.get_logger().info("a flood", others=figures)
    assert max(waits) < SERVED, figures
    assert WAITING <= len(stored) < FLOOD
    assert {answer.status for answer in answers} == {"completed", "rejected"}


async def flood(bus: Bus, principal: str) -> list[str]:
    """Ask for FLOOD workflows as fast as NATS takes them; return the ids of those that it stored."""
    stored: list[str] = []

    async def ask(name: str) -> None:
        with suppress(TooManyWaiting):
            await requests.submit(bus, principal, WorkflowRequest("test", name))
            stored.append(name)

    for begun in range(0, FLOOD, 500):
        await asyncio.gather(*(ask(f"f{number}") for number in range(begun, begun + 500)))
    return stored


async def test_a_request_of_an_orchestrator_that_is_not_stored(bus: Bus) -> None:
    """It is tried again; the orchestrator takes other requests meanwhile, which it does not where NATS is full."""
    refusals: list[BusError] = [TooManyWaiting("many"), BusFull("full")]
    seen: list[str] = []
    enough = asyncio.Event()

    async def handle(_: Job) -> None:
        seen.append(consumer.full)
        if refusals:
            raise refusals.pop(0)
        enough.set()

    await bus.store(subjects.request("cron"), b"{}")
    consumer = Consumer(
        bus, subjects.REQUESTS, subjects.ORCH_REQUESTS, handle, slots=1, log=logs.get_logger(), journal=None
    )
    stopping = asyncio.Event()
    working = asyncio.create_task(consumer.run(stopping))
    await asyncio.wait_for(enough.wait(), 30)
    stopping.set()
    await working

    assert seen == ["", "", "full"]


# -- calls over HTTP and MCP -------------------------------------------------------------------------------------------


async def test_actions_over_http() -> None:
    """One principal has so many under way; the next gets 429 and the setting, another principal's is carried out."""
    view, release = busy_network(), asyncio.Event()
    made = {name: tokens.new_token() for name in ("bob", "eve")}
    carry_out = view.signal

    async def slow(principal: str, workflow_id: str, wanted: Any) -> Any:
        if principal == "bob":
            await release.wait()
        return await carry_out(principal, workflow_id, wanted)

    view.signal = slow  # type: ignore[method-assign]
    path = "/api/workflows/web2-7f31/pause"
    server = WebServer(view, port=0, tokens={name: kept for name, (_, kept) in made.items()}, max_concurrent_calls=3)
    ask = web_client.Client(await server.start())
    try:
        held = [asyncio.create_task(ask.post(path, b"", made["bob"][0])) for _ in range(6)]
        await asyncio.wait(held, return_when=asyncio.FIRST_COMPLETED)
        other = await ask.post(path, b"", made["eve"][0])
        health = await ask("/healthz")
        release.set()
        answers = await asyncio.gather(*held)
        free = await ask.post(path, b"", made["bob"][0])
    finally:
        release.set()
        await server.stop()

    assert sorted(answer.code for answer in answers) == [200, 200, 200, 429, 429, 429]
    text = next(answer for answer in answers if answer.code == 429).text
    assert "bob has 3 calls under way at this daemon, as many as [policy] max_concurrent_calls allows" in text
    assert [other.code, health.code, free.code] == [200, 200, 200]


async def test_calls_over_mcp() -> None:
    """One principal has so many under way, however it calls; the next is refused, another principal's is done."""
    made = {name: tokens.new_token() for name in ("bob", "eve")}
    bridge, context = Bridge(), surroundings(tokens={name: kept for name, (_, kept) in made.items()})
    release, both, begun = asyncio.Event(), asyncio.Event(), []

    async def slow(_tool: Any, _parameters: Any, *, principal: str, progress: Any, dry_run: bool) -> ToolReply:
        del progress, dry_run
        begun.append(principal)
        if len(begun) == 2:
            both.set()
        if principal == "bob":
            await release.wait()
        return ToolReply(Outcome.COMPLETED, {"valid": True, "problems": [], "vm": None})

    context.worker.calls.perform_here = slow
    name, requested = "validate_vm_parameters", {"name": "app"}

    async def call(principal: str) -> Any:
        headers = {"Authorization": f"Bearer {made[principal][0]}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            Client(streamable_http_client(url, http_client=http)) as ai,
        ):
            return await ai.call_tool("read_tool", {"tool": name, "arguments": requested})

    async with page(bridge) as url, running(bridge, context):
        held = [asyncio.create_task(call("bob")) for _ in range(2)]
        await asyncio.wait_for(both.wait(), 30)
        refused = await call("bob")
        other = await call("eve")
        release.set()
        done = [await one for one in held]
        free = await call("bob")

    assert refused.is_error
    assert (
        "bob has 2 calls under way at mcp-bridge-pve1, as many as [policy] max_concurrent_calls"
        in refused.content[0].text
    )
    assert [answer.is_error for answer in (other, *done, free)] == [False] * 4
