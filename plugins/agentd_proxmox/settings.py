"""The settings of the Proxmox tools."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentd import Settings


class ToolSettings(Settings):
    """Waiting times and folders of the tools.

    The address of the cluster and its range of VMIDs are in the core's section `[proxmox]`.
    """

    lock_timeout: float = Field(
        default=20.0,
        ge=0,
        description="seconds to wait for the lock of a guest, which a backup or a clone may hold; then the call fails",
    )
    ha_timeout: float = Field(
        default=60.0, ge=0, description="seconds to wait until the HA manager has done what it accepted"
    )
    secrets_dir: Path | None = Field(
        default=None,
        description="directory where create_token writes a new secret, readable only by the agent. Default: none, and "
        "create_token is refused",
    )
    upload_dirs: list[Path] = Field(
        default_factory=list,
        description="directories on the agent's host from which upload_file may send files. Default: none, and "
        "upload_file is refused",
    )
