"""The accepted tools of mounted servers as tools of agentd.

What a server says about a tool (read-only, idempotent) is not trusted: the tier is that of the configuration, and no
call is repeated whose outcome is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import (
    AgentdError,
    BrokenTool,
    Call,
    Found,
    PermanentError,
    Repeat,
    Target,
    TemporaryError,
    Tier,
    Tool,
    UnknownOutcome,
    printable,
)
from agentd_mounts import definitions
from agentd_mounts.mount import Mount

if TYPE_CHECKING:
    from agentd_mounts.definitions import Definition
    from agentd_mounts.settings import MountsSettings

MOST_DESCRIPTION: Final = 2000
MOST_TEXT: Final = 256 << 10
"""Characters of text in one result."""
_TYPES: Final[dict[str, Any]] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": list[Any], "object": dict[str, Any]
}  # fmt: skip


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a mounted server has answered: text that the server wrote, and its structured result. It is data.

    server: the server that answered
    """

    server: str
    text: str = ""
    structured: Any = None


@dataclass(frozen=True)
class MountedTool(Tool):
    """A tool of a mounted server; its schema is the one that was accepted."""

    mount: Mount | None = None
    schema: dict[str, Any] = field(default_factory=dict)

    def input_schema(self) -> dict[str, Any]:
        """Return the schema of the arguments as the server gives it."""
        return self.schema


def accepted_tools(settings: MountsSettings) -> list[Tool | BrokenTool]:
    """Return the accepted tools of every configured server.

    Those of a server whose file is not safe are left out.
    """
    found: list[Tool | BrokenTool] = []
    for name, server in settings.servers.items():
        try:
            accepted = definitions.read(settings.definitions / f"{name}.json")
        except AgentdError as error:
            found.append(BrokenTool(f"{name}__", str(error)))
            continue
        mount = Mount(name, server, accepted)
        for tool, definition in accepted.items():
            try:
                found.append(_tool(mount, definition))
            except (definitions.Malformed, ValueError, TypeError) as error:
                found.append(BrokenTool(definitions.tool_name(name, tool), str(error)))
    return found


def mounts_of(tools: dict[str, Tool], settings: MountsSettings) -> dict[str, Mount]:
    """Return the mount of each configured server.

    It is the mount of its tools, or a new one if none of them is accepted.
    """
    found = {tool.mount.name: tool.mount for tool in tools.values() if isinstance(tool, MountedTool) and tool.mount}
    return {name: found.get(name) or Mount(name, server, {}) for name, server in settings.servers.items()}


def _tool(mount: Mount, definition: Definition | str) -> Tool:
    if isinstance(definition, str):
        raise definitions.Malformed(definition)
    tier = mount.settings.tiers.get(definition.name, mount.settings.tier)
    name = definitions.tool_name(mount.name, definition.name)
    text = f"{definition.description[:MOST_DESCRIPTION]}\n\nA tool of the mounted server {mount.name}."

    async def run(call: Call, p: msgspec.Struct) -> Result:
        arguments = msgspec.to_builtins(p)
        if tier is Tier.READ:
            return await _answer(mount, definition.name, arguments, call.left())
        return await _change(mount, definition, call, arguments)

    return MountedTool(
        name=name,
        service=f"mcp-{mount.name}",
        description=printable.printable(text, lines=True),
        tier=tier,
        repeat=Repeat.IDEMPOTENT if tier is Tier.READ else Repeat.UNSAFE,
        capability="mounted_tools",
        parameters=_parameters(name, definition.schema),
        result=Result,
        run=run,
        mount=mount,
        schema=definition.schema,
    )


def _parameters(name: str, schema: dict[str, Any]) -> type[msgspec.Struct]:
    """Return a type with the arguments of a schema, each with its outermost type.

    The server checks the rest.
    """
    properties, required = schema.get("properties", {}), schema.get("required", [])
    keys = {f"argument_{number}": key for number, key in enumerate(properties)}  # a key may be `from`, or `a-b`
    kinds = {field: _TYPES.get(str(properties[key].get("type")), Any) for field, key in keys.items()}
    fields = [
        (field, kind) if keys[field] in required else (field, kind | msgspec.UnsetType, msgspec.UNSET)
        for field, kind in kinds.items()
    ]
    return msgspec.defstruct(
        f"Arguments_{name}", fields, frozen=True, forbid_unknown_fields=True, kw_only=True, rename=keys
    )


async def _change(mount: Mount, definition: Definition, call: Call, arguments: dict[str, Any]) -> Result:
    """Call a tool that may change something, once.

    If its answer is lost, an administrator decides.
    """
    results: list[Result] = []
    call.target(Target(f"mount/{mount.name}", definition.name, state={"definition": definition.digest}))

    async def check() -> Found | None:
        mount.ready(definition.name)
        return None

    async def apply() -> None:
        try:
            results.append(await _answer(mount, definition.name, arguments, call.left()))
        except TemporaryError as error:
            raise UnknownOutcome(str(error)) from error

    await call.ensure(check, apply)
    return results[0]


async def _answer(mount: Mount, tool: str, arguments: dict[str, Any], seconds: float) -> Result:
    """Call the tool and return its answer.

    Raises PermanentError with its text if the tool reports an error.
    """
    answer = await mount.call(tool, arguments, seconds)
    content = answer.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    texts = [block["text"] if isinstance(block.get("text"), str) else f"[{block.get('type')}]" for block in blocks]
    text = printable.printable("\n".join(texts)[:MOST_TEXT], lines=True)
    if answer.get("isError"):
        raise PermanentError(f"{mount.name}: {text[:2000]}")
    return Result(mount.name, text, answer.get("structuredContent"))
