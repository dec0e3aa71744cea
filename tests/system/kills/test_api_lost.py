"""A write to any endpoint whose answer is lost, under the real worker: settled by the task list or left to a person."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mcp.client import Client

from proxmox_access import AsyncPve

if TYPE_CHECKING:
    from harness import Net


async def test_settled_by_the_task_list(net: Net) -> None:
    """A start whose answer is cut off is found as a task and waited for: one start, and the answer says so."""
    net.settings["policy"]["principals"] = {"mcp": "operate"}
    assert net.pve is not None
    sim = AsyncPve(net.pve)
    await sim.rule("POST", "/status/start$", {"cut_after": True}, 1)
    async with net.client(), net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        done = await client.call_tool("api_call", {"path": "/nodes/pve1/qemu/101/status/start"})

    assert not done.is_error, done.content
    assert done.structured_content is not None
    assert done.structured_content["settled"]
    assert len(await sim.log("POST", "/status/start$")) == 1
    assert (await sim.found(101))["status"] == "running"


async def test_left_to_a_person(net: Net) -> None:
    """A write without a task and with a lost answer is never sent again; the error advises to check."""
    net.settings["policy"]["principals"] = {"mcp": "operate"}
    assert net.pve is not None
    sim = AsyncPve(net.pve)
    await sim.rule("PUT", "/config$", {"cut_after": True}, 1)
    config = {"path": "/nodes/pve1/qemu/101/config", "method": "PUT", "parameters": {"cores": 3}}
    async with net.client(), net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        done = await client.call_tool("api_call", config)
        refused = await asyncio.gather(
            client.call_tool("api_call", {"path": "/nodes/pve1/qemu/101", "method": "DELETE"}),
            client.call_tool("api_get", {"path": "/nodes/pve1/qemu/101/agent/file-read"}),
        )

    assert done.is_error
    assert "its result is not known" in done.content[0].text  # type: ignore[union-attr]
    assert len(await sim.log("PUT", "/config$")) == 1
    assert [item.is_error for item in refused] == [True, True]
    assert await sim.log("DELETE") == []
