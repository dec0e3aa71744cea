"""Resources, prompts and completion: what the person at a client may pick, beside the tools that the model calls.

A resource is the result of a tool of tier read at an address `pve://…`, for the same principal, with the same checks.
A prompt is the text of a common job.  The values of an argument are completed from the first page of a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
import msgspec
from mcp.shared.exceptions import MCPError

from agentd import AgentdError, InvalidMessage, ToolReply
from agentd.printable import escaped, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd_mcp.elicitation import Context
    from agentd_mcp.server import Caller, Principal
    from agentd_mcp.tool_list.catalogue import Catalogue

JSON: Final = "application/json"


@dataclass(frozen=True)
class View:
    """A resource or, with an argument in braces, a template of resources; `tool` returns its content."""

    uri: str
    tool: str
    title: str

    @property
    def argument(self) -> str:
        """Return the name of the argument, "" if there is none."""
        found = re.search(r"\{(\w+)\}", self.uri)
        return found[1] if found else ""


VIEWS: Final = (
    View("pve://nodes", "list_nodes", "Nodes"),
    View("pve://guests", "list_guests", "Guests"),
    View("pve://storages", "list_storages", "Storages"),
    View("pve://tasks", "list_tasks", "Tasks of Proxmox"),
    View("pve://alerts", "list_alerts", "Alerts"),
    View("pve://workflows", "list_workflows", "Workflows"),
    View("pve://nodes/{node}", "get_node", "One node"),
    View("pve://guests/{vmid}", "get_guest", "One guest"),
    View("pve://workflows/{workflow_id}", "workflow_status", "One workflow"),
)
LISTS: Final = {"node": "list_nodes", "vmid": "list_guests", "workflow_id": "list_workflows"}
"""The tool whose list has the values of an argument."""
CHECK_CLUSTER: Final = """Check the health of the cluster: nodes, storages, alerts, backups and failed workflows.
Read only; report what needs attention, the most urgent first, and what you could not read."""
DIAGNOSE_GUEST: Final = """Find out why guest {vmid} has a problem: its state, configuration, recent tasks, backups and
the node it runs on.  Read only; name the probable cause, the evidence, and the tool call that would fix it."""
PLAN_MAINTENANCE: Final = """Prepare maintenance of node {node}: what runs there, where each guest can go, what has no
recent backup.  Make dry runs only, then propose the order of the calls; start nothing."""
PROMPTS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "check_cluster": (CHECK_CLUSTER, {}),
    "diagnose_guest": (DIAGNOSE_GUEST, {"vmid": "VMID of the guest"}),
    "plan_maintenance": (PLAN_MAINTENANCE, {"node": "name of the node"}),
}
"""Text and arguments of each prompt."""


@dataclass(frozen=True)
class Resources:
    """Handles the requests for resources, prompts and completion."""

    catalogue: Catalogue
    caller: Caller
    resolve: Callable[[Any], Principal]
    served: Callable[[str], bool]

    async def list_resources(self, context: Context, _params: Any) -> types.ListResourcesResult:  # noqa: ANN401
        """Answer resources/list."""
        found = [
            types.Resource(name=view.title, uri=view.uri, mime_type=JSON)
            for view in self._views(context)
            if not view.argument
        ]
        return types.ListResourcesResult(resources=found)

    async def list_templates(self, context: Context, _params: Any) -> types.ListResourceTemplatesResult:  # noqa: ANN401
        """Answer resources/templates/list."""
        found = [
            types.ResourceTemplate(name=view.title, uri_template=view.uri, mime_type=JSON)
            for view in self._views(context)
            if view.argument
        ]
        return types.ListResourceTemplatesResult(resource_templates=found)

    async def read(self, context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        """Answer resources/read."""
        for view in self._views(context):
            found = re.fullmatch(re.sub(r"\\\{\w+\\\}", "([^/]{1,200})", re.escape(view.uri)), params.uri)
            if found is not None:
                arguments = {view.argument: _value(found[1])} if view.argument else {}
                text = escaped(
                    msgspec.json.encode(await self._result(context, view.tool, arguments, params.uri)).decode()
                )
                content = types.TextResourceContents(uri=params.uri, mime_type=JSON, text=text)
                return types.ReadResourceResult(contents=[content])
        raise _not_found(params.uri, "there is no such resource")

    async def list_prompts(self, _context: Context, _params: Any) -> types.ListPromptsResult:  # noqa: ANN401
        """Answer prompts/list."""
        return types.ListPromptsResult(
            prompts=[
                types.Prompt(
                    name=name,
                    description=text.partition(":")[0],
                    arguments=[
                        types.PromptArgument(name=key, description=meaning, required=True)
                        for key, meaning in arguments.items()
                    ],
                )
                for name, (text, arguments) in PROMPTS.items()
            ]
        )

    async def get_prompt(self, _context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        """Answer prompts/get."""
        if params.name not in PROMPTS:
            raise MCPError(types.INVALID_PARAMS, f"there is no prompt {params.name[:60]!r}")
        text, arguments = PROMPTS[params.name]
        given = params.arguments or {}
        missing = [key for key in arguments if not given.get(key)]
        if missing:
            raise MCPError(types.INVALID_PARAMS, f"{params.name}: the argument {missing[0]} is missing")
        for key in arguments:
            text = text.replace(f"{{{key}}}", printable(given[key][:200]))
        content = types.TextContent(type="text", text=text)
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    async def complete(self, context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        """Answer completion/complete: the values that begin with what is there already."""
        name, begun = params.argument.name, params.argument.value
        values: list[str] = []
        if name in LISTS and any(view.tool == LISTS[name] for view in self._views(context)):
            page = await self._result(context, LISTS[name], {}, name)
            lines = next((value for value in page.values() if isinstance(value, list)), [])
            values = [str(line[name]) for line in lines if str(line.get(name, "")).startswith(begun)]
        return types.CompleteResult(completion=types.Completion(values=values[:100], has_more=len(values) > 100))  # noqa: PLR2004

    def _views(self, context: Context) -> list[View]:
        """Return the resources whose tool the principal may use and an agent offers."""
        tier = self.resolve(context.request).tier
        return [view for view in VIEWS if self.catalogue.find(view.tool, tier) is not None and self.served(view.tool)]

    async def _result(self, context: Context, name: str, arguments: dict[str, Any], uri: str) -> dict[str, Any]:
        """Call a tool of tier read for the principal; raises MCPError."""
        principal = self.resolve(context.request)
        tool = self.catalogue.tools[name]
        try:
            tool.parse(arguments)
            reply = await self.caller(principal, tool, arguments, lambda _note: None)
        except InvalidMessage as error:
            raise _not_found(uri, str(error)) from error
        except AgentdError as error:
            raise MCPError(types.INTERNAL_ERROR, f"{error.code}: {error}") from error
        if not isinstance(reply, ToolReply) or reply.error is not None:
            text = (
                "it needs an answer" if not isinstance(reply, ToolReply) or reply.error is None else reply.error.message
            )
            raise _not_found(uri, printable(text))
        result: dict[str, Any] = msgspec.to_builtins(reply.result)
        return result


def _value(text: str) -> str | int:
    return int(text) if text.isdecimal() and text.isascii() else text


def _not_found(uri: str, text: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, text, {"uri": uri})
