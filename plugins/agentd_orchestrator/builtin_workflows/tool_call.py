"""Workflows that call tools: `tool_call` makes one call, `undo` several in order.

Tools of tier `destroy` and `exec` are called in this way: the planner adds a preview and an approval before the call.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import Definition, Rejected, TaskSpec
from agentd.client.requests import CALL, UNDO
from agentd.similar import suggestion
from agentd.wire import tool_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd import Tool

DEADLINE: Final = 3600.0
"""Seconds that a call may take by default: a restore or a migration of a large guest takes long."""


class ToolCallParameters(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A tool call: tool, parameters, deadline (s), and the expected names of guests."""

    tool: str
    parameters: dict[str, Any] = {}
    deadline: float = DEADLINE
    guests: dict[str, str] = {}


class UndoParameters(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What to undo, and the calls that undo it, in order; the first failure ends it."""

    of: str
    calls: list[ToolCallParameters]


def definitions(tools: Callable[[], Mapping[str, Tool]]) -> list[Definition]:
    """Return both workflows; `tools` is called once, when the first one is planned."""
    known_tools = functools.cache(tools)

    def task(name: str, request: ToolCallParameters, *after: str) -> TaskSpec:
        tools = known_tools()
        tool = tools.get(tool_names.current(request.tool, tools))
        if tool is None:
            hint = suggestion(request.tool, sorted(tools), listed="`agentd tools` lists them")
            raise Rejected(f"tool: there is no tool {request.tool!r}{hint}")
        if tool.undoes:
            raise Rejected(f"tool: {request.tool} runs only where a workflow undoes one of its tasks, never as a call")
        tool.parse(request.parameters)
        return TaskSpec(
            name,
            tool.name,
            tool.service,
            tool.tier_for(request.parameters),
            request.parameters,
            after=list(after),
            timeout=request.deadline,
            guests=request.guests,
            reads=tool.reads,
        )

    def one(request: ToolCallParameters) -> list[TaskSpec]:
        return [task("call", request)]

    def back(request: UndoParameters) -> list[TaskSpec]:
        names = [f"call{number}" for number in range(len(request.calls))]
        return [task(names[number], call, *names[:number][-1:]) for number, call in enumerate(request.calls)]

    text = "Call one tool; calls of tier destroy or exec need an approval first."
    undo = "Undo the calls that `agentd undo` has found."
    return [
        Definition(CALL, text, ToolCallParameters, one, prepare=known_tools),
        Definition(UNDO, undo, UndoParameters, back, prepare=known_tools),
    ]
