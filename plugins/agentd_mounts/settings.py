"""Settings of the section `[mounts]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from agentd import Settings, Tier

RESERVED: Final = frozenset({"proxmox", "filesystem", "cloud"})
"""Names that would be those of agentd's own services."""
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,23}$")]


class ServerSettings(Settings):
    """One MCP server: how it is started, and what its tools may do."""

    command: tuple[str, ...] = Field(
        default=(),
        description="command that starts the server, which serves MCP over stdin and stdout; the program as an "
        "absolute path. Either command or url is set",
    )
    url: str = Field(
        default="",
        description="URL of a server that runs already and serves MCP over streamable HTTP; https, or http on a "
        "loopback address",
    )
    token_file: str = Field(
        default="", description="file with the bearer token for url, or credential:NAME of systemd; empty: no token"
    )
    ca_file: str = Field(
        default="", description="file with the certificate authority of url; empty: those of the system"
    )
    environment: dict[str, str] = Field(
        default={},
        description="environment of the server; it gets nothing else but a PATH. For secrets, name a file that the "
        "server reads",
    )
    directory: Path = Field(default=Path("/"), description="working directory of the server")
    tier: Tier = Field(
        default=Tier.DESTROY,
        description="tier of its tools: what the server says about them is not trusted. destroy: each call waits for a "
        "second principal",
    )
    tiers: dict[str, Tier] = Field(default={}, description="tier of single tools, by the name that the server gives")
    timeout: float = Field(default=60.0, gt=0, le=900, description="seconds that one call may take")
    max_bytes: int = Field(
        default=1 << 20,
        ge=1024,
        le=16 << 20,
        description="bytes of the largest message that is accepted from the server; a larger one ends it",
    )

    @field_validator("command")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not Path(value[0]).is_absolute():
            raise ValueError(f"{value[0]}: name the program by its absolute path")
        return value

    @field_validator("url")
    @classmethod
    def _safe(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc):
            raise ValueError("write https://HOST/PATH, without a user or a password")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError(f"{value}: write https; http is for a loopback address")
        return value

    @model_validator(mode="after")
    def _one_of(self) -> ServerSettings:
        if bool(self.command) == bool(self.url):
            raise ValueError("set either command or url")
        return self


class MountsSettings(Settings):
    """The MCP servers whose tools are offered to the network."""

    servers: dict[Name, ServerSettings] = Field(
        default={},
        description="servers by name; the tools of a server NAME are called NAME__TOOL, its service mcp-NAME",
    )
    definitions: Path = Field(
        default=Path("/etc/agentd/mounts"),
        description="directory of the accepted definitions of tools, one file NAME.json for each server; only root may "
        "write it",
    )
    offered: Path = Field(
        default=Path("/var/lib/agentd/mounts"),
        description="directory where agentd writes NAME.json with what a server offers now: read it, and copy it to "
        "definitions to accept it",
    )

    @field_validator("servers")
    @classmethod
    def _free(cls, value: dict[str, ServerSettings]) -> dict[str, ServerSettings]:
        taken = sorted(RESERVED & set(value))
        if taken:
            raise ValueError(f"{taken[0]} is the name of a service of agentd; choose another one")
        return value
