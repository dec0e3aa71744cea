"""What an operator may set under `[specialist]`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from agentd.role import Settings
from agentd_specialist.cluster import Rules


class SpecialistSettings(Settings):
    """The rules by which a wish is judged, and what it gets when it says nothing."""

    vmid_min: int = Field(default=100, ge=100, le=999_999_999)
    """Smallest VMID that is drawn for a new VM; Proxmox allows 100."""
    vmid_max: int = Field(default=999_999, ge=100, le=999_999_999)
    """Largest VMID that is drawn; the wider the range, the rarer two workflows draw the same."""
    memory_reserve: int = Field(default=1024, ge=0)
    """MiB of memory that stay free on a node: Proxmox itself, ZFS and the page cache need some."""
    storage_reserve: int = Field(default=1, ge=0)
    """GiB that stay free on a storage: a full one stops every guest on it."""
    default_cores: int = Field(default=1, ge=1)
    """Cores of an empty VM whose wish names none."""
    default_memory: int = Field(default=2048, ge=16)
    """MiB of memory of an empty VM whose wish names none."""
    default_disk: int = Field(default=8, ge=1)
    """GiB of the disk of an empty VM whose wish names none."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.vmid_min > self.vmid_max:
            message = f"vmid_min ({self.vmid_min}) must not be above vmid_max ({self.vmid_max})"
            raise ValueError(message)
        return self

    def rules(self) -> Rules:
        """Return what the pure part needs."""
        return Rules(**self.model_dump())
