"""Removal, as the last test of the lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rollout.test_maintenance import remains

if TYPE_CHECKING:
    from rollout.lab import Lab
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def test_removal(site: Site, lab: Lab) -> None:
    """Nothing remains of agentd and NATS on a node when they are removed with their data."""
    site.changed("-e", "agentd_remove_data=true", playbook="remove.yml")

    assert {node.name: remains(node) for node in lab.nodes} == {node.name: "" for node in lab.nodes}
