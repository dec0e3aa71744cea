"""Every live client is notified when tools come and go anywhere in the network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import mcp_types as types
from mcp.client.client import Client

from harness import eventually
from plugins.mcp.test_network_tools import with_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net


def of_two_instances(net: Net, directory: Path) -> None:
    """Configure a bridge that lists all tools, and an agent with the file tools."""
    directory.mkdir()
    with_tokens(net, mcp="operate")
    net.settings["mcp-bridge"] = {"tool_list": "all"}
    net.settings["filesystem"] = {"roots": [str(directory)]}
    net.settings["instances"] = {"bridge": {"roles": ["mcp-bridge"]}, "files": {"roles": ["filesystem"]}}


async def listed(client: Client) -> bool:
    """Return whether the file tools are in the list of tools, past any cache of the client."""
    return "read_text_file" in {tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools}


async def test_a_client_of_an_older_protocol(net: Net, tmp_path: Path) -> None:
    """Its session gets a notification for tools that come and for tools that go; the server offers them."""
    of_two_instances(net, tmp_path / "files")
    heard = asyncio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            heard.set()

    async with (
        net.client(),
        net.here("bridge") as daemon,
        Client(f"{daemon.url}/mcp", mode="legacy", message_handler=hear) as client,
    ):
        capabilities = client.server_capabilities
        await asyncio.sleep(1)  # the stream for notifications is open, and the tools of the bridge have been read
        heard.clear()
        found = []
        async with net.here("files"), asyncio.timeout(60):
            await heard.wait()
            found.append(await listed(client))
            heard.clear()
        async with asyncio.timeout(60):
            await heard.wait()
        found.append(await listed(client))

    assert capabilities is not None
    assert capabilities.tools is not None
    assert capabilities.tools.list_changed
    assert found == [True, False]


async def test_a_client_of_the_newest_protocol(net: Net, tmp_path: Path) -> None:
    """Its stream gets an event for tools that come and for tools that go, and ends when the bridge stops."""
    of_two_instances(net, tmp_path / "files")
    events: list[object] = []

    async with net.client(), net.here("bridge") as daemon, Client(f"{daemon.url}/mcp", mode="auto") as client:

        async def follow() -> None:
            async with client.listen(tools_list_changed=True) as stream:
                events.append("open")
                async for event in stream:
                    events.append(event)  # noqa: PERF401 - the test reads it meanwhile

        async def more(than: int) -> bool | None:
            return True if len(events) > than else None

        following = asyncio.create_task(follow())
        await eventually(lambda: more(0), "the stream is open")
        await asyncio.sleep(1)
        before = len(events)
        async with net.here("files"):
            await eventually(lambda: more(before), "an event for tools that came", 60)
            came, before = await listed(client), len(events)
        await eventually(lambda: more(before), "an event for tools that went", 60)
        went = await listed(client)
        following.cancel()

    assert (came, went) == (True, False)
