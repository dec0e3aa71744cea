"""Disks of VMs against a server: moved, taken off and put back, and no volume is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import AsyncPve, connect, without_hotplug
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

MOVE: dict[str, Any] = {"vmid": 101, "disk": "scsi0", "storage": "shared"}


class TestMove:
    """move_disk."""

    async def test_moved(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk is on the other storage, as large as before, the old volume is kept; the second time nothing."""
        before = await tools.call("get_guest", vmid=101)
        for _ in range(2):
            done = await tools.call("move_disk", **MOVE)

            assert (done.guest.storages, done.guest.disks) == (["shared"], before.disks)
            assert [item.partition(":")[0] for item in done.unused.values()] == before.storages
        assert len(await sim.log("POST")) == 1

    async def test_cut(self, tools: Bench, sim: AsyncPve) -> None:
        """A move whose answer is lost is found while it runs, and not begun again."""
        await sim.durations(qmmove=0.8)
        await sim.rule("POST", "/move_disk$", {"cut_after": True}, 1)
        await tools.until_done("move_disk", MemoryCall(), **MOVE)

        assert len(await sim.tasks("qmmove")) == 1

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """A move that ends with warnings is done, and they are handed on."""
        await sim.rule("POST", "/move_disk$", {"task_exit": "WARNINGS: 1"})
        call = MemoryCall()
        await tools.call("move_disk", call, **MOVE)

        assert call.warnings

    async def test_wrong(self, tools: Bench, sim: AsyncPve) -> None:
        """No such disk, no such storage, another configuration than the one that was read: nothing is sent."""
        with pytest.raises(errors.Rejected, match=r"VM 101 'db-01' on pve1 has no disk scsi5; it has scsi0"):
            await tools.call("move_disk", **MOVE | {"disk": "scsi5"})
        with pytest.raises(errors.NotFound, match="there is no storage 'nope' on pve1"):
            await tools.call("move_disk", **MOVE | {"storage": "nope"})
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("move_disk", **MOVE, digest="0" * 40)
        assert await sim.log("POST") == []

    async def test_denied(self, lab: FakePve) -> None:
        """A token without the right gets the missing one, and how to grant it."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.Config.Disk.*pveum acl modify /vms/101"):
            await Bench(proxmox).call("move_disk", **MOVE)
        await proxmox.close()


class TestDetach:
    """detach_disk and attach_disk."""

    async def test_off_and_on(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk that is taken off is kept and can be put back, each once."""
        off = [await tools.call("detach_disk", vmid=101, disk="scsi0") for _ in range(2)][1]
        (volume,) = off.unused.values()
        on = [await tools.call("attach_disk", vmid=101, disk="scsi1", volume=volume) for _ in range(2)][1]

        assert off.guest.disks == {}
        assert (list(on.guest.disks), on.unused) == (["scsi1"], {})
        assert len(await sim.log("POST")) == 2

    async def test_running(self, tools: Bench, lab: FakePve) -> None:
        """A running VM that keeps its disk until its next start says so."""
        await without_hotplug(lab, 100)
        call = MemoryCall()
        await tools.call("detach_disk", call, vmid=100, disk="scsi0")

        assert call.warnings == ["VM 100 'web-01' on pve1 keeps scsi0 until its next start"]

    async def test_wrong(self, tools: Bench, sim: AsyncPve) -> None:
        """A volume of another guest, and a place that is taken, are refused; an unused one is no disk to detach."""
        with pytest.raises(errors.Rejected, match="is no unused one of VM 101 'db-01' on pve1; it has none"):
            await tools.call("attach_disk", vmid=101, disk="scsi1", volume="shared:9000/base-9000-disk-0.raw")
        with pytest.raises(errors.Rejected, match="has another scsi0 already: choose a free one"):
            await tools.call("attach_disk", vmid=101, disk="scsi0", volume="shared:9000/base-9000-disk-0.raw")
        with pytest.raises(errors.InvalidMessage, match="disk"):
            tools.tools["detach_disk"].parse({"vmid": 101, "disk": "unused0"})
        assert await sim.log("POST") == []


class TestAdd:
    """create_disk."""

    @pytest.mark.parametrize(
        ("vmid", "disk", "more", "value"),
        [
            (101, "scsi1", {}, r"local-lvm:vm-101-disk-1,size=5G"),
            (201, "mp0", {"mount": "/srv/data"}, r"local-lvm:vm-201-disk-1,backup=1,mp=/srv/data,size=5G"),
            (200, "mp7", {"mount": "/a", "backup": False}, r"local-lvm:vm-200-disk-1,backup=0,mp=/a,size=5G"),
        ],
    )
    async def test_added(
        self, tools: Bench, sim: AsyncPve, vmid: int, disk: str, more: dict[str, Any], value: str
    ) -> None:
        """A stopped VM, a container that runs or not, gets one more disk, once; detach_disk takes it back."""
        wanted: dict[str, Any] = {"vmid": vmid, "disk": disk, "storage": "local-lvm", "size": 5, **more}
        call = MemoryCall()
        done = [await tools.call("create_disk", item, **wanted) for item in (call, MemoryCall())][1]

        found = await sim.found(vmid)
        assert (done.guest.disks[disk], done.unused) == (5.0, {})
        assert found["config"][disk] == value
        assert call.undo == ("detach_disk", {"vmid": vmid, "disk": disk})
        assert len(await sim.log("POST")) + len(await sim.log("PUT")) == 1

    async def test_later(self, tools: Bench, lab: FakePve) -> None:
        """A running VM that takes its disk on only when it starts again says so."""
        await without_hotplug(lab, 100)
        call = MemoryCall()
        await tools.call("create_disk", call, vmid=100, disk="virtio0", storage="local-lvm", size=5)

        assert call.warnings == ["VM 100 'web-01' on pve1 uses virtio0 from its next start on"]

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_lost(self, tools: Bench, sim: AsyncPve, vmid: int, fault: str) -> None:
        """A change with a lost answer or request is settled by reading: one disk is created."""
        disk, more = ("scsi1", {}) if vmid == 101 else ("mp0", {"mount": "/srv"})
        await sim.rule("POST" if vmid == 101 else "PUT", f"/{vmid}/config$", {fault: True}, 1)
        call = MemoryCall()
        done = await tools.until_done("create_disk", call, vmid=vmid, disk=disk, storage="local-lvm", size=5, **more)

        assert sorted(done.guest.disks) == sorted(["scsi0", disk] if vmid == 101 else ["rootfs", disk])
        assert done.unused == {}

    async def test_wrong(self, tools: Bench, sim: AsyncPve) -> None:
        """A place that is taken, another kind of guest, a storage for other things, no mount: nothing is sent."""
        disk: dict[str, Any] = {"vmid": 101, "disk": "scsi1", "storage": "local-lvm", "size": 5}
        with pytest.raises(errors.Rejected, match="has another scsi0 already: choose a free one"):
            await tools.call("create_disk", **disk | {"disk": "scsi0"})
        with pytest.raises(errors.Rejected, match="can be given and rid of scsi1, virtio0, …, not mp0"):
            await tools.call("create_disk", **disk | {"disk": "mp0"})
        with pytest.raises(errors.Rejected, match="can be given and rid of mp0, mp1, …, not rootfs"):
            await tools.call("create_disk", **disk | {"vmid": 201, "disk": "rootfs", "mount": "/srv"})
        with pytest.raises(errors.Rejected, match="mount: give the path of it in container 201 'proxy' on pve2"):
            await tools.call("create_disk", **disk | {"vmid": 201, "disk": "mp0"})
        with pytest.raises(errors.Rejected, match="mounts its disks itself; leave `mount` out"):
            await tools.call("create_disk", **disk, mount="/srv")
        with pytest.raises(errors.Rejected, match="storage local of pve1 does not hold images"):
            await tools.call("create_disk", **disk | {"storage": "local"})
        with pytest.raises(errors.InvalidMessage, match="mount"):
            tools.tools["create_disk"].parse(disk | {"mount": "/srv/../etc,ro=1"})
        assert await sim.log("POST") == await sim.log("PUT") == []


class TestContainers:
    """The same tools for the mount points of containers."""

    async def test_resized(self, tools: Bench, sim: AsyncPve) -> None:
        """A container's root file system grows to a size, by default, also while it runs; a larger one is left."""
        grown = await tools.call("resize_disk", vmid=200, size=12)
        await tools.call("resize_disk", vmid=200, size=12)
        await tools.call("resize_disk", call := MemoryCall(), vmid=200, size=4, disk="rootfs")

        assert grown.disks == {"rootfs": 12.0}
        assert call.warnings == [
            "rootfs of container 200 'dns' on pve1 has 12 GiB and a disk cannot shrink: left as it is"
        ]
        assert len(await sim.log("PUT")) == 1

    async def test_moved(self, tools: Bench, sim: AsyncPve) -> None:
        """A stopped container's volume is moved once, the old one is kept; a running one is refused."""
        await sim.storage("shared", content="images,rootdir")
        for _ in range(2):
            done = await tools.call("move_disk", vmid=201, disk="rootfs", storage="shared")

            assert (done.guest.storages, done.guest.disks) == (["shared"], {"rootfs": 8.0})
            assert list(done.unused.values()) == ["local-lvm:vm-201-disk-0"]
        assert len(await sim.tasks("move_volume")) == 1
        with pytest.raises(errors.Rejected, match="container 200 'dns' on pve1 is running: shutdown_guest first"):
            await tools.call("move_disk", vmid=200, disk="rootfs", storage="shared")

    async def test_moved_lost(self, tools: Bench, sim: AsyncPve) -> None:
        """A move whose answer is lost is found while it runs, and not begun again."""
        await sim.storage("shared", content="images,rootdir")
        await sim.durations(move_volume=0.8)
        await sim.rule("POST", "/move_volume$", {"cut_after": True}, 1)
        await tools.until_done("move_disk", MemoryCall(), vmid=201, disk="rootfs", storage="shared")

        assert len(await sim.tasks("move_volume")) == 1

    async def test_off_and_on(self, tools: Bench) -> None:
        """A mount point that is taken off is kept and put back where it was, each once."""
        await tools.call("create_disk", vmid=201, disk="mp0", storage="local-lvm", size=5, mount="/srv")
        call = MemoryCall()
        off = [await tools.call("detach_disk", item, vmid=201, disk="mp0") for item in (call, MemoryCall())][1]
        assert call.undo is not None
        back, parameters = call.undo
        on = [await tools.call(back, **parameters) for _ in range(2)][1]

        assert (list(off.guest.disks), list(off.unused.values())) == (["rootfs"], ["local-lvm:vm-201-disk-1"])
        assert sorted(on.disks) == ["mp0", "rootfs"]
        assert parameters["options"] == {"mp0": "local-lvm:vm-201-disk-1,backup=1,mp=/srv,size=5G"}

    async def test_running(self, tools: Bench, sim: AsyncPve) -> None:
        """A running container keeps its mount point until its next start, and says so each time; it is asked once."""
        await tools.call("create_disk", vmid=200, disk="mp0", storage="local-lvm", size=5, mount="/srv")
        before = len(await sim.log("PUT"))
        calls = MemoryCall(), MemoryCall()
        for call in calls:
            await tools.call("detach_disk", call, vmid=200, disk="mp0")

            assert call.warnings == ["container 200 'dns' on pve1 keeps mp0 until its next start"]
        assert len(await sim.log("PUT")) == before + 1

    async def test_digest(self, tools: Bench, sim: AsyncPve) -> None:
        """Another configuration than the one that was read is refused before anything is sent, and by Proxmox after."""
        mount: dict[str, Any] = {"vmid": 201, "disk": "mp0", "storage": "local-lvm", "size": 5, "mount": "/srv"}
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("create_disk", **mount, digest="0" * 40)
        changed = {"status": 500, "reason": "detected modified configuration - file changed by other user? Try again."}
        await sim.rule("PUT", "/config$", changed)
        with pytest.raises(errors.ConfigChanged, match="detected modified configuration"):
            await tools.call("create_disk", **mount)
