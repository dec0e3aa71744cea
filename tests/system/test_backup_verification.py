"""backup_verification on real daemons: a scratch guest is made, seen to run without network, and always destroyed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.wire import subjects
from agentd.wire.messages import ToolCall, WorkflowRequest, WorkflowResponse, WorkflowSignal
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from harness import Net
    from pve.client import FakePve

pytestmark = pytest.mark.system


@contextlib.asynccontextmanager
async def backed_up(net: Net, vmid: int) -> AsyncIterator[tuple[Bus, FakePve, dict[str, Any]]]:
    """Run a network, back a guest up, and yield what a verification is asked with."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        call = ToolCall(parameters={"vmid": vmid}, key="wf.backup")
        made = await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "create_backup"), call, seconds=60)
        await asyncio.to_thread(net.pve.call, "DELETE", "/log")
        yield bus, net.pve, {"volid": made.result["volid"], "node": "pve1", "storage": "local-lvm"}


async def verify(bus: Bus, name: str, parameters: dict[str, Any]) -> WorkflowResponse:
    """Ask for a verification and wait for its end."""
    await requests.submit(bus, "tester", WorkflowRequest("backup_verification", name, parameters))
    return await queries.follow(bus, name, lambda _: None, wait=60)


def guests(pve: FakePve) -> set[int]:
    """Return the guests that there are."""
    return {guest["vmid"] for guest in pve.inventory()["guests"]}


async def test_good(net: Net) -> None:
    """A good backup is restored, isolated, started, seen to run, and nothing is left but the answer that says so."""
    async with backed_up(net, 101) as (bus, pve, asked):
        before = pve.inventory()["volumes"], guests(pve)
        answer = await verify(bus, "good", asked)
        log = pve.log("POST")

        tasks = answer.result["tasks"]
        scratch = tasks["restore"]["result"]
        assert (answer.status, answer.error) == ("completed", "")
        assert tasks["check"]["result"]["agent"] is True
        assert tasks["check"]["result"]["checked"][1].startswith("its guest agent")
        assert (scratch["name"], scratch["tags"]) == (f"verify-{scratch['vmid']}", ["scratch"])
        assert scratch["networks"]["net0"] != (pve.found(101) or {})["config"]["net0"]
        steps = [request["path"].rpartition("/")[2] for request in log if f"/{scratch['vmid']}/" in request["path"]]
        assert steps[:2] == ["config", "start"]
        assert [
            request["params"]["net0"].endswith(",link_down=1") for request in log if "net0" in request["params"]
        ] == [True]
        assert str(scratch["vmid"]) in tasks["undo-restore"]["result"]["name"]
        assert (pve.inventory()["volumes"], guests(pve)) == before


async def test_bad(net: Net) -> None:
    """A guest that does not start is reported, and is destroyed; a backup that is not there makes none."""
    async with backed_up(net, 101) as (bus, pve, asked):
        before = guests(pve)
        pve.rule("POST", "/status/start$", {"task_exit": "start failed: QEMU exited with code 1"})
        answer = await verify(bus, "bad", asked)
        none = await verify(bus, "none", asked | {"volid": "local:backup/vzdump-qemu-101-2020_01_01-00_00_00.vma.zst"})

        assert (answer.status, answer.result["left"]) == ("compensated", ["inspect: done"])
        assert "start failed: QEMU exited with code 1" in str(answer.error)
        assert (none.status, none.result["left"]) == ("failed", [])
        assert str(none.error).startswith("inspect: ")
        assert guests(pve) == before


async def test_protected(net: Net) -> None:
    """What protects the guest that the backup was made of protects that one alone."""
    async with backed_up(net, 101) as (_, pve, asked):
        before = guests(pve)
    net.settings["policy"] |= {"protected": ["tag/db", "storage/shared"], "protected_min_tier": "operate"}
    async with net.client() as bus, net.here():
        answer = await verify(bus, "protected", asked)

    assert (answer.status, answer.error, guests(pve)) == ("completed", "", before)


async def test_cancelled(net: Net) -> None:
    """A cancel while its guest runs leaves no guest."""
    async with backed_up(net, 101) as (bus, pve, asked):
        before = guests(pve)
        pve.rule("POST", "/agent/ping$|/agent/info$", {"status": 500, "reason": "QEMU guest agent is not running"})
        pve.rule("GET", "/agent/", {"status": 500, "reason": "QEMU guest agent is not running"})
        await requests.submit(bus, "tester", WorkflowRequest("backup_verification", "gone", asked | {"seconds": 3600}))

        async def runs() -> bool:
            inventory = await asyncio.to_thread(pve.inventory)
            return any(guest["vmid"] not in before and guest["status"] == "running" for guest in inventory["guests"])

        await eventually(runs, "the scratch guest runs")
        await requests.signal(bus, "tester", "gone", WorkflowSignal("cancel"))
        answer = await queries.follow(bus, "gone", lambda _: None, wait=60)

        assert answer.status == "compensated"
        assert guests(pve) == before


async def test_container(net: Net) -> None:
    """A backup of a container is verified the same way: it has to run for a while, as nothing in it can be asked."""
    assert net.pve is not None
    disk = "local-lvm:vm-200-disk-0,size=8G"
    config = {"hostname": "dns", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:01:00:C8,ip=dhcp", "rootfs": disk}
    net.pve.guest(vmid=200, node="pve1", name="dns", type="lxc", status="running", config={**config, "onboot": 1})
    async with backed_up(net, 200) as (bus, pve, asked):
        before = guests(pve)
        answer = await verify(bus, "container", asked | {"seconds": 2})
        cut = [request["params"] for request in pve.log("PUT", "/config$")]

        checked = answer.result["tasks"]["check"]["result"]
        assert (answer.status, checked["agent"], checked["uptime"] >= 2) == ("completed", False, True)
        assert [("link_down=1" in item["net0"], str(item["onboot"])) for item in cut] == [(True, "0")]
        assert guests(pve) == before


@pytest.mark.parametrize("point", ["after-post", "after-upid", "after-done"])
async def test_killed(net: Net, tmp_path: Path, point: str) -> None:
    """With any process killed during a restore, one guest is created and none is left."""
    assert net.pve is not None
    async with backed_up(net, 101) as (_, pve, asked):
        before = guests(pve)
    reached = tmp_path / "reached"
    reached.mkdir()
    async with net.client() as bus:
        first = net.daemon("all", AGENTD_TEST_CRASH=point, AGENTD_TEST_CRASH_DIR=str(reached))
        await asyncio.to_thread(first.start)
        await asyncio.to_thread(first.ready)
        pve.durations(qmrestore=0.5)
        await requests.submit(bus, "tester", WorkflowRequest("backup_verification", "killed", asked))
        assert await asyncio.to_thread(first.wait) == -9
        with net.daemon("all"):
            answer = await queries.follow(bus, "killed", lambda _: None, wait=120)

    assert (answer.status, answer.error) == ("completed", "")
    assert [len(pve.tasks(kind)) for kind in ("qmrestore", "qmdestroy")] == [1, 1]
    assert guests(pve) == before
