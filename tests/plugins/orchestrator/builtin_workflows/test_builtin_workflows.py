"""The built-in workflows: the tasks that they become, and the parameters of a VM that several tools take."""

from __future__ import annotations

import msgspec
import pytest

from agentd.errors import InvalidMessage, Rejected
from agentd.proxmox.vm import VmOptions, VmParameters
from agentd.wire import codec
from agentd.wire.messages import Tier
from agentd.wire.workflow import result_of
from agentd_orchestrator.builtin_workflows.deploy_vm import DeployVm, definitions
from agentd_orchestrator.state_machine.plan_check import check_plan
from agentd_proxmox.guests.config import UpdateVm
from agentd_proxmox.guests.creation.new_guest import CreateVm
from agentd_specialist.tools import ConfigureVm, SummarizeHealth

PLANS = {definition.name: definition for definition in definitions()}
HealthCheck = PLANS["health_check"].parameters


def test_the_builtin_workflows_exist() -> None:
    """The seed's workflows are there under their names."""
    assert set(PLANS) == {
        *("vm_deployment", "health_check", "backup_verification", "resource_optimization", "node_maintenance"),
        *("guest_update", "template_build", "snapshot_cleanup", "right_sizing", "node_reboot"),
    }
    assert all(plan.description for plan in PLANS.values())


def test_vm_deployment_is_the_seeds_three_tasks() -> None:
    """Names, services and deadlines are the seed's; a taken VMID goes back to the validation."""
    plan = PLANS["vm_deployment"].plan(DeployVm("app", memory=512))

    check_plan(plan)
    assert [(task.name, task.tool, task.queue, task.timeout, task.tier, task.after) for task in plan] == [
        ("validate_vm_parameters", "validate_vm_parameters", "specialist", 300.0, Tier.READ, []),
        ("create_vm", "create_vm", "mcp-proxmox", 900.0, Tier.OPERATE, ["validate_vm_parameters"]),
        ("configure_vm", "configure_vm", "specialist", 600.0, Tier.OPERATE, ["create_vm"]),
    ]
    validate, create, configure = plan
    assert validate.parameters == {"name": "app", "memory": 512}
    assert create.parameters == result_of("validate_vm_parameters", "create")
    assert create.on_error == {"vmid_taken": "validate_vm_parameters"}
    assert configure.parameters == result_of("validate_vm_parameters", "configure")


def test_vm_deployment_to_a_cloud_account_is_one_task() -> None:
    """With an account the VM is a node there; options of the other target are named in an error."""
    plan = PLANS["vm_deployment"].plan
    (task,) = plan(DeployVm("app", account="lab", size="t3.micro", image="ami-1"))

    check_plan([task])
    assert (task.tool, task.queue, task.tier) == ("create_cloud_node", "mcp-cloud", Tier.OPERATE)
    assert task.parameters == {"name": "app", "account": "lab", "size": "t3.micro", "image": "ami-1"}
    for wrong, error in (
        (DeployVm("app", account="lab", size="s", image="i", memory=512), "memory: does not apply"),
        (DeployVm("app", account="lab", size="s"), "image: is required"),
        (DeployVm("app", size="s"), "size: is for a deployment to a cloud account"),
    ):
        with pytest.raises(Rejected, match=error):
            plan(wrong)


def test_health_check_reads_three_lists_at_once() -> None:
    """The lists do not wait for each other, the summary waits for all."""
    plan = PLANS["health_check"].plan(HealthCheck())

    check_plan(plan)
    *lists, summary = plan
    assert [item.name for item in lists] == ["list_nodes", "list_storages", "list_guests"]
    assert all(not task.after and task.tier is Tier.READ and task.timeout == 120.0 for task in plan[:3])
    assert summary.after == ["list_nodes", "list_storages", "list_guests"]
    assert summary.parameters == {
        "nodes": result_of("list_nodes"),
        "storages": result_of("list_storages"),
        "vms": result_of("list_guests"),
    }
    assert set(summary.parameters) <= set(SummarizeHealth.__struct_fields__)


def test_health_check_of_one_node_asks_for_that_node() -> None:
    """The filter reaches each list that knows nodes, and the summary."""
    nodes, storages, guests, summary = PLANS["health_check"].plan(codec.convert({"node": "pve1"}, HealthCheck))

    assert nodes.parameters == {"limit": 500}
    assert storages.parameters == {"limit": 500, "node": "pve1"}
    assert guests.parameters == {"limit": 500, "node": "pve1"}
    assert summary.parameters["node"] == "pve1"


def test_every_option_of_a_vm_can_be_applied() -> None:
    """Each option that a deployment sets is a parameter of update_vm, and of configure_vm, which calls it."""
    options = set(VmOptions.__struct_fields__)

    assert options <= set(UpdateVm.__struct_fields__)
    assert options <= set(ConfigureVm.__struct_fields__)


def test_no_parameter_of_a_vm_is_lost() -> None:
    """Each parameter of a deployment is one of create_vm or configure_vm, under the same name."""
    asked = set(VmParameters.__struct_fields__)

    assert asked - set(CreateVm.__struct_fields__) - set(ConfigureVm.__struct_fields__) == set()


def test_only_the_name_is_required_and_unknown_parameters_are_refused() -> None:
    """A misspelt parameter is an error that names it, in the request already."""
    assert codec.convert({"name": "app"}, VmParameters) == VmParameters("app")
    with pytest.raises(InvalidMessage, match="name"):
        codec.convert({}, VmParameters)
    with pytest.raises(InvalidMessage, match="ram"):
        codec.convert({"name": "app", "ram": 1}, VmParameters)


def test_configure_vm_accepts_every_parameter_of_a_clone() -> None:
    """No parameter of the request is lost."""
    requested = {field.name for field in msgspec.structs.fields(VmParameters)}
    takes = {field.name for field in msgspec.structs.fields(ConfigureVm)}

    assert takes - requested == {"size"}
