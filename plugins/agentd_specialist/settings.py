"""Settings of the section `[specialist]`."""

from __future__ import annotations

from pydantic import Field

from agentd import Settings, formats
from agentd_specialist.model import Rules


class SpecialistSettings(Settings):
    """The rules for VM requests, and the defaults for values left out."""

    memory_reserve: int = Field(
        default=1024,
        ge=0,
        description="MiB of memory that stay free on a node when a VM is placed; Proxmox, ZFS and the page cache need "
        "some",
    )
    storage_reserve: int = Field(
        default=1,
        ge=0,
        description="GiB that stay free on a storage when a VM is placed; a full storage stops every guest on it",
    )
    default_cores: int = Field(default=1, ge=1, description="cores of a new empty VM if the request names none")
    default_memory: int = Field(
        default=2048, ge=16, description="MiB of memory of a new empty VM if the request names none"
    )
    default_disk: int = Field(
        default=8, ge=1, description="GiB of the disk of a new empty VM if the request names none"
    )

    def rules(self, vmid_min: int = formats.VMID_MIN, vmid_max: int = formats.VMID_MAX) -> Rules:
        """Return the rules as a plain value for the pure modules.

        The range of VMIDs is set in the section `[proxmox]`.
        """
        return Rules(**self.model_dump(), vmid_min=vmid_min, vmid_max=vmid_max)
