"""The agent decides the tier of a call by its parameters, independent of the plan, and holds it to two principals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.errors import Denied, NeedsPlan
from agentd.wire import subjects
from agentd.wire.messages import Tier, ToolCall, WorkflowRequest, WorkflowSignal
from agentd.wire.records import AuditRecord
from agentd.wire.workflow import Status
from agentd_orchestrator.builtin_workflows import tool_call
from agentd_orchestrator.state_machine import outgoing
from plugins.flow import ended, spec, started, step

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Tool
    from harness import Net

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHwq0K9f0yqg9n6c5v3Z4l1l3o9r2wqf5e7b8d9a0c1d x"
LOGIN = {"vmid": 101, "sshkeys": KEY}
OPEN = {"vmid": 101, "firewall": False}


@pytest.fixture
def net(net: Net) -> Net:
    """Let oscar operate, alice and bob do all."""
    net.settings["policy"] = {"principals": {"oscar": "operate", "alice": "exec", "bob": "exec"}}
    return net


async def call(bus: Bus, principal: str, tool: str, parameters: dict[str, Any], service: str = "mcp-proxmox") -> Any:
    """Call a tool without a plan."""
    message = ToolCall(parameters, f"test.{tool}")
    return await call_tool(bus, subjects.tool_call(principal, service, tool), message, seconds=30)


def writes(net: Net) -> list[str]:
    """Return the paths that were written to."""
    assert net.pve is not None
    return [entry["path"] for entry in net.pve.log() if entry["method"] != "GET"]


async def test_a_login_needs_two_principals(net: Net) -> None:
    """A key for cloud-init in a guest is of tier exec: operate is refused, exec is asked for an approval, once done."""
    async with net.client() as bus, net.here():
        with pytest.raises(Denied, match="update_vm with ciuser or sshkeys needs tier exec; oscar has operate"):
            await call(bus, "oscar", "update_vm", LOGIN)
        with pytest.raises(
            NeedsPlan, match=r"with ciuser or sshkeys is of tier exec.*`agentd call update_vm …` requests it"
        ):
            await call(bus, "alice", "update_vm", LOGIN)
        refused = await requests.plan(bus, "oscar", "update_vm", LOGIN)
        plan = await requests.plan(bus, "alice", "update_vm", LOGIN)
        before = writes(net)
        await requests.send_decision(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)
        chain = [stored.decode(AuditRecord) for stored in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]

    assert refused.status is Status.REJECTED
    assert (plan.status, before) == (Status.WAITING_APPROVAL, [])
    assert answer.status == "completed", answer
    assert writes(net) == ["/nodes/pve1/qemu/101/config"]
    assert [(line.tier, line.approved_by) for line in chain if line.tool == "update_vm"] == [("exec", "bob")] * 2


async def test_opening_a_network_needs_two_principals(net: Net) -> None:
    """A card without the firewall is of tier destroy: it counts in the hourly budget, and a protected guest stays."""
    net.settings["policy"] = {**net.settings["policy"], "protected": ["guest/101"]}
    async with net.client() as bus, net.here():
        with pytest.raises(Denied, match=r"set_guest_network with firewall=false.* needs tier destroy; oscar has op"):
            await call(bus, "oscar", "set_guest_network", OPEN)
        plan = await requests.plan(bus, "alice", "set_guest_network", {**OPEN, "bridge": "vmbr0"})
        quiet = await call(bus, "oscar", "set_guest_network", {"vmid": 101, "rate": 5})

    assert plan.status is not Status.WAITING_APPROVAL
    assert "protected" in str(plan.tasks) + plan.error
    assert quiet.status == "completed"


async def test_a_workflow_may_give_its_own_guest_a_login(net: Net) -> None:
    """A deployment with keys runs at tier operate; the same step for a guest that was there is refused by the agent."""
    requested = {"name": "web1", "template": 9000, "memory": 2048, "ciuser": "ada", "sshkeys": KEY}
    async with net.client() as bus, net.here():
        await requests.submit(bus, "oscar", WorkflowRequest("vm_deployment", "w1", requested))
        answer = await queries.follow(bus, "w1", lambda _: None, wait=60)
        before = writes(net)
        other = await requests.plan(bus, "oscar", "configure_vm", {"vmid": 101, "sshkeys": KEY, "start": False})
        if other.status is not Status.FAILED:
            await queries.follow(bus, other.workflow_id, lambda _: None, wait=30)
        with pytest.raises(Denied, match="update_vm with ciuser or sshkeys"):
            await call(bus, "oscar", "configure_vm", {"vmid": 101, "ciuser": "root", "start": False}, "specialist")

    assert answer.status == "completed", answer
    assert writes(net) == before


def test_a_task_that_only_read_is_not_left_behind(known: dict[str, Tool]) -> None:
    """A task that has only read is not listed as left behind, though its tool needs the tier operate."""
    (call_of, _) = tool_call.definitions(lambda: known)
    (reads,) = call_of.plan(tool_call.ToolCallParameters("inspect_backup", {"volid": "local:backup/x", "node": "pve1"}))
    state = started(
        replace(spec("inspect"), tier=reads.tier, reads=reads.reads), spec("make", "inspect"), spec("check", "make")
    )
    for name in ("inspect", "make"):
        state = step(state, ended(state, name))
    over = step(state, ended(state, "check", "no"))

    assert reads.tier is Tier.OPERATE
    assert outgoing.remaining_changes(over) == ["make: done"]
