"""`agentd tools`: tools, the agents that offer them, parameters and results.

The definitions are those of the installed plugins, so that they can be read without NATS.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from agentd.cli import completion
from agentd.cli.context import App, passes, run_async
from agentd.cli.output import tool_tables
from agentd.errors import BusError, UsageError
from agentd.plugins import manager
from agentd.printable import as_json, printable
from agentd.safety.policy import NEEDS_APPROVAL
from agentd.similar import suggestion
from agentd.wire import tool_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.tools.definition import Tool

CONNECT: Final = 2.0
"""Seconds to wait for NATS, without which only the agents are not known."""
ELSEWHERE: Final = "other agents"
"""The area of tools that no installed plugin defines."""
SAMPLES: Final = {
    "node": "pve1",
    "target": "pve2",
    "vmid": 101,
    "name": "web1",
    "guest": "web1",
    "storage": "local-lvm",
    "snapshot": "before",
    "pool": "prod",
    "bridge": "vmbr0",
    "disk": "scsi0",
    "path": "/nodes",
    "user": "alice@pve",
}
"""Values of parameters in examples."""
REPEATS: Final = {
    "idempotent": "twice has the same result as once",
    "marked": "its mark in Proxmox is found again: it is not done twice",
    "probed": "it reads the state first, and does nothing if that is as wanted",
    "unsafe": "if the outcome is not known, it stops and a person decides",
}


class Entry(msgspec.Struct, frozen=True):
    """One tool in the list; `agents` offer it now, None if that is not known."""

    name: str
    area: str
    tier: str
    description: str
    agents: list[str] | None


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter, or one field of the result."""

    name: str
    type: str
    required: bool = False
    default: Any = None
    meaning: str = ""


class Description(msgspec.Struct, frozen=True):
    """Everything about one tool."""

    name: str
    area: str
    service: str
    tier: str
    raises: dict[str, str]
    repeat: str
    description: str
    parameters: list[Field]
    notes: str
    result: list[Field]
    example: str
    agents: list[str] | None


@click.command()
@click.argument("name", required=False, shell_complete=completion.tools)
@passes
def tools(app: App, name: str | None) -> None:
    """List the tools by area; with NAME, describe one.

    A description has the parameters with their defaults, the result, the tier and an example call. It is read from the
    installed plugins, also without NATS.
    """
    known = manager.known_tools(app.config())
    agents = run_async(_offered(app))
    if name is None:
        app.show(listed(known, agents), tool_tables.tools)
        return
    name = tool_names.current(name, {*known, *(agents or ())})
    if name in known:
        app.show(described(known[name], agents), tool_tables.tool)
        return
    if agents is not None and name in agents:
        raise UsageError(f"{name} is offered by {', '.join(agents[name])}; no plugin installed here describes it")
    hint = suggestion(name, sorted({*known, *(agents or ())}), listed="`agentd tools` lists them")
    raise UsageError(f"there is no tool {name!r}{hint}")


async def _offered(app: App) -> dict[str, list[str]] | None:
    """Return the agents that offer each tool; None if NATS does not answer."""
    from agentd.client import queries

    found: dict[str, list[str]] = {}
    try:
        async with app.bus(wait=CONNECT) as (bus, _):
            for presence in await queries.presences(bus):
                for service in presence.services:
                    for tool in service.tools:
                        found.setdefault(tool, []).append(presence.agent.agent_id)
    except BusError as error:
        click.echo(printable(f"which agents offer them is not known: {error}"), err=True)
        return None
    return found


def listed(known: Mapping[str, Tool], agents: dict[str, list[str]] | None) -> list[Entry]:
    """Return every tool, sorted by area and name."""
    found = [
        Entry(tool.name, tool.capability, str(tool.tier), first_sentence(tool.description), _agents(agents, tool.name))
        for tool in known.values()
    ]
    found += [Entry(name, ELSEWHERE, "", "", by) for name, by in (agents or {}).items() if name not in known]
    return sorted(found, key=lambda entry: (entry.area == ELSEWHERE, entry.area, entry.name))


def described(tool: Tool, agents: dict[str, list[str]] | None) -> Description:
    """Return the description of one tool."""
    taken, given = tool.input_schema(), tool.output_schema()
    meanings, notes = _meanings(taken)
    return Description(
        name=tool.name,
        area=tool.capability,
        service=tool.service,
        tier=str(tool.tier),
        raises={rule.says: str(rule.tier) for rule in tool.raises},
        repeat=f"{tool.repeat}: {REPEATS[tool.repeat]}",
        description=tool.description,
        parameters=_fields(taken, meanings),
        notes=notes,
        result=_fields(given, _meanings(given)[0], result=True),
        example=example(tool),
        agents=_agents(agents, tool.name),
    )


def example(tool: Tool) -> str:
    """Return a call of the tool with sample values for the required parameters."""
    schema = tool.input_schema()
    words = ["agentd", "call", tool.name]
    for name in schema.get("required", ()):
        value = _sample(name, schema["properties"][name], schema.get("$defs", {}))
        words.append(f"{name}={value if isinstance(value, str) else as_json(value)}")
    return " ".join(shlex.quote(word) if re.search(r"[^\w=./:@,+-]", word) else word for word in words)


def needs_approval(tier: str) -> bool:
    """Return whether a call of this tier needs a second principal's approval."""
    return tier in {str(check_approval) for check_approval in NEEDS_APPROVAL}


def first_sentence(text: str) -> str:
    """Return the first sentence of a description, on one line."""
    first = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    return re.split(r"(?<=\.)\s", first)[0]


def _agents(agents: dict[str, list[str]] | None, name: str) -> list[str] | None:
    return None if agents is None else sorted(agents.get(name, ()))


def _fields(schema: dict[str, Any], meanings: dict[str, str], *, result: bool = False) -> list[Field]:
    required, defs = set(schema.get("required", ())), schema.get("$defs", {})
    return [
        Field(
            name,
            type_of(kind, defs),
            name in required and not result,
            None if result else kind.get("default"),
            "; ".join(dict.fromkeys(filter(None, [_described(kind), meanings.get(name, "")]))),
        )
        for name, kind in schema.get("properties", {}).items()
    ]


def _meanings(schema: dict[str, Any]) -> tuple[dict[str, str], str]:
    """Return the fields of a type's text (`name: meaning`), and the other text."""
    names = "|".join(map(re.escape, schema.get("properties", {}))) or "(?!)"
    begin = re.compile(rf"(?:^|(?<=[;.]))\s*({names}): ", re.MULTILINE)
    text = schema.get("description", "")
    found = list(begin.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    meanings = {
        match[1]: " ".join(text[match.end() : end].split()).rstrip(";. ")
        for match, end in zip(found, ends, strict=False)
    }
    return meanings, " ".join(text[: found[0].start() if found else len(text)].split())


def _described(kind: dict[str, Any]) -> str:
    """Return the description of a field, also of its only alternative to null."""
    texts = [kind.get("description", ""), *(choice.get("description", "") for choice in kind.get("anyOf", ()))]
    return next(filter(None, texts), "") or kind.get("items", {}).get("description", "")


def type_of(kind: dict[str, Any], defs: dict[str, Any]) -> str:  # noqa: PLR0911 - one for each kind of type
    """Return the type of a JSON Schema in words."""
    if "$ref" in kind:
        return type_of(defs.get(kind["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in kind:
        choices = [type_of(choice, defs) for choice in kind["anyOf"] if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(choices))
    if "enum" in kind:
        return " | ".join(map(str, kind["enum"]))
    name = kind.get("type", "any")
    if name == "array":
        return f"list of {type_of(kind.get('items', {}), defs)}"
    if name == "object" and "properties" in kind:
        return f"object: {', '.join(kind['properties'])}"
    if name in {"integer", "number"} and ("minimum" in kind or "maximum" in kind):
        return f"{name} {kind.get('minimum', '')}..{kind.get('maximum', '')}"
    return {"string": "text", "boolean": "true | false"}.get(name, str(name))


def _sample(name: str, kind: dict[str, Any], defs: dict[str, Any]) -> Any:  # noqa: ANN401, PLR0911 - JSON
    if "$ref" in kind:
        return _sample(name, defs.get(kind["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in kind:
        return _sample(name, kind["anyOf"][0], defs)
    if "enum" in kind:
        return kind["enum"][0]
    match kind.get("type"):
        case "integer" | "number":
            return SAMPLES.get(name, max(1, kind.get("minimum", 1)))
        case "boolean":
            return True
        case "array":
            return [_sample(name.removesuffix("s"), kind.get("items", {}), defs)]
        case "object":
            needed = kind.get("required", ())
            return {field: _sample(field, kind["properties"][field], defs) for field in needed}
    found = re.search(r"for example ([^ ,;]+)", _described(kind))
    return found[1] if found else str(SAMPLES.get(name, name.upper()))
