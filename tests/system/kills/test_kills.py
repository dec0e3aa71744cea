"""Kill, stop and cut off daemons, NATS and Proxmox' answers at any time: nothing is lost, nothing is done twice.

test_crash_points.py kills at each named point between two writes; here it happens whenever it happens.  `-rP` shows
how long it took until the work went on.  What NATS had sent to a process that died before it read it, and an
acknowledgement that NATS took with it, wait for `ack_wait`; so that the tests need not, some make it shorter.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentd.bus.setup import provision
from system.kills.restarting_daemons import (
    EMPTY,
    ROLES,
    TEMPLATE,
    RestartingDaemons,
    asked,
    deploy,
    note,
    record,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer, Net

CLONE, CREATE = r"/clone$", r"/qemu$"


@pytest.fixture
async def bus(net: Net) -> AsyncIterator[Bus]:
    """Return a provisioned connection; Proxmox tasks take long enough for a kill to land inside."""
    assert net.pve is not None
    net.pve.durations(qmclone=1.0, qmcreate=1.0, qmstart=0.3)
    async with net.client() as connection:
        yield connection


async def _give_up_after(bus: Bus, seconds: float) -> None:
    """Let JetStream redeliver a message without progress reports after so long, not after half a minute.

    It is more than the ten seconds in which a working process reports: else what takes longer comes again and again.
    """
    for stream, config in provision.consumers(provision.slots(["mcp-proxmox", "specialist"])):
        body: dict[str, Any] = {"stream_name": stream, "config": config | {"ack_wait": int(seconds * 1e9)}}
        await bus.api(f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}", body)


async def test_all_daemons_die_at_once(net: Net, bus: Bus) -> None:
    """After a kill -9 of every daemon, in the middle of a clone, the next ones finish what was begun."""
    async with RestartingDaemons(net) as daemons:
        deploying = asyncio.create_task(deploy(bus, "all"))
        await asked(net, CLONE)
        daemons.kill()
        killed = time.monotonic()
        await deploying
        note("recovery_s", round(time.monotonic() - killed, 1))
        await settled(bus, net, "all")

    assert sorted(daemons.restarts) == sorted((name, -9) for name in ROLES)
    assert time.monotonic() - killed < 60


async def test_nats_is_killed(net: Net, bus: Bus, nats_server: NatsServer) -> None:
    """A kill -9 of nats-server in the middle of a clone, and its restart, lose nothing and double nothing."""
    await _give_up_after(bus, 12.0)
    async with RestartingDaemons(net) as daemons:
        deploying = asyncio.create_task(deploy(bus, "nats"))
        await asked(net, CLONE)
        nats_server.kill()
        killed = time.monotonic()
        await asyncio.to_thread(nats_server.start)
        await deploying
        note("recovery_s", round(time.monotonic() - killed, 1))
        await settled(bus, net, "nats")

    assert daemons.restarts == []


async def test_nats_and_a_bridge_die(net: Net, bus: Bus, nats_server: NatsServer) -> None:
    """A bridge killed during an outage of NATS finds the clone that it started when both are back."""
    await _give_up_after(bus, 12.0)
    async with RestartingDaemons(net) as daemons:
        deploying = asyncio.create_task(deploy(bus, "both"))
        await asked(net, CLONE)
        nats_server.kill()
        daemons.kill("mcp-bridge")
        killed = time.monotonic()
        await daemons.exited.wait()
        await asyncio.to_thread(nats_server.start)
        await deploying
        note("recovery_s", round(time.monotonic() - killed, 1))
        await settled(bus, net, "both")

    assert daemons.restarts == [("mcp-bridge", -9)]


@pytest.mark.parametrize("effect", ["cut_after", "lost_before"])
@pytest.mark.parametrize(("path", "requested"), [(CLONE, TEMPLATE), (CREATE, EMPTY)], ids=["clone", "new"])
async def test_an_answer_is_lost_and_the_bridge_is_killed(
    net: Net, bus: Bus, effect: str, path: str, requested: dict[str, object]
) -> None:
    """The successor of a bridge killed at an unanswered write checks the state and settles it."""
    assert net.pve is not None
    net.pve.rule("POST", path, {effect: True}, count=1)
    async with RestartingDaemons(net) as daemons:
        deploying = asyncio.create_task(deploy(bus, "cut", requested))
        await asked(net, path)
        daemons.kill("mcp-bridge")
        killed = time.monotonic()
        await deploying
        note("recovery_s", round(time.monotonic() - killed, 1))
        await settled(bus, net, "cut")

    assert daemons.restarts == [("mcp-bridge", -9)]
    assert time.monotonic() - killed < 60


async def test_a_bridge_is_killed_during_a_call(net: Net, bus: Bus) -> None:
    """A bridge killed while a call starts the VM gets the call again, and finds the start running."""
    assert net.pve is not None
    net.pve.durations(qmstart=1.5)
    async with RestartingDaemons(net) as daemons:
        deploying = asyncio.create_task(deploy(bus, "call"))
        await asked(net, r"/status/start$")
        daemons.kill("mcp-bridge")
        killed = time.monotonic()
        await deploying
        took = time.monotonic() - killed
        note("recovery_s", round(took, 1))
        await settled(bus, net, "call")

    assert took < 25, "the next process of the same agent need not wait for its predecessor's claim to grow old"


@pytest.mark.parametrize("where", ["clone runs", "request under way"])
async def test_a_paused_bridge_is_fenced(net: Net, bus: Bus, where: str) -> None:
    """A bridge that sleeps past ack_wait is replaced; when it wakes up it finds itself fenced and does nothing more."""
    assert net.pve is not None
    await _give_up_after(bus, 4.0)
    if where == "request under way":  # it reaches Proxmox after the second bridge has made the VM
        net.pve.rule("POST", CLONE, {"delay": 9.0}, count=1)
    async with RestartingDaemons(net, (*ROLES, "mcp-bridge2")) as daemons:
        deploying = asyncio.create_task(deploy(bus, "zombie"))
        await asked(net, CLONE)
        sleeper = (await record(bus, "zombie.create_vm")).owner.partition("-pve1/")[0]
        daemons.signal(sleeper, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            await deploying
            note("recovery_s", round(time.monotonic() - stopped, 1))
            made = await record(bus, "zombie.create_vm")
            await asyncio.sleep(max(0.0, 10.0 - (time.monotonic() - stopped)))
        finally:
            daemons.signal(sleeper, signal.SIGCONT)
        await asyncio.sleep(2.0)  # what a zombie would do wrong, it does now
        await settled(bus, net, "zombie")

        assert await record(bus, "zombie.create_vm") == made
    assert not made.owner.startswith(f"{sleeper}-pve1/")
    assert made.epoch == 2
    assert daemons.restarts == []


async def test_ten_deployments_among_kills(net: Net, bus: Bus) -> None:
    """Two of each at work on ten VMs, one orchestrator and one bridge killed at random: ten VMs, once each."""
    seed = int(os.environ.get("AGENTD_TEST_SEED") or random.SystemRandom().randrange(10_000))
    chance = random.Random(seed)  # noqa: S311 - so that a failure can be repeated
    note("seed", seed)
    names = [f"vm{number}" for number in range(10)]
    begun = time.monotonic()
    await _give_up_after(bus, 12.0)
    async with RestartingDaemons(
        net, ("orchestrator", "orchestrator2", "specialist", "mcp-bridge", "mcp-bridge2")
    ) as daemons:
        deploying = asyncio.gather(*(deploy(bus, name, wait=110) for name in names))
        victims = [chance.choice(("orchestrator", "orchestrator2")), chance.choice(("mcp-bridge", "mcp-bridge2"))]
        chance.shuffle(victims)
        await asked(net, CLONE, chance.randint(1, 6))
        for victim in victims:
            daemons.kill(victim)
            await asyncio.sleep(chance.uniform(0.0, 1.5))
        killed = time.monotonic()
        slowest = max(await deploying)
        note("recovery_s", round(time.monotonic() - killed, 1))
        note("slowest_s", round(slowest, 1))
        await settled(bus, net, *names)

    assert sorted(daemons.restarts) == sorted((name, -9) for name in victims), f"AGENTD_TEST_SEED={seed}"
    assert time.monotonic() - begun < 110, f"AGENTD_TEST_SEED={seed}"


@pytest.mark.parametrize(("clone", "epoch"), [(1.5, 1), (6.0, 2)], ids=["finishes", "hands back"])
async def test_drain(net: Net, bus: Bus, clone: float, epoch: int) -> None:
    """A bridge that is stopped finishes what ends in time, hands the rest to another one, and goes with code 0."""
    assert net.pve is not None
    net.pve.durations(qmclone=clone)
    net.settings["drain"] = {"timeout": 3.0}
    async with RestartingDaemons(net, (*ROLES, "mcp-bridge2")) as daemons:
        deploying = asyncio.create_task(deploy(bus, "drained"))
        await asked(net, CLONE)
        first = (await record(bus, "drained.create_vm")).owner.partition("-pve1/")[0]
        daemons.signal(first, signal.SIGTERM)
        reported = time.monotonic()
        async with asyncio.timeout(20):
            await daemons.exited.wait()
        went = time.monotonic() - reported
        note("drain_s", round(went, 1))
        await deploying
        await settled(bus, net, "drained")

        assert (await record(bus, "drained.create_vm")).epoch == epoch
    assert daemons.restarts == [(first, 0)]
    assert went < 10
