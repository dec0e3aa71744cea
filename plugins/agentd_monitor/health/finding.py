"""The result of a check, and the description of a check.  Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agentd_monitor.alerting.state import Observation, Rule, Verdict, judge
from agentd_monitor.cluster.readings import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentd_monitor.cluster.readings import Snapshot
    from agentd_monitor.health.thresholds import Thresholds


class Level(StrEnum):
    """How bad a finding is; `unknown` means that it could not be read, and is never shown as healthy."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


ORDER: Final = {level: place for place, level in enumerate((Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL))}


class Finding(msgspec.Struct, frozen=True):
    """What a check found about one object.

    labels   what it is about: node, guest, storage, …
    text     a sentence with the present state, or why it is unknown
    advice   what to do; "" for a finding that is ok
    between  the value is between the threshold that raises an alert and the one that clears it
    """

    check: str
    labels: dict[str, str]
    level: Level
    text: str
    advice: str = ""
    value: float | None = None
    between: bool = False

    def observation(self, at: float) -> Observation:
        """Return the finding for the state machine of alerts."""
        verdict = {Level.OK: Verdict.GOOD, Level.UNKNOWN: Verdict.UNKNOWN}.get(self.level, Verdict.BAD)
        if verdict is Verdict.GOOD and self.between:
            verdict = Verdict.BETWEEN
        severity = "critical" if self.level is Level.CRITICAL else "warning"
        return Observation(verdict, at, severity, self.text, self.value)


class Moment(NamedTuple):
    """What a check gets: the readings, the thresholds, and the time in seconds since 1970."""

    snapshot: Snapshot
    thresholds: Thresholds
    at: float


class Check(NamedTuple):
    """A check.

    about   one line for `agentd checks` and the documentation
    group   group of its alerts in the inhibition graph
    source  the source that it reads; its privileges are named in a finding that is unknown
    rule    how much evidence an alert needs
    run     returns a finding for each object
    """

    name: str
    about: str
    group: str
    source: str
    rule: Rule
    run: Callable[[Moment], Iterable[Finding]]


class Limits(NamedTuple):
    """The thresholds of one object; without `critical` it has only a warning.

    If `clear` is above `warning`, low values are bad.
    """

    warning: float
    clear: float
    critical: float | None = None


def graded(  # noqa: PLR0913 - the finding, its value, and its limits
    check: str, labels: dict[str, str], value: float | None, limits: Limits, text: str, *, advice: str
) -> Finding:
    """Return the finding for a value that is compared with thresholds."""
    verdict = judge(value, limits.warning, limits.clear)
    if verdict is Verdict.UNKNOWN:
        return Finding(check, labels, Level.UNKNOWN, f"{text}: no number was read")
    if verdict is not Verdict.BAD:
        return Finding(check, labels, Level.OK, text, value=value, between=verdict is Verdict.BETWEEN)
    critical = limits.critical is not None and judge(value, limits.critical, limits.clear) is Verdict.BAD
    return Finding(check, labels, Level.CRITICAL if critical else Level.WARNING, text, advice, value)


def unknown(moment: Moment, check: str, source: str, key: str = "", **labels: str) -> Finding:
    """Return the finding of a check whose source cannot be read, with the reason and the privileges it needs."""
    needed = SOURCES[source].rights
    advice = f"The token needs {needed}; see `agentd doctor`." if needed else "See `agentd doctor`."
    return Finding(check, labels, Level.UNKNOWN, f"not known: {moment.snapshot.why_not(source, key)}", advice)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; without any finding it is unknown."""
    return max((finding.level for finding in findings), key=ORDER.__getitem__, default=Level.UNKNOWN)
