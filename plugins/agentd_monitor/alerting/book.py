"""All alerts, and the notifications that are due.  Pure: times are parameters, in seconds since 1970.

A notification is due
- when an alert fires and nothing suppresses it, and for as long as it is suppressed it stays due;
- when the severity of a firing alert becomes higher than that of the last notification;
- as a reminder, `repeat_interval` after the last one, unless the alert is acknowledged, unknown or about to end;
- when it is resolved, if its firing was notified: the same receivers hear the end, also during a silence.

Suppressed are: everything before `observe_until` (the first day after the installation), inhibited and silenced alerts,
and an alert that begins again while its acknowledgement holds.  `notified` is part of the stored record, so that a
restart repeats nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agentd_monitor.alerting.runs import Run
from agentd_monitor.alerting.state import Item, Observation, Rule, State, Verdict, adopt, close, first, observe, wait
from agentd_monitor.alerting.suppression import Acknowledgement, Condition, Inhibition
from agentd_monitor.alerts import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from agentd_monitor.alerting.suppression import Silence

MOST: Final = 20_000
"""Maximum number of alerts, in any state: a flood of labels must not fill the memory and the bucket."""
REPEAT: Final = 4 * 3600.0
"""Seconds between two reminders of one incident."""
RETENTION: Final = 24 * 3600.0
"""Seconds for which a resolved alert is kept, with its acknowledgement."""
RANKS: Final = {"info": 0, "warning": 1, "critical": 2}


class Record(msgspec.Struct, frozen=True):
    """An alert as it is stored in the bucket, with its fingerprint as key.

    group     group of the inhibition graph
    notified  time of the last notification of the open or last incident; None if there was none
    last_severity      severity in that notification; "" after a notification that the alert is resolved
    advice    what to do
    run       the last workflow that the alert has started
    """

    item: Item
    group: str = ""
    notified: float | None = None
    last_severity: str = ""
    ack: Acknowledgement | None = None
    advice: str = ""
    run: Run | None = None


class Notification(NamedTuple):
    """A message to the receivers: the alert fires, still fires, or is resolved.

    previous  time of the notification before this one; None if there was none
    """

    fingerprint: str
    record: Record
    reason: str
    previous: float | None = None


class AlertRule(NamedTuple):
    """A rule with the group of its alerts in the inhibition graph."""

    rule: Rule
    group: str


def essential(record: Record) -> tuple[object, ...]:
    """Return the part of a record whose change is stored at once.

    Values, texts and times of observations change with each reading; of the evidence, whole minutes are stored.
    """
    item = record.item
    change = (item.state, item.severity, item.begun, item.ended, item.turns, item.held // 60)
    return (*change, record.notified, record.last_severity, record.ack, record.run)


class AlertStates:
    """The alerts.

    `changed` has the fingerprints of the records to store; the caller empties it.
    """

    def __init__(
        self, rules: Iterable[AlertRule], *, repeat_interval: float = REPEAT, observe_until: float = 0.0
    ) -> None:
        self.changed: set[str] = set()
        self.suppressed: Counter[str] = Counter()
        self.refused = 0
        self.repeat_interval = repeat_interval
        self.observe_until = observe_until
        self._rules = {rule.rule.name: rule for rule in rules}
        self._records: dict[str, Record] = {}

    def records(self) -> Mapping[str, Record]:
        """Return every record by fingerprint."""
        return self._records

    def restore(self, records: Mapping[str, Record]) -> None:
        """Restore what was stored before a restart; nothing of it is notified again."""
        self._records.update(records)

    def observe(
        self, name: str, labels: dict[str, str], seen: Observation, advice: str = "", *, rule: Rule | None = None
    ) -> None:
        """Record an observation; `rule` is the rule with the values of this guest or node, if it has its own."""
        if name not in self._rules:
            raise KeyError(f"no rule has the name {name}")
        default, group = self._rules[name]
        rule = rule or default
        key = fingerprint(name, labels)
        record = self._records.get(key)
        if record is None:
            if seen.verdict is not Verdict.BAD and not rule.baseline:
                return  # most objects are healthy, and need no record
            if len(self._records) >= MOST:
                self.refused += 1
                return
            self._store(key, Record(first(rule, labels, seen), group, advice=advice))
            return
        item = observe(record.item, rule, seen)
        if item.state is State.NORMAL and not rule.baseline:
            self._remove(key)
        else:
            self._store(key, msgspec.structs.replace(record, item=item, advice=advice or record.advice))

    def adopt(self, rules: Iterable[AlertRule], verdict: Callable[[Item], Verdict], at: float) -> None:
        """Apply changed rules at once: `verdict` is the last value of an alert under the new thresholds.

        An alert of a rule that no longer exists is removed.
        """
        self._rules = {rule.rule.name: rule for rule in rules}
        for key, record in list(self._records.items()):
            if record.item.rule not in self._rules:
                self._remove(key)
            else:
                self._store(key, msgspec.structs.replace(record, item=adopt(record.item, verdict(record.item), at)))

    def tick(self, at: float) -> None:
        """Let alerts without data become unknown, and remove those that are resolved or normal for long."""
        for key, record in list(self._records.items()):
            item = record.item
            rule = self._rules.get(item.rule)
            if rule is not None and item.state not in {State.UNKNOWN, State.BASELINE}:
                self._store(key, msgspec.structs.replace(record, item=wait(item, rule.rule, at)))
            if not item.open and at - (item.ended or item.known) > RETENTION and not _is_baseline(item, rule):
                self._remove(key)

    def end(self, gone: Callable[[Item], bool], text: str, at: float) -> None:
        """Resolve the open alerts about objects that no longer exist, which no data would ever resolve."""
        for key, record in list(self._records.items()):
            if record.item.open and gone(record.item):
                self._store(key, msgspec.structs.replace(record, item=close(record.item, text, at)))

    def acknowledge(self, acknowledged: Mapping[str, Acknowledgement]) -> None:
        """Record which incidents a person has taken, by fingerprint; an alert that does not exist is ignored."""
        for key in acknowledged.keys() & self._records.keys():
            self._store(key, msgspec.structs.replace(self._records[key], ack=acknowledged[key]))

    # -- what is published, and the notifications -------------------------------------------------------------------

    def unpublished(
        self, published: Mapping[str, tuple[str, str]], facts: Iterable[Condition] = ()
    ) -> dict[str, Record]:
        """Return the alerts whose state or severity is not published yet, by fingerprint.

        published  state (firing, resolved) and severity as the network knows them, by fingerprint

        An inhibited alert is not published as firing; silences and acknowledgements only concern notifications.
        """
        inhibition = Inhibition([*facts, *self._conditions()])
        found: dict[str, Record] = {}
        for key, record in self._records.items():
            item, (state, severity) = record.item, published.get(key, ("", ""))
            if not item.open:
                changed = state == State.FIRING
            elif item.state is not State.FIRING or (state, severity) == (State.FIRING, item.severity):
                changed = False
            else:
                changed = state == State.FIRING or inhibition.of(item.rule, record.group, item.labels) is None
            if changed:
                found[key] = record
        return found

    def due(self, at: float, facts: Iterable[Condition] = (), silences: Iterable[Silence] = ()) -> list[Notification]:
        """Return the notifications that are due, and record them as sent: the caller stores both in one step."""
        inhibition, silences = Inhibition([*facts, *self._conditions()]), list(silences)
        self.suppressed = Counter()
        found: list[Notification] = []
        for key, record in list(self._records.items()):
            reason = self._reason(record, at)
            if not reason:
                continue
            withheld = "" if reason == "resolved" else self._withheld(record, at, inhibition, silences)
            if withheld:
                self.suppressed[withheld] += 1
                continue
            last_severity = "" if reason == "resolved" else record.item.severity
            after = msgspec.structs.replace(record, notified=at, last_severity=last_severity)
            self._store(key, after)
            found.append(Notification(key, after, reason, record.notified))
        return found

    def wanting(
        self, names: Container[str], at: float, facts: Iterable[Condition], silences: Iterable[Silence]
    ) -> dict[str, Record]:
        """Return the alerts of these names that fire, were notified, and that nothing suppresses, by fingerprint."""
        firing = {
            key: record
            for key, record in self._records.items()
            if record.item.rule in names and record.item.state is State.FIRING and record.last_severity
        }
        if not firing:
            return {}
        inhibition, silences = Inhibition([*facts, *self._conditions()]), list(silences)
        return {
            key: record
            for key, record in firing.items()
            if not _is_acknowledged(record, at) and not self._withheld(record, at, inhibition, silences)
        }

    def record_run(self, key: str, run: Run) -> None:
        """Record the workflow that an alert starts, or what became of it."""
        self._store(key, msgspec.structs.replace(self._records[key], run=run))

    def _conditions(self) -> list[Condition]:
        """Return the alerts that may inhibit others; pending ones too, so that guests do not fire before their node."""
        return [
            Condition(record.item.rule, record.item.labels)
            for record in self._records.values()
            if record.item.open or record.item.state is State.PENDING
        ]

    def _reason(self, record: Record, at: float) -> str:
        """Return why a notification of an alert is due; "" if none is."""
        item = record.item
        if not item.open:
            return "resolved" if record.last_severity else ""
        if item.state is not State.FIRING:
            return ""
        if not record.last_severity:
            return "firing"
        if RANKS.get(item.severity, 1) > RANKS.get(record.last_severity, 1):
            return "worse"
        elapsed = at - (record.notified or 0.0)
        ending = item.count > 0  # its last readings were good: it may be resolved soon
        return "reminder" if elapsed >= self.repeat_interval and not (ending or _is_acknowledged(record, at)) else ""

    def _withheld(self, record: Record, at: float, inhibition: Inhibition, silences: list[Silence]) -> str:
        """Return why a notification is withheld; "" if it is not."""
        item = record.item
        labels = {**item.labels, "alertname": item.rule, "severity": item.severity}
        if at < self.observe_until:
            return "observe_only"
        if any(silence.covers(labels, at) for silence in silences):
            return "silenced"
        if inhibition.of(item.rule, record.group, item.labels) is not None:
            return "inhibited"
        return "acknowledged" if not record.last_severity and _is_acknowledged(record, at) else ""

    def _store(self, key: str, record: Record) -> None:
        if self._records.get(key) != record:
            self._records[key] = record
            self.changed.add(key)

    def _remove(self, key: str) -> None:
        del self._records[key]
        self.changed.add(key)


def _is_acknowledged(record: Record, at: float) -> bool:
    return record.ack is not None and at < record.ack.until


def _is_baseline(item: Item, rule: AlertRule | None) -> bool:
    """Return whether an alert must be kept because its past says what is normal, and its object still exists."""
    recent = item.state in {State.NORMAL, State.BASELINE, State.RESOLVED}
    return recent and rule is not None and rule.rule.baseline
