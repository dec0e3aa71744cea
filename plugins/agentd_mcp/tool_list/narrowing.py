"""Limit the file tools to directories that the client names (`agentd mcp --within`); pure.

A tool can be limited if it has the parameter `within`.  The agent that runs it resolves each path below these
directories, and only below the ones that it serves: a client narrows what it reaches, and never adds to it.  Roots of
the protocol are not read: they name directories on the machine of the client, and are deprecated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd import Rejected, Tool
from agentd.wire import tool_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WITHIN: Final = "within"
WORKFLOW: Final = "submit_workflow"
DRY_RUN: Final = "dry_run"


def narrowed(tool: Tool, arguments: dict[str, Any], within: Sequence[str], tools: Mapping[str, Tool]) -> dict[str, Any]:
    """Return the arguments of a call, limited to the directories `within`.

    Raises Rejected if that is not possible.
    """
    if not within:
        return arguments
    if tool.name == WORKFLOW:
        raise Rejected(f"{WORKFLOW}: this client is limited to directories (--within), and a workflow is not")
    carried = tools.get(tool_names.current(str(arguments.get("tool")), tools)) if tool.name == DRY_RUN else None
    inner = arguments.get("arguments") or {}
    if carried is not None and isinstance(inner, dict):
        return {**arguments, "arguments": narrowed(carried, inner, within, tools)}
    if WITHIN not in tool.parameters.__struct_encode_fields__:
        return arguments
    given = arguments.get(WITHIN) or list(within)
    if not isinstance(given, list) or not all(path in within for path in given):  # below one: a link may lead out
        raise Rejected(f"{WITHIN}: this client is limited to {', '.join(within)}; name one of these, or leave it out")
    return {**arguments, WITHIN: given}
