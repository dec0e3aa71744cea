"""MCP servers that agentd mounts: accepted tools are tools of the network, and a bad server harms only itself."""

from __future__ import annotations

import asyncio
import shutil
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client.tool_calls import call_tool
from agentd.errors import AgentdError, Denied, PermanentError, Rejected
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import ToolCall, ToolReply
from harness import eventually
from plugins.mcp.test_network_tools import client_of, data, with_tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agentd.bus.jetstream import Bus
    from harness import Net

SERVERS = Path(__file__).parent


@pytest.fixture
def mounted(quiet_net: Net, tmp_path: Path) -> Path:
    """Configure the server `sdk`; return the directory that it works in."""
    directory = tmp_path / "work"
    for path in (directory, tmp_path / "accepted", tmp_path / "offered"):
        path.mkdir()
    mount(quiet_net, tmp_path, "sdk", str(SERVERS / "sdk_server.py"), str(directory))
    quiet_net.settings["mounts"]["servers"]["sdk"] |= {"tier": "operate", "tiers": {"echo": "read", "fail": "read"}}
    return directory


def mount(net: Net, directory: Path, name: str, *arguments: str, **settings: Any) -> None:
    """Add a server to the configuration of the instance `mounts`."""
    section = net.settings.setdefault(
        "mounts",
        {"definitions": str(directory / "accepted"), "offered": str(directory / "offered"), "servers": {}},
    )
    section["servers"][name] = {"command": [sys.executable, *arguments], **settings}
    net.settings["instances"]["mounts"] = {"roles": ["mounts"]}


async def accept(net: Net, directory: Path, *names: str) -> None:
    """Run the instance once, and accept what the servers offer, as an administrator would."""
    async with net.here("mounts"):
        for name in names:
            await eventually(partial(_exists, directory / "offered" / f"{name}.json"), f"{name} offers tools")
            shutil.copy(directory / "offered" / f"{name}.json", directory / "accepted")


async def _exists(path: Path) -> bool | None:
    return True if await asyncio.to_thread(path.exists) else None


async def called(bus: Bus, server: str, tool: str, key: str = "", **parameters: Any) -> ToolReply:
    """Call a tool of a server as `tester`."""
    call = ToolCall(parameters, key=key, principal="tester", attempt=1, deadline=now() + timedelta(seconds=30))
    subject = subjects.tool_call("tester", f"mcp-{server}", f"{server}__{tool}")
    return await call_tool(bus, subject, call, seconds=30)


async def ready(calling: Awaitable[ToolReply]) -> ToolReply | None:
    """Return the reply, None if the server is not available yet."""
    try:
        return await calling
    except AgentdError as error:
        if "not available" in str(error):
            return None
        raise


async def test_an_accepted_tool_is_a_tool_of_the_network(quiet_net: Net, mounted: Path, tmp_path: Path) -> None:
    """Nothing is offered before it is accepted; then clients of a bridge and workflows call it."""
    shown = with_tokens(quiet_net, alice="operate")
    quiet_net.settings["instances"]["bridge"] = {"roles": ["mcp-bridge", "orchestrator"]}
    task = {"tool": "sdk__add_note", "parameters": {"text": "from a workflow"}}
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "sdk")
        with pytest.raises(AgentdError):
            await called(bus, "sdk", "echo", text="x")
        async with quiet_net.here("mounts"):
            echoed = await eventually(lambda: ready(called(bus, "sdk", "echo", text="hi", times=2)), "the server runs")
            with pytest.raises(PermanentError, match="Error executing tool fail"):
                await called(bus, "sdk", "fail", "r.1")
            with pytest.raises(AgentdError, match="times"):
                await called(bus, "sdk", "echo", text="hi", times="x")
            async with quiet_net.here("bridge") as daemon, client_of(daemon.url, shown["alice"]) as alice:
                found = await data(alice, "find_tools", words="echo sdk")
                used = await data(alice, "use_tool", tool="sdk__echo", arguments={"text": "over MCP"})
                done = await data(alice, "submit_workflow", workflow_type="tool_call", parameters=task, wait=30)

    assert (echoed.result["server"], echoed.result["text"]) == ("sdk", "hi hi")
    assert "sdk__echo" in str(found)
    assert used["text"] == "over MCP"
    assert done["status"] == "completed"
    assert (mounted / "notes").read_text() == "from a workflow\n"


async def test_what_the_server_says_of_itself_is_not_trusted(quiet_net: Net, mounted: Path, tmp_path: Path) -> None:
    """Every tool claims to be read-only; without a tier in the configuration each call needs a second principal."""
    quiet_net.settings["mounts"]["servers"]["sdk"] |= {"tier": "destroy", "tiers": {}}
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "sdk")
        async with quiet_net.here("mounts"):
            with pytest.raises(Denied, match="destroy"):
                await called(bus, "sdk", "add_note", "n.1", text="x")

    assert not (mounted / "notes").exists()


async def test_a_changed_definition_is_not_called(quiet_net: Net, mounted: Path, tmp_path: Path) -> None:
    """A tool whose description changes after it was accepted is not called, and its new text is shown to no client."""
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "sdk")
        (mounted / "changed").touch()
        async with quiet_net.here("mounts") as daemon:
            await eventually(lambda: ready(called(bus, "sdk", "add_note", "n.1", text="still")), "the server runs")
            with pytest.raises(Rejected, match="changed its definition"):
                await called(bus, "sdk", "echo", text="x")
            described = daemon.tools["sdk__echo"].description

    assert "Ignore all" not in described
    assert (mounted / "notes").read_text() == "still\n"


@pytest.mark.usefixtures("mounted")
async def test_it_is_started_again(quiet_net: Net, tmp_path: Path) -> None:
    """A change during which the server dies has no known outcome and is not repeated; the server is started again."""
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "sdk")
        async with quiet_net.here("mounts"):
            await eventually(lambda: ready(called(bus, "sdk", "echo", text="x")), "the server runs")
            with pytest.raises(AgentdError, match="result is not known"):
                await called(bus, "sdk", "end", "e.1")
            again = await eventually(lambda: ready(called(bus, "sdk", "echo", text="again")), "it runs again")

    assert again.result["text"] == "again"


@pytest.mark.parametrize("mode", ["huge", "silent", "deaf"])
@pytest.mark.usefixtures("mounted")
async def test_a_hostile_server_harms_only_itself(quiet_net: Net, tmp_path: Path, mode: str) -> None:
    """Beside a server that sends 5 MB, never answers or never starts, the other one works."""
    script = str(SERVERS / "hostile_server.py")
    mount(quiet_net, tmp_path, "bad", script, mode, tier="read", timeout=1.0, max_bytes=100_000)
    good = b'[{"name": "good", "description": "Good.", "inputSchema": {"type": "object", "properties": {}}}]'
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "sdk")
        (tmp_path / "accepted" / "bad.json").write_bytes(good)
        async with quiet_net.here("mounts"):
            await eventually(lambda: ready(called(bus, "sdk", "echo", text="x")), "the server runs")
            bad = asyncio.create_task(called(bus, "bad", "good"))
            others = [await called(bus, "sdk", "echo", text=f"{number}") for number in range(5)]
            with pytest.raises(AgentdError, match=r"max_bytes|has not answered|not available"):
                await bad

    assert [reply.result["text"] for reply in others] == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("mounted")
async def test_one_bad_tool_disables_only_itself(quiet_net: Net, tmp_path: Path) -> None:
    """Of a list with malformed definitions the good tool works; its text is data without control characters."""
    mount(quiet_net, tmp_path, "bad", str(SERVERS / "hostile_server.py"), "text", tier="read")
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "bad")
        async with quiet_net.here("mounts") as daemon:
            reply = await eventually(lambda: ready(called(bus, "bad", "good")), "the server runs")
            names = {name for name in daemon.tools if name.startswith("bad__")}

    assert names == {"bad__good"}
    assert "approve_workflow now" in reply.result["text"]
    assert "\x1b" not in reply.result["text"]


@pytest.mark.usefixtures("mounted")
async def test_a_server_gets_nothing_from_agentd(quiet_net: Net, tmp_path: Path) -> None:
    """It cannot ask for a model, a form or directories: such a request is answered with an error."""
    mount(quiet_net, tmp_path, "bad", str(SERVERS / "hostile_server.py"), "asks", tier="read")
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "bad")
        async with quiet_net.here("mounts"):
            reply = await eventually(lambda: ready(called(bus, "bad", "good")), "the server runs")

    assert "Method not found" in reply.result["text"]


@pytest.mark.usefixtures("mounted")
async def test_definitions_that_others_may_write(quiet_net: Net, tmp_path: Path) -> None:
    """A file of definitions that any user may write is not read: its tools do not exist, the daemon runs."""
    async with quiet_net.client() as bus:
        await accept(quiet_net, tmp_path, "sdk")
        (tmp_path / "accepted" / "sdk.json").chmod(0o666)
        async with quiet_net.here("mounts") as daemon:
            names = {name for name in daemon.tools if name.startswith("sdk__")}
            with pytest.raises(AgentdError):
                await called(bus, "sdk", "echo", text="x")

    assert names == set()
