"""The short list of tools, and the tools to find and call all others; pure.

Two hundred tools with their schemas are 70,000 tokens, which a model pays before it has done anything.  So by default
(`[mcp-bridge] tool_list = "few"`) the list contains the tools of daily use, and three tools for all others.  It costs
less than 2,000 tokens: its entries are brief (`brief`), and find_tools shows a tool with its whole schema.
What a client may do is the same in both cases.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import InvalidMessage, Repeat, Tier, Tool
from agentd.wire import tool_names
from agentd_mcp.direct_tools.direct import direct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentd_mcp.direct_tools.direct import Asker, DirectTool

FIND: Final = "find_tools"
READ: Final = "read_tool"
USE: Final = "use_tool"
META_TOOLS: Final = frozenset({READ, USE})
"""Tools that call another tool and return its result."""
CARRYING: Final = frozenset({USE, "submit_workflow", "approve_workflow"})
"""Tools by which any other tool may come to run."""
DAILY: Final = frozenset(
    {
        *("list_nodes", "list_guests", "get_guest", "list_storages"),
        *("start_guest", "shutdown_guest", "create_snapshot", "create_backup", "migrate_guest"),
        *("submit_workflow", "workflow_status", "network_status", "freeze_network", "dry_run", FIND, READ, USE),
    }
)
"""Tools in the short list."""
SHOWN: Final = 5
_BRIEF: Final = frozenset({"type", "description", "enum", "items", "default", "anyOf"})
"""The keywords of a schema that an entry of the short list keeps."""


class SearchWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The words to search for, such as `firewall rule add`."""

    words: Annotated[str, Meta(min_length=1, max_length=200)]
    limit: Annotated[int, Meta(ge=1, le=20)] = SHOWN


class ToolDescription(msgspec.Struct, frozen=True):
    """A tool; `parameters` is the JSON Schema of its arguments.

    `call` names the tool that calls it.
    """

    name: str
    description: str
    tier: Tier
    capability: str
    call: str
    parameters: dict[str, Any]


class ToolMatches(msgspec.Struct, frozen=True):
    """The matching tools, best match first, and the total number of matches."""

    total: int
    tools: list[ToolDescription]


class ToolUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool to call, by its name from find_tools, and its arguments."""

    tool: str
    arguments: dict[str, Any] = {}


def find(tools: Iterable[Tool], words: str, limit: int) -> ToolMatches:
    """Return the tools that match any of the words, best match first.

    The scores of all words are added; a match in the name of a tool scores highest.  Of equal ones, the shortest name.
    """
    asked = set(re.findall(r"[a-z0-9]+", words.lower()))
    scored = [(_score(tool, asked), tool) for tool in tools]
    fitting = sorted(
        ((score, tool) for score, tool in scored if score),
        key=lambda pair: (-pair[0], pair[1].name.count("_"), pair[1].name),
    )
    return ToolMatches(len(fitting), [_described(tool) for _, tool in fitting[:limit]])


def _score(tool: Tool, asked: set[str]) -> int:
    names = set(tool.name.split("_"))
    text = f"{tool.name} {tool.capability} {tool.description} {' '.join(tool.parameters.__struct_fields__)}".lower()
    return sum(5 if word in names else 3 if word.rstrip("s") in names else 1 if word in text else 0 for word in asked)


def described(tool: Tool) -> str:
    """Return the description of a tool, with the parameters that raise its tier."""
    more = [f"With {rule.says} it is of tier {rule.tier}: another principal has to approve it." for rule in tool.raises]
    return "\n\n".join([tool.description, *more])


def brief(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments for the short list.

    It has what a model needs to call the tool. It accepts what the whole schema accepts, but for null in the place of
    an argument that is left out.  Limits and patterns are left out: the error for a wrong argument names them.
    """
    short = {key: _brief_property(value) for key, value in schema.get("properties", {}).items()}
    required = {"required": schema["required"]} if schema.get("required") else {}
    return {"type": "object", "properties": short, **required}


def _brief_property(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one argument, without limits and without the type null."""
    others = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(others) == 1:
        schema = {**others[0], **{key: value for key, value in schema.items() if key not in {"anyOf", "default"}}}
    kept = {key: value for key, value in schema.items() if key in _BRIEF}
    if kept.get("default") in ("", [], {}, False):
        del kept["default"]
    return kept


def first_paragraph(text: str) -> str:
    """Return the first paragraph of a description, as one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _described(tool: Tool) -> ToolDescription:
    call = READ if tool.tier is Tier.READ else USE
    first = " ".join(described(tool).split())
    return ToolDescription(tool.name, first, tool.tier, tool.capability, call, tool.input_schema())


def unwrap(name: str, arguments: dict[str, Any], tools: Mapping[str, Tool]) -> tuple[str, dict[str, Any]]:
    """Return the tool and arguments that a call means.

    For read_tool and use_tool these are the tool and arguments that the call contains.
    Raises InvalidMessage if that call is not valid; read_tool calls only tools of tier read.
    """
    if name not in META_TOOLS:
        return name, arguments
    wanted = tools[name].parse(arguments)
    target = tools.get(tool_names.current(wanted.tool, tools))
    if target is None or target.name in META_TOOLS:
        raise InvalidMessage(f"tool: there is no tool {wanted.tool[:60]!r}; find_tools finds them by words")
    if name == READ and target.tier is not Tier.READ:  # not every caller may know whether it exists
        raise InvalidMessage(
            f"tool: there is no tool {target.name!r} of tier read; {USE} calls those that change things"
        )
    return target.name, wanted.arguments


def meta_tools(reachable: Callable[[Tier], Iterable[Tool]]) -> list[DirectTool]:
    """Return the tools that find and call other tools.

    reachable  returns the tools that a principal of a tier may use
    """

    async def find_tools(asker: Asker, p: SearchWords) -> ToolMatches:
        """Find tools by words: name, tier, and the schema of the arguments. Most tools are found so."""
        return find(reachable(asker.tier), p.words, p.limit)

    async def read_tool(_asker: Asker, p: ToolUse) -> ToolMatches:
        """Call a tool of tier read that find_tools has named; nothing is changed."""
        raise InvalidMessage(f"{p.tool} is called under its own name")

    async def use_tool(_asker: Asker, p: ToolUse) -> ToolMatches:
        """Call any tool that find_tools has named."""
        raise InvalidMessage(f"{p.tool} is called under its own name")

    return [
        direct(find_tools, SearchWords, ToolMatches, Tier.READ, Repeat.IDEMPOTENT),
        direct(read_tool, ToolUse, ToolMatches, Tier.READ, Repeat.IDEMPOTENT),
        direct(use_tool, ToolUse, ToolMatches, Tier.OPERATE, Repeat.UNSAFE),
    ]
