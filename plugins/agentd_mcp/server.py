"""Serve tools over MCP, to clients of old and new protocol versions; the transports are those of `transport`.

It uses the low-level server of the `mcp` package.  Only the bridge imports this file: the SDK costs 35 MB and half a
second.

What the SDK does not do, so this file does it (each point was observed in a trial):
- The SDK advertises schemas but never validates against them, and turns any exception into an opaque error.  So
  parameters are parsed here, and a mistake is answered as a result with `is_error`, in a line that a model can act on.
- `tools/call` runs the whole `tools/list` unless the SDK is given the schema of the one tool: `get_tool_input_schema`.
- A handler is cancelled when its client disconnects.  A read may be cancelled; an external change must not be
  interrupted half-way, so it continues in its own task until its result is recorded.

Tools above the tier of the principal are not listed; calling one is answered like a name that does not exist.
Permission is checked here and again in the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
import msgspec
from mcp.server import NotificationOptions, Server
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.shared.exceptions import MCPError
from starlette.requests import Request

from agentd import (
    AgentdError,
    BrokenTool,
    InvalidMessage,
    Rejected,
    Tier,
    Tool,
    ToolReply,
)
from agentd.printable import printable
from agentd_mcp import elicitation
from agentd_mcp import tasks as task_extension
from agentd_mcp.changes import Changes
from agentd_mcp.elicitation import Context, Question
from agentd_mcp.replies import answer, refusal
from agentd_mcp.resources import Resources
from agentd_mcp.tool_list import narrowing, tool_search
from agentd_mcp.tool_list.catalogue import Catalogue

if TYPE_CHECKING:
    from mcp.server.models import InitializationOptions

    from agentd_mcp.tasks import TaskParams, Tasks, UpdateParams

LIST_FRESH: Final = 60_000
"""Milliseconds for which a client may cache the list of tools; the server validates every tool for each listing."""
LISTS: Final[tuple[CacheableMethod, ...]] = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")
DRAIN: Final = 30.0
"""Seconds that running changes may still take when the server stops; their effect records survive in any case."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Principal:
    """The principal of a request, and the highest tier it may use.

    within  the directories to which its client limits the file tools; none: no limit (narrowing.py)
    """

    name: str
    tier: Tier
    within: tuple[str, ...] = ()


Caller = Callable[[Principal, Tool, dict[str, Any], Progress], Coroutine[Any, Any, ToolReply | Question]]
"""Run a tool for a principal, or return the question that the person at the client has to answer first.

Text passed to `Progress` is sent to the client while the tool runs.
"""

Resolve = Callable[[Request | None], Principal]
"""Return the principal of a request."""


class _Server(Server[Any]):
    """The server of the SDK; it promises clients of older protocols that they are notified when the tools change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        options = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)


@dataclass(frozen=True)
class ToolServer:
    """Tools that are served over MCP, for any transport.

    changes  the clients that are notified when the tools change
    broken   the tools that were left out
    drain    waits for running changes when the transport has ended
    """

    server: Server[Any]
    changes: Changes
    broken: list[BrokenTool]
    drain: Callable[[], Awaitable[None]]


def tool_server(  # noqa: PLR0913 - each parameter is one property of the server
    tools: Iterable[Tool],
    caller: Caller,
    *,
    name: str,
    version: str,
    resolve: Resolve,
    tasks: Tasks | None = None,
    instructions: str = "",
    listed: frozenset[str] | None = None,
    served: Callable[[str], bool] = lambda _name: True,
    changes: Changes | None = None,
) -> ToolServer:
    """Return the server of `tools`.

    tasks    the tasks of clients that have declared the extension; None: no call becomes a task
    listed   names of the tools in the list (None: all); the others can still be called
    served   whether an agent offers a tool now; the others are not listed
    changes  the clients that are notified when the tools change
    """
    catalogue, changes = Catalogue(tools), changes or Changes()
    shown = Resources(catalogue, caller, resolve, served)
    handlers = _McpHandlers(catalogue, caller, resolve, served, listed, tasks, changes)
    server = _Server(
        name,
        version=version,
        instructions=instructions or None,
        cache_hints={method: CacheHint(ttl_ms=LIST_FRESH, scope="private") for method in LISTS},
        get_tool_input_schema=catalogue.schema,
        on_list_resources=shown.list_resources,
        on_list_resource_templates=shown.list_templates,
        on_read_resource=shown.read,
        on_list_prompts=shown.list_prompts,
        on_get_prompt=shown.get_prompt,
        on_completion=shown.complete,
        on_list_tools=handlers.list_tools,
        on_subscriptions_listen=handlers.listen,
    )
    handlers.add_to(server)
    return ToolServer(server, changes, catalogue.broken, handlers.drain)


@dataclass
class _McpHandlers:
    """Handles MCP requests."""

    catalogue: Catalogue
    caller: Caller
    resolve: Resolve
    served: Callable[[str], bool]
    listed: frozenset[str] | None
    tasks: Tasks | None
    changes: Changes
    effects: set[asyncio.Task[ToolReply | Question]] = field(default_factory=set)
    left: dict[tuple[str, str, bytes], asyncio.Task[ToolReply | Question]] = field(default_factory=dict)
    """Running changes whose client disconnected: the same call of the same principal waits for the running one."""

    def add_to(self, server: _Server) -> None:
        """Register the handlers that the constructor of the SDK's server does not take."""
        server.add_request_handler("tools/call", types.CallToolRequestParams, self.call_tool)
        server.add_notification_handler("notifications/initialized", types.NotificationParams, self.changes.opened)
        if self.tasks is not None:
            server.extensions[task_extension.ID] = {}
            server.add_request_handler("tasks/get", task_extension.TaskParams, self.get_task)
            server.add_request_handler("tasks/update", task_extension.UpdateParams, self.update_task)
            server.add_request_handler("tasks/cancel", task_extension.TaskParams, self.cancel_task)

    async def list_tools(self, context: Context, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        principal = self.resolve(context.request)
        return types.ListToolsResult(tools=self.catalogue.within(principal.tier, self.served, self.listed))

    async def listen(
        self, context: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Serve a stream of notifications."""
        return await self.changes.listen(context, params, self.resolve(context.request).name)

    async def call_tool(
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult | dict[str, Any]:
        principal = self.resolve(context.request)
        try:
            name, arguments = tool_search.unwrap(params.name, params.arguments or {}, self.catalogue.tools)
            tool = self.catalogue.find(name, principal.tier)
            if tool is None:
                text = (
                    f"there is no tool {name!r} within tier {principal.tier}; {tool_search.FIND} finds those there are"
                )
                raise MCPError(types.INVALID_PARAMS, text)
            arguments = narrowing.narrowed(tool, arguments, principal.within, self.catalogue.tools)
            tool.parse(arguments)
        except (InvalidMessage, Rejected) as error:
            return refusal(str(error))
        if self.tasks is not None and task_extension.suits(tool) and task_extension.declared(context):
            return await self._as_task(self.tasks, principal, tool, arguments)
        notes: asyncio.Queue[str | None] = asyncio.Queue()
        reporter = asyncio.create_task(_report(context, notes))
        try:
            reply: ToolReply | Question | types.InputRequiredResult
            reply = await self._run(principal, tool, arguments, notes.put_nowait)
            if isinstance(reply, Question):
                reply = await elicitation.ask(context, params, reply)
            notes.put_nowait(None)
            await reporter
        except AgentdError as error:
            return refusal(f"{error.code}: {error}")
        finally:
            reporter.cancel()
        return reply if isinstance(reply, types.InputRequiredResult) else answer(reply)

    async def _as_task(
        self, tasks: Tasks, principal: Principal, tool: Tool, arguments: dict[str, Any]
    ) -> types.CallToolResult | dict[str, Any]:
        try:
            created = await tasks.create(principal.name, tool, arguments)
        except AgentdError as error:
            return refusal(f"{error.code}: {error}")
        return answer(created) if isinstance(created, ToolReply) else created

    async def get_task(self, context: Context, params: TaskParams) -> dict[str, Any]:
        """Answer tasks/get."""
        with task_extension.protocol_errors():
            return await self._tasks(context).get(context, self.resolve(context.request).name, params.task_id)

    async def update_task(self, context: Context, params: UpdateParams) -> dict[str, Any]:
        """Answer tasks/update with an empty result."""
        with task_extension.protocol_errors():
            await self._tasks(context).update(self.resolve(context.request).name, params)
        return {}

    async def cancel_task(self, context: Context, params: TaskParams) -> dict[str, Any]:
        """Answer tasks/cancel with an empty result."""
        with task_extension.protocol_errors():
            await self._tasks(context).cancel(self.resolve(context.request).name, params.task_id)
        return {}

    def _tasks(self, context: Context) -> Tasks:
        task_extension.require(context)
        if self.tasks is None:
            raise MCPError(types.METHOD_NOT_FOUND, "Method not found", context.method)
        return self.tasks

    async def _run(
        self, principal: Principal, tool: Tool, arguments: dict[str, Any], note: Progress
    ) -> ToolReply | Question:
        if tool.tier is Tier.READ:
            return await self.caller(principal, tool, arguments, note)
        asked = (principal.name, tool.name, msgspec.json.encode(arguments, order="sorted"))
        effect = self.left.get(asked)
        if effect is None:
            effect = asyncio.create_task(self.caller(principal, tool, arguments, note))
            self.effects.add(effect)
            effect.add_done_callback(self.effects.discard)
        try:
            return await asyncio.shield(effect)
        except asyncio.CancelledError:
            if not effect.done():
                self.left[asked] = effect
                effect.add_done_callback(lambda _: self.left.pop(asked, None))
            raise

    async def drain(self) -> None:
        """Wait for running changes; after DRAIN, cancel them.

        Their effect records show how far they came.
        """
        if self.effects:
            _, late = await asyncio.wait(self.effects, timeout=DRAIN)
            for effect in late:
                effect.cancel()
            if late:
                await asyncio.wait(late)


async def _report(context: Context, notes: asyncio.Queue[str | None]) -> None:
    """Send each note as a progress notification until a None.

    A client that did not ask for progress gets none.
    """
    count = 0
    while (text := await notes.get()) is not None:
        count += 1
        await context.session.report_progress(count, message=printable(text))
