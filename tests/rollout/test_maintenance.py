"""What an operator does later: upgrade, rollback, backup and restore."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rollout.cluster import all_completed, all_ready, completed, deploy, ready, starts, state
from rollout.lab import until
from rollout.operator_site import FIGURES, PORTS, next_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pve.client import FakePve
    from rollout.lab import Lab, Node
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


EVERY = 4.0
"""Seconds between two requests while the playbook runs."""


@contextlib.contextmanager
def under_load(site: Site, node: Node) -> Iterator[list[str]]:
    """Deploy a VM every few seconds; yield the ids of the workflows, which grow.  Each request must be accepted."""
    ended, workflows = threading.Event(), list[str]()

    def work() -> None:
        while not ended.is_set():
            workflows.append(deploy(site, node, f"load{len(workflows)}"))
            ended.wait(EVERY)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        try:
            yield workflows
        finally:
            ended.set()
    running.result()


def test_upgrade_and_rollback(site: Site, lab: Lab, proxmox: FakePve) -> None:
    """An upgrade, and a rollback without the controller, while workflows run: none fails and none runs twice."""
    old = Path(site.variables["agentd_wheelhouse"])
    new = next_release(old)
    before = len(proxmox.creates())
    with under_load(site, lab.nodes[0]) as workflows:
        site.variables["agentd_wheelhouse"] = str(new)
        site.changed()
        FIGURES["upgrade_seconds"] = round(site.seconds)
        upgraded = [node.output("readlink /opt/agentd/current") for node in lab.nodes]
        pauses = [_pause(node, role) for node in lab.nodes for role in PORTS]
        site.variables["agentd_wheelhouse"] = str(old)
        for node in lab.nodes:
            node.output(f"sh /opt/agentd/releases/{old.stem}/activate.sh {' '.join(PORTS)}", 300)
    until(partial(all_completed, site, lab.nodes[0], workflows), "all workflows are completed", 180)
    all_ready(lab)
    FIGURES["seconds_without_service"] = f"{min(pauses):.1f} to {max(pauses):.1f}"
    FIGURES["workflows_during_upgrade_and_rollback"] = len(workflows)

    assert {path.rpartition("/")[2] for path in upgraded} == {new.stem}
    assert len(proxmox.creates()) == before + len(workflows)
    assert {node.output("readlink /opt/agentd/current").rpartition("/")[2] for node in lab.nodes} == {old.stem}


def _pause(node: Node, role: str) -> float:
    """Return the seconds between the begin of the last stop of an agent and its being ready again."""
    stopped, active = (
        int(node.show(f"agentd@{role}", f"{what}TimestampMonotonic")) for what in ("ActiveExit", "ActiveEnter")
    )
    return (active - stopped) / 1e6


def test_a_failing_node_stops_the_run(site: Site, lab: Lab) -> None:
    """If an agent does not start on the first node, the run stops there; the others work on as they did."""
    first, *others = lab.nodes
    started = starts(others)
    site.host_variables[first.name] = {"agentd_web_address": "192.0.2.1"}  # an address that the node does not have
    done = site.play()
    site.host_variables.clear()
    kept = starts(others)
    completed(site, others[0], deploy(site, others[0], "canary"))
    site.changed()
    all_ready(lab)

    assert done.returncode != 0
    assert "192.0.2.1" in done.stdout.partition("TASK [agentd : Use the release")[2]
    assert kept == started


def _accept_restored(site: Site, node: Node, role: str) -> None:
    """Accept the audit of an agent that reports a recreated stream: only one that had written to it does."""
    page = f"curl -s http://{node.address}:{PORTS[role]}/readyz"
    until(lambda: ready(node, role) or "recreated" in node.run(page).stdout, f"{role} of {node.name} has started", 120)
    if not ready(node, role):
        accepted = site.agentd(node, "bob", "audit", "accept", f"{role}-{node.name}", "--reason", "restored")
        assert accepted.returncode == 0, accepted.stderr


def test_backup_and_restore(site: Site, lab: Lab) -> None:
    """All streams are lost and restored: the finished workflows are known again, and new ones complete."""
    node = lab.nodes[0]
    workflow = deploy(site, node, "kept")
    completed(site, node, workflow)
    (node.root / "root/admin.nk").write_text((site.keys / "admin.nk").read_text())
    admin = "chmod 600 /root/admin.nk; AGENTD_BUS__ADMIN__NKEY_FILE=/root/admin.nk agentd"
    node.output(f"{admin} backup /root/backup")
    for item in lab.nodes:
        item.output("systemctl stop agentd.target 'agentd@*'")
    refused = node.run(f"{admin} restore /root/backup")
    node.output(f"{admin} restore --replace /root/backup")
    node.output(f"{admin} provision")
    for item in lab.nodes:
        item.output("systemctl start agentd.target")
    for item in lab.nodes:
        for role in PORTS:
            _accept_restored(site, item, role)
    all_ready(lab)
    found = state(site, node, workflow)
    completed(site, node, deploy(site, node, "new"))
    node.output("rm -r /root/backup /root/admin.nk")

    assert refused.returncode == 2
    assert found["status"] == "completed"
