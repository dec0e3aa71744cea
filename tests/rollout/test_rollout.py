"""The rollout on three real nodes, in the order in which an operator meets it."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rollout.lab import CONTROL, until
from rollout.operator_site import FIGURES, PORTS, next_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pve.client import FakePve
    from rollout.lab import Lab, Node
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SECRETS = "/etc/agentd/credentials /etc/nats/credentials"


def get(url: str) -> str:
    """Return what a page says to a client that wants plain text."""
    request = urllib.request.Request(url, headers={"Accept": "text/plain"})  # noqa: S310 - http
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http
        return str(answer.read().decode())


def ready(node: Node, role: str) -> bool:
    """Return whether an agent can work."""
    try:
        get(f"http://{node.address}:{PORTS[role]}/readyz")
    except OSError:
        return False
    return True


def all_ready(lab: Lab, seconds: float = 60) -> None:
    """Wait until every agent of every node works."""
    for node in lab.nodes:
        for role in PORTS:
            until(partial(ready, node, role), f"{role} of {node.name} is ready", seconds)


def deploy(site: Site, node: Node, name: str) -> str:
    """Submit the deployment of a VM on a node; return the id of the workflow."""
    asked = site.agentd(node, "alice", f"--json submit vm_deployment name={name} template=9000 memory=1024 disk=8")
    assert asked.returncode == 0, asked.stderr
    return str(json.loads(asked.stdout)["workflow_id"])


def state(site: Site, node: Node, workflow: str) -> dict[str, object]:
    """Return the state of a workflow, as a node reads it."""
    shown = site.agentd(node, "alice", f"--json show {workflow}")
    return dict(json.loads(shown.stdout)) if shown.returncode == 0 else {}


def completed(site: Site, node: Node, workflow: str, seconds: float = 90) -> dict[str, object]:
    """Wait until a workflow is completed; a failed one is an error at once."""
    found: dict[str, object] = {}

    def ended() -> bool:
        found.update(state(site, node, workflow))
        return found.get("status") in {"completed", "completed_with_warnings", "failed", "compensated"}

    until(ended, f"{workflow} ends", seconds, pause=1)
    assert str(found["status"]).startswith("completed"), found
    return found


def test_nodes_boot(lab: Lab) -> None:
    """Three nodes run systemd as process 1, without a failed unit, and answer ssh by name and key."""
    for node in lab.nodes:
        assert node.output("systemctl is-system-running") == "running"
        assert lab.ssh(node, "hostname").stdout.strip() == node.name
        assert node.output("ps -o comm= -p 1") == "systemd"


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("agentd_cluster", None, "agentd_cluster"),
        ("agentd_principals", "alice", "agentd_principals"),
        ("agentd_wheelhouse", "/none.tar", "There is no wheelhouse"),
    ],
)
def test_a_wrong_inventory_changes_nothing(site: Site, variable: str, value: str | None, text: str) -> None:
    """A missing variable, one of the wrong type or a missing file stops the run before anything is changed."""
    right = site.variables.pop(variable)
    if value is not None:
        site.variables[variable] = value
    done = site.play()
    site.variables[variable] = right

    assert done.returncode != 0
    assert text in done.stdout
    assert "changed=0" in done.stdout
    assert not list(site.keys.glob("agents"))


def test_unreachable_node_stops_the_run(site: Site, lab: Lab) -> None:
    """A node that does not answer stops the run on all nodes before anything is changed, and is named."""
    lab.nodes[2].cut()
    try:
        done = site.play("--timeout", "5")
    finally:
        lab.nodes[2].heal()

    assert done.returncode != 0
    assert f"No answer from {lab.nodes[2].name}" in done.stdout
    assert not re.search("changed=[1-9]", done.stdout)
    assert not list(site.keys.glob("agents"))


def test_first_run(site: Site, lab: Lab) -> None:
    """One run of the playbook installs everything, without network, and every unit is active."""
    changed = site.changed()
    FIGURES["first_run_seconds"] = round(site.seconds)

    assert all(changed[node.name] for node in lab.nodes)
    for node in lab.nodes:
        units = [f"agentd@{role}" for role in PORTS] + ["nats-server", "agentd.target"]
        assert set(node.run(f"systemctl is-active {' '.join(units)}").stdout.split()) == {"active"}
        assert node.output("systemctl is-system-running") == "running"
        size = node.output("du -sm /opt/agentd | cut -f1")
        FIGURES[f"installed_megabytes_{node.name}"] = size


def test_second_run_changes_nothing(site: Site, lab: Lab) -> None:
    """A second run changes nothing, and so does one with --check."""
    changed = site.changed()
    FIGURES["second_run_seconds"] = round(site.seconds)
    checked = site.changed("--check")

    expected = {node.name: 0 for node in lab.nodes} | {"control": 0}
    assert (changed, checked) == (expected, expected)


def test_secrets_are_private(site: Site, lab: Lab) -> None:
    """Root alone can read a seed, a key or the token; none is in a process list, an environment or the log."""
    secrets = [path.read_text().strip() for path in site.keys.rglob("*.nk")]
    secrets.append((site.keys / "proxmox-token").read_text())
    for node in lab.nodes:
        assert node.output(f"find {SECRETS} -perm /077") == ""
        everywhere = node.output(
            "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'; journalctl --no-pager"
        )
        assert not [secret for secret in secrets if secret in everywhere]
        assert node.output("ls /run/agentd-admin.nk 2>/dev/null || true") == ""


def test_status_pages(lab: Lab) -> None:
    """The status page of every agent answers as plain text on the address of its node."""
    for node in lab.nodes:
        for role, port in PORTS.items():
            assert f"{role}-{node.name}" in get(f"http://{node.address}:{port}/")


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
    workflow = deploy(site, other, "leader")
    leader.output("systemctl kill -s KILL nats-server")
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


def test_removal(site: Site, lab: Lab) -> None:
    """Nothing remains of agentd and NATS on a node when they are removed with their data."""
    site.changed("-e", "agentd_remove_data=true", playbook="remove.yml")

    for node in lab.nodes:
        remains = node.output("find /etc /opt /usr /var /root -xdev -iname '*agentd*' -o -xdev -iname '*nats*'")
        assert remains == ""
        assert node.run("systemctl list-units --all --no-legend 'agentd*' nats-server.service").stdout.strip() == ""
