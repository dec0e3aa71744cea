"""One principal asks for what destroys, another approves it, and it is done once, as it was shown."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitRequestFormParams, ElicitRequestParams, ElicitResult, TextContent

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.safety import tokens
from agentd.wire import subjects
from agentd.wire.messages import ToolCall, WorkflowSignal
from agentd.wire.records import AuditRecord
from agentd.wire.workflow import Status
from core.chains import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp.client.session import ClientRequestContext

    from agentd.bus.jetstream import Bus
    from harness import Net

EVE = tokens.new_token()
DROP = {"vmid": 101, "guest": "db-01", "name": "before"}


@contextlib.asynccontextmanager
async def _client(url: str, **more: Any) -> AsyncIterator[Client]:
    """Yield a client of MCP that shows eve's token."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {EVE[0]}"}, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), **more) as mcp,
    ):
        yield mcp


@pytest.fixture
def net(net: Net) -> Net:
    """Let alice ask and bob approve."""
    net.settings["policy"] = {"principals": {"alice": "destroy", "bob": "destroy", "eve": "destroy"}}
    net.settings["web"] = {"port": 0, "tokens": {"eve": EVE[1]}}
    return net


async def _do(bus: Bus, tool: str, **parameters: Any) -> None:
    call = ToolCall({"vmid": 101, **parameters}, f"test.{tool}")
    reply = await call_tool(bus, subjects.tool_call("alice", "mcp-proxmox", tool), call, seconds=30)
    assert reply.status == "completed"


async def _asked(bus: Bus) -> Any:
    await _do(bus, "create_snapshot", name="before")
    return await requests.plan(bus, "alice", "delete_snapshot", DROP)


def _text(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def test_an_approved_plan_is_done_once(net: Net) -> None:
    """The plan shows what will be lost; bob approves; one deletion is sent, and the audit names both."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        plan = await _asked(bus)
        before = net.pve.log("DELETE")
        own = await requests.send_decision(bus, "alice", plan.workflow_id, "", WorkflowSignal("approve"))
        output = await requests.send_decision(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]
    acts = [
        (record.principal, record.approved_by, record.phase) for record in chain if record.tool == "delete_snapshot"
    ]

    assert plan.status is Status.WAITING_APPROVAL
    assert "VM 101 'db-01' on pve1" in plan.tasks["call"].approval.text
    assert "its snapshot before" in plan.tasks["call"].approval.text
    assert before == []
    assert not own.done
    assert "another principal has to approve call" in own.message
    assert output.done
    assert answer.status == "completed", answer
    assert [request["path"] for request in net.pve.log("DELETE")] == ["/nodes/pve1/qemu/101/snapshot/before"]
    assert acts == [("alice", "bob", "before"), ("alice", "bob", "after")]
    assert verify(chain) is None


async def test_a_target_changed_meanwhile_voids_the_plan(net: Net) -> None:
    """Another client starts the guest between plan and approval: the plan is void, and says why."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        plan = await _asked(bus)
        await _do(bus, "start_guest")
        await requests.send_decision(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)

    assert answer.status == "failed"
    assert "is not as it was when bob approved it (" in answer.error
    assert "status: 'stopped' → 'running'" in answer.error
    assert net.pve.log("DELETE") == []


async def test_another_guest_has_the_number_now(net: Net) -> None:
    """The guest is gone, and another one has its VMID and its name: it stays as it is."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        plan = await requests.plan(bus, "alice", "delete_guest", {"vmid": 101, "name": "db-01"})
        await asyncio.to_thread(net.pve.drop_guest, 101)
        foreign = {"cores": 3, "description": "another client's"}
        await asyncio.to_thread(net.pve.guest, vmid=101, name="db-01", node="pve1", config=foreign)
        await requests.send_decision(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)

    assert plan.status is Status.WAITING_APPROVAL, plan.error
    assert answer.status == "failed"
    assert "is not as it was when bob approved it (configuration:" in answer.error
    assert net.pve.log("DELETE") == []


async def test_a_protected_target_needs_no_approval(net: Net) -> None:
    """A protected tag ends the plan at its preview."""
    assert net.pve is not None
    net.settings["policy"]["protected"] = ["guest/db-*"]
    async with net.client() as bus, net.here():
        plan = await _asked(bus)

    assert plan.status is Status.FAILED
    assert "is protected by [policy] protected = 'guest/db-*'; nothing was done" in plan.error
    assert net.pve.log("DELETE") == []


async def test_a_client_of_mcp_receives_the_result_of_its_plan(net: Net) -> None:
    """The caller gets the approvers; the same call again is the same plan, and at the end its result."""
    assert net.pve is not None
    async with net.client() as bus, net.here() as daemon, _client(f"{daemon.url}/mcp") as mcp:
        await _do(bus, "create_snapshot", name="before")
        looked = await mcp.call_tool("dry_run", {"tool": "delete_snapshot", "arguments": DROP})
        first = await mcp.call_tool("use_tool", {"tool": "delete_snapshot", "arguments": DROP})
        again = await mcp.call_tool("delete_snapshot", DROP)
        plan = _text(first).partition("agentd approve ")[2].partition(".")[0]
        await requests.send_decision(bus, "bob", plan, "", WorkflowSignal("approve"))
        await queries.follow(bus, plan, lambda _: None, wait=30)
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


class Approver:
    """A person at a client of MCP, who answers its forms."""

    def __init__(self, action: Any, **content: Any) -> None:
        """Say how."""
        self.answer = ElicitResult(action=action, content=content or None)
        self.read: list[str] = []

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        """Answer one form."""
        del context
        assert isinstance(params, ElicitRequestFormParams)
        self.read.append(params.message)
        return self.answer


@pytest.mark.parametrize("protocol", ["legacy", "auto"])
async def test_the_person_at_a_client_approves_by_a_form(net: Net, protocol: str) -> None:
    """What eve asks for is done in the same call once the person, who is bob, has approved what is shown."""
    assert net.pve is not None
    net.settings["mcp-bridge"] = {"approvers": {"eve": "bob"}}
    approver = Approver("accept", approve=True)
    async with net.client() as bus, net.here() as daemon:
        await _do(bus, "create_snapshot", name="before")
        async with _client(f"{daemon.url}/mcp", mode=protocol, elicitation_callback=approver) as mcp:
            done = await mcp.call_tool("use_tool", {"tool": "delete_snapshot", "arguments": DROP})
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]

    assert not done.is_error, done
    assert done.structured_content is not None
    assert done.structured_content["snapshots"] == []
    assert len(net.pve.log("DELETE")) == 1
    assert len(approver.read) == 1
    assert "eve requests delete_snapshot: VM 101 'db-01' on pve1" in approver.read[0]
    assert "You approve as bob" in approver.read[0]
    assert {(record.principal, record.approved_by) for record in chain if record.tool == "delete_snapshot"} == {
        ("eve", "bob")
    }


@pytest.mark.parametrize("protocol", ["legacy", "auto"])
@pytest.mark.parametrize(
    ("approver", "code"),
    [
        (Approver("decline"), "failed"),
        (Approver("accept", approve=False), "failed"),
        (Approver("accept", approve="true"), "failed"),
        (Approver("cancel"), "needs_approval"),
        (None, "needs_approval"),
    ],
    ids=["declines", "says no", "says no yes", "closes it", "cannot be asked"],
)
async def test_without_an_approval_nothing_is_done(
    net: Net, protocol: str, approver: Approver | None, code: str
) -> None:
    """A no ends the plan; a closed form, or a client without forms, leaves it to others."""
    assert net.pve is not None
    net.settings["mcp-bridge"] = {"approvers": {"eve": "bob"}}
    async with net.client() as bus, net.here() as daemon:
        await _do(bus, "create_snapshot", name="before")
        async with _client(f"{daemon.url}/mcp", mode=protocol, elicitation_callback=approver) as mcp:
            output = await mcp.call_tool("use_tool", {"tool": "delete_snapshot", "arguments": DROP})

    assert output.is_error
    assert _text(output).startswith(code), _text(output)
    assert ("refused by bob: by a form at the client" in _text(output)) is (code == "failed")
    assert net.pve.log("DELETE") == []


async def test_the_dashboard_approves_with_a_token(net: Net) -> None:
    """Bob approves over HTTP with his token; alice cannot approve what she asked for."""
    assert net.pve is not None
    made = {name: tokens.new_token() for name in ("alice", "bob")}
    net.settings["web"] = {"port": 0, "tokens": {name: kept for name, (_, kept) in made.items()}}
    async with net.client() as bus, net.here() as daemon, httpx2.AsyncClient() as http:
        plan = await _asked(bus)
        url = f"{daemon.url}/api/workflows/{plan.workflow_id}/approve"
        task = (await http.get(f"{daemon.url}/api/workflows/{plan.workflow_id}")).json()["tasks"][-1]
        body = {"digest": task["digest"]}
        output = [
            await http.post(url, json=body, headers={"Authorization": f"Bearer {made[name][0]}"}, timeout=30)
            for name in ("alice", "bob")
        ]
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)

    assert [text.status_code for text in output] == [409, 200]
    assert "another principal has to approve call" in output[0].json()["detail"]
    assert answer.status == "completed"
    assert len(net.pve.log("DELETE")) == 1
