"""The workflows that come with agentd: what they are asked with, and the tasks that they become.

vm_deployment   validate_vm_parameters → create_vm → configure_vm.  The first fixes everything that could be decided
                in more than one way, the VMID above all, so that the others can be repeated; if a stranger was faster
                (`vmid_taken`), the workflow goes back to it and another VMID is drawn.
health_check    three lists at once, then a summary of what they say.

Parameters are checked here only for their types and names: what is possible is known where the cluster is known.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agentd.messages import Tier, plain
from agentd.workflows import Definition, TaskSpec, result_of

SPECIALIST: Final = "specialist"
PROXMOX: Final = "mcp-proxmox"

VALIDATE: Final = "validate_vm_parameters"
CREATE: Final = "create_vm"
CONFIGURE: Final = "configure_vm"
SUMMARIZE: Final = "summarize_health"


class VmDeployment(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The wish for a VM, as validate_vm_parameters of the specialist takes it; only the name is needed."""

    name: str
    vmid: int | None = None
    node: str | None = None
    template: int | str | None = None
    full: bool = True
    cores: int | None = None
    memory: int | None = None
    disk: int | None = None
    storage: str | None = None
    bridge: str | None = None
    iso: str | None = None
    pool: str | None = None
    tags: list[str] = []
    description: str = ""
    start: bool = True
    ciuser: str | None = None
    sshkeys: str | None = None
    ipconfig0: str | None = None
    nameserver: str | None = None


class HealthCheck(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be checked: one node, or the whole cluster."""

    node: str | None = None


def vm_deployment(wish: VmDeployment) -> list[TaskSpec]:
    """Return the three tasks of a deployment."""
    return [
        TaskSpec(
            name=VALIDATE,
            tool=VALIDATE,
            queue=SPECIALIST,
            tier=Tier.READ,
            parameters=plain(wish),
            deadline=300.0,
        ),
        TaskSpec(
            name=CREATE,
            tool=CREATE,
            queue=PROXMOX,
            tier=Tier.OPERATE,
            parameters=result_of(VALIDATE, "create"),
            after=[VALIDATE],
            deadline=900.0,
            redo={"vmid_taken": VALIDATE},
        ),
        TaskSpec(
            name=CONFIGURE,
            tool=CONFIGURE,
            queue=SPECIALIST,
            tier=Tier.OPERATE,
            parameters=result_of(VALIDATE, "configure"),
            after=[CREATE],
            deadline=600.0,
        ),
    ]


def health_check(wish: HealthCheck) -> list[TaskSpec]:
    """Return three lists, read at once, and their summary."""
    where: dict[str, Any] = plain(wish)
    lists: dict[str, tuple[str, dict[str, Any]]] = {
        "nodes": ("list_nodes", {}),
        "storages": ("list_storages", where),
        "vms": ("list_vms", {"limit": 500} | where),
    }
    reads = [
        TaskSpec(name=name, tool=name, queue=PROXMOX, tier=Tier.READ, parameters=parameters, deadline=120.0)
        for name, parameters in lists.values()
    ]
    summary = TaskSpec(
        name=SUMMARIZE,
        tool=SUMMARIZE,
        queue=SPECIALIST,
        tier=Tier.READ,
        parameters=where | {field: result_of(name) for field, (name, _) in lists.items()},
        after=[each.name for each in reads],
        deadline=120.0,
    )
    return [*reads, summary]


DEFINITIONS: Final = [
    Definition(
        name="vm_deployment",
        description="Deploy a VM: validate the wish against the cluster, create it, configure and start it.",
        parameters=VmDeployment,
        plan=vm_deployment,
    ),
    Definition(
        name="health_check",
        description="Look at nodes, storages and guests, and sum up what needs attention.",
        parameters=HealthCheck,
        plan=health_check,
    ),
]
