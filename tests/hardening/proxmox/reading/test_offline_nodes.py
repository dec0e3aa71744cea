"""That a node is offline is reported at once to a reader; a change waits for the node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve

GUEST = r"VM 104 'nas' on pve3: the node pve3 is offline"


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("get_guest", {"vmid": 104}),
        ("get_guest", {"name": "nas"}),
        ("list_snapshots", {"vmid": 104}),
        ("get_pending_changes", {"vmid": 104}),
        ("ping_guest_agent", {"vmid": 104}),
        ("get_guest_config", {"vmid": 104}),
        ("check_migration", {"vmid": 104, "target": "pve1"}),
        ("list_firewall", {"vmid": 104}),
        ("get_usage", {"vmid": 104}),
        ("check_guest", {"vmid": 104}),
    ],
)
async def test_of_a_guest(tools: Bench, sim: AsyncPve, tool: str, given: dict[str, Any]) -> None:
    """A guest on an offline node is reported at once, and its node is not asked."""
    await sim.node("pve3", online=False, delay=22)
    begun = time.monotonic()
    with pytest.raises(errors.NodeOffline, match=GUEST):
        await tools.call(tool, **given)

    assert time.monotonic() - begun < 5
    assert await sim.log("GET", "^/nodes/pve3/") == []


@pytest.mark.parametrize("tool", ["list_tasks", "list_bridges", "list_services", "get_node_log", "list_node_disks"])
async def test_of_a_node(tools: Bench, sim: AsyncPve, tool: str) -> None:
    """A tool that reads from an offline node says so after one call."""
    await sim.node("pve3", online=False, delay=0.1)
    with pytest.raises(errors.NodeOffline, match="the node pve3 is offline"):
        await tools.call(tool, node="pve3")

    assert len(await sim.log("GET", "^/nodes/pve3/")) == 1


async def test_lists_go_on(tools: Bench, sim: AsyncPve) -> None:
    """Lists show the guests of an offline node as unknown, and HA knows them."""
    await sim.node("pve3", online=False, delay=0.1)
    states = {guest.vmid: guest.status for guest in (await tools.call("list_guests")).guests}
    await tools.call("create_ha_resource", MemoryCall("wf.ha"), vmid=104)

    assert states[104] == "unknown"


async def test_a_node_that_answers_again(tools: Bench, sim: AsyncPve) -> None:
    """A node that is online and does not answer for a moment is asked again."""
    await sim.rule("GET", "/status/current$", {"status": 595}, 1)

    assert (await tools.until_done("get_guest", MemoryCall(), vmid=104)).vmid == 104
