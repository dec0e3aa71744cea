"""The older transport, HTTP with SSE, beside `/mcp`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.shared.exceptions import MCPError

from harness import eventually
from plugins.mcp.test_changes import listed, of_two_instances
from plugins.mcp.test_network_tools import data, with_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net


async def test_a_client_reads_and_acts_as_its_principal(net: Net) -> None:
    """Its token is its principal: it reads and changes within its tier, and no more."""
    shown = with_tokens(net, alice="operate", rita="read")
    headers = {name: {"Authorization": f"Bearer {token}"} for name, token in shown.items()}
    async with net.client(), net.here() as daemon:
        async with Client(sse_client(f"{daemon.url}/sse", headers["alice"]), mode="legacy") as alice:
            nodes = await data(alice, "list_nodes")
            await data(alice, "start_guest", vmid=101)
        async with Client(sse_client(f"{daemon.url}/sse", headers["rita"]), mode="legacy") as rita:
            with pytest.raises(MCPError, match="within tier read"):
                await rita.call_tool("start_guest", {"vmid": 101})

    assert len(nodes["nodes"]) == 3
    assert net.pve is not None
    assert (net.pve.found(101) or {})["status"] == "running"


async def test_it_is_notified_of_tools(net: Net, tmp_path: Path) -> None:
    """A client of this transport gets a notification too when tools come."""
    of_two_instances(net, tmp_path / "files")
    heard = asyncio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            heard.set()

    async with (
        net.client(),
        net.here("bridge") as daemon,
        Client(sse_client(f"{daemon.url}/sse"), mode="legacy", message_handler=hear) as client,
    ):
        await asyncio.sleep(1)
        heard.clear()
        async with net.here("files"), asyncio.timeout(60):
            await heard.wait()
            found = await listed(client)

    assert found


@pytest.mark.parametrize("wrong", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Authorization": "x"}])
async def test_foreign_pages_get_nothing(net: Net, wrong: dict[str, str]) -> None:
    """A foreign Host or Origin, and an unknown token, are refused for the stream and for messages."""
    async with net.client(), net.here() as daemon, httpx2.AsyncClient(headers=wrong) as foreign:
        stream = await foreign.get(f"{daemon.url}/sse")
        message = await foreign.post(f"{daemon.url}/messages/?session_id={'0' * 32}", json={})

    assert {stream.status_code, message.status_code} <= {400, 401, 403, 421}


async def test_a_session_belongs_to_its_principal(net: Net) -> None:
    """Another principal cannot post to a session, even if it knows the id; each has a limited number of streams."""
    shown = with_tokens(net, alice="operate", rita="read")
    net.settings["mcp-bridge"] = {"sessions_per_principal": 1}
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with net.client(), net.here() as daemon, httpx2.AsyncClient(base_url=daemon.url) as http:
        mine, others = ({"Authorization": f"Bearer {shown[name]}"} for name in ("alice", "rita"))
        async with http.stream("GET", "/sse", headers=mine) as stream:
            lines = stream.aiter_lines()
            address = ""
            while not address.startswith("data: "):
                address = await anext(lines)
            address = address.removeprefix("data: ")
            second = await http.get("/sse", headers=mine)
            stolen = await http.post(address, json=call, headers=others)
            accepted = await http.post(address, json=call, headers=mine)

        async def opened() -> bool | None:
            async with http.stream("GET", "/sse", headers=mine) as again:
                return True if again.status_code == 200 else None

        await eventually(opened, "the closed stream does not count")

    assert (second.status_code, stolen.status_code, accepted.status_code) == (429, 404, 202)
