"""One call of each tool for interfaces and software-defined networks."""

from __future__ import annotations

from typing import Any

ONE: dict[str, Any] = {"node": "pve1"}
BRIDGE: dict[str, Any] = {**ONE, "iface": "vmbr7", "type": "bridge"}


def waiting(tool: str) -> Any:
    """Return what gives the digest of what waits, as a tool has returned it last."""
    return lambda results: {"digest": results[tool].digest}


WALK: list[tuple[str, Any]] = [
    ("set_interface", {**BRIDGE, "cidr": "198.51.100.1/24"}),
    ("list_interfaces", ONE),
    ("revert_network", lambda results: {**ONE, "digest": results["list_interfaces"].digest}),
    ("set_interface", {**BRIDGE, "comment": "walked"}),
    ("apply_network", lambda results: {**ONE, "digest": results["set_interface"].digest}),
    ("set_interface", {**BRIDGE, "comment": "again"}),
    ("delete_interface", {**ONE, "iface": "vmbr7"}),
    ("set_sdn_zone", {"zone": "walk", "type": "simple"}),
    ("set_sdn_vnet", {"vnet": "walknet", "zone": "walk"}),
    ("set_sdn_subnet", {"vnet": "walknet", "subnet": "10.7.0.0/24", "gateway": "10.7.0.1"}),
    ("set_sdn_subnet", {"vnet": "walknet", "subnet": "10.7.0.0/24", "snat": True}),
    ("list_sdn", {}),
    ("apply_sdn", waiting("list_sdn")),
    ("set_sdn_zone", {"zone": "walk", "type": "simple", "mtu": 1400}),
    ("set_sdn_vnet", {"vnet": "walknet", "zone": "walk", "alias": "walked"}),
    ("delete_sdn", {"kind": "subnet", "name": "walknet", "subnet": "10.7.0.0/24"}),
    ("delete_sdn", {"kind": "vnet", "name": "walknet"}),
    ("delete_sdn", {"kind": "zone", "name": "walk"}),
]
