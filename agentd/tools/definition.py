"""The definition of a tool.

A tool is written once, as a typed async method with msgspec Structs for parameters and result, a tier, and a
declaration of how it may be repeated.  Everything else is derived from that definition: the task that orchestrators
assign over NATS, the MCP tool with its schema and annotations, `agentd call NAME …`, the policy check and the audit
record.

    class Guests:
        def __init__(self, proxmox: Proxmox) -> None: ...

        @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
        async def start_guest(self, call: Call, p: StartGuest) -> Guest:
            \"\"\"Start a VM and wait until it runs.\"\"\"

    tools = collect(Guests(proxmox), service="mcp-proxmox")

A tool of tier `operate` or above makes each external change through `call.ensure(check, apply)`: several changes are
several invocations, each with its own key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from agentd.errors import InvalidMessage
from agentd.safety import marks
from agentd.similar import suggestion
from agentd.tools.schemas import as_texts, normalized, object_schema, schema_of
from agentd.wire import secrets
from agentd.wire.codec import fault

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.proxmox.client import Proxmox
    from agentd.tools.raises import Raise
    from agentd.wire.messages import Target, Tier

R = TypeVar("R")


class Repeat(StrEnum):
    """How a tool may be repeated when the outcome of its first run is unknown."""

    IDEMPOTENT = "idempotent"
    """Running it twice has the same result as running it once."""
    MARKED = "marked"
    """It leaves a mark in Proxmox that can be found again."""
    PROBED = "probed"
    """It reads the current state first, and does nothing if that is as wanted."""
    UNSAFE = "unsafe"
    """If the outcome is in doubt, it stops and a person decides."""


@dataclass(frozen=True)
class Found:
    """The result of `check`: the change is made, or the Proxmox task `upid` makes it."""

    upid: str = ""
    adopted: bool = True


class Call(Protocol):
    """One invocation of a tool, as the tool sees it.

    key        `<workflow>.<task>[.<step>]`: the mark to leave on created objects; "" for a plain read
    principal  the principal that asked
    undoes     the key of the invocation that this one undoes; "" for any other
    tier       the highest tier that this invocation may use
    deadline   seconds that are left
    """

    key: str
    principal: str
    undoes: str
    tier: Tier

    @property
    def begun(self) -> datetime | None:
        """Time since which an earlier run may have made the change; None if none began."""
        ...

    def left(self) -> float:
        """Return the seconds until the deadline."""
        ...

    def warn(self, text: str) -> None:
        """Add a warning to the result: the call succeeded, but a person should know it."""
        ...

    def progress(self, text: str) -> None:
        """Report the current activity to the waiting caller."""
        ...

    def target(self, target: Target) -> None:
        """Declare an object that will be changed; call it before `ensure`.

        It is required for tiers destroy and exec.  The approver sees it; if it has changed by the time the tool acts,
        nothing is done.
        """
        ...

    def inverse(self, tool: str, parameters: dict[str, Any]) -> None:
        """Declare the tool call that undoes this change.

        Call it in `check`, once it is clear that there is something to do.
        """
        ...

    async def made(self, tools: Collection[str], target: str) -> bool:
        """Return whether the task being undone began to create `target` by one of these.

        tools  the names of the tools that count

        The answer comes from agentd's own effect record, never from text in Proxmox.  False if nothing is being undone.
        """
        ...

    async def ensure(
        self,
        check: Callable[[], Awaitable[Found | None]],
        apply: Callable[[], Awaitable[str | None]],
    ) -> Found:
        """Apply an external change exactly once, even across crashes.

        `check` checks whether our change exists already: it returns Found if so, None if not, and raises PermanentError
        if an object that is not ours is in its place.  `apply` starts the change and returns the UPID of the Proxmox
        task, if there is one.  The UPID is stored before `ensure` returns.  Raises Fenced when another process holds
                                the
        effect record, UnknownOutcome when there was no response to `apply` (the worker then calls `check` again).  In a
        dry run it does not return: the code after it is not reached.
        """
        ...

    def allow_stop(self) -> AbstractContextManager[None]:
        """Allow a stop to interrupt this part of `apply`.

        It is for a part that takes long and leaves nothing behind when it is interrupted.
        """
        ...

    async def use(self, service: str, tool: str, parameters: dict[str, Any], result: type[R], *, step: str) -> R:
        """Call another agent's tool within this task.

        `step` names the call, which makes repeating it safe.
        """
        ...


Run = Callable[[Call, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Tool:
    """One typed operation; `run` is bound and takes (call, parameters).

    stoppable  an interrupted run leaves nothing half-made; a tool without this is always completed once it has begun
    halt       stops the Proxmox task (a UPID) that a run has started, and returns what happened to it
    undoes     it runs only when an orchestrator undoes a task, never for a call or as a task of a plan.  It deletes,
               so protection and the hourly budget apply to it as to tier destroy
    raises     the parameters that need a higher tier; `tier_for` decides
    reads      it changes nothing, although it needs privileges that would allow changes
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
        """Return the tier that these parameters need: never less than the tool's own.

        beside  the tools of the same workflow: an object that one of them creates may be given its first settings
        """
        needed = [rule.tier for rule in self.raised(parameters) if not set(rule.made) & set(beside)]
        return max([self.tier, *needed], key=lambda tier: tier.rank)

    def raised(self, parameters: object) -> list[Raise]:
        """Return the entries of `raises` that apply to these parameters.

        All of them apply if a workflow computes the parameters.
        """
        if not isinstance(parameters, dict):
            return list(self.raises)
        return [rule for rule in self.raises if rule.when(parameters)]

    def tiers(self) -> str:
        """Return the tool's own tier, and the parameters that need a higher one."""
        return "; ".join([str(self.tier), *(f"{rule.tier} with {rule.says}" for rule in self.raises)])

    def parse(self, parameters: object) -> Any:  # noqa: ANN401 - the tool's own Struct
        """Return `parameters` as the tool's own type.

        Raises InvalidMessage that names tool and field.
        """
        if secret := secrets.refusal(parameters) or self._unreviewed(parameters):
            raise InvalidMessage(f"{self.name}: {secret}")
        unknown = set(parameters) - set(_field_names(self.parameters)) if isinstance(parameters, dict) else set()
        if unknown:
            hint = suggestion(min(unknown), _field_names(self.parameters))
            raise InvalidMessage(f"{self.name}: unknown parameter {min(unknown)!r}{hint}")
        marks.refuse_marks(self.name, parameters)
        parameters = normalized(parameters, schema_of(self.parameters), self.name)
        try:
            return msgspec.convert(parameters, self.parameters)
        except msgspec.ValidationError as error:
            converted = as_texts(parameters, self.input_schema()) if isinstance(parameters, dict) else parameters
            if converted != parameters:
                return self.parse(converted)
            raise InvalidMessage(fault(error, self.name)) from error

    def _unreviewed(self, parameters: object) -> str:
        """Return why a text in the parameters is not known to be free of secrets, or "".

        Only a parameter type with a method `unreviewed` decides that.
        """
        decide: Callable[[dict[str, Any]], str] | None = getattr(self.parameters, "unreviewed", None)
        return "" if decide is None or not isinstance(parameters, dict) else decide(parameters)

    def audited(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters that the audit record keeps.

        These are all of them, unless their type has a method `audited` that returns fewer.
        """
        less: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self.parameters, "audited", None)
        return parameters if less is None else less(parameters)

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the parameters.

        Its root has `type: object`, as MCP requires.
        """
        return object_schema(self.parameters)

    def output_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the result, with `type: object` at its root."""
        return object_schema(self.result)


@dataclass(frozen=True)
class Toolbox:
    """What a plugin may use to build its tools.

    proxmox    None if no Proxmox is configured
    state_dir  directory for data that the plugin can fetch again; None: keep it in memory
    bus        None where tools are inspected and never run
    diagnosis_rules  what the hook `agentd_diagnosis_rules` of all plugins returned
    """

    node: str
    proxmox: Proxmox | None
    settings: Any
    state_dir: Path | None = None
    bus: Bus | None = None
    diagnosis_rules: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Right:
    """A Proxmox privilege that tools need on a path, and from which tier on.

    In the path, `{…}` is any name.
    """

    privilege: str
    path: str
    tier: Tier
    tools: tuple[str, ...]


@dataclass(frozen=True)
class BrokenTool:
    """A tool that was disabled, and the reason."""

    name: str
    reason: str


def _field_names(kind: type[msgspec.Struct]) -> list[str]:
    return list(kind.__struct_encode_fields__)  # `structs.fields` resolves all annotations: 100 µs
