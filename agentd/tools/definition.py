"""What a tool is: one definition, many faces.

A tool is written once, as a typed async method with msgspec Structs for parameters and result, a tier, and a
statement of how it may be repeated.  From that one definition come the task that orchestrators assign over
NATS, the MCP tool with its schema and annotations, `agentd call NAME …`, the policy check and the audit line.

    class Guests:
        def __init__(self, proxmox: Proxmox) -> None: ...

        @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
        async def start_vm(self, call: Call, p: StartVm) -> Guest:
            \"\"\"Start a VM and wait until it runs.\"\"\"

    tools = collect(Guests(proxmox), service="mcp-proxmox")

A tool of tier `operate` or above touches the world once, through `call.once(look, act)`: several effects are
several calls, each with a key of its own.  A tool that does not validate is quarantined alone.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

import msgspec

from agentd import formats
from agentd.errors import InvalidMessage
from agentd.safety import marks
from agentd.safety.policy import CONSENTED
from agentd.wire import secrets
from agentd.wire.codec import fault
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from agentd.proxmox.client import Proxmox
    from agentd.tools.raises import Raise
    from agentd.wire.messages import Target

R = TypeVar("R")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


class Repeat(StrEnum):
    """How a tool may be called again when nobody knows whether the first call had its effect."""

    IDEMPOTENT = "idempotent"
    """Doing it twice is the same as doing it once."""
    MARKED = "marked"
    """It leaves a mark in the world that can be found again."""
    PROBED = "probed"
    """The world is looked at first; if it is as wanted, nothing is done."""
    UNSAFE = "unsafe"
    """On doubt it stops and a person decides."""


@dataclass(frozen=True)
class Found:
    """What a look found: the effect is there, or under way as the Proxmox task `upid`."""

    upid: str = ""
    adopted: bool = True


class Call(Protocol):
    """One call of a tool, as the tool sees it.

    key        `<workflow>.<task>[.<step>]`: the mark to leave on what is made; "" for a plain read
    principal  who asked
    undoes     the key of the effect that is undone here; "" for any other run
    tier       the highest tier that this call may use
    deadline   seconds that are left
    """

    key: str
    principal: str
    undoes: str
    tier: Tier

    def left(self) -> float:
        """Return the seconds until this call's deadline."""
        ...

    def warn(self, text: str) -> None:
        """Add a warning to the result: the call succeeded, but somebody should know."""
        ...

    def progress(self, text: str) -> None:
        """Tell whoever waits what is being done now."""
        ...

    def target(self, target: Target) -> None:
        """Say what is going to be changed, before `once`: a tool that destroys or executes has to.

        Whoever approves sees it; if it looks otherwise when its turn has come, nothing is done.
        """
        ...

    def inverse(self, tool: str, parameters: dict[str, Any]) -> None:
        """Say in `look`, which has found that there is something to do, by which call it is made as it was before."""
        ...

    async def made(self, tools: Collection[str], target: str) -> bool:
        """Return True if the task that is undone here began to make `target` by one of `tools`.

        Our own effect record says so, never text in Proxmox.  False for a run that undoes nothing.
        """
        ...

    async def once(
        self,
        look: Callable[[], Awaitable[Found | None]],
        act: Callable[[], Awaitable[str | None]],
    ) -> Found:
        """Have an effect on the world once, whatever dies meanwhile.

        `look` tells whether our effect is there already (Found), not there (None), or raises PermanentError
        when a stranger is in its place.  `act` starts it and returns the UPID of the Proxmox task, if there
        is one.  The UPID is written down before `once` returns.  Raises Fenced when another process holds
        this effect, UnknownOutcome when `act` was not answered (the worker looks again).  In a dry run it does
        not return: nothing behind it is reached.
        """
        ...

    def breakable(self) -> AbstractContextManager[None]:
        """Let a stop end what `act` does in here: it takes long and leaves nothing if it is not brought to its end."""
        ...

    async def use(self, service: str, tool: str, parameters: dict[str, Any], result: type[R], *, step: str) -> R:
        """Call another agent's tool inside this task; `step` names the call, so that repeating it is safe."""
        ...


Run = Callable[[Call, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Tool:
    """One typed operation; `run` is bound and takes (call, parameters).

    stoppable  ended half-way it leaves nothing half-made; one that is not is finished once it has begun
    halt       ends the Proxmox task (a UPID) that a run has begun, and says what became of it
    undoes     it runs only where an orchestrator undoes a task, never for a call or as a task of a plan.  It deletes,
               so what is protected and the hourly budget count for it as for tier destroy
    raises     the parameters that need a higher tier; `tier_for` decides
    reads      it changes nothing, though it needs rights by which something can be changed
    """

    name: str
    service: str
    description: str
    tier: Tier
    repeat: Repeat
    capability: str
    parameters: type[msgspec.Struct]
    result: Any
    run: Run
    stoppable: bool = False
    halt: Callable[[str], Awaitable[str]] | None = None
    undoes: bool = False
    raises: tuple[Raise, ...] = ()
    reads: bool = False

    def tier_for(self, parameters: object, beside: Collection[str] = ()) -> Tier:
        """Return the tier that a call with these parameters needs: never less than the tool's own.

        beside  the tools of the same workflow: what they make may be given its first settings
        """
        needed = [each.tier for each in self.raised(parameters) if not set(each.made) & set(beside)]
        return max([self.tier, *needed], key=lambda tier: tier.rank)

    def raised(self, parameters: object) -> list[Raise]:
        """Return which of `raises` apply to these parameters: all of them if a workflow computes the parameters."""
        if not isinstance(parameters, dict):
            return list(self.raises)
        return [each for each in self.raises if each.when(parameters)]

    def tiers(self) -> str:
        """Return the tool's own tier, and with which parameters it needs a higher one."""
        return "; ".join([str(self.tier), *(f"{each.tier} with {each.says}" for each in self.raises)])

    def parse(self, parameters: object) -> Any:  # noqa: ANN401 - the tool's own Struct
        """Return `parameters` as the tool's own type; raises InvalidMessage that names tool and field."""
        if secret := secrets.refusal(parameters) or self._unreviewed(parameters):
            message = f"{self.name}: {secret}"
            raise InvalidMessage(message)
        unknown = set(parameters) - set(_field_names(self.parameters)) if isinstance(parameters, dict) else set()
        if unknown:
            message = f"{self.name}: unknown parameter {min(unknown)!r}; there are {_listed(self.parameters)}"
            raise InvalidMessage(message)
        marks.refuse(self.name, parameters)
        parameters = _plainer(parameters, _schema_of(self.parameters), self.name)
        try:
            return msgspec.convert(parameters, self.parameters)
        except msgspec.ValidationError as error:
            again = _texts(parameters, self.input_schema()) if isinstance(parameters, dict) else parameters
            if again != parameters:
                return self.parse(again)
            raise InvalidMessage(fault(error, self.name)) from error

    def _unreviewed(self, parameters: object) -> str:
        """Return why nothing says that a text among the parameters is no secret; "" unless their type decides that."""
        decide: Callable[[dict[str, Any]], str] | None = getattr(self.parameters, "unreviewed", None)
        return "" if decide is None or not isinstance(parameters, dict) else decide(parameters)

    def audited(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return what the audit keeps of a call's parameters: all of them, unless their type says less."""
        less: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self.parameters, "audited", None)
        return parameters if less is None else less(parameters)

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameters, with `type: object` at its root as MCP demands."""
        return object_schema(self.parameters)

    def output_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the result, with `type: object` at its root."""
        return object_schema(self.result)


@dataclass(frozen=True)
class Toolbox:
    """What a plugin may bind its tools to; `proxmox` is None where the configuration names no Proxmox.

    state_dir  where a plugin may keep what it can fetch again; None: in memory
    """

    node: str
    proxmox: Proxmox | None
    settings: Any
    state_dir: Path | None = None


@dataclass(frozen=True)
class Right:
    """A privilege of Proxmox that tools need on a path, and from which tier on; `{…}` stands for any name."""

    privilege: str
    path: str
    tier: Tier
    tools: tuple[str, ...]


@dataclass(frozen=True)
class BrokenTool:
    """A tool that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Marking:
    tier: Tier
    repeat: Repeat
    capability: str
    stoppable: bool
    undoes: bool
    raises: tuple[Raise, ...]
    reads: bool


F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


def tool(  # noqa: PLR0913 - each is one trait of a tool
    *,
    tier: Tier,
    repeat: Repeat,
    capability: str,
    stoppable: bool = False,
    undoes: bool = False,
    raises: tuple[Raise, ...] = (),
    reads: bool = False,
) -> Callable[[F], F]:
    """Mark an async method `(self, call, p: SomeStruct) -> SomeStruct` as a tool; its docstring describes it."""
    marking = _Marking(tier, repeat, capability, stoppable, undoes, raises, reads)

    def mark(method: F) -> F:
        method.__agentd_tool__ = marking  # type: ignore[attr-defined]
        return method

    return mark


def collect(
    owner: object, *, service: str, halt: Callable[[str], Awaitable[str]] | None = None
) -> list[Tool | BrokenTool]:
    """Return the tools among the methods of `owner`; one that does not validate comes as a BrokenTool."""
    found: list[Tool | BrokenTool] = []
    for name, method in inspect.getmembers(owner, inspect.ismethod):
        marking = getattr(method, "__agentd_tool__", None)
        if marking is None:
            continue
        try:
            found.append(dataclasses.replace(_define(name, method, marking, service), halt=halt))
        except (TypeError, ValueError, NameError) as error:
            found.append(BrokenTool(name, str(error)))
    return found


def _define(name: str, method: Run, marking: _Marking, service: str) -> Tool:
    if not _NAME.match(name):
        message = f"{name!r} is not a tool name"
        raise ValueError(message)
    if not inspect.iscoroutinefunction(method):
        message = "a tool is an async method"
        raise TypeError(message)
    hints = get_type_hints(method)
    result = hints.pop("return", None)
    hints.pop("call", None)
    if len(hints) != 1 or result is None:
        message = "a tool takes (call, p: Parameters) and says what it returns"
        raise TypeError(message)
    parameters = next(iter(hints.values()))
    made = Tool(
        name=name,
        service=service,
        description=inspect.getdoc(method) or "",
        tier=marking.tier,
        repeat=marking.repeat,
        capability=marking.capability,
        parameters=parameters,
        result=result,
        run=method,
        stoppable=marking.stoppable,
        undoes=marking.undoes,
        raises=marking.raises,
        reads=marking.reads,
    )
    _check_raises(made)
    if not made.description:
        message = "a tool has a docstring: it is what an AI client reads"
        raise ValueError(message)
    made.input_schema()
    made.output_schema()
    return made


def _check_raises(made: Tool) -> None:
    """Raise ValueError unless each of `raises` needs a consent, and more than the tool does without it."""
    for each in made.raises:
        if each.tier.rank <= made.tier.rank or each.tier not in CONSENTED:
            message = f"with {each.says} it would need tier {each.tier}: only destroy or exec above its own {made.tier}"
            raise ValueError(message)
        if made.tier is Tier.READ:
            message = f"with {each.says} it would not be of tier read any more: a tool that changes something operates"
            raise ValueError(message)


def object_schema(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any type that msgspec knows
    """Return the JSON Schema of `kind` with its root inlined; raises TypeError if it is not an object."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    if "$ref" in schema:
        schema = dict(components.pop(schema["$ref"].rpartition("/")[2]))
    if schema.get("type") != "object":
        message = f"{kind} is not an object in JSON"
        raise TypeError(message)
    if components:
        schema["$defs"] = components
    found: dict[str, Any] = formats.published(schema)
    return found


@functools.lru_cache(maxsize=1024)
def _schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return object_schema(kind)


def _plainer(parameters: object, schema: dict[str, Any], name: str) -> object:
    """Return `parameters` as they are meant: null is not given, and 100.0 is 100 where an integer is wanted.

    Some clients fill what they leave out with null, and some know no integers.  Raises InvalidMessage for a number
    that is none (NaN, Infinity, 1e400), wherever it is.
    """
    if not _has(parameters, lambda value: value is None or type(value) is float):
        return parameters
    if _has(parameters, lambda value: type(value) is float and not math.isfinite(value)):
        raise InvalidMessage(f"{name}: a parameter is not a finite number (NaN, Infinity, or too large)")
    return _as_meant(parameters, schema, schema.get("$defs", {}))


def _has(value: object, what: Callable[[object], bool]) -> bool:
    """Tell whether `what` holds for anything in nested lists and objects."""
    if isinstance(value, dict):
        return any(_has(item, what) for item in value.values())
    if isinstance(value, list):
        return any(_has(item, what) for item in value)
    return what(value)


def _as_meant(value: object, schema: dict[str, Any], defs: dict[str, Any]) -> object:
    kinds = _kinds(schema, defs)
    if isinstance(value, dict):
        required = {name for kind in kinds for name in kind.get("required", ())}
        free = not any("properties" in kind or isinstance(kind.get("additionalProperties"), dict) for kind in kinds)
        given = {name: item for name, item in value.items() if item is not None or name in required or free}
        return {name: _as_meant(item, _property(kinds, name), defs) for name, item in given.items()}
    if isinstance(value, list):
        items: dict[str, Any] = next((kind["items"] for kind in kinds if isinstance(kind.get("items"), dict)), {})
        return [_as_meant(item, items, defs) for item in value]
    types = {kind.get("type") for kind in kinds}
    types |= {"integer" for kind in kinds for choice in kind.get("enum", ()) if type(choice) is int}
    if type(value) is float and value.is_integer() and "integer" in types and "number" not in types:
        return int(value)
    return value


def _kinds(schema: dict[str, Any], defs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a schema with their references resolved; none where anything may stand."""
    if "$ref" in schema:
        return _kinds(defs.get(schema["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in schema:
        return [kind for each in schema["anyOf"] for kind in _kinds(each, defs)]
    return [schema] if "type" in schema or "enum" in schema else []


def _property(kinds: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for kind in kinds:
        found = kind.get("properties", {}).get(name, kind.get("additionalProperties"))
        if isinstance(found, dict):
            return found
    return {}


def _texts(parameters: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return `parameters` with whole numbers as texts where a text is wanted: `dport=22` is meant so."""
    found = dict(parameters)
    for name, kind in schema.get("properties", {}).items():
        types = {each.get("type") for each in (kind, *kind.get("anyOf", ()))}
        if type(parameters.get(name)) is int and "string" in types and not types & {"integer", "number"}:
            found[name] = str(parameters[name])
    return found


def by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Return `tools` by name; raises ValueError when two have the same one."""
    named: dict[str, Tool] = {}
    for each in tools:
        if each.name in named:
            message = f"two tools are called {each.name!r}: of {named[each.name].service} and of {each.service}"
            raise ValueError(message)
        named[each.name] = each
    return named


def _field_names(kind: type[msgspec.Struct]) -> list[str]:
    return list(kind.__struct_encode_fields__)  # `structs.fields` resolves all annotations: 100 µs


def _listed(kind: type[msgspec.Struct]) -> str:
    return ", ".join(_field_names(kind)) or "none"
