"""Removal, as the last of the lab's three nodes; then a cluster of one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rollout.cluster import completed, deploy, ready, remains
from rollout.lab import until
from rollout.operator_site import PORTS

if TYPE_CHECKING:
    from rollout.lab import Lab
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def test_removal(site: Site, lab: Lab) -> None:
    """Nothing remains of agentd and NATS on a node when they are removed with their data."""
    site.changed("-e", "agentd_remove_data=true", playbook="remove.yml")

    assert {node.name: remains(node) for node in lab.nodes} == {node.name: "" for node in lab.nodes}


@pytest.mark.lengthy
def test_one_node(site: Site, lab: Lab) -> None:
    """After the removal, a cluster of one node is installed with the same inventory file."""
    node = lab.nodes[0]
    site.nodes = [node]
    site.changed()
    for role in PORTS:
        until(lambda role=role: ready(node, role), f"{role} is ready")  # type: ignore[misc]
    completed(site, node, deploy(site, node, "alone"))

    assert node.output("curl -s http://127.0.0.1:8222/jsz | grep -c meta_cluster || true") == "0"
