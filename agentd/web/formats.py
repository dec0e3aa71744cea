"""Formats times and amounts; used by the page and the plain text."""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: 42 s, 5 min, 3 h, 12 d."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h"
    return f"{whole // _DAY} d"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago `at` was; a slightly fast clock reads as "0 s ago"."""
    return "never" if at is None else f"{span((now - at).total_seconds())} ago"


def exact(at: datetime) -> str:
    """Return a time in full, as a tooltip shows it."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: datetime) -> str:
    """Return the time of day to the millisecond, for the history of a workflow."""
    return at.astimezone(UTC).strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03d}"


def web_address(url: str) -> str:
    """Return `url` if it is http(s), else "": an agent could send another scheme."""
    return url if url.startswith(("http://", "https://")) else ""


def percent(share: float) -> str:
    """Return a share from 0 to 1 as whole percent."""
    return f"{round(min(1.0, max(0.0, share)) * 100)} %"


def from_epoch(seconds: float | None) -> datetime | None:
    """Return a time in seconds since 1970 as a datetime."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
