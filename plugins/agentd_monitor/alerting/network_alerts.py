"""All alerts of the network: the findings of the checks, and the alerts about agentd itself.  Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agentd import Alert
from agentd_monitor.alerting.book import AlertRule, AlertStates, Record
from agentd_monitor.alerting.state import Item, Observation, Rule, State, Verdict
from agentd_monitor.alerts import KINDS, fingerprint, fingerprint_of
from agentd_monitor.health.finding import observation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentd import Finding

AGENTD: Final = "agentd"
"""Group of the alerts about agentd itself: nothing inhibits them."""
OWN_RULES: Final = [AlertRule(Rule(kind, stale_after=math.inf), AGENTD) for kind in KINDS]
"""The alert book has its own durations, and says itself when an agent is silent."""


class NetworkAlerts(AlertStates):
    """The states of all alerts."""

    def __init__(self, checks: Iterable[AlertRule]) -> None:
        """Start without alerts; `checks` has the rules of all checks."""
        self._checks = list(checks)
        super().__init__([*OWN_RULES, *self._checks])

    def observe_findings(self, findings: Iterable[Finding], at: float, *, adopt: bool = False) -> None:
        """Record the findings of the checks.

        With `adopt` their thresholds have changed since the last ones.
        """
        rules = {check.rule.name: check.rule for check in self._checks}
        seen = {
            fingerprint(finding.check, finding.labels): (finding, observation(finding, at))
            for finding in findings
            if finding.check in rules
        }
        if adopt:

            def verdict(item: Item) -> Verdict:
                found = seen.get(fingerprint(item.rule, item.labels))
                return Verdict.UNKNOWN if found is None else found[1].verdict

            self.adopt([*OWN_RULES, *self._checks], verdict, at)
        for finding, observed in seen.values():
            own = finding.pending_for
            rule = None if own is None else msgspec.structs.replace(rules[finding.check], pending_for=own)
            self.observe(finding.check, finding.labels, observed, finding.advice, rule=rule)

    def observe_own(self, firing: Iterable[Alert], texts: Mapping[str, str], at: float) -> None:
        """Record which alerts about agentd itself are firing; all others of them are over.

        texts  why an alert is over, by fingerprint
        """
        bad = {fingerprint_of(alert): alert for alert in firing}
        for alert in bad.values():
            self.observe(alert.alert_type, alert.labels, Observation(Verdict.BAD, at, alert.severity, alert.message))
        for key, record in list(self.records().items()):
            item = record.item
            if record.group == AGENTD and item.open and key not in bad:
                self.observe(item.rule, item.labels, Observation(Verdict.GOOD, at, text=texts.get(key, item.text)))

    def end_removed(self, existing: Mapping[str, set[str]], at: float) -> None:
        """Resolve the alerts about objects that were removed.

        `existing` has those that exist, by label.
        """

        def gone(item: Item) -> bool:
            return any(label in item.labels and item.labels[label] not in held for label, held in existing.items())

        self.end(gone, "it was removed from the cluster", at)

    def firing(self) -> list[str]:
        """Return the types of the alerts that are firing."""
        return [record.item.rule for record in self.records().values() if record.item.open]


def alert_of(record: Record) -> Alert:
    """Return the message that an alert is firing or resolved."""
    item = record.item
    at = item.begun if item.open else item.ended
    return Alert(
        alert_type=item.rule,
        message=f"{item.text}. {record.advice}" if item.open and record.advice else item.text,
        timestamp=datetime.fromtimestamp(at or item.known, UTC),
        source=next(iter(item.labels.values()), "cluster"),
        severity=item.severity,
        labels=item.labels,
        state=State.FIRING if item.open else State.RESOLVED,
    )
