"""Ask the person at a client: a form with one question, in the way of the client's era.

A client of the newest protocol is answered with what is asked for, and calls again with what the person said; an older
one is asked in the middle of its call.  A client that cannot show a form is not asked: then somebody has to say yes in
another way.  What is asked is named by a key that changes with it, so that no yes is taken for something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.server import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.wire.messages import ToolReply

Context = ServerRequestContext[Any, Any]
YES: Final = "approve"


@dataclass(frozen=True)
class Question:
    """What the person at a client has to decide before a call is done.

    key      names exactly what is asked
    text     what the person reads
    unasked  what the client is told if it cannot show a form, or the person closes it
    answer   carries a yes or a no out, and returns what came of it
    """

    key: str
    text: str
    unasked: ToolReply
    answer: Callable[[bool], Awaitable[ToolReply]]


async def ask(
    context: Context, params: types.CallToolRequestParams, question: Question
) -> ToolReply | types.InputRequiredResult:
    """Return what came of a question, or the form that the client has to show first."""
    if not _can_show(context):
        return question.unasked
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        said = (params.input_responses or {}).get(question.key)
        if said is None:
            return types.InputRequiredResult(input_requests={question.key: types.ElicitRequest(params=_form(question))})
    else:
        form = _form(question)
        said = await context.session.elicit_form(form.message, form.requested_schema, context.request_id)
    if not isinstance(said, types.ElicitResult) or said.action == "cancel":
        return question.unasked
    return await question.answer(said.action == "accept" and (said.content or {}).get(YES) is True)


def _can_show(context: Context) -> bool:
    have = context.session.client_capabilities
    offered = None if have is None else have.elicitation
    return offered is not None and (offered.form is not None or offered.url is None)  # {} has always meant forms


def _form(question: Question) -> types.ElicitRequestFormParams:
    schema = {
        "type": "object",
        "properties": {YES: {"type": "boolean", "title": "Do it", "description": "true: it is done, once, now"}},
        "required": [YES],
    }
    return types.ElicitRequestFormParams(message=printable(question.text, lines=True), requested_schema=schema)
