"""Concurrency classes and queues of a node, on a real daemon and the simulated Proxmox."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from agentd.bus.setup.provision import provision
from agentd.client import queries, requests
from agentd.config.settings import Queue
from agentd.wire.messages import Tier, WorkflowRequest
from agentd.wire.workflow import Definition, TaskSpec, template

if TYPE_CHECKING:
    from harness import Net

QUEUE = "mcp-proxmox@pve1+make"


class Guests(msgspec.Struct, frozen=True):
    """Which guests."""

    vmids: list[int]


def make(requested: Guests) -> list[TaskSpec]:
    """Make all at once, as far as their class lets."""
    vm = {"vmid": template("{{ item }}"), "node": "pve1", "name": template("c{{ item }}"), "storage": "local-lvm"}
    return [TaskSpec("vm", "create_vm", QUEUE, Tier.OPERATE, vm, for_each=requested.vmids, max_parallel=20, retries=0)]


async def test_so_many_at_once(net: Net) -> None:
    """A class lets two tasks be under way at once, over all workflows; the others wait for their turn."""
    assert net.pve is not None
    part = net.directory / "conf.d" / "queues.toml"
    part.parent.mkdir(exist_ok=True)
    part.write_text(f'[[bus.queues]]\nname = "{QUEUE}"\nin_flight = 2\n')
    net.pve.durations(qmcreate=0.7)
    async with net.client() as bus:
        await provision(bus, queues=[Queue(name=QUEUE, in_flight=2)])
        async with net.here("all") as daemon:
            daemon.workflows["test"] = Definition("test", "A test's own.", Guests, make)
            begun = time.monotonic()
            for name, vmids in (("w0", range(700, 704)), ("w1", range(704, 708))):
                await requests.submit(bus, "tester", WorkflowRequest("test", name, {"vmids": list(vmids)}))
            answers = [await queries.follow(bus, name, lambda _: None, wait=60) for name in ("w0", "w1")]
            took = time.monotonic() - begun

    assert {answer.status for answer in answers} == {"completed"}, answers
    assert len(net.pve.creates()) == 8
    assert took >= 0.7 * 8 / 2, "never more than two at once"
