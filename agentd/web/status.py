"""The presentation of each status: a word, a tone and two symbols.

The word and the symbols ensure that colour is never the only sign.  A status that is not in these tables is shown as it
is, with a question mark: an unknown status is never shown as healthy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class StatusStyle:
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


_DONE: Final = StatusStyle("completed", "ok", "check", "+")
_WARN: Final = StatusStyle("completed with warnings", "warn", "bang", "!")
_FAIL: Final = StatusStyle("failed", "bad", "cross", "x")
_RUN: Final = StatusStyle("running", "run", "play", ">")
_CANCELLED: Final = StatusStyle("cancelled", "idle", "minus", "-")

WORKFLOW: Final[dict[str, StatusStyle]] = {
    "planned": StatusStyle("planned", "idle", "ring", "."),
    "waiting_approval": StatusStyle("waits for approval", "warn", "pause", "="),
    "running": _RUN,
    "paused": StatusStyle("paused", "warn", "pause", "="),
    "completed": _DONE,
    "completed_with_warnings": _WARN,
    "failed": _FAIL,
    "cancelling": StatusStyle("cancelling", "warn", "minus", "-"),
    "cancelled": _CANCELLED,
    "compensating": StatusStyle("compensating", "warn", "undo", "<"),
    "compensated": StatusStyle("compensated", "warn", "undo", "<"),
    "compensation_failed": StatusStyle("compensation failed", "bad", "cross", "X"),
    "rejected": StatusStyle("rejected", "warn", "cross", "x"),
    "expired": StatusStyle("expired", "warn", "cross", "x"),
}
TASK: Final[dict[str, StatusStyle]] = {
    "waiting": StatusStyle("waiting", "idle", "ring", "."),
    "waiting_approval": StatusStyle("waits for approval", "warn", "pause", "="),
    "assigned": StatusStyle("assigned", "run", "dot", "o"),
    "running": _RUN,
    "completed": _DONE,
    "completed_with_warnings": _WARN,
    "failed": _FAIL,
    "skipped": StatusStyle("skipped", "idle", "skip", "/"),
    "cancelled": _CANCELLED,
}
AGENT: Final[dict[str, StatusStyle]] = {
    "available": StatusStyle("available", "ok", "check", "+"),
    "busy": StatusStyle("busy", "run", "play", ">"),
    "draining": StatusStyle("draining", "warn", "minus", "-"),
    "offline": StatusStyle("offline", "bad", "cross", "x"),
    "silent": StatusStyle("silent", "warn", "ask", "?"),
}
PLUGIN: Final[dict[str, StatusStyle]] = {
    "loaded": StatusStyle("loaded", "ok", "check", "+"),
    "blocked": StatusStyle("not configured", "idle", "minus", "-"),
    "broken": StatusStyle("broken", "bad", "cross", "x"),
}
ROLE: Final[dict[str, StatusStyle]] = {
    "ready": StatusStyle("ready", "ok", "check", "+"),
    "not_ready": StatusStyle("not ready", "bad", "cross", "x"),
}
GUEST: Final[dict[str, StatusStyle]] = {
    "running": StatusStyle("running", "ok", "play", "+"),
    "stopped": StatusStyle("stopped", "idle", "minus", "-"),
    "paused": StatusStyle("paused", "warn", "pause", "="),
    "suspended": StatusStyle("suspended", "warn", "pause", "="),
    "unknown": StatusStyle("unknown", "odd", "ask", "?"),
}
TIER: Final[dict[str, StatusStyle]] = {
    "read": StatusStyle("read", "idle", "dot", "."),
    "operate": StatusStyle("operate", "run", "play", ">"),
    "destroy": StatusStyle("destroy", "bad", "bang", "!"),
    "exec": StatusStyle("exec", "bad", "bang", "!"),
}
SEVERITY: Final[dict[str, StatusStyle]] = {
    "critical": StatusStyle("critical", "bad", "cross", "x"),
    "warning": StatusStyle("warning", "warn", "bang", "!"),
    "info": StatusStyle("info", "run", "dot", "o"),
}
LEVEL: Final[dict[str, StatusStyle]] = {
    "ok": StatusStyle("all well", "ok", "check", "+"),
    "warn": StatusStyle("attention", "warn", "bang", "!"),
    "bad": StatusStyle("problem", "bad", "cross", "x"),
    "unknown": StatusStyle("unknown", "odd", "ask", "?"),
}


def style_of(table: dict[str, StatusStyle], status: str) -> StatusStyle:
    """Return the presentation of `status`; an unknown one has a question mark."""
    return table.get(status) or StatusStyle(status.replace("_", " ") or "unknown", "odd", "ask", "?")
