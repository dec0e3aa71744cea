"""The definitions of tools in MCP form.

One malformed definition would turn the SDK's whole list into an error, so each definition is tried alone, and left out
alone.  Annotations are hints for the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp_types as types
from pydantic import ValidationError

from agentd import NEEDS_APPROVAL, BrokenTool, Repeat, Tier, Tool, by_name
from agentd.wire import tool_names
from agentd_mcp.tool_list import tool_search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Catalogue:
    """The tools in MCP form.

    A tool that the SDK cannot send is left out, with the reason in `broken`.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        """Describe each tool."""
        self.tools: dict[str, Tool] = {}
        self.broken: list[BrokenTool] = []
        self._described: dict[str, types.Tool] = {}
        for tool in by_name(tools).values():
            try:
                self._described[tool.name] = describe(tool)
            except (TypeError, ValidationError) as error:
                self.broken.append(BrokenTool(tool.name, f"not a tool in MCP: {error}"))
            else:
                self.tools[tool.name] = tool

    def schema(self, name: str) -> dict[str, Any] | None:
        """Return the schema of a tool's arguments, None if there is no such tool."""
        found = self._described.get(tool_names.current(name, self._described))
        return None if found is None else found.input_schema

    def within(self, tier: Tier, served: Callable[[str], bool], listed: frozenset[str] | None) -> list[types.Tool]:
        """Return the list for a tier.

        It has the tools that are offered now; of these the short list, if there is one.
        """
        names = [name for name, tool in self.tools.items() if tier.covers(tool.tier) and served(name)]
        if listed is None:
            return [self._described[name] for name in names]
        return [describe_briefly(self._described[name]) for name in names if name in listed]

    def find(self, name: str, tier: Tier) -> Tool | None:
        """Return the tool of this name, None if a principal of this tier may not use it."""
        found = self.tools.get(tool_names.current(name, self.tools))
        return found if found is not None and tier.covers(found.tier) else None


def describe(tool: Tool) -> types.Tool:
    """Return the MCP definition of `tool`."""
    return types.Tool(
        name=tool.name,
        description=tool_search.described(tool),
        input_schema=tool.input_schema(),
        output_schema=None if tool.name in tool_search.META_TOOLS else tool.output_schema(),
        annotations=types.ToolAnnotations(
            read_only_hint=tool.tier is Tier.READ,
            destructive_hint=tool.tier in NEEDS_APPROVAL or bool(tool.raises) or tool.name in tool_search.CARRYING,
            # A `marked` tool is safe to repeat only under the same key, and each MCP call has its own key.
            idempotent_hint=tool.tier is Tier.READ or tool.repeat in {Repeat.IDEMPOTENT, Repeat.PROBED},
            open_world_hint=False,
        ),
    )


def describe_briefly(tool: types.Tool) -> types.Tool:
    """Return a tool for the short list.

    It has the first paragraph of its description and the brief schema of its arguments, without the schema of its
    result: a model sees the results anyway.
    """
    return tool.model_copy(
        update={
            "description": tool_search.first_paragraph(tool.description or ""),
            "input_schema": tool_search.brief(tool.input_schema),
            "output_schema": None,
        }
    )
