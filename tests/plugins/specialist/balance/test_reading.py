"""What is read from Proxmox VE, and what follows if it cannot be read: in doubt, guests stay."""

from __future__ import annotations

import pytest

from agentd_specialist.balance.model import GIB, Limits
from agentd_specialist.balance.reading import Answers, Scope, ha_balancing, landscape

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
