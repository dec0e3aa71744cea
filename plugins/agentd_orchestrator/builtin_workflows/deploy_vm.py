"""The built-in workflows: their parameters, and the tasks of their plans.

vm_deployment   validate_vm_parameters → create_vm → configure_vm.  The first task makes every decision that could have
                more than one outcome, above all the VMID, so that the other tasks can be repeated; if another client
                has taken the VMID meanwhile (`vmid_taken`), the workflow goes back to it and it picks another VMID.
                Written in Python, because a file cannot declare a parameter as an int or a string (`template`), nor
                pass on only the given parameters.  With `account` the VM is a node at a cloud provider: the one task
                create_cloud_node checks the account's limits itself, before it sends anything.
health_check    three lists at once, then a summary of them: `health_check.yaml`.

Only the types and names of parameters are checked here: what is possible is checked where the cluster is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agentd import ConfigError, Definition, Rejected, TaskSpec, Tier, VmParameters, plain, result_of
from agentd_orchestrator.declared import check

SPECIALIST: Final = "specialist"
PROXMOX: Final = "mcp-proxmox"
CLOUD: Final = "mcp-cloud"

VALIDATE: Final = "validate_vm_parameters"
CREATE: Final = "create_vm"
CONFIGURE: Final = "configure_vm"
CREATE_IN_CLOUD: Final = "create_cloud_node"
FILES: Final = Path(__file__).parent


class DeployVm(VmParameters, frozen=True):
    """The requested VM; only the name is required.

    account    alias of a cloud account: the VM is created there, with size and image, and the other options of Proxmox
               do not apply
    size       for example t3.micro; image: its id; location and key_pair are optional
    """

    account: str = ""
    size: str = ""
    image: str = ""
    location: str = ""
    key_pair: str = ""


IN_CLOUD: Final = frozenset({"name", "account", "size", "image", "location", "key_pair"})
"""The parameters of a deployment to a cloud account; `account` selects it."""


def vm_deployment(request: DeployVm) -> list[TaskSpec]:
    """Return the tasks of a deployment: three on Proxmox, one at a cloud provider."""
    given = plain(request)
    if request.account:
        return [_cloud_task(given)]
    if wrong := sorted(set(given) & (IN_CLOUD - {"name"})):
        raise Rejected(f"{wrong[0]}: is for a deployment to a cloud account; name it with account")
    return [
        TaskSpec(
            name=VALIDATE,
            tool=VALIDATE,
            queue=SPECIALIST,
            tier=Tier.READ,
            parameters=given,
            timeout=300.0,
        ),
        TaskSpec(
            name=CREATE,
            tool=CREATE,
            queue=PROXMOX,
            tier=Tier.OPERATE,
            parameters=result_of(VALIDATE, "create"),
            after=[VALIDATE],
            timeout=900.0,
            on_error={"vmid_taken": VALIDATE},
        ),
        TaskSpec(
            name=CONFIGURE,
            tool=CONFIGURE,
            queue=SPECIALIST,
            tier=Tier.OPERATE,
            parameters=result_of(VALIDATE, "configure"),
            after=[CREATE],
            timeout=600.0,
        ),
    ]


def _cloud_task(given: dict[str, Any]) -> TaskSpec:
    if wrong := sorted(set(given) - IN_CLOUD):
        raise Rejected(f"{wrong[0]}: does not apply to a deployment to a cloud account")
    if missing := sorted({"size", "image"} - set(given)):
        raise Rejected(f"{missing[0]}: is required for a deployment to a cloud account")
    return TaskSpec(
        name=CREATE_IN_CLOUD, tool=CREATE_IN_CLOUD, queue=CLOUD, tier=Tier.OPERATE, parameters=given, timeout=900.0
    )


VM_DEPLOYMENT: Final = Definition(
    name="vm_deployment",
    description="Deploy a VM: validate the parameters against the cluster, create it, configure and start it; with "
    "account, create it at a cloud provider.",
    parameters=DeployVm,
    plan=vm_deployment,
)


def definitions() -> list[Definition]:
    """Return the built-in workflows; files are read by the same code as users' files."""
    found: dict[str, Definition] = {}
    for file in sorted(FILES.glob("*.yaml"), key=lambda file: (b"workflow:" in file.read_bytes(), file.name)):
        found[file.stem] = _load(file, found)  # a file that starts another workflow comes after it
    return [VM_DEPLOYMENT, *(found[name] for name in sorted(found))]


def _load(file: Path, known: dict[str, Definition]) -> Definition:
    names = check.KnownNames({}, {name: definition.parameters for name, definition in known.items()})
    declared, report = check.read(file.read_bytes(), file.name, file.stem, names)
    if declared is None:
        raise ConfigError(f"agentd's own {report.faults[0]}")
    return declared.definition()
