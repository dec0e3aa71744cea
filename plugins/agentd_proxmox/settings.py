"""The settings of the Proxmox tools."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentd.plugins.role import Settings


class ToolSettings(Settings):
    """How long the tools wait; where the cluster is and its range of VMIDs stand in the core's `[proxmox]`."""

    lock_wait: float = Field(default=20.0, ge=0)
    """Seconds for which a tool waits for a guest's lock (a backup, a clone) before it says so."""
    ha_wait: float = Field(default=60.0, ge=0)
    """Seconds for which a tool waits until Proxmox' HA manager has done what it accepted."""
    secrets_dir: Path | None = None
    """Where create_token writes a new secret, readable by the agent alone; not set: no token is made."""
    upload_dirs: list[Path] = Field(default_factory=list)
    """Folders of the agent's host from which upload_file may send files; none: it sends nothing."""
