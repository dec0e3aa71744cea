"""Settings of the section `[filesystem]`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field, field_validator, model_validator

from agentd import Settings

NEVER: Final = (
    *("/proc", "/sys", "/dev", "/run", "/boot", "/etc/agentd", "/etc/pve", "/var/lib/agentd", "/var/lib/nats"),
    *("/etc/shadow", "/etc/ssh", "/root/.ssh"),
)
"""Paths that are never served: they hold keys, or writing them changes the machine itself."""


class FilesystemSettings(Settings):
    """Which directories are served, and the limits of one call."""

    roots: tuple[Path, ...] = Field(
        default=(),
        description="directories whose files may be read, as absolute paths; none: no file is served",
    )
    writable_roots: tuple[Path, ...] = Field(
        default=(),
        description="directories among roots, or below one of them, in which files may also be changed",
    )
    cross_devices: bool = Field(
        default=False, description="also serve other file systems that are mounted below a root"
    )
    max_text: int = Field(
        default=65_536, ge=1024, le=262_144, description="bytes of text in one answer; longer text is paged"
    )
    max_file: int = Field(
        default=16 << 20,
        ge=1024,
        le=1 << 30,
        description="bytes of the largest file that is edited, compared or sent whole",
    )
    max_entries: int = Field(
        default=1000, ge=10, le=10_000, description="files and directories in one answer; longer lists are paged"
    )

    @field_validator("roots", "writable_roots")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in value:
            if not path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{path}: write an absolute path without ..")
            near = next(
                (never for never in NEVER if path.is_relative_to(never) or Path(never).is_relative_to(path)), ""
            )
            if near:
                raise ValueError(f"{path}: {near} is never served, nor is a directory that contains it")
        return value

    @model_validator(mode="after")
    def _writable_below_a_root(self) -> FilesystemSettings:
        for path in self.writable_roots:
            if not any(path.is_relative_to(root) for root in self.roots):
                raise ValueError(f"writable_roots: {path} is not one of roots, nor below one of them")
        return self
