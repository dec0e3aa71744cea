"""When the Proxmox API is read: within the limit for each node, the important sources first, all of them in the end."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd_monitor.cluster.readings import PATIENCE, SLACK, SOURCES, Readings, Request
from agentd_monitor.cluster.schedule import AT_ONCE, LIMIT, Schedule

HOUR = 3600


def status(nodes: int, offline: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Return a response of /cluster/status."""
    names = [f"pve{place}" for place in range(nodes)]
    return [
        {"type": "node", "name": name, "online": int(name not in offline), "local": int(name == "pve0")}
        for name in names
    ]


def resources(nodes: int, guests: int) -> list[dict[str, Any]]:
    """Return a response of /cluster/resources."""
    return [{"type": "qemu", "id": f"qemu/{100 + place}", "node": f"pve{place % nodes}"} for place in range(guests)]


class Cluster:
    """A cluster that answers each request after a second, and the time of each request."""

    def __init__(self, nodes: int = 3, guests: int = 0, offline: frozenset[str] = frozenset()) -> None:
        self.responses = {"status": status(nodes, offline), "resources": resources(nodes, guests)}
        self.broken: set[str] = set()
        self.readings = Readings()
        self.schedule = Schedule(self.readings)
        self.asked: list[tuple[float, Request]] = []

    def run(self, begin: int, end: int) -> None:
        """Read from one second to another."""
        for second in range(begin, end):
            for request in self.schedule.due(float(second)):
                self.asked.append((second, request))
                if request.source in self.broken:
                    self.readings.failed(request, "broken", float(second))
                else:
                    self.readings.succeeded(request, self.responses.get(request.source, {}), float(second))
                self.schedule.ended(request)

    def busiest_minute(self) -> int:
        """Return the most requests to one node within a minute; those of the cluster go to pve0."""
        by_node: dict[str, list[float]] = {}
        for second, request in self.asked:
            by_node.setdefault(request.node or "pve0", []).append(second)
        return max(
            sum(1 for other in seconds if second <= other < second + 60)
            for seconds in by_node.values()
            for second in set(seconds)
        )


@pytest.mark.parametrize(("nodes", "guests"), [(1, 0), (3, 100), (16, 1000)])
def test_limit(nodes: int, guests: int) -> None:
    """No node is asked more than ten times in any minute, also in the first one."""
    seen = Cluster(nodes, guests)
    seen.run(0, HOUR // 2)

    assert seen.busiest_minute() <= LIMIT


def test_every_source_is_read() -> None:
    """Each source of each node and guest is read, and those of the cluster keep their intervals."""
    seen = Cluster(3, 100)
    seen.run(0, 2 * HOUR)
    asked = {request for _, request in seen.asked}
    count = Counter(request.source for _, request in seen.asked)

    assert {request.source for request in asked} == set(SOURCES)
    assert len({request.guest for request in asked if request.source == "guest_config"}) == 100
    assert count["resources"] == pytest.approx(2 * HOUR / SOURCES["resources"].every, rel=0.15)


def test_turns_of_guests() -> None:
    """With more guests than the limit allows within their interval, none is read twice before all were read once."""
    seen = Cluster(1, 300)
    seen.run(0, HOUR)
    turns = [request for _, request in seen.asked if request.guest]

    assert len(turns) == len(set(turns)) > 60


def test_offline_node_is_not_asked() -> None:
    """A node that is offline gets no request, and its readings become unusable."""
    seen = Cluster(3)
    seen.run(0, 120)
    seen.responses["status"] = status(3, frozenset({"pve1"}))
    seen.run(120, HOUR)
    late = [request for second, request in seen.asked if second > 150 and request.node == "pve1"]

    assert not late
    assert "pve1" not in seen.readings.snapshot(float(HOUR)).data["node_status"]


def test_retry() -> None:
    """A source that fails is tried again after its interval, at most once a minute, and does not stop the others."""
    seen = Cluster(2)
    seen.broken = {"resources", "node_status"}
    seen.run(0, 600)
    times = [second for second, request in seen.asked if request == Request("node_status", "pve1")]

    assert min(later - earlier for earlier, later in pairwise(times)) >= 60
    assert seen.readings.snapshot(600.0).get("services", "pve1") is not None
    assert seen.readings.snapshot(600.0).why_not("resources") == "broken"


def test_hung_node() -> None:
    """While a node does not answer, it has two open requests; the other nodes are read."""
    seen = Cluster(2)
    seen.run(0, 5)
    open_: list[Request] = []
    for second in range(5, 300):
        for request in seen.schedule.due(float(second)):
            if request.node == "pve1":
                open_.append(request)
            else:
                seen.readings.succeeded(request, seen.responses.get(request.source, {}), float(second))
                seen.schedule.ended(request)

    assert len(open_) <= AT_ONCE
    assert seen.readings.snapshot(300.0).get("services", "pve0") is not None


def test_removed_guest() -> None:
    """The readings of a guest that was removed are removed, too."""
    seen = Cluster(1, 3)
    seen.run(0, 600)
    seen.responses["resources"] = resources(1, 1)
    seen.run(600, 700)

    assert set(seen.readings.snapshot(700.0).data["guest_config"]) == {"qemu/100"}


@given(st.floats(min_value=0, max_value=1e6), st.sampled_from(sorted(SOURCES)))
def test_age_limit(age: float, source: str) -> None:
    """A reading is used until it is older than three intervals and a minute, whether or not later attempts failed."""
    readings, request = Readings(), Request(source, "pve1")
    readings.succeeded(request, ["data"], 0.0)
    readings.failed(request, "no answer", age)
    usable = age <= PATIENCE * request.every + SLACK

    assert (readings.snapshot(age).get(source, "pve1") is not None) == usable
    assert readings.snapshot(age).why_not(source, "pve1") == "no answer"
