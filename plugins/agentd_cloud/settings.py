"""Settings of the section `[cloud]`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator

from agentd import Settings

Alias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class AccountSettings(Settings):
    """One account at a cloud provider: how to reach it, and what agentd may change there."""

    provider: str = Field(description="name of the provider in apache-libcloud, for example ec2 or openstack")
    key: str = Field(default="", description="access key id or user name; not the secret")
    secret_file: str = Field(
        default="",
        description="file with the secret alone, or credential:NAME of systemd; it is read for each request",
    )
    region: str = Field(default="", description="region of the account; the provider's default if empty")
    endpoint: str = Field(default="", description="URL of the API, if it is not the provider's own")
    options: dict[str, str] = Field(
        default={}, description="further arguments of the provider's driver in apache-libcloud; no secrets"
    )
    timeout: float = Field(default=30.0, ge=0.1, le=600, description="seconds that one operation may take")
    tag: str = Field(
        default="agentd",
        pattern=r"^[a-z][a-z0-9-]{0,31}$",
        description="tag of what agentd has created; its value is the key of the call. Use one for each network of "
        "agentd that shares the account",
    )
    only_tagged: bool = Field(
        default=True, description="change and delete only what has the tag; false: everything in the account"
    )
    max_nodes: int = Field(default=10, ge=0, description="nodes with the tag that may exist at the same time")
    max_volume_gb: int = Field(default=500, ge=0, description="GB of all volumes with the tag together")
    max_hourly_cost: float | None = Field(
        default=None,
        ge=0,
        description="price per hour of all nodes with the tag together, in the provider's currency; a size without a "
        "known price is then refused. None: no limit",
    )
    sizes: tuple[str, ...] = Field(
        default=(), description="sizes that a new node may have, as patterns (t3.*); none: every size"
    )
    locations: tuple[str, ...] = Field(
        default=(), description="locations where something may be created, as patterns; none: every location"
    )

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc):
            raise ValueError("write https://HOST or https://HOST:PORT, without a user or a password")
        return value


class CloudSettings(Settings):
    """The accounts at cloud providers."""

    accounts: dict[Alias, AccountSettings] = Field(
        default={}, description="accounts by the alias that calls and the policy use"
    )
