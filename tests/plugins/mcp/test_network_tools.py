"""What a client of a bridge does in the network: workflows, approvals, agents, and the tools of other agents."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from agentd.safety import tokens
from agentd.wire import subjects
from agentd.wire.records import AuditRecord
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from harness import Net


@contextlib.asynccontextmanager
async def client_of(url: str, token: str = "") -> AsyncIterator[Client]:
    """Yield a client that shows this token."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers) as shown,
        Client(streamable_http_client(f"{url}/mcp", http_client=shown)) as client,
    ):
        yield client


def with_tokens(net: Net, **tiers: str) -> dict[str, str]:
    """Give each principal a tier and a token; return the tokens."""
    made = {name: tokens.new_token() for name in tiers}
    net.settings["web"] = {"port": 0, "tokens": {name: kept for name, (_, kept) in made.items()}}
    net.settings["policy"] = {"default_tier": "read", "principals": tiers}
    return {name: token for name, (token, _) in made.items()}


async def data(client: Client, called: str, /, **arguments: Any) -> dict[str, Any]:
    """Return the structured result of a call that succeeds."""
    answer = await client.call_tool(called, arguments)
    assert not answer.is_error, answer.content
    assert isinstance(answer.structured_content, dict)
    return answer.structured_content


async def test_a_workflow_from_submission_to_its_result(net: Net) -> None:
    """A client submits a workflow, sees it end with a result, and finds it in the list; the same id runs once."""
    shown = with_tokens(net, alice="operate")
    call = {"tool": "start_guest", "parameters": {"vmid": 101}}
    async with net.client(), net.here() as daemon, client_of(daemon.url, shown["alice"]) as alice:
        submitted = [
            await data(alice, "submit_workflow", workflow_type="tool_call", workflow_id="w-1", parameters=call, wait=30)
            for _ in range(2)
        ]
        listed = await data(alice, "list_workflows", limit=5)
        unknown = await alice.call_tool("workflow_status", {"workflow_id": "w-2"})
        refused = await alice.call_tool("submit_workflow", {"workflow_type": "no_such"})

    assert [item["status"] for item in submitted] == ["completed", "completed"]
    assert submitted[0]["requester"] == "alice"
    assert submitted[0]["tasks"][0]["tool"] == "start_guest"
    assert submitted[0]["result"]
    assert [item["workflow_id"] for item in listed["workflows"]].count("w-1") == 1
    assert unknown.is_error
    assert "there is no workflow 'w-2'" in str(unknown.content)
    assert refused.is_error
    assert "no_such" in str(refused.content)


async def test_another_principal_approves(net: Net) -> None:
    """The requester cannot approve its own plan, a digest of something else is refused, and another principal can."""
    shown = with_tokens(net, alice="destroy", bob="destroy", mcp="operate")
    call = {"tool": "delete_guest", "parameters": {"vmid": 101, "name": "db-01"}}
    async with net.client(), net.here() as daemon:
        async with client_of(daemon.url, shown["alice"]) as alice:
            asked = await data(alice, "submit_workflow", workflow_type="tool_call", parameters=call, wait=30)
            (waits,) = asked["waits"]
            decision = {"workflow_id": asked["workflow_id"], "digest": waits["digest"]}
            own = await alice.call_tool("approve_workflow", decision)
        async with client_of(daemon.url) as anonymous:
            unproven = await anonymous.call_tool("approve_workflow", decision)
        async with client_of(daemon.url, shown["bob"]) as bob:
            other = await bob.call_tool("approve_workflow", {**decision, "digest": "0" * 64})
            await data(bob, "approve_workflow", **decision)
            ended = await data(bob, "workflow_status", workflow_id=asked["workflow_id"], wait=60)

    assert "delete_guest" in waits["text"]
    assert own.is_error
    assert "another principal has to approve" in str(own.content)
    assert unproven.is_error
    assert "needs no token" in str(unproven.content)
    assert other.is_error
    assert "not what was shown" in str(other.content)
    assert ended["status"] == "completed"
    assert net.pve is not None
    assert net.pve.found(101) is None


async def test_a_plan_is_rejected_or_cancelled(net: Net) -> None:
    """What another principal rejects, or the requester cancels, is not done."""
    shown = with_tokens(net, alice="destroy", bob="destroy")
    call = {"tool": "delete_guest", "parameters": {"vmid": 101, "name": "db-01"}}
    async with net.client(), net.here() as daemon, client_of(daemon.url, shown["alice"]) as alice:
        asked = [
            await data(alice, "submit_workflow", workflow_type="tool_call", parameters=call, wait=30) for _ in range(2)
        ]
        ids = [item["workflow_id"] for item in asked]
        await data(alice, "cancel_workflow", workflow_id=ids[0], reason="not now")
        async with client_of(daemon.url, shown["bob"]) as bob:
            await data(bob, "reject_workflow", workflow_id=ids[1], digest=asked[1]["waits"][0]["digest"])
        ended = [await data(alice, "workflow_status", workflow_id=name, wait=30) for name in ids]

    assert [item["status"] for item in ended] == ["cancelled", "failed"]
    assert net.pve is not None
    assert net.pve.found(101) is not None


@pytest.mark.parametrize("tool_list", ["few", "all"])
async def test_the_tools_of_another_agent(net: Net, tmp_path: Path, tool_list: str) -> None:
    """A tool of another agent is found and called through any bridge, as the client's principal; its agent decides."""
    (tmp_path / "files").mkdir()
    shown = with_tokens(net, alice="operate", rita="read")
    net.settings["mcp-bridge"] = {"tool_list": tool_list}
    net.settings["filesystem"] = {"roots": [str(tmp_path / "files")], "writable_roots": [str(tmp_path / "files")]}
    net.settings["instances"] = {"bridge": {"roles": ["mcp-bridge"]}, "files": {"roles": ["filesystem"]}}
    note = {"path": str(tmp_path / "files" / "note.txt"), "content": "checked"}
    async with net.client() as bus, net.here("bridge") as daemon, client_of(daemon.url, shown["alice"]) as alice:
        early = await alice.call_tool("use_tool", {"tool": "write_file", "arguments": note})
        async with net.here("files"), client_of(daemon.url, shown["rita"]) as rita:

            async def found() -> dict[str, Any] | None:
                matches = await data(alice, "find_tools", words="write file")
                return next((tool for tool in matches["tools"] if tool["name"] == "write_file"), None)

            described = await eventually(found, "write_file is found")
            preview = await data(alice, "dry_run", tool="write_file", arguments=note)
            written = await data(alice, "use_tool", tool="write_file", arguments=note)
            read = await data(rita, "read_tool", tool="read_text_file", arguments={"path": note["path"]})
            listed = {tool.name for tool in (await alice.list_tools()).tools}
            services = await data(rita, "list_agent_services", service="mcp-filesystem")
            agents = await data(rita, "list_agents")
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("files-pve1"))]

    assert early.is_error
    assert "no agent offers a tool 'write_file'" in str(early.content)
    assert described["call"] == "use_tool"
    assert preview["tool"] == "write_file"
    assert written
    assert "checked" in str(read)
    assert ("write_file" in listed) == (tool_list == "all")
    assert [(line["service"], line["agents"]) for line in services["services"]] == [("mcp-filesystem", ["files-pve1"])]
    assert "write_file" in services["services"][0]["tools"]
    assert {line["agent_id"] for line in agents["agents"]} == {"bridge-pve1", "files-pve1"}
    assert {(record.principal, record.tool) for record in chain} == {("alice", "write_file")}


async def test_a_reader_neither_submits_nor_changes(net: Net) -> None:
    """A client of tier read sees workflows, agents and alerts, and the tools that change something do not exist."""
    with_tokens(net, alice="operate")
    async with net.client(), net.here() as daemon, client_of(daemon.url) as reader:
        listed = {tool["name"] for tool in (await data(reader, "find_tools", words="workflow", limit=20))["tools"]}

        async def read() -> Any:
            answer = await reader.call_tool("list_alerts", {})
            return None if answer.is_error else answer.structured_content

        alerts = await eventually(read, "list_alerts is offered by the monitor")

    assert {"list_workflows", "workflow_status"} <= listed
    assert not {"submit_workflow", "approve_workflow", "cancel_workflow"} & listed
    assert isinstance(alerts["alerts"], list)
