"""The settings of the Proxmox tools."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentd import Settings


class ToolSettings(Settings):
    """Waiting times and folders of the tools.

    The address of the cluster and its range of VMIDs are in the core's section `[proxmox]`.
    """

    lock_timeout: float = Field(default=20.0, ge=0)
    """Seconds for which a tool waits for a guest's lock (a backup, a clone) before it reports it as an error."""
    ha_timeout: float = Field(default=60.0, ge=0)
    """Seconds for which a tool waits until the HA manager of Proxmox has done what it accepted."""
    secrets_dir: Path | None = None
    """Folder where create_token writes a new secret, readable only by the agent; not set: no token is created."""
    upload_dirs: list[Path] = Field(default_factory=list)
    """Folders of the agent's host from which upload_file may send files; empty: it sends none."""
