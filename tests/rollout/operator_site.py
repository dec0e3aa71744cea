"""What the lab's operator has: an inventory, the playbook, the key directory, the simulated Proxmox."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.safety.tokens import new_token
from rollout.lab import SSH_OPTIONS

if TYPE_CHECKING:
    from rollout.lab import Lab, Node

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
SCRIPTS = Path(sys.executable).parent
PVEUM = Path(__file__).with_name("pveum.py")
TOKEN_ID = "agentd@pve!rollout"  # noqa: S105 - its name
PLAYBOOK = ROOT / ".venv-ansible" / "bin" / "ansible-playbook"
PORTS = {"orchestrator": 8080, "specialist": 8081, "monitor": 8082, "mcp-bridge": 8001}
FIGURES: dict[str, object] = {}
"""What was measured, for the end of the output."""
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


class Site:
    """One cluster in the lab, as its operator sees it."""

    def __init__(self, lab: Lab, directory: Path, wheelhouse: Path) -> None:
        """Write nothing yet; `wheelhouse` is the release that is rolled out."""
        self.lab = lab
        self.nodes = list(lab.nodes)
        self.directory = directory
        self.keys = directory / "keys"
        self.keys.mkdir(mode=0o700)
        self.web_token, digest = new_token()
        self.variables: dict[str, Any] = {
            "agentd_cluster": "lab",
            "agentd_wheelhouse": str(wheelhouse),
            "agentd_command": os.environ.get("AGENTD_ROLLOUT_COMMAND", str(SCRIPTS / "agentd")),
            "agentd_principals": {"alice": "operate", "bob": "destroy"},
            "agentd_batches": [1, "100%"],
            "agentd_settings": {
                "filesystem": {"roots": ["/srv/reports"], "writable_roots": ["/srv/reports"]},
                "web": {"tokens": {"alice": digest}},
            },
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(lab.key),
            "ansible_ssh_common_args": " ".join(f"-o{option}" for option in SSH_OPTIONS),
        }
        self.host_variables: dict[str, dict[str, Any]] = {}
        self.prometheus: dict[str, Any] = {}
        self.seconds = 0.0

    def use_proxmox(self, url: str, fingerprint: str, administrator: str) -> None:
        """Let the bridges call this API, with a token that the playbook creates by each node's pveum.

        administrator  TOKEN_ID=SECRET, which pveum uses
        """
        settings = {"url": url, "token_id": TOKEN_ID, "fingerprint": fingerprint}
        self.variables["agentd_settings"]["proxmox"] = settings
        program = PVEUM.read_text().replace("{URL}", url).replace("{TOKEN}", administrator)
        for node in self.lab.nodes:
            place = node.root / "usr/local/bin/pveum"
            place.write_text(program)
            place.chmod(0o755)

    def inventory(self) -> Path:
        """Write the inventory; return its path.  A file of JSON is one of YAML."""
        hosts: dict[str, Any] = {
            node.name: {"ansible_host": node.address, "agentd_web_address": node.address}
            | self.host_variables.get(node.name, {})
            for node in self.nodes
        }
        servers = list(hosts)[: len(self.lab.nodes)]
        groups: dict[str, Any] = {
            "nats": {"hosts": {name: {} for name in servers}},
            "agentd": {"hosts": {name: {} for name in hosts}},
        }
        groups["prometheus"] = {
            "hosts": {
                "control": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": sys.executable,
                    "monitoring_directory": str(self.directory / "prometheus"),
                }
                | self.prometheus
            }
        }
        content = {"all": {"vars": self.variables, "hosts": hosts, "children": groups}}
        file = self.directory / "inventory.yml"
        file.write_text(json.dumps(content, indent=1))
        return file

    def play(self, *arguments: str, playbook: str = "site.yml", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook; its output is kept beside the inventory."""
        start = time.monotonic()
        running = self.start(*arguments, playbook=playbook, **environment)
        code = running.wait(540)
        self.seconds = time.monotonic() - start
        return subprocess.CompletedProcess(running.args, code, self.log.read_text(), "")

    def start(self, *arguments: str, playbook: str = "site.yml", **environment: str) -> subprocess.Popen[bytes]:
        """Start a playbook, in a process group of its own."""
        command = [str(PLAYBOOK), "-i", str(self.inventory()), *arguments, str(ANSIBLE / playbook)]
        # Settings of these tests are no settings of the controller's command.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_ROLLOUT_")}
        variables |= {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        variables |= {"ANSIBLE_HOME": str(self.directory), "PYTHONWARNINGS": "ignore"} | environment
        with self.log.open("w") as output:
            return subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        """The output of the last playbook."""
        return self.directory / "ansible.log"

    def changed(self, *arguments: str, playbook: str = "site.yml") -> dict[str, int]:
        """Run a playbook that must succeed; return how much it changed on each host."""
        done = self.play(*arguments, playbook=playbook)
        assert done.returncode == 0, done.stdout[-6000:]
        print(done.stdout)  # noqa: T201 - pytest shows it for a test that fails
        return {host: int(changed) for host, _, changed, _, _ in _RECAP.findall(done.stdout)}

    def agentd(
        self, node: Node, principal: str, *arguments: str, seconds: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line on a node as a principal."""
        key = f"/root/{principal}.nk"
        (node.root / key.lstrip("/")).write_text((self.keys / "principals" / f"{principal}.nk").read_text())
        login = {"AGENTD_CLIENT__PRINCIPAL": principal, "AGENTD_BUS__NKEY_FILE": key} | environment
        variables = " ".join(f"{name}={value}" for name, value in login.items())
        return node.run(f"chmod 600 {key}; {variables} agentd {' '.join(arguments)}", seconds)


def wheelhouse(directory: Path, python: str) -> Path:
    """Build the wheelhouse of this source for a version of Python; return its path."""
    command = [sys.executable, str(ANSIBLE / "wheelhouse.py"), "--output", str(directory), "--python", python]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def next_release(old: Path) -> Path:
    """Return a wheelhouse with the same wheels and another content: the release after `old`."""
    beside = old.with_suffix(".next")
    shutil.copy(old, beside)
    with tarfile.open(beside, "a") as tar:
        tar.addfile(tarfile.TarInfo("next"))
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()[:16]
    return beside.rename(old.with_name(f"{old.stem.rpartition('-')[0]}-{digest}.tar"))
