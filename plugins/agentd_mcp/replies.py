"""The replies of tools in MCP form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mcp_types as types
import msgspec

from agentd import Content, Outcome, ToolReply
from agentd.printable import escaped, printable
from agentd.tools.content import AudioBlock, ImageBlock, TextBlock

if TYPE_CHECKING:
    from agentd.tools.content import Block


def refusal(text: str) -> types.CallToolResult:
    """Return an error result with the reason."""
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=printable(text, lines=True))], is_error=True
    )


def answer(reply: ToolReply) -> types.CallToolResult:
    """Return a reply in MCP form.

    It contains the result twice: structured for programs, and for models as text, or as the blocks of `Content`.
    """
    if reply.error is not None:
        log = "".join(f"\n{line}" for line in reply.error.log)
        again = "\nTrying again may help." if reply.error.retry else ""
        return refusal(f"{reply.error.code}: {reply.error.message}{again}{log}")
    if reply.status not in {Outcome.COMPLETED, Outcome.WARNINGS}:
        return refusal(f"{reply.status}: {reply.progress or 'no result yet'}")
    result = msgspec.to_builtins(reply.result)
    warnings = [_text(printable(f"warning: {warning}")) for warning in reply.warnings]
    return types.CallToolResult(content=[*_blocks(result), *warnings], structured_content=result)


def _blocks(result: Any) -> list[types.ContentBlock]:  # noqa: ANN401 - the result of any tool
    """Return a result for models.

    A `Content` becomes its blocks, anything else one text.
    """
    try:
        return [_block(block) for block in msgspec.convert(result, Content).content]
    except msgspec.ValidationError:
        return [_text(escaped(msgspec.json.encode(result).decode()))]


def _block(block: Block) -> types.ContentBlock:
    match block:
        case TextBlock():
            return _text(printable(block.text, lines=True))
        case ImageBlock():
            return types.ImageContent(type="image", data=block.data, mime_type=block.mime_type)
        case AudioBlock():
            return types.AudioContent(type="audio", data=block.data, mime_type=block.mime_type)
    resource = msgspec.structs.asdict(block.resource)
    return types.EmbeddedResource(type="resource", resource=types.BlobResourceContents(**resource))


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)
