"""A client gets the tools of daily use, and finds and calls all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.errors import InvalidMessage
from agentd.wire.messages import Tier, ToolReply
from agentd_mcp.approvals import dry_runs
from agentd_mcp.direct_tools import freezing, workflows
from agentd_mcp.tool_list import tool_search
from agentd_mcp.tool_list.catalogue import describe, describe_briefly
from tool_bench import size

if TYPE_CHECKING:
    from agentd.tools.definition import Tool


@pytest.fixture
def tools(known: dict[str, Tool]) -> dict[str, Tool]:
    """Return all tools of Proxmox, and the meta tools."""
    return known | {entry.tool.name: entry.tool for entry in tool_search.meta_tools(lambda _: [])}


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("snapshot list", "list_snapshots"),
        ("delete a snapshot", "delete_snapshot"),
        ("backup job create", "create_backup_job"),
        ("HA rule", "create_ha_rule"),
        ("resize", "resize_disk"),
        ("grant role", "grant_role"),
        ("guest agent run command exec", "exec_in_guest"),
    ],
)
def test_words_find_the_tool(known: dict[str, Tool], words: str, first: str) -> None:
    """The tool that is meant comes first, with its schema and how it is called, in few tokens."""
    found = tool_search.find(known.values(), words, 5)

    assert found.tools[0].name == first, [tool.name for tool in found.tools]
    assert found.tools[0].parameters["type"] == "object"
    assert found.tools[0].call == ("read_tool" if known[first].tier is Tier.READ else "use_tool")
    assert size(found) < 3500


def test_no_tool_matches(known: dict[str, Tool]) -> None:
    """Words that no tool knows find none."""
    assert tool_search.find(known.values(), "zzzz qqqq", 5) == tool_search.ToolMatches(0, [])


def test_the_daily_tools_exist_and_their_list_is_small(tools: dict[str, Tool]) -> None:
    """Each tool of every day exists, and their list costs a model less than 2,000 tokens of 4 characters."""
    direct = [*freezing.tools(), *workflows.tools(), dry_runs(_unused, tools)]
    every = tools | {entry.tool.name: entry.tool for entry in direct}
    listed = [describe_briefly(describe(every[name])) for name in tool_search.DAILY]
    cost = sum(len(item.model_dump_json(by_alias=True, exclude_none=True)) for item in listed) // 4

    assert cost < 2000


async def _unused(*_: object, **__: object) -> ToolReply:
    raise AssertionError


def test_a_brief_entry(tools: dict[str, Tool]) -> None:
    """An entry of the short list has every argument with its type and choices, and what is required."""
    whole = tools["create_backup"].input_schema()
    brief = tool_search.brief(whole)

    assert set(brief["properties"]) == set(whole["properties"])
    assert brief["required"] == whole["required"] == ["vmid"]
    assert brief["properties"]["mode"] == {"enum": ["snapshot", "stop", "suspend"], "default": "snapshot"}
    assert brief["properties"]["storage"] == {"type": "string", "description": "name of a storage"}
    assert tool_search.first_paragraph("One line,\ntwo lines.\n\nMore.") == "One line, two lines."


def test_every_tool_has_a_brief_form(tools: dict[str, Tool]) -> None:
    """No argument of any tool loses its type in the short form."""
    typeless = [
        f"{tool.name}.{name}"
        for tool in tools.values()
        for name, schema in tool_search.brief(tool.input_schema())["properties"].items()
        if not {"type", "enum", "anyOf"} & set(schema) and schema.get("description") is None and schema
    ]

    assert typeless == []


def test_a_carried_call(tools: dict[str, Tool]) -> None:
    """A carried call is the call itself, any other name stays as it is."""
    requested = {"tool": "get_guest", "arguments": {"vmid": 100}}

    assert tool_search.unwrap("get_guest", {"vmid": 100}, tools) == ("get_guest", {"vmid": 100})
    assert tool_search.unwrap("read_tool", requested, tools) == ("get_guest", {"vmid": 100})
    assert tool_search.unwrap("use_tool", requested, tools) == ("get_guest", {"vmid": 100})


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("read_tool", {"tool": "stop_guest"}, "there is no tool 'stop_guest' of tier read; use_tool calls those"),
        ("use_tool", {"tool": "nope"}, "there is no tool 'nope'; find_tools finds them"),
        ("use_tool", {"tool": "use_tool"}, "there is no tool 'use_tool'"),
        ("use_tool", {}, "use_tool: object missing required field tool"),
        ("use_tool", {"tool": "get_guest", "args": {}}, "unknown parameter 'args'; did you mean arguments"),
    ],
)
def test_a_call_that_cannot_be_carried(
    tools: dict[str, Tool], name: str, arguments: dict[str, object], line: str
) -> None:
    """What is wrong is named; read_tool never carries a change."""
    with pytest.raises(InvalidMessage, match=line):
        tool_search.unwrap(name, arguments, tools)
