"""The checks of readings, and what their findings mean for alerts.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agentd import Finding, Level
from agentd_monitor.alerting.state import Observation, Rule, Verdict, verdict_of
from agentd_monitor.cluster.readings import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentd_monitor.cluster.readings import Snapshot
    from agentd_monitor.health.thresholds import Thresholds


ORDER: Final = {level: place for place, level in enumerate((Level.OK, Level.UNKNOWN, Level.WARNING, Level.CRITICAL))}


def observation(finding: Finding, at: float) -> Observation:
    """Return a finding for the state machine of alerts."""
    verdict = {Level.OK: Verdict.GOOD, Level.UNKNOWN: Verdict.UNKNOWN}.get(finding.level, Verdict.BAD)
    if verdict is Verdict.GOOD and finding.between:
        verdict = Verdict.BETWEEN
    severity = "critical" if finding.level is Level.CRITICAL else "warning"
    return Observation(verdict, at, severity, finding.text, finding.value)


class Moment(NamedTuple):
    """What a check gets: the readings, the thresholds, and the time in seconds since 1970."""

    snapshot: Snapshot
    thresholds: Thresholds
    at: float


class ReadingCheck(NamedTuple):
    """A check of the readings.

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

    If `clear` is above `warning`, low values are bad.  `pending_for` is how many seconds a value must be bad; None: as
    for all objects.
    """

    warning: float
    clear: float
    critical: float | None = None
    pending_for: float | None = None


def graded(  # noqa: PLR0913 - the finding, its value, and its limits
    check: str, labels: dict[str, str], value: float | None, limits: Limits, text: str, *, advice: str
) -> Finding:
    """Return the finding for a value that is compared with thresholds."""
    verdict = verdict_of(value, limits.warning, limits.clear)
    if verdict is Verdict.UNKNOWN:
        return Finding(check, labels, Level.UNKNOWN, f"{text}: no number was read")
    if verdict is not Verdict.BAD:
        return Finding(check, labels, Level.OK, text, value=value, between=verdict is Verdict.BETWEEN)
    critical = limits.critical is not None and verdict_of(value, limits.critical, limits.clear) is Verdict.BAD
    level = Level.CRITICAL if critical else Level.WARNING
    return Finding(check, labels, level, text, advice, value, pending_for=limits.pending_for)


def unknown(moment: Moment, check: str, source: str, key: str = "", **labels: str) -> Finding:
    """Return the finding of a check that cannot read: the reason, and the privileges."""
    needed = SOURCES[source].rights
    advice = f"The token needs {needed}; see `agentd doctor`." if needed else "See `agentd doctor`."
    return Finding(check, labels, Level.UNKNOWN, f"not known: {moment.snapshot.why_not(source, key)}", advice)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; without any finding it is unknown."""
    return max((finding.level for finding in findings), key=ORDER.__getitem__, default=Level.UNKNOWN)
