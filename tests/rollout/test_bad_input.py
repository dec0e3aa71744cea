"""Faults in the inventory and on the nodes: a run stops before it changes anything, and says what to do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from rollout.lab import until
from rollout.operator_site import ANSIBLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout.lab import Lab, Node
    from rollout.operator_site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def nothing_changed(site: Site, lab: Lab, output: str) -> bool:
    """Return whether a run has changed nothing, on the nodes and on the controller."""
    untouched = all(node.run("ls /etc/agentd /etc/nats").returncode for node in lab.nodes)
    return untouched and not re.search("changed=[1-9]", output) and not list(site.keys.glob("agents"))


ROLES = ("agentd", "nats", "proxmox_access")
WRONG: dict[str, Any] = {"str": ["a"], "path": {"a": 1}, "int": "many", "bool": "yes", "list": "a,b", "dict": "a=b"}
"""For each type of the argument specs a value of another type, which Ansible itself would convert or accept."""


def declared() -> dict[str, dict[str, Any]]:
    """Return every variable of the nodes with its declaration."""
    files = (ANSIBLE / "roles" / role / "meta" / "argument_specs.yml" for role in ROLES)
    return {
        name: option
        for file in files
        for name, option in yaml.safe_load(file.read_text())["argument_specs"]["main"]["options"].items()
    }


def test_wrong_types(site: Site, lab: Lab) -> None:
    """One run names every variable that has a value of the wrong type or is empty or missing, and changes nothing."""
    right, hosts = dict(site.variables), dict(site.host_variables)
    variables = declared()
    required = {name for name, option in variables.items() if option.get("required")}
    first, second = lab.nodes[:2]
    site.variables = {name: value for name, value in right.items() if name not in required}
    site.host_variables[first.name] = {name: WRONG[option["type"]] for name, option in variables.items()}
    site.host_variables[second.name] = dict.fromkeys(variables)
    site.prometheus = {"monitoring_directory": 1}
    done = site.play()
    site.variables, site.host_variables, site.prometheus = right, hosts, {}
    faults = {node: _message(done.stdout, node.name) for node in lab.nodes}

    assert done.returncode != 0
    for name in variables:
        assert re.search(rf"\b{name} is (a|true).*?, but has to be", faults[first]), name
        assert f"{name} is empty, but has to be" in faults[second], name
    assert {name for name in variables if f"{name} is missing" in faults[lab.nodes[2]]} == required
    assert "monitoring_directory is a number, but has to be a path" in faults[lab.nodes[2]]
    assert nothing_changed(site, lab, done.stdout)


def _message(output: str, host: str) -> str:
    """Return why a host failed."""
    found = re.search(rf"^fatal: \[{host}\]: FAILED! => *\n((?: +.*\n|\n)+)", output, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def test_wrong_settings(site: Site, lab: Lab) -> None:
    """A setting of agentd with a wrong value, and a group with a wrong number of servers, are refused by name."""
    settings = site.variables["agentd_settings"]
    site.variables["agentd_settings"] = settings | {"bus": {"replicas": "many"}}
    setting = site.play()
    site.variables["agentd_settings"] = settings
    site.nodes.pop()
    servers = site.play()
    site.nodes.append(lab.nodes[2])
    site.host_variables[lab.nodes[2].name] = {"agentd_roles": ["monitr", "specialist"], "agentd_ports": {"monitr": 1}}
    role = site.play()
    site.host_variables.clear()

    assert 'agentd_settings: bus.replicas: should be 1 or 3, not "many"' in " ".join(setting.stdout.split())
    assert "The group nats has 2 servers; it needs 1, 3 or 5." in servers.stdout
    assert "monitr-pve1 is neither a role nor in agentd_settings.instances" in " ".join(role.stdout.split())
    assert "agentd_ports has no port for specialist" in role.stdout
    for done in (setting, servers, role):
        assert done.returncode != 0
        assert nothing_changed(site, lab, done.stdout)


def test_unreachable_node_stops_the_run(site: Site, lab: Lab) -> None:
    """A node that does not answer stops the run on all nodes before anything is changed, and is named.

    This is the case also over a connection that was open before.
    """
    lab.nodes[2].cut()
    try:
        done = site.play("--timeout", "5")
    finally:
        lab.nodes[2].heal()

    assert done.returncode != 0
    assert f"No answer from {lab.nodes[2].name}" in done.stdout
    assert nothing_changed(site, lab, done.stdout)


@contextlib.contextmanager
def mounted(node: Node, how: str, place: str) -> Iterator[None]:
    """Mount something over a path of a node."""
    node.output(f"{how} {place}")
    try:
        yield
    finally:
        node.output(f"umount {place}")


FAULTS = (
    "The inventory has nodes of several clusters (agentd_cluster). Give each cluster an inventory of its own.",
    "does not fit the SHA-256 in its name. Copy or build it again.",
    "ca.pem has expired or expires within a week. Delete it with ca.key",
    "MB free in /opt or /var/lib; 500 MB are needed.",
    "The node runs ubuntu 22. Debian 12 or later is needed.",
    "The clock of the node differs from that of the controller by more than a minute. Set up chrony on both.",
)


def test_every_fault_is_named(site: Site, lab: Lab, tmp_path: Path) -> None:
    """One run names every fault of the inventory and of the nodes, with what to do, and changes nothing."""
    first, second, third = lab.nodes
    right = site.variables["agentd_wheelhouse"]
    changed = tmp_path / Path(right).name
    changed.write_bytes(Path(right).read_bytes()[:-1])
    site.variables["agentd_wheelhouse"] = str(changed)
    site.host_variables[third.name] = {"agentd_cluster": "other"}
    authority = [site.keys / "ca.key", site.keys / "ca.pem"]
    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=old"
    subprocess.run(
        ["/usr/bin/openssl", *new.split(), "-keyout", authority[0], "-out", authority[1]],
        capture_output=True,
        check=True,
    )
    clock = tmp_path / "date"
    clock.write_text("#!/bin/sh\nexpr $(/bin/date +%s) + 3600\n")
    clock.chmod(0o755)
    second.output("printf 'ID=ubuntu\\nVERSION_ID=22.04\\n' >/run/other-system")
    with (
        mounted(first, "mount -t tmpfs -o size=50m tmpfs", "/opt"),
        mounted(second, "mount --bind /run/other-system", "/etc/os-release"),
    ):
        done = site.play(PATH=f"{tmp_path}:{os.environ['PATH']}")
    site.variables["agentd_wheelhouse"] = right
    site.host_variables.clear()
    for file in authority:
        file.unlink()
    found = " ".join(done.stdout.split())

    assert done.returncode != 0
    assert [fault for fault in FAULTS if fault not in found] == []
    assert nothing_changed(site, lab, done.stdout)


def test_interrupted_run(site: Site, lab: Lab) -> None:
    """A run that is killed while it installs leaves a release that is not complete: the next run installs it again."""
    node = lab.nodes[0]
    running = site.start()
    until(lambda: node.run("ls /opt/agentd/releases/*/bin/pip").returncode == 0, "the installation runs", 120)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    node.run("pkill -f 'install[.]sh'; pkill -f '[o]pt/agentd/releases'")

    assert node.run("ls /opt/agentd/releases/*/complete").returncode != 0
