"""Lockout check: which changes of a firewall close the API and shell of a node.

It covers the firewalls of the cluster and of the node.  Proxmox itself admits the nodes' own network, and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from agentd import Rejected
from agentd_proxmox.network.firewall_rules import FirewallSelector, is_on, rules_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd import Proxmox
    from agentd_proxmox.network.firewall_rules import CreateFirewallRule

    Entry = dict[str, Any]

CLUSTER: Final = "/cluster/firewall"
MANAGED: Final = frozenset({8006, 22})
"""The ports of a node's API and shell."""


def is_switched_on(options: Entry, path: str) -> bool:
    """Return whether a firewall is on; that of a node is on by default."""
    return is_on(options.get("enable", int(re.fullmatch(r"/nodes/[^/]+/firewall", path) is not None)))


class LockoutCheck:
    """Checks which ports the rules of the cluster and its nodes open."""

    def __init__(self, proxmox: Proxmox) -> None:
        """Use this Proxmox client."""
        self.proxmox = proxmox

    async def rules(self, path: str, p: FirewallSelector | CreateFirewallRule) -> list[Entry]:
        """Return the rules of a firewall in their order."""
        found: list[Entry] = await self.proxmox.get(rules_path(path, p)) or []
        return sorted(found, key=lambda rule: int(rule.get("pos") or 0))

    async def open_ports(self, entries: list[Entry], policy: object, groups: dict[str, list[Entry]]) -> set[int]:
        """Return the ports of MANAGED that these rules open.

        `groups` are the security groups whose rules are known already; others are read.
        """
        used = {str(entry.get("action")) for entry in entries if entry.get("type") == "group"} - set(groups)
        if used:  # a rule may name a group that was deleted
            used &= {str(entry["group"]) for entry in await self.proxmox.get(f"{CLUSTER}/groups") or []}
        found = {group: await self.proxmox.get(f"{CLUSTER}/groups/{group}") or [] for group in sorted(used)}
        return open_ports(entries, groups | found, policy)

    async def closed_access(
        self, path: str, p: FirewallSelector | CreateFirewallRule, before: list[Entry], after: list[Entry]
    ) -> list[str]:
        """Return what access a change of rules closes, if the cluster's firewall is on."""
        options = {} if p.vmid is not None else await self.proxmox.get(f"{CLUSTER}/options") or {}
        if not is_switched_on(options, CLUSTER):
            return []
        below = [] if path == CLUSTER and not p.group else await self.rules(CLUSTER, FirewallSelector())
        policy, found = options.get("policy_in"), []
        for entries in (before, after):
            groups, rules = ({p.group: entries}, below) if p.group else ({}, [*entries, *below])
            found.append(await self.open_ports(rules, policy, groups))
        shut = found[0] - found[1]
        return [f"{_list(shut)} can no longer be reached from outside of the nodes' own network"] if shut else []

    async def check_reachable(self, path: str, p: FirewallSelector, options: Entry) -> None:
        """Reject switching on a firewall if no rule opens a node's API and shell.

        Proxmox itself admits the nodes' own network, and nothing else.
        """
        cluster, rules = options, await self.rules(path, p)
        if path != CLUSTER:
            cluster = await self.proxmox.get(f"{CLUSTER}/options") or {}
            rules += await self.rules(CLUSTER, FirewallSelector())
        if not (is_switched_on(options, path) and is_switched_on(cluster, CLUSTER)):
            return
        shut = MANAGED - await self.open_ports(rules, cluster.get("policy_in"), {})
        if shut:
            raise Rejected(
                f"no rule of the cluster opens the ports {_list(shut)} of the nodes: outside of "
                "their own network they could not be reached; create_firewall_rule first, or set locked_out=true"
            )


def open_ports(entries: list[Entry], groups: Mapping[str, list[Entry]], policy: object) -> set[int]:
    """Return the ports of MANAGED that these rules open, at least for one source."""
    opened: set[int] = set()
    closed: set[int] = set()
    for rule in _unfolded(entries, groups):
        ports = _ports(rule)
        if rule.get("action") == "ACCEPT":
            opened |= ports - closed
        elif not any(rule.get(key) for key in ("source", "iface")):
            closed |= ports
    return opened | (MANAGED - closed if policy == "ACCEPT" else set())


def _unfolded(entries: list[Entry], groups: Mapping[str, list[Entry]]) -> list[Entry]:
    """Return the enabled rules for incoming traffic, with those of groups in place."""
    found: list[Entry] = []
    for entry in entries:
        if not is_on(entry.get("enable")):
            continue
        if entry.get("type") == "group":
            found += _unfolded(groups.get(str(entry.get("action")), []), {})
        elif entry.get("type") == "in":
            found.append(entry)
    return found


def _ports(entry: Entry) -> set[int]:
    """Return the ports of MANAGED to which a rule applies."""
    if entry.get("macro"):
        return {22} if str(entry["macro"]).lower() == "ssh" else set()
    if str(entry.get("proto") or "tcp") not in {"tcp", "6"} or entry.get("dest") or entry.get("sport"):
        return set()
    text = str(entry.get("dport") or "0:65535").replace("ssh", "22")
    spans = [span.partition(":") for span in text.split(",")]
    pairs = [(int(low), int(high or low)) for low, _, high in spans if (low + high).isdecimal()]
    return {port for port in MANAGED if any(low <= port <= high for low, high in pairs)}


def _list(ports: frozenset[int] | set[int]) -> str:
    return " and ".join(str(port) for port in sorted(ports, reverse=True))
