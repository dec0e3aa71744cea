"""The presentation of each status: a word, a tone and two symbols.

The word and the symbols ensure that colour is never the only sign.  A status that is not in these tables is shown as it
is, with a question mark: an unknown status is never shown as healthy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Look:
    """The presentation of a status.

    word  the text
    tone  the colour
    icon  an icon of the page's sprite
    mark  the symbol in plain text
    """

    word: str
    tone: str
    icon: str
    mark: str


_DONE = Look("completed", "ok", "check", "+")
_WARN = Look("completed with warnings", "warn", "bang", "!")
_FAIL = Look("failed", "bad", "cross", "x")
_RUN = Look("running", "run", "play", ">")
_CANCELLED = Look("cancelled", "idle", "minus", "-")

WORKFLOW: Final[dict[str, Look]] = {
    "planned": Look("planned", "idle", "ring", "."),
    "waiting_approval": Look("waits for approval", "warn", "pause", "="),
    "running": _RUN,
    "paused": Look("paused", "warn", "pause", "="),
    "completed": _DONE,
    "completed_with_warnings": _WARN,
    "failed": _FAIL,
    "cancelling": Look("cancelling", "warn", "minus", "-"),
    "cancelled": _CANCELLED,
    "compensating": Look("compensating", "warn", "undo", "<"),
    "compensated": Look("compensated", "warn", "undo", "<"),
    "compensation_failed": Look("compensation failed", "bad", "cross", "X"),
    "rejected": Look("rejected", "warn", "cross", "x"),
    "expired": Look("expired", "warn", "cross", "x"),
}
TASK: Final[dict[str, Look]] = {
    "waiting": Look("waiting", "idle", "ring", "."),
    "waiting_approval": Look("waits for approval", "warn", "pause", "="),
    "assigned": Look("assigned", "run", "dot", "o"),
    "running": _RUN,
    "completed": _DONE,
    "completed_with_warnings": _WARN,
    "failed": _FAIL,
    "skipped": Look("skipped", "idle", "skip", "/"),
    "cancelled": _CANCELLED,
}
AGENT: Final[dict[str, Look]] = {
    "available": Look("available", "ok", "check", "+"),
    "busy": Look("busy", "run", "play", ">"),
    "draining": Look("draining", "warn", "minus", "-"),
    "offline": Look("offline", "bad", "cross", "x"),
    "silent": Look("silent", "warn", "ask", "?"),
}
PLUGIN: Final[dict[str, Look]] = {
    "loaded": Look("loaded", "ok", "check", "+"),
    "blocked": Look("not configured", "idle", "minus", "-"),
    "broken": Look("broken", "bad", "cross", "x"),
}
ROLE: Final[dict[str, Look]] = {
    "ready": Look("ready", "ok", "check", "+"),
    "not_ready": Look("not ready", "bad", "cross", "x"),
}
LEVEL: Final[dict[str, Look]] = {
    "ok": Look("all well", "ok", "check", "+"),
    "warn": Look("attention", "warn", "bang", "!"),
    "bad": Look("problem", "bad", "cross", "x"),
    "unknown": Look("unknown", "odd", "ask", "?"),
}


def look(table: dict[str, Look], status: str) -> Look:
    """Return the presentation of `status`; an unknown one has a question mark."""
    return table.get(status) or Look(status.replace("_", " ") or "unknown", "odd", "ask", "?")
