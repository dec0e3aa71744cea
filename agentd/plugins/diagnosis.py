"""What a rule of a diagnosis gets and returns; values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec


class Evidence(msgspec.Struct, frozen=True):
    """One line of what was found, and where it is from, such as `task qmstart of 2026-11-30 05:12`."""

    source: str
    text: str


class Situation(msgspec.Struct, frozen=True):
    """What is known about the subject of a diagnosis.

    subject   such as `guest 101` or `node pve1`
    facts     values by name: `status`, `lock`, `node`, `node_status`, `quorate`, `ha_state`, `running_tasks`, …
    evidence  lines of task logs, states and alerts, the newest first
    """

    subject: str
    facts: dict[str, Any] = {}
    evidence: list[Evidence] = []


class Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    """A possible cause: how likely it is (0 to 1), what points to it, and what to do.

    workflow, parameters  a workflow that helps, or the tool of a call ("": none)
    """

    text: str
    likelihood: float
    evidence: list[Evidence]
    advice: str
    workflow: str = ""
    parameters: dict[str, Any] = {}


DiagnosisRule = Callable[[Situation], Iterable[Cause]]
"""A rule of a diagnosis: pure, it returns the causes that it sees in a situation."""
