"""What is read from Proxmox VE, and what follows if it cannot be read: in doubt, guests stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentd_specialist.balance.model import GIB, Guest, Landscape, Limits, Node, Rule
from agentd_specialist.balance.plan import Budget, Goal, plan
from agentd_specialist.balance.reading import Answers, Scope, figures, ha_balancing, landscape, left_lately

ON = "Proxmox VE balances the guests under HA itself"
UNCLEAR = "Proxmox VE may balance the guests under HA itself: its options are not understood"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"crs": {"ha": "static"}}, ""),
        ({"crs": {"ha": "dynamic", "ha-auto-rebalance": 0}}, ""),
        ({"crs": "ha=static,ha-auto-rebalance=0"}, ""),
        ({"crs": {"ha-auto-rebalance": "1"}}, ON),
        ({"crs": {"ha-auto-rebalance": True}}, ON),
        ({"crs": "ha=dynamic,ha-auto-rebalance=on"}, ON),
        ({"crs": ["ha"]}, UNCLEAR),
        (None, UNCLEAR),
        ([], UNCLEAR),
    ],
)
def test_balancing_by_proxmox(options: object, reason: str) -> None:
    """Only options that say so clearly let agentd move guests under HA."""
    assert ha_balancing(options) == reason


def test_guests_under_ha_stay_while_proxmox_balances() -> None:
    """The reason is that of the options; a guest of a node that becomes empty leaves all the same."""
    nodes = [{"node": name, "status": "online", "maxmem": 64 * GIB, "maxcpu": 8} for name in "ab"]
    guests = [
        {"vmid": 101, "node": "a", "status": "running", "maxmem": GIB, "hastate": "started"},
        {"vmid": 102, "node": "a", "status": "running", "maxmem": GIB},
        {"vmid": 103, "node": "b", "status": "running", "maxmem": GIB, "hastate": "started"},
    ]
    found = landscape(Answers(nodes, guests), Scope(rebalanced=UNCLEAR, leaving=["b"]), Limits())

    assert [guest.fixed for guest in found.guests] == [UNCLEAR, "", ""]


def test_what_is_stale_counts_as_it_was() -> None:
    """A guest whose state is not known does not move, and the memory of its node stays in use."""
    nodes = [{"node": "a", "status": "online", "maxmem": 64 * GIB, "mem": 40 * GIB, "maxcpu": 8}]
    nodes += [{"node": "b", "status": "unknown", "maxmem": 64 * GIB}]
    guests = [{"vmid": 101, "node": "a", "status": "unknown", "maxmem": 16 * GIB}]
    guests += [{"vmid": 102, "node": "a", "status": "running", "maxmem": 16 * GIB}]
    found = landscape(Answers(nodes, guests), Scope(), Limits())

    assert [guest.vmid for guest in found.guests] == [102]
    assert found.guests[0].load == 16 * GIB
    assert found.nodes[0].base_memory == 24 * GIB
    assert found.nodes[1].closed == "is unknown"
    assert figures([{"time": 1, "mem": 9.0}, {"time": 2, "mem": None}], since=5).memory == 0


def test_the_nodes_that_guests_left() -> None:
    """Only migrations that succeeded count, and only from nodes that were not rebooted since."""
    tasks = [
        {"node": "a", "id": "101", "status": "OK", "starttime": 900},
        {"node": "b", "id": "101", "status": "WARNINGS: 1", "starttime": 950},
        {"node": "a", "id": "102", "status": "migration aborted", "starttime": 900},
        {"node": "c", "id": "103", "status": "OK", "starttime": 900},
        {"node": "a", "id": "", "status": "OK", "starttime": 900},
        {"node": "gone", "id": "104", "status": "OK", "starttime": 900},
    ]
    nodes = [{"node": "a", "uptime": 500}, {"node": "b", "uptime": 500}, {"node": "c", "uptime": 50}]

    assert left_lately(tasks, nodes, 1000) == {101: frozenset({"a", "b"})}


def test_a_guest_is_not_sent_back() -> None:
    """A guest that came from the emptier node stays, with the reason; a rule is kept all the same."""
    here = Guest(101, "g", "b", 8 * GIB, load=8 * GIB, came_from=frozenset({"a"}))
    other = Guest(102, "h", "b", 8 * GIB, load=8 * GIB, fixed="it is locked (backup)")
    there = Landscape((Node("a", 32 * GIB, 8.0), Node("b", 32 * GIB, 8.0)), (here, other))
    back = Rule("on", "its tag keeps guest 101 on a", frozenset({101}), frozenset({"a"}))
    budget = Budget(seconds=5.0, tries=2000)
    found = plan(there, Goal(), budget)
    free = replace(there, guests=(replace(here, came_from=frozenset()), other))

    assert found.moves == []
    assert found.left[0].reason == "it came from a lately, and is not sent back so soon"
    assert [move.vmid for move in plan(free, Goal(), budget).moves] == [101]
    assert [move.target for move in plan(Landscape(there.nodes, (here,), (back,)), Goal(), budget).moves] == ["a"]
