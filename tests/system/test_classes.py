"""Concurrency classes, queues of a node, and the urgent lane, on real daemons and the simulated Proxmox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentd import client
from agentd.messages import Tier, WorkflowRequest
from agentd.provision import provision
from agentd.workflows import Definition, TaskSpec, template

if TYPE_CHECKING:
    from harness import Net


class Guests(msgspec.Struct, frozen=True):
    """Which guests."""

    vmids: list[int]


def start(wish: Guests) -> list[TaskSpec]:
    """Start all at once, as far as their class lets."""
    vmid = {"vmid": template("{{ item }}")}
    return [
        TaskSpec("on", "start_vm", "mcp-proxmox@pve1+power", Tier.OPERATE, vmid, each=wish.vmids, window=20, retries=0)
    ]


async def test_so_many_at_once(net: Net) -> None:
    """A class lets two tasks be under way at once, over all agents and workflows; the others wait for their turn."""
    assert net.pve is not None
    part = net.directory / "conf.d" / "queues.toml"
    part.parent.mkdir(exist_ok=True)
    part.write_text('[[bus.queues]]\nname = "mcp-proxmox@pve1+power"\nin_flight = 2\n')
    net.pve.durations(qmstart=0.7, vzstart=0.7)
    guests = [
        each["vmid"] for each in net.pve.world()["guests"] if each["status"] == "stopped" and not each["template"]
    ]
    async with net.client() as bus:
        await provision(bus, [("mcp-proxmox@pve1+power", 2)])
        async with net.here("all") as daemon:
            daemon.workflows["test"] = Definition("test", "A test's own.", Guests, start)
            for number, vmids in enumerate((guests[::2], guests[1::2])):
                await client.submit(bus, "tester", WorkflowRequest("test", f"w{number}", {"vmids": vmids}))
            answers = [await client.follow(bus, f"w{number}", lambda _: None, wait=60) for number in range(2)]
    began = [(float(each["starttime"]), float(each["ended"])) for each in net.pve.tasks() if "start" in each["type"]]

    assert {each.status for each in answers} == {"completed"}, answers
    assert len(began) == len(guests) >= 4
    took = max(end for _, end in began) - min(start for start, _ in began)
    assert took >= 0.7 * len(guests) / 2 - 1.0, "never more than two at once; times of tasks are whole seconds"
