"""The thresholds of an object: guest before tag before node before type before default."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import Level
from agentd_monitor.health.finding import Limits, graded
from agentd_monitor.health.thresholds import DEFAULTS, Thresholds, problems

GUEST = {"vmid": 101, "tags": "prod;db", "node": "pve1", "type": "qemu"}
KEYS = ["guest:101", "tag:db", "tag:prod", "node:pve1", "type:qemu"]
"""The keys of the guest, the most specific first; tags in alphabetical order."""


@given(st.dictionaries(st.sampled_from([*KEYS, "guest:102", "tag:x", "node:pve2"]), st.floats(50, 99)))
def test_precedence(warnings: dict[str, float]) -> None:
    """The value of the most specific key holds; keys of other objects have no effect."""
    limits = Thresholds({key: {"guest_cpu": {"warning": value}} for key, value in warnings.items()}).limits(
        "guest_cpu", GUEST
    )
    expected = next((warnings[key] for key in KEYS if key in warnings), DEFAULTS["guest_cpu"].warning)

    assert limits is not None
    assert limits.warning == expected


def test_values_are_merged() -> None:
    """A value that a specific key does not name comes from the next key."""
    overrides = {
        "guest:101": {"storage_usage": {"warning": 90}},
        "node:pve1": {"storage_usage": {"warning": 70, "critical": 99}},
    }

    assert Thresholds(overrides).limits("storage_usage", GUEST) == Limits(90, 80, 99)


def test_switched_off() -> None:
    """A check that is off for a tag is on again for a guest that says so."""
    off = {"tag:db": {"guest_cpu": {"enabled": False}}}

    assert Thresholds(off).limits("guest_cpu", GUEST) is None
    assert not Thresholds(off).enabled("guest_cpu", GUEST)
    assert Thresholds({**off, "guest:101": {"guest_cpu": {"enabled": True}}}).limits("guest_cpu", GUEST) is not None


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"vm:101": {}}, "vm:101"),
        ({"guest:web": {}}, "guest:web"),
        ({"guest:101": {"guest_cpux": {}}}, "no check"),
        ({"guest:101": {"guest_cpu": {"warn": 1}}}, "warn"),
        ({"guest:101": {"guest_cpu": {"warning": 50}}}, "must be clear <= warning"),
        ({"node:pve1": {"certificate": {"warning": 60}}}, "must be clear >= warning"),
        ({"node:pve1": {"guest_cpu": {"warning": "90"}}}, "numbers"),
    ],
)
def test_problems(overrides: dict[str, Any], part: str) -> None:
    """Unknown keys, checks and values, and reversed thresholds, are named."""
    (problem, *_) = problems(overrides, frozenset(DEFAULTS))

    assert part in problem


def test_good_overrides_have_no_problem() -> None:
    """Correct overrides are accepted."""
    assert not problems({"tag:db": {"guest_cpu": {"warning": 99, "enabled": True}}}, frozenset(DEFAULTS))


@given(st.floats(allow_nan=True), st.sampled_from(sorted(DEFAULTS)))
def test_every_value_has_a_level(value: float, check: str) -> None:
    """Critical implies that a warning would be given, too; a value that is no number is unknown."""
    limits = DEFAULTS[check]
    level = graded(check, {}, value, limits, "text", advice="advice").level
    warned = graded(check, {}, value, limits._replace(critical=None), "text", advice="advice").level

    if level is Level.CRITICAL:
        assert warned is Level.WARNING
    else:
        assert level is warned
