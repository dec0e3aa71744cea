"""What a test asks of the agents in the lab: are they ready, and does a workflow complete."""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from typing import TYPE_CHECKING

from rollout.lab import until
from rollout.operator_site import PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rollout.lab import Lab, Node
    from rollout.operator_site import Site


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


def all_completed(site: Site, node: Node, workflows: list[str]) -> bool:
    """Return whether all workflows are completed; one that failed is an error at once."""
    listed = site.agentd(node, "alice", "--json workflows --limit 1000")
    if listed.returncode:
        return False
    found = {
        item["workflow_id"]: item["status"] for item in json.loads(listed.stdout) if item["workflow_id"] in workflows
    }
    assert not {"failed", "compensated", "rejected", "cancelled"} & set(found.values()), found
    return len(found) == len(workflows) and all(status.startswith("completed") for status in found.values())


def starts(nodes: Iterable[Node]) -> dict[str, str]:
    """Return when each agent of some nodes was started."""
    return {
        f"{node.name} {role}": node.show(f"agentd@{role}", "ActiveEnterTimestampMonotonic")
        for node in nodes
        for role in PORTS
    }


def remains(node: Node) -> str:
    """Return the files and units of agentd and NATS on a node."""
    named = r"-path '*/gconv/*' -prune -o \( -iname '*agentd*' -o -iname '*nats*' \) -print"  # of glibc: NATS-DANO.so
    files = node.output(f"find /etc /opt /usr /var /root -xdev {named}")
    return files + node.output("systemctl list-units --all --no-legend 'agentd*' nats-server.service")
