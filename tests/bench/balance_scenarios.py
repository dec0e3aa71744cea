"""Read scenarios of proxlb-solver, from a folder that the user names; nothing of them is part of the project.

Only what agentd expresses is read: memory as the measure of balance, rules, ignored guests, evacuation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from agentd_specialist.balance.model import GIB, Guest, Landscape, Limits, Node, Rule
from agentd_specialist.balance.plan import Goal

if TYPE_CHECKING:
    from pathlib import Path

BANDS = {1: 0.125, 2: 0.1, 3: 0.04, 4: 0.025, 5: 0.005}
"""Half of the gap that each level of balanciness allows."""


@dataclass(frozen=True)
class Scenario:
    """A cluster, what is wanted of it, and what the scenario expects."""

    name: str
    landscape: Landscape
    goal: Goal
    expect: dict[str, Any]
    vmids: dict[str, int]


def read(file: Path) -> Scenario | None:
    """Return a scenario, or None if it measures balance by something else than memory."""
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    balancing = described["balancing"]
    if balancing["method"] != "memory" or balancing.get("mode", "used") not in {"used", "assigned"}:
        return None
    vmids = {name: 100 + number for number, name in enumerate(described["vms"])}
    constraints = described.get("constraints") or {}
    ignored = {name for name in constraints.get("ignore") or [] if isinstance(name, str)}
    guests = tuple(
        Guest(
            vmids[name],
            name,
            str(vm["node"]),
            int(vm["memory_gb"] * GIB),
            load=int(vm["memory_gb"] * GIB),
            cpu=float(vm.get("cpu") or 0),
            fixed="it is ignored" if name in ignored else "",
        )
        for name, vm in described["vms"].items()
    )
    nodes = tuple(
        Node(
            name,
            int(node["memory_total_gb"] * GIB),
            float(node["cpu_total"]),
            closed="is in maintenance" if node.get("maintenance") else "",
        )
        for name, node in described["nodes"].items()
    )
    limits = Limits(
        reserve=0, cpu=float(balancing.get("cpu_overcommit") or 1e6), band=BANDS[balancing.get("balanciness") or 3]
    )
    leaving = described.get("evacuate_node")
    goal = Goal("drain", frozenset({leaving})) if leaving else Goal()
    rules = tuple(_rules(constraints, vmids))
    return Scenario(described["name"], Landscape(nodes, guests, rules, limits), goal, described["expect"], vmids)


def _rules(constraints: dict[str, Any], vmids: dict[str, int]) -> list[Rule]:
    found = []
    for key, kind in (("affinity", "together"), ("anti_affinity", "apart"), ("pin", "on")):
        for entry in constraints.get(key) or []:
            names = entry.get("vms") or [entry.get("vm")]
            known = frozenset(vmids[name] for name in names if name in vmids)
            nodes = entry.get("nodes") or ([entry["node"]] if "node" in entry else [])
            found.append(Rule(kind, str(entry.get("name") or key), known, frozenset(nodes)))  # type: ignore[arg-type]
    return found
