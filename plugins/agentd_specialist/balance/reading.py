"""Read a landscape from what Proxmox VE reports; pure.

Guests say what they want by tags, and so do HA rules and pools:

    agentd-apart-NAME      no two guests with this tag on one node (also plb_anti_affinity_NAME)
    agentd-together-NAME   all guests with this tag on one node (also plb_affinity_NAME)
    agentd-pin-NODE        only on this node, or on one of several (also plb_pin_NODE)
    agentd-stay            is not moved to balance the cluster (also plb_ignore_NAME)

The tags that begin with plb_ are those of ProxLB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd_specialist.balance.model import Guest, Landscape, Limits, Node, Rule
from agentd_specialist.model import names_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

APART: Final = ("agentd-apart-", "plb_anti_affinity_")
TOGETHER: Final = ("agentd-together-", "plb_affinity_")
PIN: Final = ("agentd-pin-", "plb_pin_")
STAY: Final = ("agentd-stay", "plb_ignore")
_SEPARATOR = re.compile(r"[;,\s]+")


class HaRule(msgspec.Struct, frozen=True):
    """A rule or group of list_ha, with the fields that are needed here."""

    name: str
    type: str
    resources: list[str] = []
    nodes: dict[str, int] = {}
    strict: bool = False
    affinity: str = ""
    enabled: bool = True


@dataclass(frozen=True)
class Figures:
    """The 95th percentile of what a guest or node has used: memory in bytes, cpu as a share, pressure as a share."""

    memory: float = 0.0
    cpu: float = 0.0
    pressure: float = 0.0


@dataclass(frozen=True)
class Answers:
    """What Proxmox VE answered.

    nodes, guests  entries of /cluster/resources
    used           what was used, by `node/NAME` and VMID as text
    maintenance    nodes that HA keeps empty
    came_from      nodes that guests have left lately, by VMID
    """

    nodes: Sequence[Mapping[str, Any]]
    guests: Sequence[Mapping[str, Any]]
    rules: Sequence[HaRule] = ()
    used: Mapping[str, Figures] = field(default_factory=dict)
    maintenance: Collection[str] = ()
    came_from: Mapping[int, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """What a request leaves out or forbids.

    together_pools, apart_pools  pools whose guests are kept together or apart
    exclude                      VMIDs that stay
    containers                   running containers may move: they are stopped for it
    rebalanced                   why guests under HA stay: the HA manager balances them itself ("": it does not)
    leaving                      nodes that become empty: neither tags nor the HA manager keep guests there
    """

    together_pools: Collection[str] = ()
    apart_pools: Collection[str] = ()
    exclude: Collection[int] = ()
    containers: bool = False
    rebalanced: str = ""
    leaving: Collection[str] = ()


def landscape(answers: Answers, scope: Scope, limits: Limits) -> Landscape:
    """Return the landscape that the answers describe."""
    running = [entry for entry in answers.guests if entry.get("status") == "running" and not entry.get("template")]
    found = [_guest(entry, answers, scope) for entry in running]
    nodes = sorted(answers.nodes, key=lambda entry: str(entry["node"]))
    rules = answers.rules
    return Landscape(
        nodes=tuple(_node(entry, found, answers) for entry in nodes),
        guests=tuple(sorted(found, key=lambda guest: guest.vmid)),
        rules=(*_of_tags(running), *_of_pools(running, scope), *_of_ha(rules)),
        limits=limits,
    )


def tags_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the tags of a guest in lower case."""
    return [tag for tag in _SEPARATOR.split(str(entry.get("tags") or "").lower()) if tag]


def percentile(values: Sequence[float], share: float = 0.95) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def figures(points: Iterable[Mapping[str, Any]], since: float) -> Figures:
    """Return what was used from `since` on, from a table over time."""
    recent = [point for point in points if float(point.get("time") or 0) >= since]

    def of(*names: str) -> float:
        return percentile([float(point[name]) for point in recent for name in names if point.get(name) is not None])

    # Proxmox VE reports the pressures in percent.
    pressure = max(of("pressurecpusome"), of("pressurememorysome"), of("pressureiosome")) / 100
    return Figures(max(of("mem"), of("memhost"), of("memused")), of("cpu"), min(1.0, pressure))


def ha_balancing(options: object) -> str:
    """Return why the HA manager may move its guests itself, by the options of the datacenter; "" if it does not."""
    crs = options.get("crs") if isinstance(options, dict) else None
    if not isinstance(options, dict) or not isinstance(crs, dict | str | None):
        return "Proxmox VE may balance the guests under HA itself: its options are not understood"
    pairs = crs.split(",") if isinstance(crs, str) else [f"{key}={value}" for key, value in (crs or {}).items()]
    value = dict(pair.partition("=")[::2] for pair in pairs).get("ha-auto-rebalance", "0")
    off = str(value).strip().lower() in {"", "0", "false", "no", "off"}
    return "" if off else "Proxmox VE balances the guests under HA itself"


def _node(entry: Mapping[str, Any], guests: Iterable[Guest], answers: Answers) -> Node:
    name = str(entry["node"])
    here = [guest for guest in guests if guest.node == name]
    own = answers.used.get(f"node/{name}", Figures())
    closed = "" if entry.get("status") == "online" else f"is {entry.get('status') or 'offline'}"
    if not closed and (name in answers.maintenance or entry.get("hastate") == "maintenance"):
        closed = "is in maintenance"
    cpus = float(entry.get("maxcpu") or 0)
    return Node(
        name=name,
        memory=int(entry.get("maxmem") or 0),
        cpus=cpus,
        base_memory=max(0, int(entry.get("mem") or 0) - sum(guest.load for guest in here)),
        base_cpu=max(0.0, max(own.cpu, float(entry.get("cpu") or 0)) * cpus - sum(guest.cpu for guest in here)),
        closed=closed,
        pressure=own.pressure,
    )


def left_lately(
    tasks: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]], now: float
) -> dict[int, frozenset[str]]:
    """Return the nodes that guests have left, by VMID, from the migrations of the task lists.

    A node that has been rebooted since does not count: its guests left for that, and may return.
    """
    booted = {str(node["node"]): now - float(node.get("uptime") or 0) for node in nodes}
    found: dict[int, set[str]] = {}
    for task in tasks:
        source, ended = str(task.get("node") or ""), str(task.get("status") or "")
        done = ended == "OK" or ended.startswith("WARNINGS")
        if done and str(task.get("id") or "").isdigit() and float(task.get("starttime") or 0) > booted.get(source, now):
            found.setdefault(int(task["id"]), set()).add(source)
    return {vmid: frozenset(names) for vmid, names in found.items()}


def _guest(entry: Mapping[str, Any], answers: Answers, scope: Scope) -> Guest:
    used = answers.used.get(str(entry["vmid"]), Figures())
    memory = int(entry.get("maxmem") or 0)
    now = max(int(entry.get("mem") or 0), int(entry.get("memhost") or 0))
    load = int(max(now, used.memory))
    return Guest(
        vmid=int(entry["vmid"]),
        name=str(entry.get("name") or ""),
        node=str(entry["node"]),
        memory=memory,
        load=load if load > 0 else memory,
        cpu=max(used.cpu, float(entry.get("cpu") or 0) if not used.cpu else 0.0) * float(entry.get("maxcpu") or 0),
        kind=str(entry.get("type") or "qemu"),
        ha=bool(entry.get("hastate")),
        fixed=_fixed(entry, scope),
        came_from=answers.came_from.get(int(entry["vmid"]), frozenset()) - {str(entry["node"])},
    )


def _fixed(entry: Mapping[str, Any], scope: Scope) -> str:
    """Return why a guest is not moved, or ""."""
    leaves = entry.get("node") in scope.leaving
    reasons = (
        (entry.get("lock"), f"it is locked ({entry.get('lock')})"),
        (int(entry["vmid"]) in scope.exclude, "the request excludes it"),
        (
            entry.get("type") == "lxc" and not scope.containers,
            "a move stops a container (restart_containers allows it)",
        ),
        (not leaves and any(tag.startswith(STAY) for tag in tags_of(entry)), "its tag says that it stays"),
        (not leaves and scope.rebalanced and entry.get("hastate"), scope.rebalanced),
    )
    return next((text for applies, text in reasons if applies), "")


def _of_tags(guests: Sequence[Mapping[str, Any]]) -> Iterable[Rule]:
    groups: dict[str, list[int]] = {}
    for entry in guests:
        for tag in tags_of(entry):
            groups.setdefault(tag, []).append(int(entry["vmid"]))
    for tag, vmids in sorted(groups.items()):
        if tag.startswith(APART) and len(vmids) > 1:
            yield Rule("apart", f"the tag {tag} keeps {names_of(map(str, sorted(vmids)))} apart", frozenset(vmids))
        elif tag.startswith(TOGETHER) and len(vmids) > 1:
            yield Rule(
                "together", f"the tag {tag} keeps {names_of(map(str, sorted(vmids)))} together", frozenset(vmids)
            )
    for entry in guests:
        pins = [tag[len(prefix) :] for tag in tags_of(entry) for prefix in PIN if tag.startswith(prefix)]
        if pins:
            text = f"its tag keeps guest {entry['vmid']} on {', '.join(sorted(pins))}"
            yield Rule("on", text, frozenset({int(entry["vmid"])}), frozenset(pins))


def _of_pools(guests: Sequence[Mapping[str, Any]], scope: Scope) -> Iterable[Rule]:
    for kind, pools in (("apart", scope.apart_pools), ("together", scope.together_pools)):
        for pool in sorted(pools):
            vmids = [int(entry["vmid"]) for entry in guests if entry.get("pool") == pool]
            if len(vmids) > 1:
                yield Rule(
                    "apart" if kind == "apart" else "together",
                    f"the guests of the pool {pool} are kept {kind}",
                    frozenset(vmids),
                )


def _of_ha(rules: Iterable[HaRule]) -> Iterable[Rule]:
    for rule in rules:
        vmids = frozenset(int(sid.partition(":")[2]) for sid in rule.resources if sid.partition(":")[2].isdigit())
        if not rule.enabled or not vmids:
            continue
        if rule.type == "node-affinity" and rule.strict:
            nodes = frozenset(rule.nodes)
            yield Rule(
                "on",
                f"the HA rule {rule.name} keeps {names_of(map(str, sorted(vmids)))} on {', '.join(sorted(nodes))}",
                vmids,
                nodes,
            )
        elif rule.affinity == "negative" and len(vmids) > 1:
            yield Rule("apart", f"the HA rule {rule.name} keeps {names_of(map(str, sorted(vmids)))} apart", vmids)
        elif rule.affinity == "positive" and len(vmids) > 1:
            yield Rule("together", f"the HA rule {rule.name} keeps {names_of(map(str, sorted(vmids)))} together", vmids)
