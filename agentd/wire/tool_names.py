"""Tool names of the original protocol that are still accepted.

A client may use them in workflow files, requests, assignments and calls.  They are replaced by the current name where
they arrive, so that lists, audit records and policies only contain current names.  `create_vm` has not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

LIST_GUESTS: Final = "list_guests"
"""The tool by which pages read the guests of the cluster; every agent may call it."""
ALIASES: Final = {"list_vms": "list_guests", "backup_vm": "create_backup"}
"""Old name → current name."""


def current(name: str, tools: Container[str]) -> str:
    """Return the current name of the tool `name`; a tool in `tools` with exactly this name comes first."""
    return name if name in tools else ALIASES.get(name, name)
