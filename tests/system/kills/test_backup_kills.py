"""Kill the bridge between two writes of a backup or a snapshot: there is exactly one, and the caller gets a reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.client.tool_calls import call_tool
from agentd.wire import subjects
from agentd.wire.messages import ToolCall

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net

SERVICE = "mcp-proxmox"
pytestmark = pytest.mark.system


@pytest.mark.parametrize("point", ["after-claim", "after-post", "after-upid"])
async def test_one_archive_and_one_snapshot(net: Net, tmp_path: Path, point: str) -> None:
    """A bridge killed between two writes of a backup and of a snapshot leaves exactly one of each."""
    assert net.pve is not None
    pve = net.pve
    pve.durations(vzdump=0.5, qmsnapshot=0.5)
    made: dict[str, Any] = {}
    asked_for: dict[str, dict[str, Any]] = {
        "create_backup": {"vmid": 101},
        "create_snapshot": {"vmid": 101, "name": "once"},
    }
    async with net.client() as bus:
        for tool, parameters in asked_for.items():
            reached = tmp_path / tool
            reached.mkdir()
            first = net.daemon("mcp-bridge", AGENTD_TEST_CRASH=point, AGENTD_TEST_CRASH_DIR=str(reached))
            second = net.daemon("mcp-bridge")
            await asyncio.to_thread(first.start)
            await asyncio.to_thread(first.ready)
            call = ToolCall(parameters=parameters, key=f"wf.{tool}.one")
            asked = asyncio.create_task(call_tool(bus, subjects.tool_call("tester", SERVICE, tool), call, seconds=60))
            assert await asyncio.to_thread(first.wait) == -9
            with second:
                made[tool] = await asked

    volumes = [item for item in pve.inventory()["volumes"]["local"] if item.startswith("backup/")]
    assert {tool: reply.status for tool, reply in made.items()} == dict.fromkeys(made, "completed")
    assert [f"local:{volume}" for volume in volumes] == [made["create_backup"].result["volid"]]
    assert (pve.found(101) or {})["snapshots"] == ["once"]
    assert len(pve.tasks("vzdump")) == len(pve.tasks("qmsnapshot")) == 1


async def test_destroying_is_refused(net: Net) -> None:
    """Over the network a tool that destroys is refused with the reason, and nothing reaches Proxmox."""
    assert net.pve is not None
    net.settings["policy"]["default_tier"] = "exec"
    tools: dict[str, dict[str, Any]] = {
        "rollback_snapshot": {"vmid": 101, "guest": "db-01", "name": "s1"},
        "delete_snapshot": {"vmid": 101, "guest": "db-01", "name": "s1"},
        "delete_volume": {"volid": "local-lvm:vm-101-disk-0", "node": "pve1"},
        "prune_backups": {"storage": "local", "node": "pve1", "keep_last": 1, "digest": "x"},
        "restore_over_guest": {"volid": "local:backup/x.vma", "vmid": 101, "guest": "db-01"},
        "delete_backup_job": {"id": "nightly"},
    }
    async with net.client() as bus, net.here():
        for tool, parameters in tools.items():
            call = ToolCall(parameters=parameters, key=f"wf.{tool}.one")
            with pytest.raises(errors.Denied, match=f"{tool} is of tier destroy: another principal has to approve it"):
                await call_tool(bus, subjects.tool_call("tester", SERVICE, tool), call, seconds=20)

    assert net.pve.log("DELETE") + net.pve.log("POST") == []
