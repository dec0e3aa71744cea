"""The role `filesystem` on a network: called over NATS, protected by the policy, each change once in spite of kills."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.client import Client

from agentd.client.tool_calls import call_tool
from agentd.errors import Denied, PermanentError, Rejected
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import ToolCall, ToolReply

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from harness import Net

SERVICE = "mcp-filesystem"


@pytest.fixture
def served(quiet_net: Net, tmp_path: Path) -> Path:
    """Return a directory that the instance `filesystem` serves and may change."""
    root = tmp_path / "served"
    root.mkdir()
    quiet_net.settings["filesystem"] = {"roots": [str(root)], "writable_roots": [str(root)]}
    quiet_net.settings["instances"]["filesystem"] = {"roles": ["filesystem"]}
    return root


async def called(bus: Bus, tool: str, key: str = "", **parameters: Any) -> ToolReply:
    """Call a tool of the service as `tester`."""
    call = ToolCall(parameters, key=key, principal="tester", attempt=1, deadline=now() + timedelta(seconds=30))
    return await call_tool(bus, subjects.tool_call("tester", SERVICE, tool), call, seconds=30)


async def test_over_the_bus(quiet_net: Net, served: Path) -> None:
    """Files are written and read over NATS, the same call again is the same result, and an error names the fault."""
    async with quiet_net.client() as bus, quiet_net.here("filesystem"):
        wrote = await called(bus, "write_file", "w.1", path="a.txt", content="hello\n")
        again = await called(bus, "write_file", "w.1", path="a.txt", content="hello\n")
        read = await called(bus, "read_text_file", path="a.txt")
        with pytest.raises(Rejected, match="list_allowed_directories"):
            await called(bus, "read_text_file", path="/etc/passwd")

    assert wrote.result == again.result
    assert read.result["content"] == "hello\n"
    assert (served / "a.txt").read_text() == "hello\n"


async def test_over_mcp(quiet_net: Net, served: Path) -> None:
    """A bridge that runs in the same instance serves the file tools: they are found by their task, and called."""
    (served / "a.txt").write_text("hello\n")
    quiet_net.settings["instances"]["both"] = {"roles": ["mcp-bridge", "filesystem"]}
    async with quiet_net.client(), quiet_net.here("both") as daemon, Client(f"{daemon.url}/mcp") as mcp:
        found = await mcp.call_tool("find_tools", {"words": "read text file"})
        read = await mcp.call_tool("use_tool", {"tool": "read_text_file", "arguments": {"path": "a.txt"}})
        refused = await mcp.call_tool("use_tool", {"tool": "read_text_file", "arguments": {"path": "/etc/passwd"}})

    assert "read_text_file" in str(found.structured_content)
    assert "hello" in str(read.structured_content)
    assert refused.is_error
    assert "root:" not in str(refused)


async def test_protected_files(quiet_net: Net, served: Path) -> None:
    """[policy] protected names files by their path, and emptying the trash needs a second principal."""
    (served / "keep.conf").write_text("keep\n")
    quiet_net.settings["policy"] |= {"protected": [f"file/{served}/*.conf"], "protected_min_tier": "operate"}
    async with quiet_net.client() as bus, quiet_net.here("filesystem"):
        with pytest.raises(Denied, match="protected"):
            await called(bus, "write_file", "p.1", path="keep.conf", content="x")
        with pytest.raises(Denied, match="destroy"):
            await called(bus, "empty_trash", "p.2", path=str(served))

    assert (served / "keep.conf").read_text() == "keep\n"


@pytest.mark.parametrize(
    ("tool", "point", "text", "outcome"),
    [
        ("write_file", "after-claim", "line\n", "completed"),
        ("write_file", "after-post", "line\n", "completed"),
        ("append_file", "after-claim", "old\nline\n", "completed"),
        ("append_file", "after-post", "old\nline\n", "not known"),
    ],
)
async def test_killed_on_the_way(  # the daemon dies before the change, and after it
    quiet_net: Net, served: Path, tmp_path: Path, tool: str, point: str, text: str, outcome: str
) -> None:
    """A daemon killed around a change: it is made once; an append with an unknown result is not repeated."""
    (served / "log").write_text("old\n")
    (tmp_path / "reached").mkdir()
    async with quiet_net.client() as bus:
        first = quiet_net.daemon("filesystem", AGENTD_TEST_CRASH=point, AGENTD_TEST_CRASH_DIR=str(tmp_path / "reached"))
        await asyncio.to_thread(first.start)
        await asyncio.to_thread(first.ready)
        asked = asyncio.create_task(called(bus, tool, "wf.t.k", path="log", content="line\n"))

        assert await asyncio.to_thread(first.wait) == -9
        with quiet_net.daemon("filesystem"):
            if outcome == "completed":
                assert (await asked).status == outcome
            else:
                with pytest.raises(PermanentError):
                    await asked

    assert (served / "log").read_text() == text
