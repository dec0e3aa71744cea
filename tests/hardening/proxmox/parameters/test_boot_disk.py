"""The disk that is grown when none is named is the one that the guest boots from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.model.option_strings import boot_disk

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from tool_bench import Bench

ROOT, DATA = "local-lvm:vm-101-disk-0,size=3G", "local-lvm:vm-100-disk-0,size=10G"
CD = "local:iso/a.iso,media=cdrom,size=1M"


@pytest.mark.parametrize(
    ("config", "disk"),
    [
        ({"virtio0": ROOT, "scsi0": DATA, "boot": "order=virtio0"}, "virtio0"),
        ({"virtio0": ROOT, "scsi0": DATA, "ide2": CD, "boot": "order=ide2;net0;virtio0;scsi0"}, "virtio0"),
        ({"sata0": ROOT, "scsi0": DATA, "boot": "cdn", "bootdisk": "sata0"}, "sata0"),
        ({"scsi0": DATA, "virtio0": ROOT, "bootdisk": "virtio0"}, "virtio0"),
        ({"virtio3": ROOT, "efidisk0": DATA, "ide2": "none,media=cdrom"}, "virtio3"),
        ({"virtio0": ROOT, "scsi0": DATA}, ""),
        ({"virtio0": ROOT, "scsi0": DATA, "boot": "order=net0"}, ""),
        ({"virtio0": ROOT, "scsi0": DATA, "boot": "c"}, ""),
        ({"virtio0": ROOT, "boot": "order=scsi0"}, "virtio0"),
        ({"rootfs": ROOT, "mp0": DATA}, "rootfs"),
        ({}, ""),
    ],
)
def test_which(config: dict[str, Any], disk: str) -> None:
    """The first disk of the boot order, the old bootdisk, or the only one; else it is not known."""
    assert boot_disk(config) == disk


async def test_grown(tools: Bench, sim: AsyncPve) -> None:
    """The boot disk grows and the data disk stays; where it is not known which one it is, the call says so."""
    config = {"virtio0": ROOT, "scsi0": DATA, "boot": "order=virtio0"}
    await sim.guest(vmid=300, node="pve1", name="odd", config=config)
    await sim.guest(vmid=301, node="pve1", name="old", config={"virtio0": ROOT, "scsi0": DATA})
    done = await tools.call("resize_disk", vmid=300, size=40)

    assert (done.boot_disk, done.disks) == ("virtio0", {"virtio0": 40.0, "scsi0": 10.0})
    with pytest.raises(errors.Rejected, match=r"disk: VM 301 .*name one of scsi0, virtio0"):
        await tools.call("resize_disk", vmid=301, size=40)
