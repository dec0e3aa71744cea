"""Ask the person at an MCP client a yes-or-no question with a form (elicitation).

With the newest protocol version, the server answers the call with the form, and the client repeats the call with the
person's answer.  With an older version, the server asks during the call.  A client that cannot show a form is not
asked; the approval must then be given in another way.  The key of a question changes with its content, so that an
answer cannot be used for a different question.
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

    from agentd import ToolReply

Context = ServerRequestContext[Any, Any]
YES: Final = "approve"


@dataclass(frozen=True)
class Question:
    """What the person at a client has to decide before a call is executed.

    key      identifies exactly this question
    text     the text for the person
    unasked  the reply if the client cannot show a form or the person closes it
    answer   applies the decision, yes or no, and returns the resulting reply
    """

    key: str
    text: str
    unasked: ToolReply
    answer: Callable[[bool], Awaitable[ToolReply]]


async def ask(
    context: Context, params: types.CallToolRequestParams, question: Question
) -> ToolReply | types.InputRequiredResult:
    """Return the reply to the person's answer, or the form to show first."""
    if not can_show(context):
        return question.unasked
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        answer = (params.input_responses or {}).get(question.key)
        if answer is None:
            return types.InputRequiredResult(input_requests={question.key: types.ElicitRequest(params=form(question))})
    else:
        shown = form(question)
        answer = await context.session.elicit_form(shown.message, shown.requested_schema, context.request_id)
    if not isinstance(answer, types.ElicitResult) or answer.action == "cancel":
        return question.unasked
    return await question.answer(agrees(answer))


def agrees(answer: types.ElicitResult) -> bool:
    """Return whether a person has sent the form and agrees in it."""
    return answer.action == "accept" and (answer.content or {}).get(YES) is True


def can_show(context: Context) -> bool:
    """Return whether the client can show a form."""
    have = context.session.client_capabilities
    offered = None if have is None else have.elicitation
    return offered is not None and (offered.form is not None or offered.url is None)  # {} has always meant forms


def form(question: Question) -> types.ElicitRequestFormParams:
    """Return the form that asks a person the question."""
    schema = {
        "type": "object",
        "properties": {YES: {"type": "boolean", "title": "Do it", "description": "true: it is done, once, now"}},
        "required": [YES],
    }
    return types.ElicitRequestFormParams(message=printable(question.text, lines=True), requested_schema=schema)
