"""The rollout on three real nodes, in the order in which an operator meets it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import urllib.error
from typing import TYPE_CHECKING

import pytest

from agentd.bus.setup import probe
from agentd.config import load, settings
from agentd.plugins import bus_users, manager
from rollout.cluster import all_ready, completed, deploy, get
from rollout.lab import CONTROL, until
from rollout.operator_site import ANSIBLE, FIGURES, PORTS, TOKEN_ID

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve
    from rollout.lab import Lab
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SECRETS = "/etc/agentd/credentials /etc/nats/credentials"


def test_nodes_boot(lab: Lab) -> None:
    """Three nodes run systemd as process 1, without a failed unit, and answer ssh by name and key."""
    for node in lab.nodes:
        assert node.output("systemctl is-system-running") == "running"
        assert lab.ssh(node, "hostname").stdout.strip() == node.name
        assert node.output("ps -o comm= -p 1") == "systemd"


def test_first_run(site: Site, lab: Lab) -> None:
    """One run of the playbook installs everything, without network, and every unit is active."""
    changed = site.changed()
    FIGURES["first_run_seconds"] = round(site.seconds)

    assert all(changed[node.name] for node in lab.nodes)
    for node in lab.nodes:
        units = [f"agentd@{role}" for role in PORTS] + ["nats-server", "agentd.target"]
        assert set(node.run(f"systemctl is-active {' '.join(units)}").stdout.split()) == {"active"}
        assert node.output("systemctl is-system-running") == "running"
    FIGURES["megabytes_installed"] = lab.nodes[0].output("du -sm /opt/agentd | cut -f1")
    for unit in [*(f"agentd@{role}" for role in PORTS), "nats-server"]:
        analysis = lab.nodes[0].output(f"systemd-analyze security --no-pager {unit}")
        FIGURES[f"exposure_of_{unit}"] = re.findall(r"exposure level for \S+: ([\d.]+)", analysis)[0]


def test_second_run_changes_nothing(site: Site, lab: Lab) -> None:
    """A second run changes nothing, and so does one with --check."""
    changed = site.changed()
    FIGURES["second_run_seconds"] = round(site.seconds)
    checked = site.changed("--check")

    expected = {node.name: 0 for node in lab.nodes} | {"control": 0}
    assert (changed, checked) == (expected, expected)


def test_secrets_are_private(site: Site, lab: Lab) -> None:
    """Seeds, keys and the token are stored encrypted; none is in a process list, an environment or the log."""
    secrets = [path.read_text().strip() for path in site.keys.rglob("*.nk")]
    secrets += [path.read_text().splitlines()[1] for path in site.keys.glob("nats/*.key")]
    secrets.append((site.keys / "proxmox-token").read_text())
    for node in lab.nodes:
        assert node.output(f"find {SECRETS} -perm /077") == ""
        everywhere = node.output(
            f"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'; find {SECRETS} -type f -exec cat {{}} +; "
            "journalctl --no-pager"
        )
        assert not [secret for secret in secrets if secret in everywhere]
        assert node.output("ls /run/agentd-admin.nk 2>/dev/null || true") == ""


def test_access_to_proxmox(lab: Lab) -> None:
    """The playbook created a token with the role of the policy's highest tier; another tier takes that role back."""
    node = lab.nodes[0]

    def granted() -> set[str]:
        return {entry["roleid"] for entry in json.loads(node.output("pveum acl list")) if entry["ugid"] == TOKEN_ID}

    roles = {role["roleid"]: role["privs"].split(",") for role in json.loads(node.output("pveum role list"))}
    before = granted()
    (node.root / "root/access.py").write_text((ANSIBLE / "roles/proxmox_access/files/access.py").read_text())
    for tier in ("Read", "Destroy"):
        wanted = f"pveum acl modify / --tokens {TOKEN_ID} --roles Agentd{tier}"
        node.output(f"echo '{wanted}' | python3 /root/access.py '{TOKEN_ID}'")
        assert granted() == {f"Agentd{tier}"}

    assert before == {"AgentdDestroy"}
    assert "VM.Allocate" in roles["AgentdDestroy"]
    assert "Permissions.Modify" not in roles["AgentdDestroy"]


def test_status_pages(site: Site, lab: Lab) -> None:
    """Every agent answers on the address of its node: its metrics to everyone, its pages to known principals only."""
    for node in lab.nodes:
        for role, port in PORTS.items():
            page = lab.nodes[0].output(f"curl -sf -H 'Authorization: Bearer {site.web_token}' {node.address}:{port}/")
            assert f"{role}-{node.name}" in page
            assert f'agentd_role_up{{role="{role}"}}' in get(f"http://{node.address}:{port}/metrics")
            with pytest.raises(urllib.error.HTTPError, match="401"):
                get(f"http://{node.address}:{port}/")


def test_prometheus(site: Site, lab: Lab, tmp_path: Path) -> None:
    """A real Prometheus finds every agent by the files that the playbook wrote, and accepts the rules."""
    written = site.directory / "prometheus"
    config = {
        "rule_files": [str(written / "rules.yml")],
        "scrape_configs": [
            {
                "job_name": "agentd",
                "scrape_interval": "1s",
                "file_sd_configs": [{"files": [str(written / "targets.json")]}],
            }
        ],
    }
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps(config))
    address = f"{CONTROL}:9090"
    command = f"exec prometheus --config.file={file} --storage.tsdb.path={tmp_path}/data --web.listen-address={address}"
    found: dict[str, str] = {}

    def all_up() -> bool:
        with contextlib.suppress(OSError):
            answer = json.loads(get(f"http://{address}/api/v1/query?query=up"))["data"]["result"]
            found.update({f"{one['metric']['node']} {one['metric']['instance']}": one["value"][1] for one in answer})
        return len(found) == len(lab.nodes) * len(PORTS) and set(found.values()) == {"1"}

    with (tmp_path / "log").open("wb") as log:
        running = lab.start(command, log)
    try:
        until(all_up, "Prometheus has every agent", 60)
        rules = json.loads(get(f"http://{address}/api/v1/rules"))["data"]["groups"][0]["rules"]
    finally:
        running.terminate()
        running.wait(30)

    assert len(found) == 12
    assert all(rule["health"] in {"ok", "unknown"} for rule in rules)


def test_deploy_across_nodes(site: Site, lab: Lab, proxmox: FakePve) -> None:
    """A VM is deployed through the secured bus: submitted on one node, executed by an agent of another."""
    first, *others = lab.nodes
    for node in others:  # so that only these can execute it
        node.output("systemctl stop agentd@orchestrator")
    first.output("systemctl stop agentd@mcp-bridge agentd@specialist")
    before = len(proxmox.creates())
    done = completed(site, first, deploy(site, first, "across"))
    for node in lab.nodes:
        node.output("systemctl start agentd.target")
    all_ready(lab)

    assert len(proxmox.creates()) == before + 1
    assert re.findall(r"mcp-bridge-pve[23]", json.dumps(done))


def test_a_client_without_a_key_is_denied(site: Site, lab: Lab) -> None:
    """Without a key of the cluster, or under the name of another principal, nothing can be asked for."""
    node = lab.nodes[0]
    keyless = node.run("agentd agents")
    (site.keys / "principals" / "mallory.nk").write_text((site.keys / "principals" / "alice.nk").read_text())
    forged = site.agentd(node, "mallory", "submit health_check")

    assert keyless.returncode != 0
    assert forged.returncode != 0


def test_forbidden_acts(site: Site, lab: Lab) -> None:
    """With the key of each agent and principal, every act that belongs to others is tried and denied."""
    config = load.load(site.keys / "agentd.toml", {}, manager.installed())
    users = [user for user, _ in bus_users.keyed(config, (site.keys / "users.json").read_bytes())]
    files = {"admin": site.keys / "admin.nk"}
    for kind in ("agents", "principals"):
        files |= {file.stem: file for file in (site.keys / kind).glob("*.nk")}
    tried = 0
    for user in users:
        login = settings.Bus(
            servers=(f"tls://{lab.nodes[0].address}:4222",),
            nkey_file=str(files[user.name]),
            tls_ca_file=str(site.keys / "ca.pem"),
        )
        needed, foreign = probe.allowed(user), probe.forbidden(user, users)
        denied = asyncio.run(probe.denied(login, login, user.name, [*needed, *foreign]))
        tried += len(foreign)

        assert denied == set(foreign), user.name
    FIGURES["forbidden_acts_tried_and_denied"] = tried

    assert len(users) == 3 * len(PORTS) + 3


def test_doctor(site: Site, lab: Lab) -> None:
    """After a rollout `agentd doctor` finds nothing, for a principal and for an agent of a node."""
    node = lab.nodes[0]
    (node.root / "root/agent.nk").write_text((site.keys / "agents" / "mcp-bridge-pve1.nk").read_text())
    (node.root / "root/token").write_text((site.keys / "proxmox-token").read_text())
    node.output("chmod 600 /root/agent.nk /root/token")
    variables = "AGENTD_PROXMOX__TOKEN_FILE=/root/token AGENTD_BUS__NKEY_FILE=/root/agent.nk"
    found = {
        "alice": site.agentd(node, "alice", "doctor", AGENTD_PROXMOX__TOKEN_FILE="/root/token"),  # noqa: S106 - a path
        "bridge": node.run(f"{variables} agentd doctor --instance mcp-bridge"),
    }
    node.output("rm /root/agent.nk /root/token")

    assert {name: done.stdout for name, done in found.items() if done.returncode} == {}
