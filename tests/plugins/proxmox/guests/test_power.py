"""Power against a server: a guest is as wanted afterwards, and nothing happens twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve


class TestPower:
    """start, stop, shutdown and reboot."""

    async def test_start_and_stop(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest is as wanted afterwards, and left alone if nothing to do."""
        await sim.durations(qmstart=0.3, vzstart=0.1)
        for vmid in (101, 201):
            assert (await tools.call("start_guest", vmid=vmid)).status == "running"
            assert (await tools.call("start_guest", vmid=vmid)).status == "running"
        assert (await tools.call("stop_guest", name="db-01")).status == "stopped"
        assert (await tools.call("stop_guest", vmid=101)).status == "stopped"

        assert (await sim.found(101))["status"] == "stopped"
        assert len(await sim.log("POST")) == 3

    async def test_template(self, tools: Bench) -> None:
        """A template is not started."""
        with pytest.raises(errors.Rejected, match="template"):
            await tools.call("start_guest", vmid=9000)

    async def test_locked_for_a_while(self, tools: Bench, sim: AsyncPve) -> None:
        """A locked guest is waited for before anything is sent, and then started once."""
        await sim.lock(101)
        call = MemoryCall()
        task = asyncio.ensure_future(tools.call("start_guest", call, vmid=101))
        await asyncio.sleep(0.6)
        sent = await sim.log("POST")
        await sim.lock(101, None)

        assert (await task).status == "running"
        assert sent == []
        assert len(await sim.log("POST")) == 1
        assert "locked (backup)" in call.texts[0]

    async def test_locked_for_long(self, lab: FakePve, sim: AsyncPve) -> None:
        """A lock that stays is reported with its name, and nothing was sent."""
        proxmox = connect(lab)
        tools = Bench(proxmox, ToolSettings(lock_timeout=0.2))
        await sim.lock(101, "snapshot")

        changes: dict[str, dict[str, Any]] = {"start_guest": {}, "resize_disk": {"size": 50}, "update_vm": {"cores": 7}}
        for tool, more in changes.items():
            with pytest.raises(errors.GuestLocked, match=r"VM 101 'db-01' on pve1 is locked \(snapshot\)"):
                await tools.call(tool, vmid=101, **more)
        assert await sim.log("POST") + await sim.log("PUT") == []
        await proxmox.close()

    async def test_a_lock_between_check_and_apply(self, tools: Bench, sim: AsyncPve) -> None:
        """A lock set after the check fails the task; a retry then succeeds."""
        await sim.rule("POST", "/start$", {"task_exit": "VM is locked (backup)"}, 1)

        assert (await tools.until_done("start_guest", MemoryCall(), vmid=101)).status == "running"
        assert len(await sim.tasks("qmstart")) == 2

    async def test_a_start_by_another_client(self, tools: Bench, sim: AsyncPve) -> None:
        """A start that fails because the guest runs by now has what it wanted."""
        await sim.rule("POST", "/start$", {"delay": 0.4}, 1)
        task = asyncio.ensure_future(tools.call("start_guest", call := MemoryCall(), vmid=101))
        await asyncio.sleep(0.2)
        await tools.call("start_guest", vmid=101)

        assert (await task).status == "running"
        assert "already running" in call.warnings[0]

    async def test_cut(self, tools: Bench, sim: AsyncPve) -> None:
        """A start whose answer is lost is found done, not done again."""
        await sim.rule("POST", "/start$", {"cut_after": True}, 1)

        assert (await tools.until_done("start_guest", MemoryCall(), vmid=101)).status == "running"
        assert len(await sim.tasks("qmstart")) == 1

    async def test_start_fails(self, tools: Bench, sim: AsyncPve) -> None:
        """A start that fails raises the error of Proxmox."""
        await sim.rule("POST", "/start$", {"task_exit": "no such bridge 'vmbr9'"})

        with pytest.raises(errors.TaskFailed, match="vmbr9"):
            await tools.call("start_guest", vmid=101)

    async def test_shutdown(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest is asked to shut down; what to do if it does not is reported, `force` is handed on."""
        assert (await tools.call("shutdown_guest", vmid=100, patience=5, force=True)).status == "stopped"
        await sim.rule("POST", "/shutdown$", {"task_exit": "VM quit/powerdown failed - got timeout"})
        with pytest.raises(errors.TaskFailed, match="force=true"):
            await tools.call("shutdown_guest", vmid=102)

        sent = [request["params"] for request in await sim.log("POST", "/shutdown$")]
        assert (int(sent[0]["timeout"]), int(sent[0]["forceStop"])) == (5, 1)
        assert "forceStop" not in sent[1]

    async def test_reboot(self, tools: Bench, sim: AsyncPve) -> None:
        """A running guest is rebooted; a stopped one is not started by it."""
        assert (await tools.call("reboot_guest", vmid=100)).status == "running"
        with pytest.raises(errors.Rejected, match="stopped"):
            await tools.call("reboot_guest", vmid=101)

        assert len(await sim.tasks("qmreboot")) == 1
