"""What the specialist knows of a cluster, a wish for a VM, and what became of it.  Values, no thinking.

The views name the fields of mcp-proxmox's results that are needed here, no more: what else a result holds is its
own business, and plugins do not import each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

GIB: Final = 2**30
MIB: Final = 2**20
LISTED: Final = 6
"""How many names a sentence holds; the rest is counted."""

VMID_MIN: Final = 100
VMID_MAX: Final = 999_999
"""The range that VMIDs are drawn from where the configuration names no Proxmox."""
_DISK = re.compile(r"(scsi|virtio|sata|ide)\d+\Z")
_BRIDGE = re.compile(r"(?:^|,)bridge=([^,]+)")


class VmWish(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is wished: only the name is needed.

    template   VMID or name of a template to clone; without one the VM is new and empty
    full       a full copy of the template; false makes a linked clone, which is quick and stays bound to it
    memory     MiB; disk: GiB, of the first disk; both as the template's if left out
    iso        an ISO image that an empty VM boots from, for example local:iso/debian.iso
    sshkeys    public keys, one a line; ipconfig0: for example ip=dhcp or ip=192.0.2.5/24,gw=192.0.2.1
    """

    name: str
    vmid: int | None = None
    node: str | None = None
    template: int | str | None = None
    full: bool = True
    cores: int | None = None
    memory: int | None = None
    disk: int | None = None
    storage: str | None = None
    bridge: str | None = None
    iso: str | None = None
    pool: str | None = None
    tags: list[str] = []
    description: str = ""
    start: bool = True
    ciuser: str | None = None
    sshkeys: str | None = None
    ipconfig0: str | None = None
    nameserver: str | None = None


class ValidatedVm(msgspec.Struct, frozen=True):
    """What the wish becomes: parameters for create_vm and configure_vm, and why they are what they are."""

    vmid: int
    node: str
    create: dict[str, Any]
    configure: dict[str, Any]
    reasons: list[str]
    warnings: list[str] = []


class NodeView(msgspec.Struct, frozen=True):
    """A node; memory in bytes."""

    node: str
    status: str
    cpus: int = 0
    memory: int = 0
    memory_used: int = 0


class StorageView(msgspec.Struct, frozen=True):
    """A storage as one node sees it; bytes."""

    storage: str
    node: str
    status: str
    shared: bool = False
    content: list[str] = []
    free: int = 0

    @property
    def usable(self) -> bool:
        """Tell whether disks can be made on it now."""
        return self.status == "available" and "images" in self.content


class GuestView(msgspec.Struct, frozen=True):
    """A guest or a template in a list."""

    vmid: int
    name: str
    node: str
    status: str = "unknown"


class TemplateView(msgspec.Struct, frozen=True):
    """The template that is to be cloned: memory in MiB, disks in GiB, the storages of its disks, and of all drives."""

    vmid: int
    name: str
    node: str
    cores: int | None = 1
    sockets: int = 1
    memory: int = 512
    disks: dict[str, float] = {}
    boot_disk: str = ""
    networks: dict[str, str] = {}
    storages: list[str] = []
    all_storages: list[str] = []

    @property
    def bridges(self) -> set[str]:
        """Return the bridges that its networks are on, and a clone's will be."""
        return {found[1] for each in self.networks.values() if (found := _BRIDGE.search(each))}

    @property
    def main_disk(self) -> str:
        """Return the disk that `disk` means: the one that it boots from; "" if it does not say which one that is."""
        found = [key for key in self.disks if _DISK.match(key)]
        return self.boot_disk or (found[0] if len(found) == 1 else "")


@dataclass(frozen=True)
class Cluster:
    """What the cluster looks like; `bridges` holds the nodes that were asked, `template` what the wish names."""

    nodes: list[NodeView]
    storages: list[StorageView]
    guests: list[GuestView]
    templates: list[GuestView]
    template: TemplateView | None = None
    bridges: dict[str, list[str]] | None = None

    @property
    def taken(self) -> set[int]:
        """Return every VMID that is in use."""
        return {each.vmid for each in (*self.guests, *self.templates)}


@dataclass(frozen=True)
class Rules:
    """By what a wish is judged; settings.py says why."""

    vmid_min: int = VMID_MIN
    vmid_max: int = VMID_MAX
    memory_reserve: int = 1024
    storage_reserve: int = 1
    default_cores: int = 1
    default_memory: int = 2048
    default_disk: int = 8


def _disk_order(name: str) -> tuple[int, str]:
    return ("scsi", "virtio", "sata", "ide").index(name.rstrip("0123456789")), name


def names_of(each: Iterable[str]) -> str:
    """Return names for a sentence: a few of them, how many more, or `none`."""
    names = list(each)
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) + rest) or "none"
