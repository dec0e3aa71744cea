"""Kill the bridge around and during an upload: the file is stored once, completely, and the caller gets a reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agentd.client.tool_calls import call_tool
from agentd.wire import subjects
from agentd.wire.messages import ToolCall
from harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Daemon, Net

SERVICE = "mcp-proxmox"
pytestmark = pytest.mark.system


def prepared(net: Net, tmp_path: Path, size: int) -> ToolCall:
    """Allow a folder with one file, and return the call that sends it."""
    folder = tmp_path / "images"
    folder.mkdir()
    with (folder / "a.iso").open("wb") as file:
        file.truncate(size)
    net.settings[SERVICE] = {"upload_dirs": [str(folder)]}
    parameters = {"path": str(folder / "a.iso"), "storage": "local", "node": "pve1"}
    return ToolCall(parameters=parameters, key="wf.upload.one")


async def started(daemon: Daemon) -> None:
    """Start a bridge and wait until it works."""
    await asyncio.to_thread(daemon.start)
    await asyncio.to_thread(daemon.ready)


@pytest.mark.parametrize("point", ["after-claim", "after-post", "after-upid"])
async def test_between(net: Net, tmp_path: Path, point: str) -> None:
    """A bridge killed between two writes of an upload leaves exactly one file, stored once."""
    assert net.pve is not None
    pve, call = net.pve, prepared(net, tmp_path, 3 << 20)
    pve.durations(imgcopy=0.5)
    reached = tmp_path / "reached"
    reached.mkdir()
    async with net.client() as bus:
        first = net.daemon("mcp-bridge", AGENTD_TEST_CRASH=point, AGENTD_TEST_CRASH_DIR=str(reached))
        await started(first)
        asked = asyncio.create_task(
            call_tool(bus, subjects.tool_call("tester", SERVICE, "upload_file"), call, seconds=60)
        )
        assert await asyncio.to_thread(first.wait) == -9
        with net.daemon("mcp-bridge"):
            reply = await asked

    assert (reply.status, reply.warnings, reply.result["size"]) == ("completed", [], 3 << 20)
    assert len(pve.tasks("imgcopy")) == 1


async def test_killed_during_the_upload(net: Net, tmp_path: Path) -> None:
    """A bridge killed while it sends leaves nothing; the next one sends the complete file."""
    assert net.pve is not None
    pve, call = net.pve, prepared(net, tmp_path, 1 << 30)
    async with net.client() as bus:
        first = net.daemon("mcp-bridge")
        await started(first)
        asked = asyncio.create_task(
            call_tool(bus, subjects.tool_call("tester", SERVICE, "upload_file"), call, seconds=120)
        )

        async def sending() -> bool:
            return bool(await asyncio.to_thread(pve.log, "POST", "/upload$"))

        await eventually(sending, "the upload has begun")
        await asyncio.to_thread(first.kill)
        none = pve.tasks("imgcopy")
        with net.daemon("mcp-bridge"):
            reply = await asked

    assert none == []
    assert (reply.status, reply.result["size"]) == ("completed", 1 << 30)
    assert len(pve.tasks("imgcopy")) == 1
