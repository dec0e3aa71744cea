"""The replies of tools in MCP form."""

from __future__ import annotations

import mcp_types as types
import msgspec

from agentd import Outcome, ToolReply
from agentd.printable import escaped, printable


def refusal(text: str) -> types.CallToolResult:
    """Return an error result with the reason."""
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=printable(text, lines=True))], is_error=True
    )


def answer(reply: ToolReply) -> types.CallToolResult:
    """Return a reply in MCP form.

    It contains the result twice: structured for programs, and as text for models.
    """
    if reply.error is not None:
        log = "".join(f"\n{line}" for line in reply.error.log)
        again = "\nTrying again may help." if reply.error.retry else ""
        return refusal(f"{reply.error.code}: {reply.error.message}{again}{log}")
    if reply.status not in {Outcome.COMPLETED, Outcome.WARNINGS}:
        return refusal(f"{reply.status}: {reply.progress or 'no result yet'}")
    result = msgspec.to_builtins(reply.result)
    text = [
        escaped(msgspec.json.encode(result).decode()),
        *(printable(f"warning: {warning}") for warning in reply.warnings),
    ]
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=line) for line in text], structured_content=result
    )
