# SPDX-License-Identifier: AGPL-3.0-or-later
"""The clusters a simulator starts with, as plain data: `demo`, `small`, or a JSON file of the same shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakepve import FakeCt, FakePve, FakeVm

Cluster = dict[str, Any]
GIB = 1024**3

# `shared` is NFS, not RBD: fakepve gives RBD a behaviour of its own.
STORAGES: Cluster = {
    "local": {
        "type": "dir", "path": "/var/lib/vz", "content": "iso,vztmpl,backup,snippets,import", "total": 94 * GIB,
        "volumes": {
            "iso/debian-12.11.0-amd64-netinst.iso": {"content": "iso", "format": "iso", "size": 670 * 1024**2},
            "vztmpl/debian-12-standard_12.7-1_amd64.tar.zst": {
                "content": "vztmpl", "format": "tzst", "size": 126 * 1024**2,
            },
        },
    },
    "local-lvm": {
        "type": "lvmthin", "vgname": "pve", "thinpool": "data", "content": "images,rootdir", "total": 400 * GIB,
    },
    "shared": {
        "type": "nfs", "server": "192.0.2.40", "export": "/tank/pve", "path": "/mnt/pve/shared", "shared": 1,
        "content": "images", "format": "raw", "total": 2048 * GIB,
    },
}  # fmt: skip

NODES = [
    {"name": "pve1", "maxcpu": 16, "maxmem": 64 * GIB},
    {"name": "pve2", "maxcpu": 16, "maxmem": 64 * GIB},
    {"name": "pve3", "maxcpu": 8, "maxmem": 32 * GIB},
]


def disk(storage: str, vmid: int, gib: int, prefix: str = "vm") -> str:
    """Return a drive's value as Proxmox VE writes it."""
    name = f"{prefix}-{vmid}-disk-0"
    if storage == "shared":
        name = f"{vmid}/{name}.raw"
    return f"{storage}:{name},size={gib}G"


def vm(vmid: int, name: str, node: str, **more: Any) -> Cluster:
    """Describe a VM with the usual configuration."""
    memory, gib, storage = more.pop("memory", 2048), more.pop("disk", 16), more.pop("storage", "local-lvm")
    mac = f"BC:24:11:00:{vmid // 256 % 256:02X}:{vmid % 256:02X}"
    config = {
        "boot": "order=scsi0;net0", "cores": more.pop("cores", 2), "memory": str(memory), "ostype": "l26",
        "net0": f"virtio={mac},bridge=vmbr0", "scsi0": disk(storage, vmid, gib), "scsihw": "virtio-scsi-single",
        "smbios1": f"uuid=00000000-0000-4000-8000-{vmid:012d}", "agent": "enabled=1",
    }  # fmt: skip
    config |= {"tags": more.pop("tags")} if "tags" in more else {}
    return {"type": "qemu", "vmid": vmid, "name": name, "node": node, "config": config | more.pop("config", {}), **more}


def container(vmid: int, name: str, node: str, **more: Any) -> Cluster:
    """Describe a container with the usual configuration."""
    config = {
        "arch": "amd64", "cores": 1, "memory": 512, "swap": 512, "ostype": "debian", "hostname": name,
        "net0": f"name=eth0,bridge=vmbr0,hwaddr=BC:24:11:01:00:{vmid % 256:02X},ip=dhcp,type=veth",
        "rootfs": f"local-lvm:vm-{vmid}-disk-0,size=8G", "unprivileged": 1,
    }  # fmt: skip
    config |= {"tags": more.pop("tags")} if "tags" in more else {}
    return {"type": "lxc", "vmid": vmid, "name": name, "node": node, "config": config, **more}


# On shared storage with its cloud-init drive, so that a clone may land on any node.
TEMPLATE = vm(
    9000, "debian-12", "pve1", memory=1024, storage="shared", template=True, tags="template",
    config={
        "scsi0": "shared:9000/base-9000-disk-0.raw,size=3G", "ciuser": "debian", "ipconfig0": "ip=dhcp",
        "ide2": "shared:9000/vm-9000-cloudinit.raw,media=cdrom,size=4M", "serial0": "socket", "vga": "serial0",
    },
)  # fmt: skip

SMALL: Cluster = {
    "name": "lab",
    "nodes": NODES,
    "storages": STORAGES,
    "guests": [
        TEMPLATE,
        vm(100, "web-01", "pve1", status="running", tags="prod;web"),
        vm(101, "db-01", "pve1", memory=4096, disk=32, tags="db;prod"),
    ],
}

DEMO: Cluster = SMALL | {
    "name": "demo",
    "guests": [
        *SMALL["guests"],
        vm(102, "web-02", "pve2", status="running", tags="prod;web"),
        vm(103, "ci-runner", "pve2", memory=8192, cores=4, disk=64, status="running", tags="ci"),
        vm(104, "nas", "pve3", memory=4096, storage="shared", disk=200, status="running", tags="prod;storage",
           config={"protection": 1, "onboot": 1}),
        vm(105, "old-test", "pve3", memory=1024, tags="test"),
        container(200, "dns", "pve1", status="running", tags="infra"),
        container(201, "proxy", "pve2", tags="infra;web"),
    ],
}  # fmt: skip

KNOWN = {"demo": DEMO, "small": SMALL}


def load(name: str) -> Cluster:
    """Return a known cluster or the one a JSON file describes."""
    if name in KNOWN:
        return KNOWN[name]
    described: Cluster = json.loads(Path(name).read_text(encoding="utf-8"))
    return SMALL | {"guests": []} | described


def add_guest(pve: FakePve, guest: Cluster) -> FakeVm | FakeCt:
    """Put a guest into the cluster, as if it had always been there."""
    made = {key: value for key, value in guest.items() if key != "type"}
    vmid, name, agent = made.pop("vmid"), made.pop("name", None), made.pop("agent", None)
    if pve.guest(vmid) is not None:
        raise ValueError(f"guest {vmid} exists")
    if guest.get("type", "qemu") == "lxc":
        return pve.add_ct(vmid, name, **made)
    found = pve.add_vm(vmid, name or f"VM {vmid}", **made)
    found.agent = agent
    if found.template:
        found.config["template"] = 1
    if found.lock:
        found.config["lock"] = found.lock
    return found


def build(pve: FakePve, cluster: Cluster) -> None:
    """Replace all that the simulator holds by the cluster described."""
    fresh = json.loads(json.dumps(cluster))
    pve.cluster_name = fresh.get("name", "lab")
    pve.nodes = {node["name"]: {"online": True, **node} for node in fresh["nodes"]}
    pve.storages = {
        name: {"active": 1, "files": set(), "volumes": {}, **store} for name, store in fresh["storages"].items()
    }
    pve.vms, pve.cts, pve.tasks, pve.tasklog = [], [], {}, []
    pve.pools, pve.pool_info, pve.quorate, pve.jobs = {}, {}, True, {}
    pve.reset_ha()
    pve.reset_replication()
    pve.reset_system()
    pve.reset_firewall()
    pve.reset_networks()
    pve.reset_disks()
    pve.reset_directories()
    for guest in fresh["guests"]:
        add_guest(pve, guest)
