"""The state machine of one alert.  Pure: an item and an observation give the next item.

    normal ──bad──▶ pending ──bad for `pending_for`──▶ firing ──good for `keep_firing_for`──▶ resolved
    any of them ──no data for `stale_after`──▶ unknown, which is neither firing nor resolved

Decisions:

* Only received data changes an alert.  Missing data makes it unknown after `stale_after` seconds and never clears it;
  if the data returns and is still bad, the same incident goes on.
* Durations are evidence that is added up between consecutive readings, not differences of clock times: a clock that
  steps forward adds at most one gap that breaks the evidence, and one that steps back adds nothing.
* A reading that is up to REORDERED seconds older than the last one is late and is ignored.  An older one means that the
  clock was set back: it is accepted.
* A value between the two thresholds proves nothing: it breaks the evidence for a change, in both directions.
* An alert that changed FLAPS times within FLAP_WINDOW stays firing until its value was good for FLAP_WINDOW.
* For a rule with `baseline`, such as `guest_stopped`, the first observation is how things are meant to be: a guest that
  was stopped before the monitor started has no alert until it has run once.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

import msgspec

FLAPS: Final = 5
"""Number of changes of an alert within FLAP_WINDOW from which on it flaps."""
FLAP_WINDOW: Final = 600.0
"""Seconds in which changes are counted."""
REORDERED: Final = 60.0
"""Seconds by which a reading may arrive late."""


class Verdict(StrEnum):
    """What one observation says about an alert."""

    BAD = "bad"
    BETWEEN = "between"
    GOOD = "good"
    UNKNOWN = "unknown"


class State(StrEnum):
    """The state of an alert."""

    NORMAL = "normal"
    BASELINE = "baseline"
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"
    UNKNOWN = "unknown"


class Rule(msgspec.Struct, frozen=True):
    """How much evidence an alert needs; times are in seconds.

    pending_for      how long the observations must be bad before the alert fires
    keep_firing_for  how long they must be good before it is resolved
    readings         minimum number of observations for each of the two
    stale_after      how long data may be missing before the alert is unknown
    baseline         the first observation is the normal state, even if it is bad
    """

    name: str
    pending_for: float = 0.0
    keep_firing_for: float = 0.0
    readings: int = 1
    stale_after: float = 300.0
    baseline: bool = False


class Observation(msgspec.Struct, frozen=True):
    """One observation; `at` is in seconds since 1970."""

    verdict: Verdict
    at: float
    severity: str = "warning"
    text: str = ""
    value: float | None = None


class Item(msgspec.Struct, frozen=True):
    """One alert, as it is stored.

    known     time of the last observation with data
    held      seconds for which observations support the next change
    count     number of these observations
    started   time when the incident began to fire; None if there is no open incident
    begun     the same of the open or the last incident
    ended     time when the last incident was resolved
    turns     times of the last changes
    flapping  whether the last change was one too many within FLAP_WINDOW
    """

    rule: str
    labels: dict[str, str]
    state: State
    known: float
    severity: str = "warning"
    text: str = ""
    value: float | None = None
    held: float = 0.0
    count: int = 0
    started: float | None = None
    begun: float | None = None
    ended: float | None = None
    turns: tuple[float, ...] = ()
    flapping: bool = False

    @property
    def open(self) -> bool:
        """Return whether an incident is open.

        It is open if the alert fires, or did when its data was last seen.
        """
        return self.started is not None


def verdict_of(value: float | None, trigger: float, clear: float) -> Verdict:
    """Compare a value with its two thresholds.

    If `clear` is above `trigger`, low values are bad.  Equal thresholds have nothing between them.  A value that is not
    a finite number is unknown.
    """
    if value is None or not math.isfinite(value):
        return Verdict.UNKNOWN
    if clear > trigger:
        value, trigger, clear = -value, -trigger, -clear
    if value >= trigger:
        return Verdict.BAD
    return Verdict.GOOD if value < clear or clear == trigger else Verdict.BETWEEN


def first(rule: Rule, labels: dict[str, str], seen: Observation) -> Item:
    """Return the item of an alert that was never observed before."""
    if seen.verdict is Verdict.UNKNOWN:
        return Item(rule.name, labels, State.UNKNOWN, seen.at, text=seen.text)
    if rule.baseline and seen.verdict is Verdict.BAD:
        return Item(rule.name, labels, State.BASELINE, seen.at, seen.severity, seen.text, seen.value)
    return _follow(Item(rule.name, labels, State.NORMAL, seen.at), rule, seen, gap=0.0, broken=True)


def observe(item: Item, rule: Rule, seen: Observation) -> Item:
    """Return the item after an observation."""
    if seen.verdict is Verdict.UNKNOWN:
        return wait(item, rule, seen.at, seen.text)
    gap = seen.at - item.known
    if -REORDERED <= gap <= 0:  # it is late, or the same observation again
        return item
    if item.state is State.BASELINE:
        state = State.NORMAL if seen.verdict is Verdict.GOOD else State.BASELINE
        return msgspec.structs.replace(item, state=state, known=seen.at, text=seen.text, value=seen.value)
    return _follow(item, rule, seen, gap=max(gap, 0.0), broken=gap > rule.stale_after)


def wait(item: Item, rule: Rule, at: float, text: str = "") -> Item:
    """Return the item at a time without data.

    After `stale_after` seconds it is unknown.
    """
    gap = at - item.known
    if gap < -REORDERED:  # the clock was set back: the data is not from the future
        return msgspec.structs.replace(item, known=at)
    if gap <= rule.stale_after or item.state in {State.UNKNOWN, State.BASELINE}:
        return item
    return msgspec.structs.replace(item, state=State.UNKNOWN, held=0.0, count=0, text=text or item.text)


def adopt(item: Item, verdict: Verdict, at: float) -> Item:
    """Return the item after a change of its thresholds.

    `verdict` is the last value under the new thresholds.  An open incident that would not have begun ends at once; a
    new one needs its evidence.
    """
    if item.state is State.FIRING and verdict is Verdict.GOOD:
        return _resolve(item, at)
    return item


def close(item: Item, text: str, at: float) -> Item:
    """Return the item after its object was removed, or its incident was ended by hand."""
    return _resolve(msgspec.structs.replace(item, text=text), at)


def _follow(item: Item, rule: Rule, seen: Observation, *, gap: float, broken: bool) -> Item:
    """Return the item after an observation with data.

    gap     seconds since the last one
    broken  whether these seconds prove nothing
    """
    supports = seen.verdict is (Verdict.GOOD if item.open else Verdict.BAD)
    continued = supports and item.count > 0 and not broken
    item = msgspec.structs.replace(
        item,
        known=seen.at,
        held=item.held + gap if continued else 0.0,
        count=(item.count if continued else 0) + 1 if supports else 0,
        value=seen.value,
    )
    if seen.verdict is not Verdict.GOOD or not item.open:
        item = msgspec.structs.replace(item, text=seen.text)
    if seen.verdict is Verdict.BAD:
        item = msgspec.structs.replace(item, severity=seen.severity)
    proven = supports and item.count >= rule.readings and item.held >= _needed(item, rule)
    if item.open:
        if proven:
            return _resolve(msgspec.structs.replace(item, text=seen.text), seen.at)
        return msgspec.structs.replace(item, state=State.FIRING)
    if proven:
        return _turn(msgspec.structs.replace(item, state=State.FIRING, started=seen.at, begun=seen.at), seen.at)
    if supports:
        return msgspec.structs.replace(item, state=State.PENDING)
    return msgspec.structs.replace(item, state=State.NORMAL if item.ended is None else State.RESOLVED)


def _needed(item: Item, rule: Rule) -> float:
    """Return the seconds of evidence that the next change needs."""
    if not item.open:
        return rule.pending_for
    return max(rule.keep_firing_for, FLAP_WINDOW) if item.flapping else rule.keep_firing_for


def _resolve(item: Item, at: float) -> Item:
    return _turn(msgspec.structs.replace(item, state=State.RESOLVED, started=None, ended=at), at)


def _turn(item: Item, at: float) -> Item:
    """Record a change; only the last FLAPS changes matter."""
    turns = (*item.turns, at)[-FLAPS:]
    flapping = sum(0 <= at - turn <= FLAP_WINDOW for turn in turns) >= FLAPS
    return msgspec.structs.replace(item, held=0.0, count=0, turns=turns, flapping=flapping)
