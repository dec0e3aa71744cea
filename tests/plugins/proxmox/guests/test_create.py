"""create_vm and get_free_vmids against a server: a VM is made once, as asked for, or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.guests.creation.create import draw
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import CLONE, NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve


class TestCreate:
    """create_vm."""

    async def test_new(self, tools: Bench, sim: AsyncPve) -> None:
        """A new VM is as asked for, has the mark, and is not started."""
        call = MemoryCall("wf-1.create")
        made = await tools.call(
            "create_vm", call, **NEW, cores=4, memory=4096, tags=["web", "prod"], description="shop", pool=None
        )

        real = await sim.found(300)
        assert (made.vmid, made.node, made.name, made.status) == (300, "pve2", "app-01", "stopped")
        assert (made.cores, made.memory, made.disks, made.tags) == (4, 4096, {"scsi0": 10.0}, ["prod", "web"])
        assert made.description == "shop"
        assert "bridge=vmbr0" in made.networks["net0"]
        assert real["description"].split("\n")[-1] == "agentd:wf-1.create"
        assert len(await sim.creates()) == 1
        assert call.upid.startswith("UPID:pve2:")

    async def test_clone(self, tools: Bench, sim: AsyncPve) -> None:
        """A clone of a template may land on another node and has the mark."""
        made = await tools.call("create_vm", MemoryCall("wf-2.create"), **CLONE | {"node": "pve3"})

        assert (made.vmid, made.node, made.name, made.template) == (301, "pve3", "app-02", False)
        assert made.disks == {"scsi0": 3.0}
        assert "agentd:wf-2.create" in (await sim.found(301))["description"]
        assert len(await sim.tasks("qmclone")) == 1

    async def test_linked_clone(self, tools: Bench, sim: AsyncPve) -> None:
        """A linked clone is made of a template only, on its template's storage."""
        await tools.call("create_vm", **CLONE, full=False)

        assert await sim.found(301) is not None
        with pytest.raises(errors.Rejected, match="no template"):
            await tools.call("create_vm", **CLONE | {"vmid": 302, "template": 100}, full=False)
        with pytest.raises(errors.Rejected, match="linked"):
            await tools.call("create_vm", **CLONE | {"vmid": 302}, full=False, storage="shared")

    @pytest.mark.parametrize("parameters", [NEW, CLONE])
    async def test_slow_tasks(self, tools: Bench, sim: AsyncPve, parameters: dict[str, Any]) -> None:
        """The result is there only when the task is over."""
        await sim.durations(default=0.6)
        made = await tools.call("create_vm", **parameters)

        assert made.lock == ""
        assert made.name == parameters["name"]

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """WARNINGS is a success that says what Proxmox warned of."""
        await sim.rule("POST", "/qemu$", {"task_exit": "WARNINGS: 1"})
        call = MemoryCall()
        made = await tools.call("create_vm", call, **NEW)

        assert made.vmid == 300
        assert len(call.warnings) == 1
        assert "simulated warning" in call.warnings[0]

    async def test_taken(self, tools: Bench, sim: AsyncPve) -> None:
        """The VMID of another guest is vmid_taken, named with its node, and nothing is sent."""
        with pytest.raises(errors.VmidTaken, match="VM 104 'nas' on pve3"):
            await tools.call("create_vm", **NEW | {"vmid": 104})
        with pytest.raises(errors.VmidTaken, match="container 200 'dns' on pve1"):
            await tools.call("create_vm", **NEW | {"vmid": 200})
        assert await sim.log("POST") == []

    async def test_taken_between(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest that is created between check and apply is found by Proxmox' own check."""
        await sim.rule("POST", "/qemu$", {"delay": 0.4})
        task = asyncio.ensure_future(tools.call("create_vm", **NEW))
        await asyncio.sleep(0.25)
        await sim.guest(vmid=300, node="pve3", name="foreign", type="qemu")

        with pytest.raises(errors.VmidTaken, match="VM 300 'foreign' on pve3"):
            await task
        assert (await sim.found(300))["name"] == "foreign"

    @pytest.mark.parametrize("parameters", [NEW, CLONE])
    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    async def test_answer_cut(self, tools: Bench, sim: AsyncPve, parameters: dict[str, Any], seconds: float) -> None:
        """An answer that is lost after the write: the guest is found and adopted, also while it is being made."""
        await sim.durations(default=seconds)
        await sim.rule("POST", "/(qemu|clone)$", {"cut_after": True}, 1)
        call = MemoryCall()
        made = await tools.until_done("create_vm", call, **parameters)

        assert call.adopted
        assert made.name == parameters["name"]
        assert made.lock == ""
        assert len(await sim.creates()) == 1
        assert len(await sim.tasks("qmcreate")) + len(await sim.tasks("qmclone")) == 1

    @pytest.mark.parametrize("parameters", [NEW, CLONE])
    async def test_write_lost(self, tools: Bench, sim: AsyncPve, parameters: dict[str, Any]) -> None:
        """A write that was lost before Proxmox saw it is sent again, once."""
        await sim.rule("POST", "/(qemu|clone)$", {"lost_before": True}, 1)
        call = MemoryCall()
        await tools.until_done("create_vm", call, **parameters)

        assert not call.adopted
        assert len(await sim.creates()) == 1
        assert len(await sim.log("POST")) == 2

    async def test_late_write(self, tools: Bench, sim: AsyncPve) -> None:
        """Our own request that was thought lost and comes late is adopted, although Proxmox says `already exists`."""
        await sim.rule("POST", "/qemu$", {"delay": 0.5}, 2)
        key = "wf.late"
        first = asyncio.ensure_future(tools.call("create_vm", MemoryCall(key), **NEW))
        await asyncio.sleep(0.2)  # both have looked and found nothing before either is done
        second = await tools.call("create_vm", MemoryCall(key), **NEW)

        assert (await first) == second
        assert len(await sim.creates()) == 1

    async def test_two_workflows_one_vmid(self, tools: Bench, sim: AsyncPve) -> None:
        """Two workflows of one token that drew the same VMID: one gets it, the other fails with vmid_taken."""
        await sim.durations(qmcreate=1.0)
        calls = [tools.until_done("create_vm", MemoryCall(f"wf-{n}.create"), **NEW) for n in range(2)]
        results = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(result) for result in results].count(errors.VmidTaken) == 1
        assert len(await sim.creates()) == 1

    async def test_foreign_create(self, tools: Bench, sim: AsyncPve, lab: FakePve) -> None:
        """A guest that another token is making is taken, before it shows whose it is."""
        maker = connect(lab)
        made = await maker.post("/access/users/agentd@pve/token/other", privsep=False)
        other = connect(lab, token_id="agentd@pve!other", secret=made["value"])  # noqa: S106 - a name
        await sim.durations(qmcreate=2)
        await other.post("/nodes/pve2/qemu", vmid=300)

        with pytest.raises(errors.VmidTaken, match="agentd@pve!other is making VM 300"):
            await tools.call("create_vm", **NEW)
        assert len(await sim.creates()) == 1
        await maker.close()
        await other.close()

    async def test_abandoned(self, tools: Bench, sim: AsyncPve) -> None:
        """An incomplete guest without a running task is foreign without a mark, and a failure with ours."""
        await sim.guest(vmid=300, node="pve2", name="x", type="qemu", lock="create", config={"lock": "create"})
        with pytest.raises(errors.VmidTaken):
            await tools.call("create_vm", **NEW)
        ours = {"lock": "clone", "description": "agentd:wf.task"}
        await sim.guest(vmid=301, node="pve1", name="x", type="qemu", lock="clone", config=ours)
        with pytest.raises(errors.TaskFailed, match="incomplete"):
            await tools.call("create_vm", **CLONE)

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A create that fails says why, and that nothing was left behind."""
        await sim.rule("POST", "/qemu$", {"task_exit": "lvcreate failed"})

        with pytest.raises(errors.TaskFailed, match=r"lvcreate failed.*no VM 300 was left behind") as caught:
            await tools.call("create_vm", **NEW)
        assert caught.value.log

    async def test_killed(self, tools: Bench, sim: AsyncPve) -> None:
        """A create that was killed names the VM that it left behind, and where."""
        await sim.rule("POST", "/qemu$", {"task_exit": "unexpected status"})

        with pytest.raises(errors.TaskFailed, match=r"VM 300.* on pve2 was left behind"):
            await tools.call("create_vm", **NEW)

    async def test_node_offline(self, tools: Bench, sim: AsyncPve) -> None:
        """A node that is away is unavailable, not an unknown outcome: nothing was sent."""
        await sim.node("pve2", online=False)

        with pytest.raises(errors.ProxmoxUnavailable, match="pve2"):
            await tools.call("create_vm", **NEW)
        await sim.node("pve2", online=True)
        assert await sim.found(300) is None

    async def test_no_quorum(self, tools: Bench, sim: AsyncPve) -> None:
        """Without a quorum nothing is made; it is made when there is one again."""
        await sim.quorum(quorate=False)
        call = MemoryCall()
        task = asyncio.ensure_future(tools.until_done("create_vm", call, **NEW))
        await asyncio.sleep(0.3)
        await sim.quorum(quorate=True)

        assert (await task).vmid == 300
        assert len(await sim.creates()) == 1

    async def test_denied(self, sim: AsyncPve, lab: FakePve) -> None:
        """A token without the right gets the missing one, and how to grant it."""
        proxmox = connect(lab, "audit")
        tools = Bench(proxmox, ToolSettings())

        with pytest.raises(
            errors.Denied, match=r"VM.Allocate on /vms/300; .*pveum acl modify /vms/300 --tokens 'agentd@pve!audit'"
        ):
            await tools.call("create_vm", **NEW)
        assert await sim.found(300) is None
        await proxmox.close()

    async def test_parameters(self, tools: Bench) -> None:
        """What could become something else on its way is refused."""
        for wrong in ({"node": "pve1/qemu"}, {"bridge": "vmbr0,tag=4"}, {"vmid": 99}, {"name": "a b"}, {"disk": 0}):
            with pytest.raises(errors.InvalidMessage):
                tools.tools["create_vm"].parse(NEW | wrong)
        with pytest.raises(errors.Rejected, match="storage"):
            await tools.call("create_vm", vmid=300, node="pve1", name="x")
        with pytest.raises(errors.Rejected, match="key"):
            await tools.tools["create_vm"].run(MemoryCall(""), tools.tools["create_vm"].parse(NEW))


class TestVmids:
    """get_free_vmids."""

    async def test_free(self, tools: Bench) -> None:
        """Drawn VMIDs are free, different, in the range and not excluded."""
        found = await tools.call("get_free_vmids", count=4, vmid_min=100, vmid_max=110, exclude=[110])

        assert sorted(found.vmids) == [106, 107, 108, 109]

    async def test_full(self, tools: Bench) -> None:
        """A range that is too full says how much is free."""
        with pytest.raises(errors.Rejected, match="1 VMIDs are free"):
            await tools.call("get_free_vmids", count=2, vmid_min=100, vmid_max=106)

    def test_draw(self) -> None:
        """Drawing works in a wide range and in a nearly full one."""
        assert len(set(draw(100, 999_999_999, {100}, 50))) == 50
        assert sorted(draw(1, 10, {1, 2, 3}, 7)) == [4, 5, 6, 7, 8, 9, 10]
