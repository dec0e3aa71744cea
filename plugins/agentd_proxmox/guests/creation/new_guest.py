"""The parameters of create_vm, and the configuration that a new guest gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from agentd import Rejected
from agentd_proxmox.model import fields, guest_model

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

CLOUD: Final = ("ciuser", "sshkeys", "ipconfig0", "nameserver", "searchdomain")


class CreateVm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The VM to create.

    With `template` it is a clone with the template's cores, memory, disks and networks.

    image: a volume of content `import`, or another disk, that the VM's disk is copied from, with the same size; the VM
    gets a cloud-init drive, which uses ciuser, sshkeys (public keys, one a line), ipconfig0 (ip=dhcp or
    ip=192.0.2.5/24,gw=192.0.2.1), nameserver and searchdomain
    """

    vmid: fields.Vmid
    node: fields.Node
    name: fields.Name
    template: fields.Vmid | None = None
    full: bool = True
    storage: fields.Storage | None = None
    cores: fields.Cores = 1
    memory: fields.Mebibytes = 2048
    disk: fields.Gibibytes = 8
    bridge: fields.Bridge = "vmbr0"
    iso: fields.Volume | None = None
    image: fields.Volume | None = None
    ciuser: str = ""
    sshkeys: str = ""
    ipconfig0: str = ""
    nameserver: str = ""
    searchdomain: str = ""
    ostype: fields.Word = "l26"
    scsihw: fields.Word = "virtio-scsi-single"
    cpu: fields.Word | None = None
    agent: bool = True
    tags: list[fields.Tag] = []
    pool: fields.Pool | None = None
    description: str = ""


@dataclass(frozen=True)
class GuestOrder:
    """The guest to create and its node; `template` is the source if it is a clone."""

    vmid: int
    node: str
    name: str
    pool: str | None
    template: int | None = None
    kind: str = "qemu"


def new_guest(p: CreateVm, key: str) -> guest_model.Config:
    """Return the parameters of POST /nodes/{node}/qemu."""
    if p.storage is None:
        raise Rejected("create_vm: a new VM needs a storage for its disk (only a clone has one already)")
    return {
        "vmid": p.vmid,
        "name": p.name,
        "description": guest_model.describe(p.description, key),
        "cores": p.cores,
        "memory": p.memory,
        "cpu": p.cpu,
        "ostype": p.ostype,
        "scsihw": p.scsihw,
        "scsi0": f"{p.storage}:{p.disk}",
        "net0": f"virtio,bridge={p.bridge}",
        "ide2": f"{p.iso},media=cdrom" if p.iso else None,
        "agent": "enabled=1" if p.agent else None,
        "tags": ";".join(p.tags) or None,
        "pool": p.pool,
        **(_of_image(p) if p.image else {}),
    }


def _of_image(p: CreateVm) -> guest_model.Config:
    """Return the parameters that differ for a VM made from an image.

    Most images use only a serial console.
    """
    return {
        "scsi0": f"{p.storage}:0,import-from={p.image}",
        "ide2": f"{p.storage}:cloudinit",
        "boot": "order=scsi0",
        "serial0": "socket",
        "sshkeys": guest_model.sshkeys(p.sshkeys) or None,
        **{name: getattr(p, name) or None for name in CLOUD if name != "sshkeys"},
    }


def check_consistent(p: CreateVm) -> None:
    """Raise Rejected for parameters that contradict each other."""
    for other in ("template", "iso"):
        if p.image and getattr(p, other) is not None:
            raise Rejected(f"create_vm: image: a VM is made of an image or with `{other}`, not both; leave one out")
    given = [name for name in CLOUD if getattr(p, name)]
    if given and not p.image:
        hint = "update_vm sets it" if p.template is not None else "there is no cloud-init drive"
        raise Rejected(f"create_vm: {given[0]}: it can only be given with `image` ({hint} otherwise)")


def clone_of(source: GuestLocation, p: CreateVm, key: str) -> guest_model.Config:
    """Return the parameters of POST /nodes/{node}/qemu/{template}/clone.

    Proxmox takes no tags here: a clone has the tags of its template, and update_vm changes them.
    """
    if p.tags:
        raise Rejected(
            "create_vm: tags: a clone has its template's; leave `tags` out, update_tags changes them afterwards"
        )
    if not p.full and not source.template:
        raise Rejected(f"create_vm: {source.title} is no template, so only a full clone can be made of it")
    if not p.full and p.storage is not None:
        raise Rejected("create_vm: a linked clone is on its template's storage; leave `storage` out")
    return {
        "newid": p.vmid,
        "name": p.name,
        "description": guest_model.describe(p.description, key),
        "full": p.full,
        "storage": p.storage,
        "target": p.node if p.node != source.node else None,
        "pool": p.pool,
    }
