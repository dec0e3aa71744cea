"""Nodes that are added, replaced and removed; keys, tokens and certificates that are rotated."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from agentd.safety.tokens import new_token
from rollout.cluster import all_ready, completed, deploy, remains, starts
from rollout.lab import until
from rollout.operator_site import FIGURES, PORTS, TOKEN_ID

if TYPE_CHECKING:
    from pathlib import Path

    from rollout.lab import Lab, Node
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

FILES = "/srv/reports"
DROP_IN = "/etc/systemd/system/agentd@filesystem.service.d"


def test_replaced_node_and_new_secrets(site: Site, lab: Lab) -> None:
    """A node is removed without remains and installed again, with new keys, a new token and a new certificate."""
    first, second, third = lab.nodes
    site.changed("-e", "agentd_remove_data=true", "--limit", third.name, playbook="remove.yml")
    removed = remains(third)
    completed(site, first, deploy(site, first, "without"))
    certificate = site.keys / "nats" / f"{second.name}-{second.address}.pem"
    secrets = [site.keys / "principals/alice.nk", site.keys / "agents/specialist-pve1.nk", site.keys / "proxmox-token"]
    before = {file: file.read_text() for file in secrets}
    for file in secrets:
        file.unlink()
        file.with_suffix(".pub").unlink(missing_ok=True)
    expiring = _expiring(site, certificate)
    first.output(f"pveum user token remove {' '.join(TOKEN_ID.split('!'))}")
    started = starts([second])
    stopped = site.play()  # an agent's key signs its audit: a person accepts a new one
    accepted = site.agentd(first, "bob", "audit", "accept", "specialist-pve1", "--reason", "rotated")
    site.changed()
    all_ready(lab)
    completed(site, third, deploy(site, third, "again"))
    kept = starts([second])

    assert removed == ""
    assert all(file.read_text() != text for file, text in before.items())
    assert certificate.read_text() != expiring
    assert "agentd audit accept specialist-pve1" in stopped.stdout
    assert accepted.returncode == 0, accepted.stdout
    assert _refused(site, first, before[secrets[0]])
    assert {unit for unit in started if started[unit] != kept[unit]} == {"pve2 mcp-bridge"}  # only it has the token


def _expiring(site: Site, file: Path) -> str:
    """Replace a certificate by one that ends within a day; return it."""
    new = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=pve2 -out {file}"
    authority = f"-CA {site.keys}/ca.pem -CAkey {site.keys}/ca.key -keyout {file.with_suffix('.key')}"
    subprocess.run(["/usr/bin/openssl", *new.split(), *authority.split()], capture_output=True, check=True)
    return file.read_text()


def _refused(site: Site, node: Node, seed: str) -> bool:
    """Return whether NATS refuses a key."""
    (site.keys / "principals" / "mallory.nk").write_text(seed)
    return site.agentd(node, "mallory", "agents").returncode == 77


@pytest.mark.lengthy
def test_added_and_removed_node(site: Site, lab: Lab) -> None:
    """A node with the role filesystem is added, by a run that is killed halfway and repeated, and removed again.

    No agent of another node restarts.  Afterwards the keys of the node are refused.
    """
    first, added = lab.nodes[0], lab.add()
    started = starts(lab.nodes)
    site.nodes.append(added)
    site.host_variables[added.name] = {"agentd_roles": ["mcp-bridge", "filesystem"]}
    running = site.start()
    until(lambda: added.run("systemctl is-active agentd@mcp-bridge").returncode == 0, "the first agent starts", 300)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    site.changed()
    override = f"{DROP_IN}/override.conf"  # as systemctl edit writes it
    added.output(f"install -d -o agentd-filesystem {FILES}; printf '[Service]\\nReadWritePaths={FILES}\\n' >{override}")
    restarted = site.changed()
    written = site.agentd(first, "alice", "call", "write_file", f"path={FILES}/note.txt", "content=checked")
    note = added.output(f"cat {FILES}/note.txt; stat -c %U {FILES}/note.txt")
    site.changed("-e", "agentd_remove_data=true", "--limit", added.name, playbook="remove.yml")
    site.nodes.remove(added)
    site.host_variables.clear()
    site.changed()
    completed(site, first, deploy(site, first, "after"))

    assert restarted[added.name] == 1
    assert written.returncode == 0, written.stderr
    assert note == "checked\nagentd-filesystem"
    assert remains(added) == ""
    assert _refused(site, first, (site.keys / "agents" / "mcp-bridge-pve4.nk").read_text())
    assert starts(lab.nodes) == started


@pytest.mark.lengthy
def test_new_authority(site: Site, lab: Lab) -> None:
    """One run brings a new authority of the certificates and a new token for pages; a second run changes nothing."""
    first = lab.nodes[0]
    old = (site.keys / "ca.pem").read_text()
    for file in [*site.keys.glob("ca.*"), *site.keys.glob("nats/*")]:
        file.unlink()
    token, site.variables["agentd_settings"]["web"]["tokens"]["alice"] = new_token()
    before = site.web_token
    site.changed()
    FIGURES["seconds_of_a_run_with_a_new_authority"] = round(site.seconds)
    all_ready(lab)
    completed(site, first, deploy(site, first, "authority"))
    again = site.changed()
    (first.root / "root/old.pem").write_text(old)
    refused = site.agentd(first, "alice", "agents", AGENTD_BUS__TLS_CA_FILE="/root/old.pem")
    first.output("rm /root/old.pem")
    site.web_token = token

    assert {node.name: again[node.name] for node in lab.nodes} == {node.name: 0 for node in lab.nodes}
    assert refused.returncode == 69, refused.stdout
    assert _page(first, token) == 200
    assert _page(first, before) == 401


def _page(node: Node, token: str) -> int:
    """Return the status with which a page answers to a token."""
    url = f"http://{node.address}:{PORTS['monitor']}/"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
