"""HA rules of Proxmox VE 9 and HA groups of Proxmox VE 8, read into one type.

Proxmox VE 9 replaced groups with rules: its schema still lists the calls for groups, but its API answers them with 500.
The API also shows which of the two a cluster has: 501 for the rules means Proxmox VE 8.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from agentd import PermanentError, Target, one_line
from agentd_proxmox.model import convert

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd import Proxmox
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]


RULES, GROUPS = "/cluster/ha/rules", "/cluster/ha/groups"


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """An HA rule or group: guests that belong on nodes, together, or apart."""

    name: str
    type: str
    resources: list[str] = []
    nodes: dict[str, int] = {}
    strict: bool = False
    affinity: str = ""
    failback: bool = True
    enabled: bool = True
    comment: str = ""
    digest: str = ""


class Rules(NamedTuple):
    """All rules; `source` says whether they are `rules` or `groups`."""

    source: str
    rules: list[Rule]


async def rules(proxmox: Proxmox) -> Rules:
    """Return the HA rules of the cluster, or its groups if it has no rules."""
    try:
        return Rules("rules", [_rule(entry) for entry in await proxmox.get(RULES) or []])
    except PermanentError as error:
        if type(error) is not PermanentError or "does not offer" not in str(error):
            raise
    groups, resources = await proxmox.get(GROUPS) or [], await proxmox.get("/cluster/ha/resources") or []
    users = {str(e["sid"]): str(e.get("group") or "") for e in resources}
    return Rules("groups", [_group(e, [sid for sid, name in users.items() if name == e["group"]]) for e in groups])


OF_GROUP: Final = ("nodes", "restricted", "nofailback", "comment")
OF_RULE: Final = ("resources", "nodes", "strict", "affinity", "comment", "disable")


def old_values(was: Rule, options: Iterable[str]) -> Entry:
    """Return the old values of `options`, as parameters of our tools."""
    have: Entry = {
        "type": {"type": was.type},
        "resources": {"guests": [int(sid.partition(":")[2]) for sid in was.resources]},
        "nodes": {"nodes": was.nodes},
        "strict": {"strict": was.strict},
        "restricted": {"restricted": was.strict},
        "nofailback": {"failback": was.failback},
        "affinity": {"affinity": was.affinity or None},
        "comment": {"comment": was.comment},
        "disable": {"enabled": was.enabled},
    }
    return {name: value for key in options for name, value in have[key].items()}


def target(kind: str, rule: Rule, *loses: str) -> Target:
    """Return a rule or group as the target of a call that changes it."""
    labels = [f"guest/{sid.partition(':')[2]}" for sid in rule.resources]
    return Target(f"ha-{kind}/{rule.name}", f"HA {kind} {rule.name}", {"digest": rule.digest}, labels, list(loses))


def describe(rule: Rule) -> str:
    """Return what a rule enforces, as a phrase for a person."""
    guests = ", ".join(rule.resources) or "no guest"
    if rule.type == "node-affinity":
        return f"that {guests} {'must' if rule.strict else 'should'} be on {', '.join(rule.nodes)}"
    return f"that {guests} are kept {'together' if rule.affinity == 'positive' else 'apart'}"


def _rule(entry: Entry) -> Rule:
    return convert.entry(
        Rule,
        entry,
        name=one_line(entry["rule"]),
        resources=sorted(members(entry.get("resources"))),
        nodes=_priorities(entry.get("nodes")),
        enabled=not convert.flag(entry.get("disable")),
        failback=True,
    )


def _group(entry: Entry, resources: list[str]) -> Rule:
    return convert.entry(
        Rule,
        entry,
        {"strict": "restricted"},
        name=one_line(entry["group"]),
        type="node-affinity",
        resources=sorted(resources),
        nodes=_priorities(entry.get("nodes")),
        failback=not convert.flag(entry.get("nofailback")),
        affinity="",
        enabled=True,
    )


def _priorities(text: object) -> dict[str, int]:
    pairs = (member.partition(":") for member in sorted(members(text)))
    return {node: int(priority or 0) for node, _, priority in pairs}


def node_list(nodes: dict[str, int]) -> str | None:
    """Return nodes in the notation of Proxmox: `pve1:2,pve2`."""
    return ",".join(f"{name}:{nodes[name]}" if nodes[name] else name for name in sorted(nodes)) or None


def differences(rule: Rule, wanted: Entry) -> list[str]:
    """Return the options that differ from `wanted`; None there means unchanged."""
    have: Entry = {
        "type": rule.type,
        "resources": ",".join(rule.resources),
        "nodes": node_list(rule.nodes),
        "strict": rule.strict,
        "restricted": rule.strict,
        "nofailback": not rule.failback,
        "affinity": rule.affinity,
        "comment": rule.comment,
        "disable": not rule.enabled,
    }
    normalized = {key: one_line(value) if isinstance(value, str) else value for key, value in wanted.items()}
    return [key for key, value in normalized.items() if value is not None and have[key] != value]


def service(at: GuestLocation) -> str:
    """Return the HA service ID of a guest, such as `vm:100`."""
    return f"{'vm' if at.kind == 'qemu' else 'ct'}:{at.vmid}"


def members(text: object) -> set[str]:
    """Return the entries of a list of Proxmox.

    The entries are service IDs, or nodes with their priorities, if they have one.
    """
    return {one_line(name) for name in re.split(r"[,;\s]+", str(text or "")) if name}
