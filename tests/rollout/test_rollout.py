"""The rollout on three real nodes, in the order in which an operator meets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rollout.lab import Lab

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_nodes_boot(lab: Lab) -> None:
    """Three nodes run systemd as process 1, without a failed unit, and answer ssh by name and key."""
    for node in lab.nodes:
        assert node.output("systemctl is-system-running") == "running"
        assert lab.ssh(node, "hostname").stdout.strip() == node.name
        assert node.output("ps -o comm= -p 1") == "systemd"
