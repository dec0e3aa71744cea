"""delete_guest against a server: the guest that was meant goes, once, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

DB: dict[str, Any] = {"vmid": 101, "name": "db-01"}


class TestDelete:
    """delete_guest."""

    async def test_deleted(self, tools: Bench, sim: AsyncPve) -> None:
        """A stopped VM is gone with its task, and the answer says what it was; purge is not sent unless asked for."""
        gone = await tools.call("delete_guest", **DB)

        assert [gone.before[key] for key in ("vmid", "name", "node", "status")] == [101, "db-01", "pve1", "stopped"]
        assert await sim.found(101) is None
        assert [request["params"] for request in await sim.log("DELETE")] == [{}]

    async def test_container(self, tools: Bench, sim: AsyncPve) -> None:
        """A container goes the same way, with what was asked for besides."""
        name = (await tools.call("get_guest", vmid=201)).name
        await tools.call("delete_guest", vmid=201, name=name, purge=True, unreferenced=True)

        (sent,) = await sim.log("DELETE")
        assert await sim.found(201) is None
        assert {key: int(value) for key, value in sent["params"].items()} == {
            "purge": 1,
            "destroy-unreferenced-disks": 1,
        }

    async def test_other_name(self, tools: Bench, sim: AsyncPve) -> None:
        """A VMID that belongs to a guest of another name now is not touched."""
        with pytest.raises(errors.Rejected, match=r"VM 101 'db-01' on pve1 is not called 'web': nothing was done"):
            await tools.call("delete_guest", vmid=101, name="web")

        assert await sim.log("DELETE") == []

    async def test_changed(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest that was changed since it was read is not deleted; an unchanged one is."""
        old = (await tools.call("get_guest", vmid=101)).digest
        await tools.call("update_vm", MemoryCall("wf.u"), vmid=101, cores=7)
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("delete_guest", **DB, digest=old)
        sent = await sim.log("DELETE")
        await tools.call("delete_guest", **DB, digest=(await tools.call("get_guest", vmid=101)).digest)

        assert sent == []
        assert await sim.found(101) is None

    @pytest.mark.parametrize(
        ("config", "more", "text"),
        [
            ({}, {"status": "running"}, "it runs: shutdown_guest or stop_guest first; nothing was done"),
            ({"protection": 1}, {}, "it is protected: its option `protection` has to be taken away first"),
        ],
    )
    async def test_kept(
        self, tools: Bench, sim: AsyncPve, config: dict[str, Any], more: dict[str, Any], text: str
    ) -> None:
        """A guest that runs or is protected stays, and what to do is reported."""
        await sim.guest(vmid=310, node="pve1", name="kept", type="qemu", config=config, **more)

        with pytest.raises(errors.Rejected, match=text):
            await tools.call("delete_guest", vmid=310, name="kept")
        assert await sim.log("DELETE") == []

    async def test_linked_clones(self, tools: Bench, sim: AsyncPve) -> None:
        """A template that has linked clones stays, and they are named."""
        name = (await tools.call("get_guest", vmid=9000)).name
        await tools.call("create_vm", vmid=301, node="pve1", name="linked", template=9000, full=False)

        with pytest.raises(errors.Rejected, match=r"it has linked clones: .*301"):
            await tools.call("delete_guest", vmid=9000, name=name)
        assert await sim.log("DELETE") == []

    async def test_unknown(self, tools: Bench) -> None:
        """A guest that never was is not called deleted."""
        with pytest.raises(errors.NotFound, match="there is no guest 999"):
            await tools.call("delete_guest", vmid=999, name="x")

    async def test_cut(self, tools: Bench, sim: AsyncPve) -> None:
        """A deletion whose answer is lost is found done by its task, not done again."""
        await sim.rule("DELETE", "/qemu/101$", {"cut_after": True}, 1)
        call = MemoryCall()
        gone = await tools.until_done("delete_guest", call, **DB)

        assert (gone.name, call.adopted) == ("101", True)
        assert await sim.found(101) is None
        assert len(await sim.tasks("qmdestroy")) == 1

    async def test_cut_and_slow(self, tools: Bench, sim: AsyncPve) -> None:
        """While the lost deletion still runs it is found and waited for."""
        await sim.durations(qmdestroy=1.0)
        await sim.rule("DELETE", "/qemu/101$", {"cut_after": True}, 1)
        await tools.until_done("delete_guest", MemoryCall(), **DB)

        assert await sim.found(101) is None
        assert len(await sim.tasks("qmdestroy")) == 1

    async def test_lost_before(self, tools: Bench, sim: AsyncPve) -> None:
        """A deletion that never arrived is sent again."""
        await sim.rule("DELETE", "/qemu/101$", {"lost_before": True}, 1)
        await tools.until_done("delete_guest", MemoryCall(), **DB)

        assert await sim.found(101) is None
        assert len(await sim.tasks("qmdestroy")) == 1

    async def test_locked(self, lab: FakePve, sim: AsyncPve) -> None:
        """A lock that stays is reported with its name, and nothing was sent."""
        proxmox = connect(lab)
        await sim.lock(101, "backup")

        with pytest.raises(errors.GuestLocked, match=r"VM 101 'db-01' on pve1 is locked \(backup\)"):
            await Bench(proxmox, ToolSettings(lock_timeout=0.2)).call("delete_guest", **DB)
        assert await sim.log("DELETE") == []
        await proxmox.close()

    async def test_fails(self, tools: Bench, sim: AsyncPve) -> None:
        """A deletion that fails says why, and that the guest is still there."""
        await sim.rule("DELETE", "/qemu/101$", {"task_exit": "lvremove failed"})

        with pytest.raises(errors.TaskFailed, match=r"lvremove failed.*VM 101 'db-01' on pve1 is still there"):
            await tools.call("delete_guest", **DB)

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """A deletion that ends with warnings is done, and the warnings are handed on."""
        await sim.rule("DELETE", "/qemu/101$", {"task_exit": "WARNINGS: 1"})
        call = MemoryCall()
        await tools.call("delete_guest", call, **DB)

        assert call.warnings
        assert await sim.found(101) is None

    async def test_denied(self, lab: FakePve, sim: AsyncPve) -> None:
        """A token without the right gets the missing one, and how to grant it."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.Allocate.*pveum acl modify /vms/101"):
            await Bench(proxmox).call("delete_guest", **DB)
        assert await sim.found(101) is not None
        await proxmox.close()


async def test_template_tags(tools: Bench) -> None:
    """create_vm does not drop the tags of a clone without a word."""
    with pytest.raises(errors.Rejected, match=r"tags: a clone has its template's; leave `tags` out"):
        await tools.call("create_vm", **{k: NEW[k] for k in ("vmid", "node", "name")}, template=9000, tags=["web"])


def undoing(key: str, *made: str) -> MemoryCall:
    """Return a call that undoes the task of `key`, which has made these things."""
    workflow, _, task = key.partition(".")
    call = MemoryCall(f"{workflow}.undo-{task}")
    call.undoes, call.makes = key, set(made)
    return call


async def test_a_workflow_discards_its_own_guest(tools: Bench, sim: AsyncPve) -> None:
    """Running or not; what another workflow made, or a person, stays."""
    await tools.call("create_vm", MemoryCall("wf-1.create"), **NEW)
    await tools.call("start_guest", MemoryCall("wf-1.start"), vmid=300)
    with pytest.raises(errors.Rejected, match="was not made by the task that is undone here: nothing was done"):
        await tools.call("discard_guest", undoing("wf-2.create", "guest/300"), vmid=300)
    with pytest.raises(errors.Rejected, match="was not made by the task that is undone here"):
        await tools.call("discard_guest", undoing("wf-1.create", "guest/101"), vmid=101)
    for call in (MemoryCall("wf-1.undo-create"), undoing("wf-1.create"), undoing("wf-1.create", "guest/301")):
        with pytest.raises(errors.Rejected, match="was not made by the task that is undone here"):
            await tools.call("discard_guest", call, vmid=300)
    gone = await tools.call("discard_guest", undoing("wf-1.create", "guest/300"), vmid=300)

    assert gone.before["status"] == "running"
    assert await sim.found(300) is None
    assert await sim.found(101) is not None


async def test_the_approver_sees_disks_and_snapshots(tools: Bench) -> None:
    """The disks with their sizes, and how many snapshots."""
    call = MemoryCall()
    await tools.call("delete_guest", call, vmid=101, name="db-01")

    assert [(target.name, target.loses) for target in call.targets] == [
        ("guest/101", ["scsi0 of 32 GiB", "no snapshots"])
    ]
