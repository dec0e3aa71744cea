"""The tool names of the original protocol still work, and nothing that is listed or recorded contains them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from mcp.client import Client

from agentd.client import queries, requests, tool_calls
from agentd.wire import subjects, tool_names
from agentd.wire.messages import Outcome, TaskAssignment, TaskCompletion, Tier, ToolCall, ToolReply
from agentd.wire.records import AuditRecord
from agentd_mcp.tool_list import tool_search
from harness import eventually
from plugins.files import HEAD, faults, plan

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.tools.definition import Tool
    from harness import Net

SERVICE = "mcp-proxmox"


def test_the_table(known: dict[str, Tool]) -> None:
    """Each alias represents a tool and is none itself; `create_vm` is the name of a tool."""
    assert "create_vm" in known
    assert set(tool_names.ALIASES.values()) <= set(known)
    assert not set(tool_names.ALIASES) & set(known)
    assert tool_names.current("list_vms", {"list_vms"}) == "list_vms"


def test_in_a_workflow_file(known: dict[str, Tool]) -> None:
    """A file may name them, also to undo a task; the plan has the current names and the tiers of those tools."""
    text = f"""
tasks:
  - name: list
    tool: list_vms
  - name: back_up
    tool: backup_vm
    with: {{vmid: 100}}
    undo: {{tool: list_vms, service: {SERVICE}}}
"""
    found, made = plan(text, known)

    assert (found.tool, found.tier, found.queue) == ("list_guests", Tier.READ, SERVICE)
    assert (made.tool, made.tier, made.queue) == ("create_backup", Tier.OPERATE, SERVICE)
    assert made.compensation is not None
    assert made.compensation.tool == "list_guests"


def test_of_another_service(known: dict[str, Tool]) -> None:
    """A tool of that name at a service that no plugin provides is left as it is."""
    (found,) = plan("tasks: [{name: a, tool: list_vms, service: mine, tier: read}]", known)

    assert (found.tool, found.queue) == ("list_vms", "mine")


def test_their_parameters_are_checked(known: dict[str, Tool]) -> None:
    """A fault names the current tool."""
    (fault,) = faults(f"{HEAD}tasks: [{{name: a, tool: backup_vm}}]", known)

    assert "create_backup needs vmid" in fault


@pytest.mark.parametrize("carrier", [tool_search.READ, tool_search.USE])
def test_carried(known: dict[str, Tool], carrier: str) -> None:
    """read_tool and use_tool take them, and find_tools names none."""
    tools = known | {entry.tool.name: entry.tool for entry in tool_search.meta_tools(lambda _: [])}

    assert tool_search.unwrap(carrier, {"tool": "list_vms"}, tools) == ("list_guests", {})
    assert not {tool.name for tool in tool_search.find(known.values(), "list vms backup", 20).tools} & set(
        tool_names.ALIASES
    )


async def _assigned(bus: Bus) -> TaskCompletion:
    """Assign list_vms; return its completion."""
    seen_messages: list[TaskCompletion] = []

    async def on_message(received: Received) -> None:
        seen_messages.append(received.decode(TaskCompletion))

    async def completed() -> list[TaskCompletion]:
        return seen_messages

    listening = await bus.subscribe(subjects.complete("all-pve1", "old", "t"), on_message)
    task = TaskAssignment("old.t", "old", "list_vms", SERVICE, {}, bus.server_time() + timedelta(seconds=60))
    await bus.store(subjects.assign(SERVICE, "old", "t", 1), task)
    found = await eventually(completed, "the completion of old.t")
    await listening.stop()
    return found[0]


async def test_over_the_network(net: Net) -> None:
    """Calls, assignments, requests and MCP take them; services, lists, effects and audit have the current names."""
    net.settings["policy"]["principals"] = {"mcp": "operate", "tester": "operate"}
    async with net.client() as bus, net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        called = await bus.request(subjects.tool_call("tester", SERVICE, "list_vms"), ToolCall({}), ToolReply, wait=10)
        by_name = await tool_calls.call(bus, "tester", "list_vms", {}, seconds=30)
        completed = await _assigned(bus)
        over_mcp = await client.call_tool("list_vms", {})
        tried = await client.call_tool("dry_run", {"tool": "backup_vm", "arguments": {"vmid": 100}})
        planned = await requests.plan(bus, "tester", "backup_vm", {"vmid": 100})
        answer = await queries.follow(bus, planned.workflow_id, lambda _: None, wait=60)
        listed = {tool.name for tool in (await client.list_tools()).tools}
        offered = {name for service in await queries.services(bus) for name in service.tools}
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]

    assert called.error is None
    assert by_name.error is None
    assert completed.status is Outcome.COMPLETED
    assert not over_mcp.is_error
    assert not tried.is_error
    assert answer.status == "completed", answer.error
    assert not (listed | offered) & set(tool_names.ALIASES)
    assert {record.tool for record in chain if record.principal == "tester"} == {"create_backup"}
