"""The cluster as the tools see it, against a server: nodes, storages, bridges and tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import errors
from agentd.tools.definition import Toolbox
from agentd_proxmox import agentd_settings, agentd_tools
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve


class TestLists:
    """Reads of the cluster."""

    async def test_blind(self, lab: FakePve) -> None:
        """A token without rights is called blind, not the cluster empty."""
        proxmox = connect(lab, "blind")
        tools = Bench(proxmox, ToolSettings())

        for tool in ("list_guests", "list_storages", "get_free_vmids"):
            with pytest.raises(errors.Denied, match=r"has no rights.*PVEAuditor"):
                await tools.call(tool)
        await proxmox.close()

    async def test_nodes(self, tools: Bench, sim: AsyncPve) -> None:
        """Nodes are listed with their load; one that is offline is not asked."""
        await sim.node("pve3", online=False)
        listed = await tools.call("list_nodes")
        await sim.call("DELETE", "/log")
        away = await tools.call("get_node", node="pve3")

        assert [(node.node, node.status) for node in listed.nodes] == [
            ("pve1", "online"),
            ("pve2", "online"),
            ("pve3", "offline"),
        ]
        assert listed.quorate is True
        assert away.status == "offline"
        assert len(await sim.log()) == 1
        assert (await tools.call("get_node", node="pve1")).memory > 0
        with pytest.raises(errors.NotFound, match="pve1, pve2, pve3"):
            await tools.call("get_node", node="pve9")

    async def test_storages(self, tools: Bench) -> None:
        """Storages are listed by node and content, with free bytes."""
        found = (await tools.call("list_storages", node="pve1", content="images")).storages

        assert [item.storage for item in found] == ["local-lvm", "shared"]
        assert [item.shared for item in found] == [False, True]
        assert all(item.free == item.total - item.used > 0 for item in found)

    async def test_bridges(self, tools: Bench) -> None:
        """The bridges of a node are listed."""
        assert "vmbr0" in [bridge.bridge for bridge in (await tools.call("list_bridges", node="pve1")).bridges]

    async def test_tasks(self, tools: Bench, sim: AsyncPve) -> None:
        """Tasks are listed with how they ended, running ones as running; one is shown with its log."""
        await tools.call("create_vm", **NEW)
        await sim.rule("POST", "/start$", {"task_exit": "start failed"})
        with pytest.raises(errors.TaskFailed):
            await tools.call("start_guest", vmid=101)
        await sim.durations(qmstop=5)
        running = MemoryCall(seconds=0.5)
        with pytest.raises(errors.TemporaryError):
            await tools.call("stop_guest", running, vmid=100)

        listed = (await tools.call("list_tasks")).tasks
        assert {(item.type, item.id, item.status) for item in listed} >= {
            ("qmcreate", "300", "OK"),
            ("qmstart", "101", "start failed"),
            ("qmstop", "100", "running"),
        }
        assert all(item.user == "agentd@pve!full" for item in listed)
        assert [task.id for task in (await tools.call("list_tasks", node="pve1", failed=True)).tasks] == ["101"]
        assert [task.upid for task in (await tools.call("list_tasks", node="pve1", running=True)).tasks] == [
            running.upid
        ]
        shown = await tools.call("get_task", upid=listed[-1].upid)
        assert (shown.succeeded, shown.running, shown.log[-1]) == (True, False, "TASK OK")
        still = await tools.call("get_task", upid=running.upid)
        ended = await tools.call("get_task", upid=running.upid, patience=60)
        assert (still.running, ended.running, ended.succeeded) == (True, False, True)
        with pytest.raises(errors.Rejected):
            await tools.call("get_task", upid="../../version")


def test_face() -> None:
    """Without a Proxmox there are no tools; the settings say what is wrong."""
    assert agentd_tools(Toolbox("n", None, None)) == []
    assert agentd_settings() is ToolSettings
    with pytest.raises(ValueError, match="lock_timeout"):
        ToolSettings(lock_timeout=-1)
