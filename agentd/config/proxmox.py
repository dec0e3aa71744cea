"""The section [proxmox]: how the API of Proxmox VE is reached."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from agentd import formats
from agentd.config.secret_files import read_secret
from agentd.config.section import Section
from agentd.errors import ConfigError


class Proxmox(Section):
    """The Proxmox VE API; without this section there is no connection to Proxmox."""

    url: str = Field(
        description="address of the API, of one node or of a name that covers all nodes: https://pve1:8006"
    )
    token_id: str = Field(
        default="agentd@pve!full",
        pattern=f"^{formats.TOKEN}$",
        description="API token, user@realm!tokenname; it appears in the task list of Proxmox, where agentd finds its "
        "own tasks by it",
    )
    token_file: str | None = Field(default=None, description="file with the secret of the API token")
    ca_file: str | None = Field(
        default=None,
        description="CA certificate of the API, such as /etc/pve/pve-root-ca.pem. Default: the CAs of the system",
    )
    fingerprint: str | None = Field(
        default=None,
        description="SHA-256 fingerprint of the node's certificate (`pvenode cert info`); only this certificate is "
        "accepted, instead of ca_file",
    )
    verify: bool = Field(
        default=True, description="verify the certificate; with false, anyone in the network path can read the token"
    )
    timeout: float = Field(
        default=40.0,
        ge=35,
        description="seconds to wait for a response; at least 35, because Proxmox waits up to 30 s for a dead node",
    )
    pvesh: str | None = Field(
        default=None,
        description="path of pvesh (/usr/bin/pvesh), which the daemon uses to read while the API is not reachable. It "
        "must run as root on a node; such reads are made as root@pam, without the limits of the token",
    )
    calls_per_node: int = Field(
        default=2,
        ge=1,
        le=2,
        description="number of API calls to one node at the same time; 3 would occupy all workers of pvedaemon",
    )
    vmid_min: int = Field(
        default=formats.VMID_MIN, ge=100, description="lowest VMID for new guests; Proxmox reserves those below 100"
    )
    vmid_max: int = Field(default=formats.VMID_MAX, le=999_999_999, description="highest VMID for new guests")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname or parts.username:
            raise ValueError("should be https://host:8006; http would show the token to the network")
        return value.rstrip("/")

    @field_validator("fingerprint")
    @classmethod
    def _fingerprint(cls, value: str | None) -> str | None:
        digits = (value or "").replace(":", "").lower()
        if value is not None and not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise ValueError("should be a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")
        return digits or None

    @model_validator(mode="after")
    def _trust(self) -> Self:
        if self.fingerprint and self.ca_file:
            raise ValueError("fingerprint and ca_file exclude each other: pin the certificate or trust its CA")
        if self.fingerprint and not self.verify:
            raise ValueError("fingerprint needs verify = true")
        return self

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.vmid_min > self.vmid_max:
            raise ValueError(f"vmid_min {self.vmid_min} is above vmid_max {self.vmid_max}")
        return self

    def token(self) -> str:
        """Read the token's secret.

        The file may also hold the whole user@realm!name=secret as Proxmox shows it.
        """
        if self.token_file is None:
            raise ConfigError("proxmox.token_file: not set; it names the file with the secret of the API token")
        return read_secret(self.token_file, "proxmox.token_file").rpartition("=")[2]
