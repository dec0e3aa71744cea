"""Tool names of the original protocol that are still accepted.

A client may use them in workflow files, requests, assignments and calls.  They are replaced by the current name where
they arrive, so that lists, audit records and policies only contain current names.  `create_vm` has not changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container

LIST_GUESTS: Final = "list_guests"
LIST_ALERTS: Final = "list_alerts"
LIST_FINDINGS: Final = "list_findings"
PLAN_MOVES: Final = "plan_moves"
PAGE_READS: Final = (LIST_GUESTS, LIST_ALERTS, LIST_FINDINGS, PLAN_MOVES)
"""The tools of tier read by which the pages of every agent read the cluster."""
ACKNOWLEDGE_ALERT: Final = "acknowledge_alert"
SILENCE_ALERTS: Final = "silence_alerts"
ALIASES: Final = {"list_vms": "list_guests", "backup_vm": "create_backup"}
"""Old name → current name."""


def current(name: str, tools: Container[str]) -> str:
    """Return the current name of a tool; one in `tools` with this name comes first."""
    return name if name in tools else ALIASES.get(name, name)
