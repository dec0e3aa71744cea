"""Guests move once, and only where they can; where they are says whether it is done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, until

if TYPE_CHECKING:
    from pve.client import FakePve

SHARED: dict[str, Any] = {
    "vmid": 110,
    "name": "mover",
    "node": "pve1",
    "status": "running",
    "config": {
        "memory": "1024",
        "scsi0": "shared:110/vm-110-disk-0.raw,size=8G",
        "net0": "virtio=BC:24:11:00:00:10,bridge=vmbr0",
        "agent": "enabled=1",
    },
}


async def made(sim: AsyncPve, vmid: int = 110, **config: str) -> None:
    """Put a running VM on shared storage there."""
    await sim.guest(**SHARED | {"vmid": vmid, "config": SHARED["config"] | config})


async def node_of(sim: AsyncPve, vmid: int = 110) -> str:
    """Return where a guest really is."""
    return str((await sim.found(vmid))["node"])


class TestMigrate:
    """migrate_guest."""

    async def test_online(self, tools: Bench, sim: AsyncPve) -> None:
        """A running VM moves while it runs, once; one that is there is left alone, and the way back is known."""
        await made(sim)
        await sim.durations(qmigrate=0.3)
        moved = await tools.call("migrate_guest", call := MemoryCall(), vmid=110, target="pve2")
        again = await tools.call("migrate_guest", vmid=110, target="pve2")

        assert (moved.guest.node, moved.guest.status, moved.source, moved.moved) == ("pve2", "running", "pve1", True)
        assert (again.moved, again.guest.node) == (False, "pve2")
        assert await node_of(sim) == "pve2"
        assert [request["params"]["online"] for request in await sim.log("POST", "/migrate$")] == ["1"]
        assert call.undo is not None
        assert (call.undo[0], call.undo[1]["target"]) == ("migrate_guest", "pve1")
        assert (await tools.call(call.undo[0], **call.undo[1])).guest.node == "pve1"

    async def test_offline_to_another_storage(self, tools: Bench, sim: AsyncPve) -> None:
        """A stopped VM takes its local disks with it, to the storages that are named, and back."""
        moved = await tools.call(
            "migrate_guest", call := MemoryCall(), vmid=101, target="pve2", storage_map={"local-lvm": "shared"}
        )

        assert (await sim.found(101))["config"]["scsi0"].startswith("shared:")
        assert (moved.guest.node, moved.guest.status) == ("pve2", "stopped")
        assert "disks are copied" in call.warnings[0]
        assert call.undo is not None
        assert call.undo[1]["storage_map"] == {"shared": "local-lvm"}

    async def test_local_disks(self, tools: Bench, sim: AsyncPve) -> None:
        """A running VM with local disks is refused with what to do, and moves if that is given."""
        with pytest.raises(errors.Rejected) as refused:
            await tools.call("migrate_guest", vmid=100, target="pve2")
        moved = await tools.call("migrate_guest", vmid=100, target="pve2", with_local_disks=True)

        assert str(refused.value) == (
            "VM 100 'web-01' on pve1 cannot move to pve2: pve2 does not see scsi0 on local-lvm, 16 GiB "
            "(with_local_disks=true copies them while it runs; or move_disk to a shared storage first): "
            "nothing was done"
        )
        assert moved.guest.node == "pve2"
        assert len(await sim.log("POST")) == 1

    async def test_container(self, tools: Bench, sim: AsyncPve) -> None:
        """A running container moves only if it may be restarted; a stopped one just moves."""
        with pytest.raises(errors.Rejected, match="restart=true stops it, moves it and starts it there"):
            await tools.call("migrate_guest", vmid=200, target="pve3")
        moved = await tools.call("migrate_guest", vmid=200, target="pve3", restart=True)
        stopped = await tools.call("migrate_guest", name="proxy", target="pve1")

        assert (moved.guest.node, moved.guest.status) == ("pve3", "running")
        assert (stopped.guest.node, stopped.guest.status) == ("pve1", "stopped")
        assert await node_of(sim, 200) == "pve3"

    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    async def test_answer_cut(self, tools: Bench, sim: AsyncPve, seconds: float) -> None:
        """A migration whose answer is lost is found by its task or by its place: there is exactly one."""
        await made(sim)
        await sim.durations(qmigrate=seconds)
        await sim.rule("POST", "/migrate$", {"cut_after": True}, 1)
        moved = await tools.until_done("migrate_guest", call := MemoryCall(), vmid=110, target="pve2")

        assert call.adopted
        assert moved.guest.node == "pve2"
        assert len(await sim.tasks("qmigrate")) == 1

    async def test_write_lost(self, tools: Bench, sim: AsyncPve) -> None:
        """A request that was lost before Proxmox saw it is sent again."""
        await made(sim)
        await sim.rule("POST", "/migrate$", {"lost_before": True}, 1)
        await tools.until_done("migrate_guest", MemoryCall(), vmid=110, target="pve2")

        assert len(await sim.tasks("qmigrate")) == 1
        assert await node_of(sim) == "pve2"

    async def test_a_migration_to_another_node_at_the_same_time(self, tools: Bench, sim: AsyncPve) -> None:
        """A migration of ours to another node is not taken for this one: it is waited for, then this one is made."""
        await made(sim)
        await sim.durations(qmigrate=1.0)
        first = asyncio.ensure_future(tools.call("migrate_guest", MemoryCall("wf.a"), vmid=110, target="pve2"))
        await until(lambda: sim.tasks("qmigrate"))
        second = await tools.call("migrate_guest", call := MemoryCall("wf.b"), vmid=110, target="pve3")

        assert (await first).source == "pve1"
        assert any("is being moved to pve2" in text for text in call.texts)
        assert second.guest.node == await node_of(sim) == "pve3"

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """WARNINGS is a success that says what Proxmox warned of."""
        await made(sim)
        await sim.rule("POST", "/migrate$", {"task_exit": "WARNINGS: 1"})
        moved = await tools.call("migrate_guest", call := MemoryCall(), vmid=110, target="pve2")

        assert moved.guest.node == "pve2"
        assert call.warnings

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A migration that fails says where the guest is, how it is and what the log names as the error."""
        await made(sim)
        await sim.rule("POST", "/migrate$", {"task_exit": "migration aborted"})

        with pytest.raises(errors.TaskFailed, match=r"migration aborted .*mover' on pve1 is where it was: running"):
            await tools.call("migrate_guest", vmid=110, target="pve2")
        assert await node_of(sim) == "pve1"

    async def test_lock(self, lab: FakePve, sim: AsyncPve) -> None:
        """A lock is waited for with a bound and reported, and nothing is sent."""
        proxmox = connect(lab)
        await made(sim)
        await sim.lock(110, "backup")

        with pytest.raises(errors.GuestLocked, match=r"VM 110 'mover' on pve1 is locked \(backup\)"):
            await Bench(proxmox, ToolSettings(lock_timeout=0.2)).call("migrate_guest", vmid=110, target="pve2")
        assert await sim.log("POST") == []
        await proxmox.close()

    async def test_daemon_restarted(self, tools: Bench, sim: AsyncPve) -> None:
        """While pvedaemon restarts the task goes on, and is waited for."""
        await made(sim)
        await sim.durations(qmigrate=0.5)
        await sim.rule("GET", "/status$", {"status": 595, "reason": "Connection refused"}, 2, after=2)
        moved = await tools.until_done("migrate_guest", MemoryCall(), vmid=110, target="pve2")

        assert moved.guest.node == "pve2"
        assert len(await sim.tasks("qmigrate")) == 1

    async def test_progress(self, tools: Bench, sim: AsyncPve) -> None:
        """The waiting caller gets the last line of the log."""
        await made(sim)
        await sim.durations(qmigrate=2.5)
        await tools.call("migrate_guest", call := MemoryCall(), vmid=110, target="pve2")

        assert any("starting migration of VM 110" in text for text in call.texts)

    @pytest.mark.parametrize("vmid", [110, 200])
    async def test_stopped(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """A migration that is ended half-way leaves the guest where it was, running and without a lock."""
        await made(sim)
        await sim.durations(qmigrate=20, vzmigrate=20)
        running = asyncio.ensure_future(tools.call("migrate_guest", vmid=vmid, target="pve2", restart=vmid == 200))
        (task,) = await until(sim.tasks)
        running.cancel()
        tool = tools.tools["migrate_guest"]

        assert tool.stoppable
        assert tool.halt is not None
        assert await tool.halt(task["upid"]) == "unexpected status"
        inventory = await sim.found(vmid)
        assert (inventory["node"], inventory["status"], inventory["lock"]) == ("pve1", "running", None)

    async def test_denied(self, lab: FakePve, sim: AsyncPve) -> None:
        """Without the right the error names the missing one and how it is granted."""
        await made(sim)
        proxmox = connect(lab, "audit")

        with pytest.raises(
            errors.Denied, match=r"lacks VM.Migrate on /vms/110; to grant it: pveum acl modify /vms/110"
        ):
            await Bench(proxmox).call("migrate_guest", vmid=110, target="pve2")
        await proxmox.close()


class TestHa:
    """migrate_guest of a guest under the HA manager."""

    @pytest.mark.parametrize("vmid", [110, 200])
    async def test_moved(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """The manager is asked, and the guest is watched until it has arrived."""
        await made(sim)
        await tools.call("create_ha_resource", vmid=vmid)
        await sim.settings(ha_lag=0.5)
        await sim.durations(qmigrate=0.5, vzmigrate=0.5)
        moved = await tools.call("migrate_guest", call := MemoryCall(), vmid=vmid, target="pve2", restart=vmid == 200)

        assert (moved.guest.node, moved.guest.ha, moved.guest.status) == ("pve2", True, "running")
        assert await node_of(sim, vmid) == "pve2"
        assert any("the HA manager moves" in text for text in call.texts)
        assert len(await sim.tasks("hamigrate")) == 1

    async def test_fails(self, tools: Bench, sim: AsyncPve) -> None:
        """A migration of the manager that fails is reported with its task, though the request ended well."""
        await made(sim)
        await tools.call("create_ha_resource", vmid=110)
        await sim.settings(ha_lag=0.3)
        moving = asyncio.ensure_future(tools.call("migrate_guest", vmid=110, target="pve2"))
        await until(lambda: sim.tasks("hamigrate"))
        await sim.node("pve2", online=False)

        with pytest.raises(errors.TaskFailed, match=r"could not move VM 110 'mover' on pve1: migration aborted \(UPID"):
            await moving

    @pytest.mark.parametrize("lag", [0.0, 0.7])
    async def test_answer_cut(self, tools: Bench, sim: AsyncPve, lag: float) -> None:
        """A request to the manager whose answer is lost leads to one migration, though it may be made again."""
        await made(sim)
        await tools.call("create_ha_resource", vmid=110)
        await sim.settings(ha_lag=lag)
        await sim.durations(qmigrate=0.5)
        await sim.rule("POST", "/migrate$", {"cut_after": True}, 1)
        moved = await tools.until_done("migrate_guest", MemoryCall(), vmid=110, target="pve2")

        assert moved.guest.node == await node_of(sim) == "pve2"
        assert len(await sim.tasks("qmigrate")) == 1

    async def test_a_manager_that_does_nothing(self, tools: Bench, sim: AsyncPve) -> None:
        """A manager that accepts and does nothing is not waited for without end."""
        await made(sim)
        await tools.call("create_ha_resource", vmid=110)
        await sim.settings(ha_lag=60)

        with pytest.raises(errors.TaskFailed, match="nothing moves it"):
            await tools.call("migrate_guest", vmid=110, target="pve2")

    async def test_rules(self, tools: Bench, sim: AsyncPve) -> None:
        """A rule that keeps guests apart, or on other nodes, is reported before anything is done."""
        await made(sim)
        await made(sim, 111)
        for vmid in (110, 111, 102):
            await tools.call("create_ha_resource", vmid=vmid)
        await tools.call(
            "create_ha_rule", name="apart", type="resource-affinity", guests=[110, 102], affinity="negative"
        )
        await tools.call(
            "create_ha_rule",
            name="pinned",
            type="node-affinity",
            guests=[111],
            nodes={"pve1": 2, "pve3": 0},
            strict=True,
        )

        with pytest.raises(errors.Rejected, match="the HA rule apart keeps it apart from vm:102, which is on pve2"):
            await tools.call("migrate_guest", vmid=110, target="pve2")
        with pytest.raises(
            errors.Rejected, match=r"rule pinned keeps it on pve1, pve3 \(target: pve1, pve3; or change"
        ):
            await tools.call("migrate_guest", vmid=111, target="pve2")
        with pytest.raises(errors.Rejected, match="leave target_storage and storage_map out"):
            await tools.call("migrate_guest", vmid=111, target="pve3", target_storage="shared")
        assert (await tools.call("migrate_guest", vmid=111, target="pve3")).guest.node == "pve3"

    async def test_groups(self, tools: Bench, sim: AsyncPve) -> None:
        """On Proxmox VE 8 the groups say the same."""
        await sim.settings(ha_has_groups=1)
        await sim.rule("GET", "/cluster/ha/rules$", {"status": 501, "reason": "Method not implemented"})
        await made(sim)
        await tools.call("set_ha_group", name="left", nodes={"pve1": 1}, restricted=True)
        await tools.call("create_ha_resource", vmid=110, group="left")

        with pytest.raises(errors.Rejected, match="the HA rule left keeps it on pve1"):
            await tools.call("migrate_guest", vmid=110, target="pve2")
