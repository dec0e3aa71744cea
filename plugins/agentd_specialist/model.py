"""The values of the specialist: a cluster and the validated VM.

This file contains no logic.  The views contain only the fields of mcp-proxmox's results that are needed here; other
fields are ignored.  The types are declared here because plugins do not import each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import formats

if TYPE_CHECKING:
    from collections.abc import Iterable

GIB: Final = 2**30
MIB: Final = 2**20
LISTED: Final = 6
"""Names to list in a sentence; the others are only counted."""

_DISK = re.compile(r"(scsi|virtio|sata|ide)\d+\Z")
_BRIDGE = re.compile(r"(?:^|,)bridge=([^,]+)")


class ValidatedVm(msgspec.Struct, frozen=True):
    """The parameters for create_vm and configure_vm, and the reasons for them."""

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
        """Return whether disks can be created on it now."""
        return self.status == "available" and "images" in self.content


class GuestView(msgspec.Struct, frozen=True):
    """A guest or a template in a list."""

    vmid: int
    name: str
    node: str
    status: str = "unknown"


class TemplateView(msgspec.Struct, frozen=True):
    """The template to clone: memory in MiB, disks in GiB.

    storages: those of its disks; all_storages: those of all its drives
    """

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
        """Return the bridges of its network cards; a clone keeps them."""
        return {found[1] for network in self.networks.values() if (found := _BRIDGE.search(network))}

    @property
    def main_disk(self) -> str:
        """Return the disk that the parameter `disk` sizes, the boot disk.

        It is "" if the configuration does not say which of several disks it is.
        """
        found = [key for key in self.disks if _DISK.match(key)]
        return self.boot_disk or (found[0] if len(found) == 1 else "")


@dataclass(frozen=True)
class Cluster:
    """The current cluster.

    bridges: of the nodes that were queried so far; template: the one that the request names
    against: rules and states that exclude nodes; cautions: disadvantages that exclude no node
    """

    nodes: list[NodeView]
    storages: list[StorageView]
    guests: list[GuestView]
    templates: list[GuestView]
    template: TemplateView | None = None
    bridges: dict[str, list[str]] | None = None
    against: dict[str, str] = field(default_factory=dict)
    cautions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def taken(self) -> set[int]:
        """Return all VMIDs in use."""
        return {guest.vmid for guest in (*self.guests, *self.templates)}


@dataclass(frozen=True)
class Rules:
    """The limits and defaults for a request; settings.py gives the reasons."""

    vmid_min: int = formats.VMID_MIN
    vmid_max: int = formats.VMID_MAX
    memory_reserve: int = 1024
    storage_reserve: int = 1
    default_cores: int = 1
    default_memory: int = 2048
    default_disk: int = 8


def names_of(items: Iterable[str]) -> str:
    """Return names for a sentence: the first few and a count of the others, or `none`."""
    names = list(items)
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) + rest) or "none"
