"""Types of the fields of parameters and results, each with its limits.

The patterns prevent injection: a node name becomes one part of a path, a bridge one part of `net0=virtio,bridge=…`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from agentd import formats

Schedule = formats.Calendar


GuestName = Annotated[str, Meta(min_length=1, description="the guest's name, so that no other one is meant")]


Vmid = Annotated[int, Meta(ge=100, le=999_999_999, description="number of the guest in the whole cluster")]
Node = formats.Node
Name = formats.GuestName
Storage = formats.Storage
Bridge = formats.Bridge
Pool = formats.Pool
Tag = formats.Tag
Disk = formats.Disk
Mount = formats.MountPath
Volume = formats.Volume
Startup = formats.Startup
Word = Annotated[str, formats.full_match("[A-Za-z0-9_-]+")]
Cores = Annotated[int, Meta(ge=1, le=8192)]
Sockets = Annotated[int, Meta(ge=1, le=4)]
CpuLimit = Annotated[float, Meta(ge=0, le=8192, description="CPUs' time that it may take; 0: no limit")]
CpuUnits = Annotated[int, Meta(ge=1, le=10_000, description="its share of the CPUs; usual is 100")]
"""Proxmox accepts larger values, and stores 10000."""
Mebibytes = Annotated[int, Meta(ge=16, le=4_194_304, description="MiB")]
Gibibytes = Annotated[int, Meta(ge=1, le=131_072, description="GiB")]
Seconds = Annotated[int, Meta(ge=1, le=86_400, description="seconds")]
Count = Annotated[int, Meta(ge=1, le=1000)]
Comment = Annotated[str, Meta(max_length=4096)]
"""As long as Proxmox takes it; a shorter limit would make the undo of a longer comment invalid."""


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class NodeSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node."""

    node: Node


class Guest(msgspec.Struct, frozen=True):
    """A VM or container as it is now; memory in MiB, disks in GiB, uptime in seconds.

    cores: of each socket of a VM; null: a container that may use all cores of its node
    boot_disk: "" if the configuration does not say from which of several disks it boots
    cpus: the number of all its CPUs, as Proxmox counts them for its node
    cpulimit: the CPU time that it may use, in CPUs; null: no limit.  cpuunits: its share when CPUs are scarce
    balloon: MiB that a VM keeps when its node is short of memory, 0 without a balloon device, null if not configured
    swap: MiB of a container, in addition to its memory; null for a VM
    storages: of its disks; all_storages: of every drive, also CD-ROM and cloud-init; a device of the node by its path
    """

    vmid: int
    node: str
    name: str
    status: str
    type: str = "qemu"
    template: bool = False
    lock: str = ""
    cores: int | None = 0
    sockets: int = 1
    cpus: float = 0
    memory: int = 0
    cpulimit: float | None = None
    cpuunits: int = 100
    balloon: int | None = None
    swap: int | None = None
    disks: dict[str, float] = {}
    boot_disk: str = ""
    storages: list[str] = []
    networks: dict[str, str] = {}
    tags: list[str] = []
    description: str = ""
    onboot: bool = False
    agent: bool = False
    ha: bool = False
    uptime: int = 0
    digest: str = ""
    all_storages: list[str] = []


class GuestLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A guest in a list; default values and fields not in `show` are left out."""

    vmid: int
    name: str
    node: str = ""
    status: str = ""
    type: str = "qemu"
    tags: list[str] = []
    lock: str = ""


def check_protection(name: str, *, on: bool | None) -> None:
    """Raise ValueError if a tool of tier operate would turn a protection off.

    Turning one off needs the approval of another principal.
    """
    if on is False:
        raise ValueError(
            f"{name}: false takes a guard away, which another principal has to approve: api_destroy does it"
        )


RUNNING, STOPPED = "running", "stopped"


class GuestSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest, by its VMID or its unique name."""

    vmid: Vmid | None = None
    name: str = ""
