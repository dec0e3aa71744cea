"""The workflow `tool_call`: one call of any tool, as durable as a workflow.

It is how a tool that destroys or executes is called: the planner puts a look and an approval before it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.errors import Rejected
from agentd.workflows import Definition, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd.tools import Tool

NAME: Final = "tool_call"
DEADLINE: Final = 3600.0
"""Seconds that a call may take unless it says so: a restore or a migration of a large guest takes long."""


class ToolCallWish(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which tool, with what, and how long it may take (s)."""

    tool: str
    parameters: dict[str, Any] = {}
    deadline: float = DEADLINE


def definition(tools: Callable[[], Mapping[str, Tool]]) -> Definition:
    """Return the workflow; `tools` is asked once which there are, when one is called."""
    known_tools = functools.cache(tools)

    def plan(wish: ToolCallWish) -> list[TaskSpec]:
        known = known_tools()
        if wish.tool not in known:
            message = f"tool: there is no tool {wish.tool!r}; `agentd tools` lists those there are"
            raise Rejected(message)
        found = known[wish.tool]
        found.parse(wish.parameters)
        return [TaskSpec("call", wish.tool, found.service, found.tier, wish.parameters, deadline=wish.deadline)]

    text = "Call one tool; what destroys or executes has to be approved first."
    return Definition(NAME, text, ToolCallWish, plan, prepare=known_tools)
