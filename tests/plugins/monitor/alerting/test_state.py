"""When an alert fires and when it is resolved: evidence, gaps, reordering, clock steps, flapping."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd_monitor.alerting.state import (
    FLAP_WINDOW,
    REORDERED,
    Item,
    Observation,
    Rule,
    State,
    Verdict,
    adopt,
    close,
    first,
    observe,
    verdict_of,
    wait,
)

RULE = Rule("high_cpu", pending_for=120, keep_firing_for=60, readings=3, stale_after=100)
BAD, GOOD, BETWEEN, UNKNOWN = Verdict.BAD, Verdict.GOOD, Verdict.BETWEEN, Verdict.UNKNOWN


def run(*steps: tuple[float, Verdict], rule: Rule = RULE, item: Item | None = None) -> Item:
    """Return the item after observations."""
    for at, verdict in steps:
        seen = Observation(verdict, at, "warning", f"{verdict} at {at:g}")
        item = first(rule, {"node": "pve1"}, seen) if item is None else observe(item, rule, seen)
    assert item is not None
    return item


def every(seconds: float, verdict: Verdict, begin: float, end: float) -> list[tuple[float, Verdict]]:
    """Return observations at equal distances."""
    return [(begin + place * seconds, verdict) for place in range(int((end - begin) / seconds) + 1)]


FIRING = run(*every(30, BAD, 0, 120))


def test_fires_after_its_time() -> None:
    """One bad reading makes an alert pending; only bad readings for the whole time make it fire."""
    assert run((0, BAD)).state is State.PENDING
    assert run(*every(30, BAD, 0, 90)).state is State.PENDING
    assert (FIRING.state, FIRING.started) == (State.FIRING, 120)


@pytest.mark.parametrize("verdict", [GOOD, BETWEEN])
def test_interrupted_evidence(verdict: Verdict) -> None:
    """A good reading, or one between the thresholds, begins the time again."""
    item = run(*every(30, BAD, 0, 90), (110, verdict), *every(30, BAD, 120, 210))

    assert item.state is State.PENDING
    assert run((240, BAD), item=item).state is State.FIRING


def test_resolves_after_its_time() -> None:
    """A good reading does not resolve at once, and a bad one in between begins the time again."""
    item = run(*every(30, GOOD, 150, 180), item=FIRING)
    again = run((200, BAD), *every(30, GOOD, 210, 240), item=item)

    assert item.state is again.state is State.FIRING
    assert run((270, GOOD), item=again).state is State.RESOLVED


def test_missing_data_is_unknown() -> None:
    """A firing alert without data becomes unknown, not resolved; when the data returns, the same incident goes on."""
    lost = wait(FIRING, RULE, 500)
    back = run((510, BAD), item=lost)

    assert (lost.state, lost.open) == (State.UNKNOWN, True)
    assert (back.state, back.started) == (State.FIRING, FIRING.started)
    assert wait(run((0, BAD)), RULE, 500).state is State.UNKNOWN


def test_gap_is_no_evidence() -> None:
    """The seconds of a gap do not count: two readings an hour apart are not an hour of good readings."""
    assert run((3720, GOOD), (3730, GOOD), (3740, GOOD), item=FIRING).state is State.FIRING
    assert run((0, BAD), (3600, BAD), (3610, BAD), (3620, BAD)).state is State.PENDING


def test_repeated_message() -> None:
    """A message that is delivered several times is one reading."""
    assert run((0, BAD), *[(60, BAD)] * 10, (120, BAD)).count == 0  # the third reading made it fire
    assert run((0, BAD), *[(60, BAD)] * 10).count == 2


def test_late_message() -> None:
    """A reading that arrives late changes nothing."""
    assert run((120 - REORDERED / 2, GOOD), item=FIRING) == FIRING


def test_clock_set_back() -> None:
    """After the clock was set back by an hour, the alert works on from the new time."""
    item = run((-3600, GOOD), (-3570, GOOD), (-3540, GOOD), item=FIRING)

    assert item.state is State.RESOLVED


def test_clock_set_forward() -> None:
    """A clock that steps forward neither fires nor resolves an alert."""
    assert run((0, BAD), (30, BAD), (90_000, BAD)).state is State.PENDING
    assert run((150, GOOD), (90_000, GOOD), item=FIRING).state is State.FIRING


def test_baseline() -> None:
    """A guest that was stopped before has no alert; after it has run, its stop is one."""
    rule = Rule("guest_stopped", baseline=True)
    stopped = run((0, BAD), (30, BAD), (9000, BAD), rule=rule)

    assert stopped.state is State.BASELINE
    assert wait(stopped, rule, 1e6).state is State.BASELINE
    assert run((9030, GOOD), (9060, BAD), rule=rule, item=stopped).state is State.FIRING


def test_flapping() -> None:
    """After five changes within ten minutes the alert stays firing until it was good for ten minutes."""
    rule = Rule("link_down", stale_after=100)
    item = run(*[(place * 10.0, BAD if place % 2 == 0 else GOOD) for place in range(5)], rule=rule)
    held = run(*every(30, GOOD, 50, 50 + FLAP_WINDOW - 30), rule=rule, item=item)

    assert item.flapping
    assert held.state is State.FIRING
    assert run(*every(30, GOOD, 50 + FLAP_WINDOW, 80 + FLAP_WINDOW), rule=rule, item=held).state is State.RESOLVED


def test_changed_threshold() -> None:
    """A firing alert whose value is good under new thresholds is resolved at once; a bad value needs its time."""
    assert adopt(FIRING, GOOD, 130).state is State.RESOLVED
    assert adopt(FIRING, BETWEEN, 130).state is State.FIRING
    assert adopt(run((0, GOOD)), BAD, 130).state is State.NORMAL


def test_removed_object() -> None:
    """The alert of a guest that was deleted ends with a text that says so."""
    assert (close(FIRING, "it was deleted", 130).state, close(FIRING, "it was deleted", 130).text) == (
        State.RESOLVED,
        "it was deleted",
    )


@pytest.mark.parametrize(
    ("value", "trigger", "clear", "verdict"),
    [
        (90, 85, 80, BAD),
        (85, 85, 80, BAD),
        (82, 85, 80, BETWEEN),
        (80, 85, 80, BETWEEN),
        (79, 85, 80, GOOD),
        (5, 8, 10, BAD),  # available memory: low is bad
        (9, 8, 10, BETWEEN),
        (11, 8, 10, GOOD),
        (0, 1, 1, GOOD),
        (1, 1, 1, BAD),
        (math.nan, 85, 80, UNKNOWN),
        (math.inf, 85, 80, UNKNOWN),
        (None, 85, 80, UNKNOWN),
    ],
)
def test_two_thresholds(value: float | None, trigger: float, clear: float, verdict: Verdict) -> None:
    """Between the thresholds nothing changes; a value that is no number is unknown."""
    assert verdict_of(value, trigger, clear) is verdict


def test_stored_form() -> None:
    """An item is the same after it was stored and read."""
    assert msgspec.json.decode(msgspec.json.encode(FIRING), type=Item) == FIRING


VERDICTS = st.sampled_from(list(Verdict))
TIMES = st.floats(min_value=-1e7, max_value=1e7, allow_nan=False)
STEPS = st.lists(st.tuples(TIMES, VERDICTS), min_size=1, max_size=40)
RULES = st.builds(
    Rule,
    st.just("rule"),
    pending_for=st.sampled_from([0.0, 30.0, 300.0]),
    keep_firing_for=st.sampled_from([0.0, 30.0, 300.0]),
    readings=st.integers(1, 4),
    stale_after=st.sampled_from([60.0, 600.0]),
    baseline=st.booleans(),
)


def history(rule: Rule, steps: list[tuple[float, Verdict]]) -> list[Item]:
    """Return the item after each observation."""
    items = [run(steps[0], rule=rule)]
    for step in steps[1:]:
        items.append(run(step, rule=rule, item=items[-1]))
    return items


@given(RULES, STEPS)
def test_only_good_data_resolves(rule: Rule, steps: list[tuple[float, Verdict]]) -> None:
    """Whatever the clock does, an incident ends only with a good reading, and begins only with a bad one."""
    for (before, after), (_, verdict) in zip(pairwise(history(rule, steps)), steps[1:], strict=True):
        if before.open and not after.open:
            assert verdict is GOOD
        if after.open and not before.open:
            assert verdict is BAD


@given(RULES, STEPS)
def test_without_good_data_nothing_resolves(rule: Rule, steps: list[tuple[float, Verdict]]) -> None:
    """Gaps, unknown readings, NaN and clock steps alone never resolve an alert."""
    items = history(rule, [(at, BETWEEN if verdict is GOOD else verdict) for at, verdict in steps])

    assert all(after.open for before, after in pairwise(items) if before.open)
    assert not any(item.state is State.RESOLVED for item in items)


@given(RULES, st.lists(st.tuples(st.floats(0.1, 50), st.sampled_from([BAD, GOOD, BETWEEN])), max_size=60))
def test_evidence_is_complete(rule: Rule, steps: list[tuple[float, Verdict]]) -> None:
    """With a steady clock, an alert fires exactly after bad readings for its time, as many as it needs."""
    at, begun, count = 0.0, 0.0, 0
    item: Item | None = None
    for pause, verdict in steps:
        at += pause
        before, item = item, run((at, verdict), rule=rule, item=item)
        if before is not None and before.open:
            count = 0
            continue
        if verdict is not BAD or item.state is State.BASELINE or (before and before.state is State.BASELINE):
            count = 0
        else:
            begun, count = (at, 1) if count == 0 else (begun, count + 1)
        enough = count >= rule.readings and at - begun >= rule.pending_for - 1e-6
        assert item.open <= enough
        if count >= rule.readings and at - begun >= rule.pending_for + 1e-6:
            assert item.open


@given(RULES, STEPS, TIMES)
def test_repeating_an_observation_changes_nothing(rule: Rule, steps: list[tuple[float, Verdict]], at: float) -> None:
    """A message that is delivered twice is one message."""
    item = history(rule, steps)[-1]
    for verdict in (BAD, GOOD, BETWEEN):
        once = run((at, verdict), rule=rule, item=item)

        assert run((at, verdict), rule=rule, item=once) == once
