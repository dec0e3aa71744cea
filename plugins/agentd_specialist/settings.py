"""Settings of the section `[specialist]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from agentd import Settings, formats
from agentd_specialist.model import Rules

if TYPE_CHECKING:
    from agentd_specialist.diagnosis.wording import Model

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


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
    balance_band: float = Field(
        default=5.0,
        gt=0,
        le=50,
        description="percent of its memory that a node may be above or below the mean before guests are moved",
    )
    balance_cpu: float = Field(
        default=90.0, gt=0, le=1000, description="percent of a node's cores that guests may use after a move"
    )
    pack_ceiling: float = Field(
        default=80.0, gt=0, le=100, description="percent of a node's memory that may be in use after packing"
    )
    parallel_migrations: int = Field(
        default=2,
        ge=1,
        le=16,
        description="migrations of one plan at the same time; a node receives one at a time",
    )
    automatic_moves: int = Field(
        default=10,
        ge=0,
        description="migrations that a plan may have without the approval of another principal; 0: each plan needs one",
    )
    automatic_gib: float = Field(
        default=256.0,
        ge=0,
        description="GiB of memory and disks that a plan may send without the approval of another principal",
    )
    return_days: float = Field(
        default=1.0,
        ge=0,
        le=7,
        description="days for which a plan that balances does not send a guest back to a node that it has left, "
        "unless that node was rebooted since; 0: it may",
    )
    solver_seconds: float = Field(
        default=45.0,
        ge=0,
        le=600,
        description="seconds that HiGHS may search for a plan with fewer bytes, if the extra `solver` is installed; 0: "
        "it is not used",
    )
    solver_memory: int = Field(
        default=1024,
        ge=160,
        description="MiB of memory that HiGHS may use, in a process of its own; 40 nodes with 750 guests need 500, and "
        "`MemoryMax` of the unit leaves less",
    )
    apart_pools: list[str] = Field(default=[], description="pools whose guests are kept on different nodes")
    together_pools: list[str] = Field(default=[], description="pools whose guests are kept on one node")
    model_url: str | None = Field(
        default=None,
        description="address of a language model that puts diagnoses into words, compatible with OpenAI, such as "
        "`http://127.0.0.1:11434/v1`; it receives task logs, so beyond a loopback address https is required",
    )
    model_name: str = Field(default="default", description="name of the model at `model_url`")
    model_key_file: str | None = Field(default=None, description="file with the key of the model")
    model_seconds: float = Field(default=60.0, gt=0, le=300, description="seconds to wait for the words of the model")

    @field_validator("model_url")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is None or (parts.scheme == "https" and parts.hostname):
            return value
        if parts.scheme == "http" and parts.hostname in LOOPBACK:
            return value
        raise ValueError("use https://…, or http:// with 127.0.0.1, [::1] or localhost: task logs are sent there")

    def language_model(self) -> Model | None:
        """Return the model that words diagnoses, or None."""
        if self.model_url is None:
            return None
        from agentd_specialist.diagnosis.wording import Model

        return Model(self.model_url, self.model_name, self.model_key_file or "", self.model_seconds)

    def rules(self, vmid_min: int = formats.VMID_MIN, vmid_max: int = formats.VMID_MAX) -> Rules:
        """Return the rules as a plain value for the pure modules.

        The range of VMIDs is set in the section `[proxmox]`.
        """
        return Rules(
            vmid_min=vmid_min,
            vmid_max=vmid_max,
            memory_reserve=self.memory_reserve,
            storage_reserve=self.storage_reserve,
            default_cores=self.default_cores,
            default_memory=self.default_memory,
            default_disk=self.default_disk,
        )
