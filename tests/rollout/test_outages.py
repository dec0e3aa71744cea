"""An agent, a server, a link or a node fails: the work continues, once."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from rollout.cluster import all_ready, completed, deploy, ready
from rollout.lab import until
from rollout.operator_site import PORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pve.client import FakePve
    from rollout.lab import Lab, Node
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@contextlib.contextmanager
def dropped_in(node: Node, role: str, setting: str) -> Iterator[None]:
    """Change a setting of a unit for some time."""
    place = f"/run/systemd/system/agentd@{role}.service.d"
    node.output(f"mkdir -p {place}; printf '[Service]\\n{setting}\\n' >{place}/test.conf; systemctl daemon-reload")
    try:
        yield
    finally:
        node.output(f"rm -r {place}; systemctl daemon-reload")


def test_watchdog(lab: Lab) -> None:
    """An agent whose event loop hangs is killed by the watchdog and started again."""
    node = lab.nodes[0]
    with dropped_in(node, "monitor", "WatchdogSec=2"):
        node.output("systemctl restart agentd@monitor")
        process = node.show("agentd@monitor", "MainPID")
        node.output(f"kill -STOP {process}")
        until(lambda: node.show("agentd@monitor", "MainPID") not in {process, "0"}, "the watchdog starts it again")
        until(lambda: ready(node, "monitor"), "the monitor is ready")

    assert int(node.show("agentd@monitor", "NRestarts")) >= 1


def test_memory_limit(lab: Lab) -> None:
    """An agent beyond its memory limit is killed and started again, alone; with enough memory it works again."""
    node = lab.nodes[0]
    others = [node.show(f"agentd@{role}", "MainPID") for role in PORTS if role != "monitor"]
    with dropped_in(node, "monitor", "MemoryMax=20M"):
        node.output("systemctl restart --no-block agentd@monitor")
        until(lambda: int(node.show("agentd@monitor", "NRestarts")) >= 2, "the limit kills it again and again")
        log = node.output("journalctl --no-pager -u agentd@monitor -n 40")
    until(lambda: ready(node, "monitor"), "the monitor is ready")

    assert "status=9/KILL" in log
    assert others == [node.show(f"agentd@{role}", "MainPID") for role in PORTS if role != "monitor"]


def test_leader_loss(site: Site, lab: Lab) -> None:
    """When the NATS server that leads is killed, the others take over, and a workflow completes."""
    leader = next(node for node in lab.nodes if _leads(node))
    other = next(node for node in lab.nodes if node is not leader)
    leader.output("systemctl kill -s KILL nats-server")
    workflow = deploy(site, other, "leader")  # while the others elect leaders
    completed(site, other, workflow)
    until(lambda: _healthy(leader), "the server that was killed is healthy again")


def _leads(node: Node) -> bool:
    answer = node.output("curl -s http://127.0.0.1:8222/jsz")
    return bool(json.loads(answer)["meta_cluster"]["leader"] == node.name)


def _healthy(node: Node) -> bool:
    return node.run("curl -sf http://127.0.0.1:8222/healthz").returncode == 0


def test_link_cut(site: Site, lab: Lab) -> None:
    """A node that is cut off does not hold up the others, and works again when its link is back."""
    cut, other = lab.nodes[2], lab.nodes[0]
    workflow = deploy(site, other, "cut")  # before: a stream whose leader is cut off takes no requests for some seconds
    cut.cut()
    try:
        completed(site, other, workflow, 120)
    finally:
        cut.heal()
    all_ready(lab, 90)


def test_power_loss(site: Site, lab: Lab, proxmox: FakePve) -> None:
    """When a node loses power, its tasks continue elsewhere, once; it comes back by itself and takes part again."""
    lost, other = lab.nodes[1], lab.nodes[0]
    before = len(proxmox.creates())
    workflows = [deploy(site, other, f"power{number}") for number in range(3)]
    lost.power_loss()
    for workflow in workflows:
        completed(site, other, workflow, 150)
    lost.boot()
    all_ready(lab, 90)

    assert len(proxmox.creates()) == before + 3
