"""The obstacles of a migration are reported before it starts, with what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.availability.cpu_check import LEVELS
from agentd_proxmox.availability.migration_model import Cpu, Facts, MigrationRequest
from agentd_proxmox.availability.preflight import findings
from agentd_proxmox.inventory import GuestLocation
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

GIB = 2**30
AT = GuestLocation(100, "pve1", "qemu", "web", "running", template=False)
NODES = {
    "pve1": {"node": "pve1", "status": "online", "maxmem": 64 * GIB, "mem": 4 * GIB},
    "pve2": {"node": "pve2", "status": "online", "maxmem": 64 * GIB, "mem": 4 * GIB},
    "pve3": {"node": "pve3", "status": "offline"},
}
STORAGES: dict[tuple[str, str], dict[str, Any]] = {
    (node, name): {
        "node": node,
        "storage": name,
        "status": "available",
        "content": "images,rootdir",
        "maxdisk": 100 * GIB,
        "disk": 50 * GIB,
        "shared": int(name == "ceph"),
    }
    for node in ("pve1", "pve2")
    for name in ("ceph", "lvm", "fast")
} | {
    ("pve2", "iso"): {"node": "pve2", "storage": "iso", "status": "available", "content": "iso", "maxdisk": GIB},
    ("pve1", "old"): {"node": "pve1", "storage": "old", "status": "available", "content": "images", "shared": 1},
}
EPYC = Cpu("EPYC 9354", LEVELS["x86-64-v4"])
XEON = Cpu("Xeon E5-2670", LEVELS["x86-64-v2-AES"] | {"avx", "f16c", "abm"})
FREE: dict[str, Any] = {"running": 1, "local_disks": [], "local_resources": [], "mapped-resources": []}


def found(config: dict[str, Any], *, running: bool = True, **more: Any) -> list[str]:
    """Return the lines that block, for a VM on pve1 that is to go to pve2."""
    requested = MigrationRequest(**{"vmid": 100, "target": "pve2"} | more.pop("requested", {}))
    at = more.pop("at", AT)
    facts: dict[str, Any] = {
        "at": at,
        "config": {"memory": "1024", **config},
        "status": {"status": "running" if running else "stopped", **more.pop("status", {})},
        "nodes": NODES,
        "storages": STORAGES,
        "conditions": FREE,
        "bridges": frozenset({"vmbr0"}),
    }
    return [finding.line() for finding in findings(Facts(**facts | more), requested) if finding.blocks]


@pytest.mark.parametrize(
    ("config", "more", "line"),
    [
        ({}, {"requested": {"target": "pve9"}}, "there is no node 'pve9' (target: pve2)"),
        ({}, {"requested": {"target": "pve3"}}, "pve3 is offline (online are: pve2)"),
        (
            {},
            {"status": {"lock": "backup"}},
            "VM 100 'web' on pve1 is locked (backup) (wait until that has ended; list_tasks names it)",
        ),
        (
            {},
            {"requested": {"online": False}},
            "VM 100 'web' on pve1 runs (online=true moves it while it runs; or shutdown_guest first)",
        ),
        (
            {"scsi0": "lvm:vm-100-disk-0,size=8G"},
            {},
            (
                "pve2 does not see scsi0 on lvm, 8 GiB (with_local_disks=true copies them while it runs; or move_disk"
                " to a shared storage first)"
            ),
        ),
        (
            {"scsi0": "lvm:vm-100-disk-0,size=60G"},
            {"requested": {"with_local_disks": True}},
            "60 GiB do not fit: storage lvm of pve2 has 50 GiB (target_storage or storage_map: ceph, fast, lvm)",
        ),
        (
            {"scsi0": "lvm:vm-100-disk-0,size=8G"},
            {"requested": {"with_local_disks": True, "storage_map": {"lvm": "iso"}}},
            "storage iso of pve2 does not hold images (target_storage or storage_map: ceph, fast, lvm)",
        ),
        (
            {"scsi0": "old:vm-100-disk-0,size=8G"},
            {},
            "storage old does not exist on pve2 (target_storage or storage_map: ceph, fast, lvm)",
        ),
        (
            {"scsi0": "lvm:vm-100-disk-0,size=8G", "parent": "daily"},
            {"requested": {"with_local_disks": True}},
            (
                "VM 100 'web' on pve1 has snapshots, and scsi0 would be copied (delete the snapshots, or shutdown_guest"
                " first)"
            ),
        ),
        (
            {"ide2": "lvm:iso/debian.iso,media=cdrom"},
            {},
            "ide2 holds lvm:iso/debian.iso, which only pve1 sees (take it out first)",
        ),
        (
            {},
            {"conditions": FREE | {"local_resources": ["hostpci0"]}},
            "VM 100 'web' on pve1 uses devices of pve1: hostpci0 (take them away first)",
        ),
        (
            {"hostpci0": "0000:01:00.0", "usb0": "spice"},
            {"conditions": None},
            "VM 100 'web' on pve1 uses devices of pve1: hostpci0 (take them away first)",
        ),
        (
            {},
            {
                "running": False,
                "conditions": FREE
                | {"allowed_nodes": ["pve4"], "not_allowed_nodes": {"pve2": {"unavailable-resources": ["gpu\x1b[1m"]}}},
            },
            "Proxmox does not allow it to move to pve2: unavailable-resources: gpu [1m (target: pve4)",
        ),
        (
            {},
            {
                "conditions": FREE
                | {"not-allowed-nodes": {"pve2": {"blocking-ha-resources": [{"sid": "vm:7", "cause": "x"}]}}}
            },
            "Proxmox does not allow it to move to pve2: blocking-ha-resources: vm:7 (choose another target)",
        ),
        (
            {"memory": "current=65536"},
            {},
            "it has 65536 MiB of memory, and pve2 has 61440 MiB free (choose another target, or make room there)",
        ),
        (
            {"cpu": "cputype=host,flags=+aes"},
            {"cpus": (EPYC, XEON)},
            (
                "its CPU type is that of its node (EPYC 9354), and pve2 has Xeon E5-2670 (shutdown_guest first, or "
                "give it a CPU type that both have, such as x86-64-v2-AES)"
            ),
        ),
        (
            {"cpu": "x86-64-v3"},
            {"cpus": (XEON,)},
            (
                "its CPU type x86-64-v3 needs avx2, bmi1, bmi2, fma, movbe, which the CPUs of pve2 do not have (choose "
                "another target, or give it a CPU type that both have)"
            ),
        ),
        (
            {"net1": "virtio=BC:24:11:00:00:10,bridge=vmbr7,tag=5"},
            {},
            "net1 is on vmbr7, which pve2 does not have (change net1, or make the bridge there)",
        ),
        (
            {"mp0": "/srv/data,mp=/data"},
            {"at": GuestLocation(200, "pve1", "lxc", "dns", "stopped", template=False), "running": False},
            "mp0 is a folder or device of pve1 (/srv/data) (take the mount point away, or mark it shared=1)",
        ),
    ],
)
def test_blocks(config: dict[str, Any], more: dict[str, Any], line: str) -> None:
    """Each thing in the way is one line that says what to do."""
    assert found(config, **more) == [line]


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({"scsi0": "ceph:vm-100-disk-0,size=800G", "net0": "virtio=BC:24:11:00:00:10,bridge=vmbr0"}, {}),
        ({"scsi0": "lvm:vm-100-disk-0,size=8G", "parent": "daily"}, {"running": False}),
        ({"scsi0": "lvm:vm-100-disk-0,size=60G"}, {"running": False, "requested": {"target_storage": "ceph"}, "n": 60}),
        ({"ide2": "lvm:vm-100-cloudinit,media=cdrom"}, {"requested": {"with_local_disks": True}}),
        ({"ide2": "none,media=cdrom"}, {}),
        ({"cpu": "host"}, {"cpus": (EPYC, EPYC)}),
        ({"cpu": "host"}, {"running": False, "cpus": (EPYC, XEON)}),
        ({"cpu": "x86-64-v2-AES,flags=+pcid"}, {"cpus": (XEON,)}),
        ({"cpu": "x86-64-v3"}, {"cpus": (Cpu("EPYC 9354"),)}),
        ({"cpu": "x86-64-v4"}, {"running": False, "cpus": (XEON,)}),
        ({"memory": "999999"}, {"running": False}),
        (
            {"mp0": "/srv/data,mp=/data,shared=1"},
            {"at": GuestLocation(200, "pve1", "lxc", "dns", "stopped", template=False)},
        ),
        ({}, {"requested": {"target": "pve1"}}),
    ],
)
def test_accepts(config: dict[str, Any], more: dict[str, Any]) -> None:
    """What can move is not held up."""
    storages = STORAGES | {("pve2", "ceph"): STORAGES["pve2", "ceph"] | {"disk": (100 - more.pop("n", 50)) * GIB}}
    restart = {"requested": {"restart": True}} if "at" in more else {}

    assert found(config, **more | restart, storages=storages) == []


class TestTool:
    """check_migration."""

    async def test_report(self, tools: Bench) -> None:
        """It reports whether a guest can move, without doing anything."""
        bad = await tools.call("check_migration", vmid=100, target="pve2")
        good = await tools.call("check_migration", vmid=100, target="pve2", with_local_disks=True)

        assert (bad.possible, [finding.check for finding in bad.findings if finding.blocks]) == (False, ["disks"])
        assert (good.possible, good.running, good.ha, good.source) == (True, True, False, "pve1")

    async def test_target_is_offline(self, tools: Bench, sim: AsyncPve) -> None:
        """Of a node that is away nothing is asked: the finding says so at once."""
        await sim.node("pve2", online=False)
        report = await tools.call("check_migration", vmid=100, target="pve2")

        assert [finding.text for finding in report.findings] == ["pve2 is offline"]
        assert await sim.log("GET", "/nodes/pve2") == []
        with pytest.raises(errors.Rejected, match="pve2 is offline"):
            await tools.call("migrate_guest", MemoryCall(), vmid=100, target="pve2")

    async def test_without_the_right(self, lab: FakePve) -> None:
        """A token that may only read gets the list of unread facts."""
        proxmox = connect(lab, "audit")
        report = await Bench(proxmox).call("check_migration", vmid=101, target="pve2")

        assert report.possible
        assert "lacks VM.Migrate" in " ".join(finding.text for finding in report.findings)
        await proxmox.close()

    @pytest.mark.parametrize(
        ("parameters", "line"),
        [
            ({"vmid": 100, "target": "../x"}, "target"),
            ({"vmid": 100, "target": "pve2", "storage_map": {"local-lvm": "a,b"}}, "storage_map"),
            ({"vmid": 100, "target": "pve2", "live": True}, "unknown parameter 'live'"),
            ({"vmid": 100}, "target"),
        ],
    )
    async def test_bad_input(self, tools: Bench, parameters: dict[str, Any], line: str) -> None:
        """Bad input is refused with the name of the field."""
        with pytest.raises(errors.InvalidMessage, match=line):
            await tools.call("migrate_guest", **parameters)
