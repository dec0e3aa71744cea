"""Disks of VMs against a server: moved, taken off and put back, and no volume is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import Steer, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

MOVE: dict[str, Any] = {"vmid": 101, "disk": "scsi0", "storage": "shared"}


class TestMove:
    """move_disk."""

    async def test_moved(self, tools: Bench, steered: Steer) -> None:
        """A disk lies on the other storage, as large as before, the old volume is kept; the second time nothing."""
        before = await tools.once("get_vm", vmid=101)
        for _ in range(2):
            done = await tools.once("move_disk", **MOVE)

            assert (done.guest.storages, done.guest.disks) == (["shared"], before.disks)
            assert [each.partition(":")[0] for each in done.unused.values()] == before.storages
        assert len(await steered.log("POST")) == 1

    async def test_cut(self, tools: Bench, steered: Steer) -> None:
        """A move whose answer is lost is found while it runs, and not begun again."""
        await steered.durations(qmmove=0.8)
        await steered.rule("POST", "/move_disk$", {"cut_after": True}, 1)
        await tools.until_done("move_disk", MemoryCall(), **MOVE)

        assert len(await steered.tasks("qmmove")) == 1

    async def test_warnings(self, tools: Bench, steered: Steer) -> None:
        """A move that ends with warnings is done, and they are handed on."""
        await steered.rule("POST", "/move_disk$", {"task_exit": "WARNINGS: 1"})
        call = MemoryCall()
        await tools.once("move_disk", call, **MOVE)

        assert call.warnings

    async def test_wrong(self, tools: Bench, steered: Steer) -> None:
        """No such disk, no such storage, another configuration than the one that was read: nothing is sent."""
        with pytest.raises(errors.Rejected, match=r"VM 101 'db-01' on pve1 has no disk scsi5; it has scsi0"):
            await tools.once("move_disk", **MOVE | {"disk": "scsi5"})
        with pytest.raises(errors.NotFound, match="there is no storage 'nope' on pve1"):
            await tools.once("move_disk", **MOVE | {"storage": "nope"})
        with pytest.raises(errors.ConfigChanged, match="look again"):
            await tools.once("move_disk", **MOVE, digest="0" * 40)
        assert await steered.log("POST") == []

    async def test_denied(self, lab: FakePve) -> None:
        """A token that may not is told which right is missing, and how to grant it."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.Config.Disk.*pveum acl modify /vms/101"):
            await Bench(proxmox).once("move_disk", **MOVE)
        await proxmox.close()


class TestDetach:
    """detach_disk and attach_disk."""

    async def test_off_and_on(self, tools: Bench, steered: Steer) -> None:
        """A disk that is taken off is kept and can be put back, each once."""
        off = [await tools.once("detach_disk", vmid=101, disk="scsi0") for _ in range(2)][1]
        (volume,) = off.unused.values()
        on = [await tools.once("attach_disk", vmid=101, disk="scsi1", volume=volume) for _ in range(2)][1]

        assert off.guest.disks == {}
        assert (list(on.guest.disks), on.unused) == (["scsi1"], {})
        assert len(await steered.log("POST")) == 2

    async def test_running(self, tools: Bench) -> None:
        """A running VM that keeps its disk until its next start says so."""
        call = MemoryCall()
        await tools.once("detach_disk", call, vmid=100, disk="scsi0")

        assert call.warnings == ["VM 100 'web-01' on pve1 keeps scsi0 until its next start"]

    async def test_wrong(self, tools: Bench, steered: Steer) -> None:
        """A volume of somebody else, and a place that is taken, are refused; an unused one is no disk to detach."""
        with pytest.raises(errors.Rejected, match="is no unused one of VM 101 'db-01' on pve1; it has none"):
            await tools.once("attach_disk", vmid=101, disk="scsi1", volume="shared:9000/base-9000-disk-0.raw")
        with pytest.raises(errors.Rejected, match="has another scsi0 already: choose a free one"):
            await tools.once("attach_disk", vmid=101, disk="scsi0", volume="shared:9000/base-9000-disk-0.raw")
        with pytest.raises(errors.InvalidMessage, match="disk"):
            tools.tools["detach_disk"].parse({"vmid": 101, "disk": "unused0"})
        assert await steered.log("POST") == []
