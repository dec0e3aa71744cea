"""What an operator does later: upgrade, rollback, rotation of keys, replacement of a node, backup and restore."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rollout.cluster import all_completed, all_ready, completed, deploy, state
from rollout.lab import until
from rollout.operator_site import FIGURES, PORTS, TOKEN_ID, next_release

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


def remains(node: Node) -> str:
    """Return the files and units of agentd and NATS on a node."""
    named = r"-path '*/gconv/*' -prune -o \( -iname '*agentd*' -o -iname '*nats*' \) -print"  # of glibc: NATS-DANO.so
    files = node.output(f"find /etc /opt /usr /var /root -xdev {named}")
    return files + node.output("systemctl list-units --all --no-legend 'agentd*' nats-server.service")


def test_replaced_node_and_new_secrets(site: Site, lab: Lab) -> None:
    """A node is removed without remains and installed again, with new keys, a new token and a new certificate."""
    first, second, third = lab.nodes
    site.changed("-e", "agentd_remove_data=true", "--limit", third.name, playbook="remove.yml")
    removed = remains(third)
    completed(site, first, deploy(site, first, "without"))
    certificate = site.keys / "nats" / f"{second.name}-{second.address}.pem"
    secrets = [site.keys / "principals/alice.nk", site.keys / "agents/specialist-pve1.nk", site.keys / "proxmox-token"]
    before = {file: file.read_text() for file in (*secrets, certificate)}
    for file in (*secrets, certificate):
        file.unlink()
        file.with_suffix(".pub").unlink(missing_ok=True)
    first.output(f"pveum user token remove {' '.join(TOKEN_ID.split('!'))}")
    started = {role: second.show(f"agentd@{role}", "ActiveEnterTimestampMonotonic") for role in PORTS}
    stopped = site.play()  # an agent's key signs its audit: a person accepts a new one
    accepted = site.agentd(first, "bob", "audit", "accept", "specialist-pve1", "--reason", "rotated")
    site.changed()
    all_ready(lab)
    completed(site, third, deploy(site, third, "again"))
    (site.keys / "principals/mallory.nk").write_text(before[secrets[0]])
    old = site.agentd(first, "mallory", "agents")
    kept = {role: second.show(f"agentd@{role}", "ActiveEnterTimestampMonotonic") for role in PORTS}

    assert removed == ""
    assert all(file.read_text() != text for file, text in before.items())
    assert "agentd audit accept specialist-pve1" in stopped.stdout
    assert accepted.returncode == 0, accepted.stdout
    assert old.returncode == 77
    assert {role for role in PORTS if started[role] != kept[role]} == {"mcp-bridge"}  # only it has the token


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
    all_ready(lab)
    found = state(site, node, workflow)
    completed(site, node, deploy(site, node, "new"))
    node.output("rm -r /root/backup /root/admin.nk")

    assert refused.returncode == 2
    assert found["status"] == "completed"
