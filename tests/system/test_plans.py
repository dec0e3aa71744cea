"""One principal asks for what destroys, another approves it, and it is done once, as it was shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mcp.client import Client
from mcp_types import CallToolResult, TextContent

from agentd import client, subjects
from agentd.audit import verify
from agentd.calls import call_tool
from agentd.messages import AuditRecord, Tier, ToolCall, WorkflowSignal
from agentd.workflows import Status

if TYPE_CHECKING:
    from agentd.bus import Bus
    from harness import Net

DROP = {"vmid": 101, "guest": "db-01", "name": "before"}


@pytest.fixture
def net(net: Net) -> Net:
    """Let alice ask and bob approve."""
    net.settings["policy"] = {"principals": {"alice": "destroy", "bob": "destroy", "mcp": "destroy"}}
    return net


async def _do(bus: Bus, tool: str, **parameters: Any) -> None:
    call = ToolCall({"vmid": 101, **parameters}, f"test.{tool}", "alice", Tier.OPERATE)
    reply = await call_tool(bus, "mcp-proxmox", tool, call, seconds=30)
    assert reply.status == "completed"


async def _asked(bus: Bus) -> Any:
    await _do(bus, "create_snapshot", name="before")
    return await client.plan(bus, "alice", "delete_snapshot", DROP)


def _text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def test_what_is_approved_is_done_once(net: Net) -> None:
    """The plan shows what will be lost; bob approves; one deletion is sent, and the audit names both."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        plan = await _asked(bus)
        before = net.pve.log("DELETE")
        own = await client.decide(bus, "alice", plan.workflow_id, "", WorkflowSignal("approve"))
        said = await client.decide(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await client.follow(bus, plan.workflow_id, lambda _: None, wait=30)
        chain = [each.decode(AuditRecord) for each in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]
    acts = [(each.principal, each.approved_by, each.phase) for each in chain if each.tool == "delete_snapshot"]

    assert plan.status is Status.WAITING_APPROVAL
    assert "VM 101 'db-01' on pve1" in plan.tasks["call"].approval.text
    assert "its snapshot before" in plan.tasks["call"].approval.text
    assert before == []
    assert not own.done
    assert "somebody else has to approve call" in own.message
    assert said.done
    assert answer.status == "completed", answer
    assert [each["path"] for each in net.pve.log("DELETE")] == ["/nodes/pve1/qemu/101/snapshot/before"]
    assert acts == [("alice", "bob", "before"), ("alice", "bob", "after")]
    assert verify(chain) is None


async def test_what_has_changed_meanwhile_is_not_done(net: Net) -> None:
    """Somebody starts the guest between plan and approval: the plan is void, and says why."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        plan = await _asked(bus)
        await _do(bus, "start_vm")
        await client.decide(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await client.follow(bus, plan.workflow_id, lambda _: None, wait=30)

    assert answer.status == "failed"
    assert "is not as it was when bob approved it (" in answer.error
    assert "status: 'stopped' → 'running'" in answer.error
    assert net.pve.log("DELETE") == []


async def test_what_is_protected_is_not_even_asked_for(net: Net) -> None:
    """A protected tag ends the plan at its look."""
    assert net.pve is not None
    net.settings["policy"]["protected"] = ["guest/db-*"]
    async with net.client() as bus, net.here():
        plan = await _asked(bus)

    assert plan.status is Status.FAILED
    assert "is protected by [policy] protected = 'guest/db-*'; nothing was done" in plan.error
    assert net.pve.log("DELETE") == []


async def test_a_client_of_mcp_hears_what_its_plan_became(net: Net) -> None:
    """It is told who has to approve; the same call again is the same plan, and at last its result."""
    assert net.pve is not None
    async with net.client() as bus, net.here() as daemon, Client(f"{daemon.url}/mcp") as mcp:
        await _do(bus, "create_snapshot", name="before")
        looked = await mcp.call_tool("dry_run", {"tool": "delete_snapshot", "arguments": DROP})
        first = await mcp.call_tool("delete_snapshot", DROP)
        again = await mcp.call_tool("delete_snapshot", DROP)
        plan = _text(first).partition("agentd approve ")[2].partition(".")[0]
        await client.decide(bus, "bob", plan, "", WorkflowSignal("approve"))
        await client.follow(bus, plan, lambda _: None, wait=30)
        done = await mcp.call_tool("delete_snapshot", DROP)

    assert looked.structured_content is not None
    assert looked.structured_content["targets"][0]["name"] == "guest/101"
    assert first.is_error
    assert _text(first).startswith("needs_approval: nothing is done yet; delete_snapshot: VM 101 'db-01'")
    assert again.content == first.content
    assert not done.is_error, done
    assert done.structured_content is not None
    assert done.structured_content["snapshots"] == []
    assert len(net.pve.log("DELETE")) == 1
