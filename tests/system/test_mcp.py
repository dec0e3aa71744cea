"""An AI client at a running daemon: the tools of the bridge over MCP, beside the status page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from agentd.wire import subjects
from agentd.wire.records import AuditRecord
from core.chains import verify

if TYPE_CHECKING:
    from harness import Net


async def test_a_client_lists_reads_and_acts(net: Net) -> None:
    """The same tools, the same policy, the same audit: a client with tier operate starts a VM, once."""
    net.settings["policy"]["principals"] = {"mcp": "operate"}
    async with net.client() as bus, net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        nodes = await client.call_tool("list_nodes", {})
        started = await client.call_tool("start_guest", {"vmid": 101})
        wrong = await client.call_tool("start_guest", {"vmid": "many"})
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]

    assert {"find_tools", "use_tool", "list_guests", "start_guest"} <= set(tools)
    assert tools["list_guests"].annotations is not None
    assert tools["list_guests"].annotations.read_only_hint
    assert nodes.structured_content is not None
    assert [node["node"] for node in nodes.structured_content["nodes"]] == ["pve1", "pve2", "pve3"]
    assert not started.is_error
    assert net.pve is not None
    vm = net.pve.found(101)
    assert vm is not None
    assert vm["status"] == "running"
    assert wrong.is_error
    assert [(record.principal, record.tool, record.phase) for record in chain] == [
        ("mcp", "start_guest", "before"),
        ("mcp", "start_guest", "after"),
    ]
    assert verify(chain) is None


async def test_a_client_reads_by_default(net: Net) -> None:
    """Without a tier of its own a client neither sees nor calls what changes something."""
    net.settings["policy"] = {"default_tier": "read"}
    async with net.client(), net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        with pytest.raises(MCPError, match="there is no tool 'start_guest' within tier read"):
            await client.call_tool("start_guest", {"vmid": 101})

    assert "list_guests" in names
    assert "start_guest" not in names
    assert net.pve is not None
    vm = net.pve.found(101)
    assert vm is not None
    assert vm["status"] == "stopped"
