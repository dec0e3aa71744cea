"""One call of each tool for firewalls."""

from __future__ import annotations

from typing import Any

SSH: dict[str, Any] = {"action": "ACCEPT", "proto": "tcp", "dport": "22"}
SAYS = "in ACCEPT tcp port 22"
WALK: list[tuple[str, Any]] = [
    ("list_firewall", {}),
    *(
        step
        for where in ({}, {"node": "pve1"}, {"vmid": 100}, {"vmid": 200})
        for step in (
            ("create_firewall_rule", {**where, **SSH}),
            ("update_firewall_rule", {**where, "pos": 0, "rule": SAYS, "enabled": False}),
            ("list_firewall", where),
            (
                "update_firewall_options",
                {**where, "enable": not where.get("node"), **({} if where else {"locked_out": True})},
            ),
            ("delete_firewall_rule", {**where, "pos": 0, "rule": SAYS}),
        )
    ),
    ("create_firewall_rule", SSH),
    (
        "update_firewall_rule",
        {"pos": 0, "rule": SAYS, "becomes": {"action": "DROP", "proto": "icmp"}, "comment": "walked"},
    ),
    ("delete_firewall_rule", {"pos": 0, "rule": "in DROP icmp"}),
    ("get_firewall_log", {"node": "pve1"}),
    ("get_firewall_log", {"vmid": 100}),
    ("create_firewall_group", {"name": "walkers"}),
    ("create_firewall_rule", {"uses": "walkers", "node": "pve1"}),
    ("delete_firewall_rule", {"node": "pve1", "pos": 0, "rule": "group walkers"}),
    ("create_firewall_rule", {"group": "walkers", **SSH}),
    ("list_firewall", {"group": "walkers"}),
    ("delete_firewall_rule", {"group": "walkers", "pos": 0, "rule": SAYS}),
    ("set_firewall_alias", {"name": "home", "cidr": "192.0.2.0/24"}),
    ("set_firewall_alias", {"name": "home", "cidr": "198.51.100.0/24"}),
    ("set_firewall_ipset", {"name": "friends", "entries": ["192.0.2.1", "192.0.2.2"]}),
    ("set_firewall_ipset", {"name": "friends", "entries": ["192.0.2.1"]}),
    ("set_firewall_ipset", {"name": "friends", "entries": ["!192.0.2.1"]}),
    ("list_firewall_sets", {}),
    ("delete_firewall_set", {"kind": "alias", "name": "home"}),
    ("delete_firewall_set", {"kind": "ipset", "name": "friends"}),
    *(
        step
        for where in ({"vmid": 100}, {"vmid": 200})
        for step in (
            ("set_firewall_alias", {**where, "name": "home", "cidr": "192.0.2.0/24"}),
            ("set_firewall_alias", {**where, "name": "home", "cidr": "198.51.100.0/24"}),
            ("set_firewall_ipset", {**where, "name": "friends", "entries": ["192.0.2.1", "192.0.2.0/28"]}),
            ("list_firewall_sets", where),
            ("set_firewall_ipset", {**where, "name": "friends", "entries": ["192.0.2.1"]}),
            ("set_firewall_ipset", {**where, "name": "friends", "entries": ["!192.0.2.1"]}),
            ("delete_firewall_set", {**where, "kind": "alias", "name": "home"}),
            ("delete_firewall_set", {**where, "kind": "ipset", "name": "friends"}),
        )
    ),
    ("delete_firewall_set", {"kind": "group", "name": "walkers"}),
]
