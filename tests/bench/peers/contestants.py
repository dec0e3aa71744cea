"""The servers that are compared: how each is installed, started, and asked for the same thing in its own words.

Each peer is configured as its README says, with the simulated cluster's CA trusted and all rights of its token used; a
server that hands a task out is asked again until the task is over, where it has a tool for that.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from mcp.client.stdio import StdioServerParameters

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve

DONE, UNDER_WAY, FAILED = "done", "under way", "failed"
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One call of a tool."""

    tool: str
    arguments: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of a call: every text of it, what it has for programs, and whether MCP calls it an error."""

    error: bool
    text: str
    structured: Any


@dataclass(frozen=True)
class Ground:
    """Where a server of one case runs: the cluster, its token, and a folder of its own."""

    pve: FakePve
    token: str
    scratch: Path

    @property
    def credential(self) -> str:
        """The token as Proxmox prints it, `user@realm!name=secret`."""
        return self.pve.tokens[self.token]

    @property
    def port(self) -> str:
        """The port of the simulated cluster."""
        return self.pve.url.rpartition(":")[2]

    @property
    def environment(self) -> dict[str, str]:
        """What every server is given: nothing of the person who measures, and the cluster's CA."""
        ca = str(self.pve.ca)
        home = {"PATH": os.environ["PATH"], "HOME": str(self.scratch)}
        return {**home, "REQUESTS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca}

    def secret(self, name: str, text: str) -> Path:
        """Write a file that only its owner may read."""
        file = self.scratch / name
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        return file


class Contestant(Protocol):
    """A server, and the words in which it is asked."""

    name: str
    package: str

    def create_and_start(self, name: str) -> Step | None:
        """Return the one call that makes a VM of a name and starts it, None if there is none."""
        ...

    def list_guests(self) -> Step:
        """Return the call that lists every guest, as its documentation begins."""
        ...

    def start(self, vmid: int) -> Step:
        """Return the call that starts a VM on pve1."""
        ...

    def draw(self) -> Step | None:
        """Return the call that draws a VMID, None if a create does so itself."""
        ...

    def create(self, vmid: int | None, name: str) -> Step:
        """Return the call that makes a VM on pve1, with the VMID that was drawn."""
        ...

    def verdict(self, answer: Answer) -> str:
        """Return what the server says came of a call: done, under way or failed."""
        ...

    def follow(self, answer: Answer) -> Step | None:
        """Return the call that asks how a task goes that is under way, None if there is no such tool."""
        ...


class Peer(Contestant, Protocol):
    """A server over stdio."""

    def command(self, binaries: Path, ground: Ground) -> StdioServerParameters:
        """Return how it is started."""
        ...


class Proximo:
    """proximo-proxmox: six tools over the addresses of the API; armed, so that it may change things."""

    name = "proximo"
    package = "proximo-proxmox"

    def command(self, binaries: Path, ground: Ground) -> StdioServerParameters:
        """Start it armed: the token that it serves is the one that may write."""
        environment = {
            "PROXIMO_API_BASE_URL": f"{ground.pve.url}/api2/json",
            "PROXIMO_TOKEN_PATH": str(ground.secret("token", ground.credential)),
            "PROXIMO_ARM_SOURCE": str(ground.secret("armed", ground.credential)),
            "PROXIMO_CA_BUNDLE": str(ground.pve.ca),
            "PROXIMO_AUDIT_LOG": str(ground.scratch / "audit.log"),
        }
        return StdioServerParameters(
            command=str(binaries / "proximo-proxmox"), env={**ground.environment, **environment}
        )

    def create_and_start(self, name: str) -> Step | None:  # noqa: ARG002 - no such call
        """Two addresses are two calls."""
        return None

    def list_guests(self) -> Step:
        """Read the cluster's resources."""
        return Step("proximo_read", {"plane": "pve", "path": "/cluster/resources", "args": {"type": "vm"}})

    def start(self, vmid: int) -> Step:
        """Call the address, confirmed; it waits for the task by itself."""
        return self._call(f"/nodes/pve1/qemu/{vmid}/status/start", {})

    def draw(self) -> Step | None:
        """Read the next id."""
        return Step("proximo_read", {"plane": "pve", "path": "/cluster/nextid"})

    def create(self, vmid: int | None, name: str) -> Step:
        """Call the address, confirmed."""
        return self._call("/nodes/pve1/qemu", {"vmid": vmid, "name": name, "memory": "1024", "scsi0": "local-lvm:8"})

    def verdict(self, answer: Answer) -> str:
        """Read what it says of the task."""
        if answer.error or not isinstance(answer.structured, dict):
            return FAILED
        task = answer.structured.get("task") or {}
        if task.get("timed_out"):
            return UNDER_WAY
        return DONE if task.get("succeeded") else FAILED

    def follow(self, answer: Answer) -> Step | None:  # noqa: ARG002 - it has waited
        """It waits for a task by itself."""
        return None

    def _call(self, path: str, arguments: Parameters) -> Step:
        return Step(
            "proximo_call", {"plane": "pve", "method": "POST", "path": path, "args": arguments, "confirm": True}
        )


class Plus:
    """proxmox-mcp-plus: named tools, and jobs that are polled."""

    name = "plus"
    package = "proxmox-mcp-plus"

    def command(self, binaries: Path, ground: Ground) -> StdioServerParameters:
        """Start it with a configuration file."""
        who, _, secret = ground.credential.partition("=")
        user, _, token = who.partition("!")
        settings = {
            "proxmox": {"host": "127.0.0.1", "port": int(ground.port), "verify_ssl": True, "service": "PVE"},
            "auth": {"user": user, "token_name": token, "token_value": secret},
            "logging": {"level": "ERROR"},
            "jobs": {"sqlite_path": str(ground.scratch / "jobs.sqlite3")},
            "mcp": {"transport": "STDIO"},
        }
        file = ground.secret("config.json", json.dumps(settings))
        return StdioServerParameters(
            command=str(binaries / "proxmox-mcp-plus"), env={**ground.environment, "PROXMOX_MCP_CONFIG": str(file)}
        )

    def create_and_start(self, name: str) -> Step | None:  # noqa: ARG002 - no such call
        """Its create does not start."""
        return None

    def list_guests(self) -> Step:
        """List the VMs."""
        return Step("get_vms")

    def start(self, vmid: int) -> Step:
        """Start a VM."""
        return Step("start_vm", {"node": "pve1", "vmid": str(vmid)})

    def draw(self) -> Step | None:
        """Ask for the next id, right before, as its description says."""
        return Step("get_next_vmid")

    def create(self, vmid: int | None, name: str) -> Step:
        """Create a VM."""
        size = {"cpus": 1, "memory": 1024, "disk_size": 8, "storage": "local-lvm"}
        return Step("create_vm", {"node": "pve1", "vmid": str(vmid), "name": name, **size})

    def verdict(self, answer: Answer) -> str:
        """Read the state of the job, or what its text says."""
        if answer.error:
            return FAILED
        if found := re.search(r'"status": "(\w+)"', answer.text):
            states = {"completed": DONE, "submitted": UNDER_WAY, "running": UNDER_WAY, "pending": UNDER_WAY}
            return states.get(found[1], FAILED)
        return UNDER_WAY if _job(answer) else DONE

    def follow(self, answer: Answer) -> Step | None:
        """Poll the job."""
        job = _job(answer)
        return Step("poll_job", {"job_id": job, "include_audit": False}) if job else None


def _job(answer: Answer) -> str | None:
    found = re.search(r"[Jj]ob[_ ][Ii][Dd]\W+([0-9a-f-]{36})", answer.text)
    return found[1] if found else None


class McpProxmox:
    """mcp-proxmox: named tools that hand tasks out."""

    name = "mcp-proxmox"
    package = "mcp-proxmox"

    def command(self, binaries: Path, ground: Ground) -> StdioServerParameters:
        """Start it by its environment."""
        who, _, secret = ground.credential.partition("=")
        environment = {
            "PROXMOX_HOST": "127.0.0.1",
            "PROXMOX_PORT": ground.port,
            "PROXMOX_TOKEN_ID": who,
            "PROXMOX_TOKEN_SECRET": secret,
            "PROXMOX_VERIFY_SSL": "true",
        }
        return StdioServerParameters(command=str(binaries / "mcp-proxmox"), env={**ground.environment, **environment})

    def create_and_start(self, name: str) -> Step | None:
        """Create a VM that is started afterwards."""
        create = self.create(None, name)
        return Step(create.tool, {**create.arguments, "start_after_create": True})

    def list_guests(self) -> Step:
        """List the VMs."""
        return Step("list_vms")

    def start(self, vmid: int) -> Step:
        """Start a guest."""
        return Step("start_guest", {"vmid": vmid})

    def draw(self) -> Step | None:
        """A create without a VMID draws one."""
        return None

    def create(self, vmid: int | None, name: str) -> Step:
        """Create a VM; its default size, `32G`, is none that Proxmox takes."""
        given = {} if vmid is None else {"vmid": vmid}
        return Step("create_vm", {"node": "pve1", "name": name, "disk_size": "8", **given})

    def verdict(self, answer: Answer) -> str:
        """Read whether it says success; it says so when a task was handed out."""
        if answer.error or '"success": true' not in answer.text:
            return FAILED
        return UNDER_WAY

    def follow(self, answer: Answer) -> Step | None:  # noqa: ARG002 - no such tool
        """No tool asks for one task."""
        return None


class Agentd:
    """agentd, over streamable HTTP at the bridge; what is a workflow is asked for by its command line."""

    name = "agentd"
    package = "agentd"

    def create_and_start(self, name: str) -> Step | None:  # noqa: ARG002 - that is a workflow
        """That is a workflow: see `run.submitted`."""
        return None

    def list_guests(self) -> Step:
        """List the guests."""
        return Step("list_guests")

    def start(self, vmid: int) -> Step:
        """Start a VM."""
        return Step("start_guest", {"vmid": vmid})

    def draw(self) -> Step | None:
        """Draw a VMID."""
        return Step("read_tool", {"tool": "get_free_vmids", "arguments": {}})

    def create(self, vmid: int | None, name: str) -> Step:
        """Create a VM."""
        requested = {"node": "pve1", "vmid": vmid, "name": name, "memory": 1024, "disk": 8, "storage": "local-lvm"}
        return Step("use_tool", {"tool": "create_vm", "arguments": requested})

    def verdict(self, answer: Answer) -> str:
        """An answer is the end of the task."""
        return FAILED if answer.error else DONE

    def follow(self, answer: Answer) -> Step | None:  # noqa: ARG002 - it has waited
        """It waits for a task by itself."""
        return None


PEERS: Final[tuple[Peer, ...]] = (Proximo(), Plus(), McpProxmox())
OURS: Final = Agentd()
