"""Find the firewall rules and sets that use an alias, IP set or security group.

Proxmox deletes a name that is in use without a warning, and the rules that use it do nothing from then on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from agentd import Denied, PermanentError, ProxmoxUnavailable, one_line
from agentd_proxmox.network import firewall_rules
from agentd_proxmox.network.firewall_lockout import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_proxmox.inventory import Inventory

    Entry = dict[str, Any]

TOGETHER: Final = 4
"""Number of firewalls that are read at the same time."""


async def uses_of(inventory: Inventory, kind: str, name: str, vmid: int | None) -> list[str]:
    """Return where a name is used, one line each, and what could not be read."""
    firewalls, found = await _firewalls(inventory, vmid), list[str]()
    room = asyncio.Semaphore(TOGETHER)

    async def uses(title: str, path: str, *, group: bool) -> list[str]:
        async with room:
            try:
                return await _uses(inventory, title, path, spellings(kind, name, vmid), group=group)
            except (ProxmoxUnavailable, Denied, PermanentError) as error:
                return [f"whether {title} uses it is not known: {one_line(error)}"]

    for lines in await asyncio.gather(*(uses(title, path, group=group) for title, path, group in firewalls)):
        found += lines
    return found


def spellings(kind: str, name: str, vmid: int | None) -> frozenset[str]:
    """Return the spellings of a name in rules and sets.

    An alias is written alone or with its level, an IP set with a `+`.
    """
    level = "dc" if vmid is None else "guest"
    if kind == "group":
        return frozenset({name})
    sign = "+" if kind == "ipset" else ""
    return frozenset({f"{sign}{name}".lower(), f"{sign}{level}/{name}".lower()})


def uses_name(entry: Entry, wanted: frozenset[str], *, group: bool = False) -> bool:
    """Return whether a rule uses one of `wanted`.

    A security group is the action of a rule of type group.
    """
    if entry.get("type") == "group":
        return group and str(entry.get("action")) in wanted
    if group:
        return False
    text = ",".join(str(entry.get(key) or "") for key in ("source", "dest")).lower()
    return not wanted.isdisjoint(part.strip() for part in text.split(","))


async def _firewalls(inventory: Inventory, vmid: int | None) -> list[tuple[str, str, bool]]:
    """Return the firewalls whose rules may use a name.

    A firewall has a title, a path, and whether it is a security group.
    """
    places = await inventory.places()
    if vmid is not None:
        return [(f"the firewall of {at.title}", f"{at.path}/firewall", False) for at in places if at.vmid == vmid]
    groups = sorted(str(entry["group"]) for entry in await inventory.proxmox.get(f"{CLUSTER}/groups") or [])
    nodes = sorted(str(entry["node"]) for entry in await inventory.proxmox.get("/nodes") or [])
    return [
        ("the firewall of the cluster", CLUSTER, False),
        *((f"security group {group}", f"{CLUSTER}/groups/{group}", True) for group in groups),
        *((f"the firewall of the node {node}", f"/nodes/{node}/firewall", False) for node in nodes),
        *((f"the firewall of {at.title}", f"{at.path}/firewall", False) for at in places),
    ]


async def _uses(inventory: Inventory, title: str, path: str, wanted: frozenset[str], *, group: bool) -> list[str]:
    rules: list[Entry] = await inventory.proxmox.get(path if group else f"{path}/rules") or []
    whole = not any(name.startswith("+") or "/" in name for name in wanted)
    found = [
        f"rule {entry.get('pos', number)} of {title} uses it: {firewall_rules.rule_text(entry)}"
        for number, entry in enumerate(rules)
        if uses_name(entry, wanted, group=whole)
    ]
    bare = path.startswith("/nodes/") and "/qemu/" not in path and "/lxc/" not in path  # a node has no sets of its own
    if group or whole or bare or any(name.startswith("+") for name in wanted):
        return found
    for ipset in await inventory.proxmox.get(f"{path}/ipset") or []:
        entries = await inventory.proxmox.get(f"{path}/ipset/{ipset['name']}") or []
        found += _within(title, str(ipset["name"]), entries, wanted)
    return found


def _within(title: str, ipset: str, entries: list[Entry], wanted: frozenset[str]) -> Iterator[str]:
    if any(str(entry.get("cidr") or "").lower() in wanted for entry in entries):
        yield f"ipset {one_line(ipset)} of {title} uses it"
