"""The checks with responses of any form."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd_monitor.cluster.readings import SOURCES, Snapshot
from agentd_monitor.health.catalogue import run_all
from agentd_monitor.health.finding import Moment
from agentd_monitor.health.thresholds import Thresholds

STATUS = [
    {"type": "cluster", "name": "demo", "nodes": 1, "quorate": 1},
    {"type": "node", "name": "pve1", "online": 1},
]
VALUES = st.none() | st.booleans() | st.floats() | st.sampled_from(["node", "qemu", "storage", "NaN", "x", [1], {}])
ENTRIES = st.dictionaries(
    st.sampled_from(["type", "name", "node", "id", "status", "online", "cpu", "maxmem", "health", "lock", "snaptime"]),
    VALUES,
    max_size=6,
)
JSON = VALUES | ENTRIES | st.lists(ENTRIES | VALUES, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(sorted(SOURCES)), st.dictionaries(st.sampled_from(["", "pve1"]), JSON, max_size=2), max_size=4
    )
)
def test_any_response(data: dict[str, dict[str, Any]]) -> None:
    """No response, whatever its form, makes a check fail."""
    seen = Moment(Snapshot({"status": {"": STATUS}, **data}), Thresholds(), 1_800_000_000.0)

    assert not [finding for finding in run_all(seen) if "the check failed" in finding.text]
