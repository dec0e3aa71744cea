"""A clone or a move that Proxmox would refuse is refused before, for any drive, in a dry run too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.proxmox.vm import VmParameters
from agentd_proxmox.availability.migration_model import Facts, MigrationRequest
from agentd_proxmox.availability.preflight import findings
from agentd_proxmox.inventory import GuestLocation
from agentd_proxmox.model import drives
from agentd_specialist import vm
from agentd_specialist.model import Cluster, GuestView, NodeView, StorageView, TemplateView, ValidatedVm
from agentd_specialist.settings import SpecialistSettings
from plugins.proxmox.availability.test_preflight import FREE, NODES, STORAGES, found
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve

GIB = 2**30
MIXED: dict[str, Any] = {
    "type": "qemu",
    "vmid": 9100,
    "name": "mixed",
    "node": "pve1",
    "template": True,
    "config": {
        "scsi0": "shared:9100/base-9100-disk-0.raw,size=3G",
        "ide2": "local-lvm:vm-9100-cloudinit,media=cdrom,size=4M",
        "net0": "virtio=BC:24:11:00:23:8C,bridge=vmbr0",
        "memory": "1024",
    },
}
CLONE = {"vmid": 310, "node": "pve2", "name": "copy", "template": 9100}


@pytest.mark.parametrize(
    ("drive", "line"),
    [
        ({}, "ide2 on local-lvm"),
        ({"ide2": "local:iso/debian-12.11.0-amd64-netinst.iso,media=cdrom"}, "ide2 on local"),
        ({"ide2": "none,media=cdrom", "efidisk0": "local-lvm:base-9100-disk-1,size=4M"}, "efidisk0 on local-lvm"),
        ({"ide2": "none,media=cdrom", "tpmstate0": "local-lvm:base-9100-disk-2,size=4M"}, "tpmstate0 on local-lvm"),
        ({"ide2": "cdrom,media=cdrom"}, "ide2 on cdrom"),
    ],
)
async def test_a_clone_on_another_node_needs_shared_drives(
    tools: Bench, sim: AsyncPve, drive: dict[str, str], line: str
) -> None:
    """Every drive counts: the check refuses, so a dry run does too, and nothing is sent."""
    await sim.guest(**MIXED | {"config": MIXED["config"] | drive})
    with pytest.raises(errors.Rejected, match=line):
        await tools.call("create_vm", MemoryCall("wf.clone"), **CLONE)

    assert await sim.log("POST") == []


async def test_a_clone_on_another_node_needs_a_shared_target(tools: Bench, sim: AsyncPve) -> None:
    """A shared template with a local storage as the target can be cloned on its own node alone."""
    requested = {"vmid": 311, "name": "copy", "template": 9000, "storage": "local-lvm"}
    with pytest.raises(errors.Rejected, match="local-lvm is not shared"):
        await tools.call("create_vm", MemoryCall("wf.clone"), **requested, node="pve2")

    assert await sim.log("POST") == []


async def test_a_container_likewise(tools: Bench, sim: AsyncPve) -> None:
    """A container on local storage is cloned on its node, one with a folder of the node nowhere."""
    requested = {"vmid": 312, "name": "copy", "source": 201}
    with pytest.raises(errors.Rejected, match="rootfs on local-lvm"):
        await tools.call("clone_container", MemoryCall("wf.clone"), **requested, node="pve1")
    await sim.guest(
        type="lxc",
        vmid=210,
        name="bound",
        node="pve1",
        config={"rootfs": "local-lvm:vm-210-disk-0,size=8G", "mp0": "/srv/data,mp=/data", "hostname": "bound"},
    )
    with pytest.raises(errors.Rejected, match="mp0 is a folder or device of the node"):
        await tools.call("clone_container", MemoryCall("wf.bound"), **requested | {"source": 210}, node="pve1")

    assert await sim.log("POST") == []


def cluster(template: TemplateView) -> Cluster:
    """Return two nodes, of which the second has more room."""
    return Cluster(
        [NodeView("pve1", "online", 8, 64 * GIB, 32 * GIB), NodeView("pve2", "online", 8, 64 * GIB, 4 * GIB)],
        [
            StorageView(name, node, "available", name == "shared", ["images"], 999 * GIB)
            for node in ("pve1", "pve2")
            for name in ("shared", "local-lvm")
        ],
        [],
        [GuestView(9000, "base", template.node, "stopped")],
        template,
        {"pve1": ["vmbr0"], "pve2": ["vmbr0"]},
    )


@pytest.mark.parametrize(
    ("more", "storage", "node"),
    [
        (["shared"], None, "pve2"),
        (["local-lvm", "shared"], None, "pve1"),
        (["local", "shared"], None, "pve1"),
        (["cdrom", "shared"], None, "pve1"),
        (["shared"], "local-lvm", "pve1"),
        (["shared"], "shared", "pve2"),
    ],
)
def test_a_node_is_chosen_that_can(more: list[str], storage: str | None, node: str) -> None:
    """The freest node is chosen of those on which Proxmox makes the clone."""
    template = TemplateView(
        9000, "base", "pve1", memory=1024, disks={"scsi0": 3.0}, storages=["shared"], all_storages=more
    )
    requested = VmParameters(name="web1", template=9000, storage=storage)
    chosen = vm.validate(requested, cluster(template), SpecialistSettings().rules(), 0.5)

    assert isinstance(chosen, ValidatedVm), chosen
    assert chosen.node == node


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"scsi1": "/dev/disk/by-id/ata-X,size=8G"}, "scsi1 is a device or file of pve1 (/dev/disk/by-id/ata-X)"),
        ({"scsi1": "/dev/disk/by-path/pci-0000:00:1f.2-ata-3"}, "scsi1 is a device or file of pve1"),
        ({"virtio1": "/mnt/data/x.raw,shared=0"}, "virtio1 is a device or file of pve1"),
        ({"ide2": "cdrom,media=cdrom"}, "ide2 is the CD-ROM drive of pve1 itself"),
        ({"ide2": "lvm:iso/x.iso,media=cdrom"}, "ide2 holds lvm:iso/x.iso"),
        ({"serial0": "/dev/ttyS0"}, "devices of pve1: serial0"),
        ({"parallel0": "/dev/parport0"}, "devices of pve1: parallel0"),
        ({"usb0": "host=1234:5678"}, "devices of pve1: usb0"),
        ({"hostpci0": "0000:01:00.0,pcie=1"}, "devices of pve1: hostpci0"),
        ({"virtiofs0": "dirid=share"}, "devices of pve1: virtiofs0"),
        ({"ivshmem": "size=32"}, "devices of pve1: ivshmem"),
        ({"scsi0": "lvm:9000/base-9000-disk-0/vm-100-disk-0,size=8G"}, "scsi0 is a linked clone on lvm"),
    ],
)
def test_devices_that_block_a_move(config: dict[str, str], line: str, *, running: bool) -> None:
    """What only the node has blocks, of a running VM and of a stopped one."""
    lines = found(config, running=running, requested={"with_local_disks": True})

    assert any(line in item for item in lines), lines


@pytest.mark.parametrize(
    "config",
    [
        {"scsi1": "/dev/disk/by-id/ata-X,shared=1,size=8G"},
        {"serial0": "socket"},
        {"usb0": "spice"},
        {"ide2": "none,media=cdrom"},
        {"ide2": "lvm:vm-100-cloudinit,media=cdrom"},
    ],
)
def test_devices_that_do_not_block_a_move(config: dict[str, str]) -> None:
    """What all nodes have, or Proxmox creates again, does not."""
    assert found(config, running=False) == []


def test_snapshots_replication_and_mappings_count() -> None:
    """A medium in a snapshot, a running guest off its replicas, and a mapped device that cannot move live block."""
    medium = found({"parent": "a"}, running=False, snapshots={"a": {"ide2": "lvm:iso/x.iso,media=cdrom"}})
    replica = found({}, replicas=frozenset({"pve3"}))
    mapped = found({"hostpci0": "mapping=gpu"}, conditions=FREE | {"mapped-resources": ["hostpci0"]})
    live = FREE | {"mapped-resource-info": {"hostpci0": {"live-migration-capable": 1}}}

    assert any("ide2 of snapshot a holds" in item for item in medium), medium
    assert any("is replicated to pve3, not to pve2" in item for item in replica), replica
    assert any("mapped devices that cannot move with it: hostpci0" in item for item in mapped), mapped
    assert found({"hostpci0": "mapping=gpu"}, conditions=live) == []


@pytest.mark.parametrize("value", ["/srv/data,mp=/data", "/dev/sdb1,mp=/data"])
def test_mount_points_of_the_node_block(value: str) -> None:
    """A folder or a device of the node keeps a container there, unless it is marked as shared."""
    at = GuestLocation(200, "pve1", "lxc", "dns", "stopped", template=False)
    facts: dict[str, Any] = {"at": at, "status": {"status": "stopped"}, "nodes": NODES, "storages": STORAGES}
    facts |= {"conditions": None, "bridges": frozenset()}
    blocked = findings(Facts(config={"mp0": value}, **facts), MigrationRequest(vmid=200, target="pve2"))
    free = findings(Facts(config={"mp0": f"{value},shared=1"}, **facts), MigrationRequest(vmid=200, target="pve2"))

    assert any(item.blocks and "mp0 is a folder or device of pve1" in item.text for item in blocked)
    assert not any(item.blocks for item in free)


@pytest.mark.parametrize(
    ("value", "storage"),
    [
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-3", ""),
        ("file=local-lvm:vm-1-disk-0,size=1G", "local-lvm"),
        ("none,media=cdrom", ""),
        ("nfs.a_b:100/vm-100-disk-0.qcow2", "nfs.a_b"),
    ],
)
def test_a_device_is_no_storage(value: str, storage: str) -> None:
    """A path with colons is not taken for a storage."""
    (drive,) = drives.drives({"scsi0": value})

    assert drive.storage == storage
