"""The tables of `agentd alerts` and `agentd checks`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from agentd.cli.output.console import age, print_line, print_rows, safe

COLOURS: Final = {"ok": "green", "unknown": "yellow", "warning": "yellow", "critical": "red"}


def alerts(found: dict[str, Any]) -> None:
    """Print a list of alerts."""
    rows = [
        [
            safe(alert["id"]),
            _colored(alert["severity"]),
            safe(alert["state"]),
            safe(alert["name"]),
            age(_time(alert.get("since"))),
            safe(alert["text"]),
            _note(alert),
        ]
        for alert in found["alerts"]
    ]
    print_rows(["ALERT", "SEVERITY", "STATE", "TYPE", "SINCE", "TEXT", "NOTE"], rows, "no alerts")
    _left_out(found["total"], len(rows))


def silences(found: dict[str, Any]) -> None:
    """Print a list of silences."""
    rows = [
        [
            safe(silence["id"]),
            safe(" ".join(silence["matchers"])),
            f"{_time(silence['ends']):%Y-%m-%d %H:%M} UTC",
            safe(silence["author"]),
            safe(silence["comment"]),
        ]
        for silence in found["silences"]
    ]
    print_rows(["SILENCE", "ALERTS", "UNTIL", "BY", "REASON"], rows, "no silences")


def checks(found: dict[str, Any]) -> None:
    """Print the findings of the checks, and how many there are of each level."""
    rows = [
        [
            _colored(finding["level"]),
            safe(finding["check"]),
            safe(", ".join(finding["labels"].values())),
            safe(finding["text"]),
            safe(finding.get("advice", "")),
        ]
        for finding in found["findings"]
    ]
    print_rows(["LEVEL", "CHECK", "OF", "FINDING", "ADVICE"], rows, "nothing needs attention")
    _left_out(found["total"], len(rows))
    counts = ", ".join(f"{count} {safe(level)}" for level, count in sorted(found["counts"].items()))
    print_line(f"{_colored(found['status'])}: {counts}; checked {found['age']:.0f} s ago")


def _colored(level: str) -> str:
    return f"[{COLOURS.get(level, 'dim')}]{safe(level)}[/]"


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _note(alert: dict[str, Any]) -> str:
    found = [
        f"{word} by {alert[name]}"
        for name, word in (("acknowledged_by", "acknowledged"), ("silenced_by", "silenced"))
        if alert.get(name)
    ]
    if alert.get("workflow"):
        error = f" ({alert['workflow_error']})" if alert.get("workflow_error") else ""
        found.append(f"{alert['workflow']}: {alert['workflow_status']}{error}")
    return safe(", ".join(found))


def _left_out(total: int, shown: int) -> None:
    if total > shown:
        print_line(f"{total - shown} more: see --limit")
