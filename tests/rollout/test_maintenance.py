"""What an operator does later: upgrade and rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rollout.cluster import all_ready, completed, deploy
from rollout.operator_site import FIGURES, PORTS, next_release

if TYPE_CHECKING:
    from pve.client import FakePve
    from rollout.lab import Lab, Node
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_upgrade_and_rollback(site: Site, lab: Lab, proxmox: FakePve) -> None:
    """An upgrade runs while workflows run: none fails, none runs twice; a rollback brings the old release back."""
    old = Path(site.variables["agentd_wheelhouse"])
    new = next_release(old)
    node = lab.nodes[0]
    before = len(proxmox.creates())
    workflows = [deploy(site, node, f"upgrade{number}") for number in range(6)]
    site.variables["agentd_wheelhouse"] = str(new)
    site.changed()
    upgraded = [item.output("readlink /opt/agentd/current") for item in lab.nodes]
    pauses = [_pause(item, role) for item in lab.nodes for role in PORTS]
    FIGURES["upgrade_seconds"] = round(site.seconds)
    FIGURES["seconds_without_service"] = f"{min(pauses):.1f} to {max(pauses):.1f}"
    for workflow in workflows:
        completed(site, node, workflow)
    site.variables["agentd_wheelhouse"] = str(old)
    site.changed()
    all_ready(lab)

    assert {path.rpartition("/")[2] for path in upgraded} == {new.stem}
    assert len(proxmox.creates()) == before + 6
    assert {item.output("readlink /opt/agentd/current").rpartition("/")[2] for item in lab.nodes} == {old.stem}


def _pause(node: Node, role: str) -> float:
    """Return the seconds between the begin of the last stop of an agent and its being ready again."""
    stopped, active = (
        int(node.show(f"agentd@{role}", f"{what}TimestampMonotonic")) for what in ("ActiveExit", "ActiveEnter")
    )
    return (active - stopped) / 1e6
