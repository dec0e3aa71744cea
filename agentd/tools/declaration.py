"""Declare tools: the decorator `tool`, and `collect`, which makes Tools of methods.

A tool that does not validate is disabled; the other tools stay available.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_type_hints

from agentd.safety.policy import NEEDS_APPROVAL
from agentd.tools.definition import BrokenTool, Repeat, Run, Tool
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from agentd.tools.raises import Raise

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


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


def tool(  # noqa: PLR0913 - one parameter per property of a tool
    *,
    tier: Tier,
    repeat: Repeat,
    capability: str,
    stoppable: bool = False,
    undoes: bool = False,
    raises: tuple[Raise, ...] = (),
    reads: bool = False,
) -> Callable[[F], F]:
    """Mark an async method `(self, call, p: Parameters) -> Result` as a tool.

    Parameters and Result are Structs; the method's docstring is the tool's description.
    """
    marking = _Marking(tier, repeat, capability, stoppable, undoes, raises, reads)

    def mark(method: F) -> F:
        method.__agentd_tool__ = marking  # type: ignore[attr-defined]
        return method

    return mark


def collect(
    owner: object, *, service: str, halt: Callable[[str], Awaitable[str]] | None = None
) -> list[Tool | BrokenTool]:
    """Return the tools among the methods of `owner`.

    A tool that does not validate is returned as a BrokenTool.
    """
    tools: list[Tool | BrokenTool] = []
    for name, method in inspect.getmembers(owner, inspect.ismethod):
        marking = getattr(method, "__agentd_tool__", None)
        if marking is None:
            continue
        try:
            tools.append(dataclasses.replace(_define(name, method, marking, service), halt=halt))
        except (TypeError, ValueError, NameError) as error:
            tools.append(BrokenTool(name, str(error)))
    return tools


def _define(name: str, method: Run, marking: _Marking, service: str) -> Tool:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is not a tool name")
    if not inspect.iscoroutinefunction(method):
        raise TypeError("a tool is an async method")
    hints = get_type_hints(method)
    result = hints.pop("return", None)
    hints.pop("call", None)
    if len(hints) != 1 or result is None:
        raise TypeError("a tool takes (call, p: Parameters) and declares what it returns")
    parameters = next(iter(hints.values()))
    definition = Tool(
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
    _check_raises(definition)
    if not definition.description:
        raise ValueError("a tool has a docstring: it is what an AI client reads")
    definition.input_schema()
    definition.output_schema()
    return definition


def _check_raises(definition: Tool) -> None:
    """Raise ValueError for an entry of `raises` that is not valid for this tool.

    Each must need an approval, and a higher tier than the tool itself.
    """
    for rule in definition.raises:
        if rule.tier.rank <= definition.tier.rank or rule.tier not in NEEDS_APPROVAL:
            raise ValueError(
                f"with {rule.says} it would need tier {rule.tier}: only destroy or exec above its own {definition.tier}"
            )
        if definition.tier is Tier.READ:
            raise ValueError(
                f"with {rule.says} it would not be of tier read: a tool that changes something needs operate"
            )


def by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Return `tools` by name; raises ValueError if two have the same name."""
    named: dict[str, Tool] = {}
    for entry in tools:
        if entry.name in named:
            raise ValueError(
                f"two tools are called {entry.name!r}: of {named[entry.name].service} and of {entry.service}"
            )
        named[entry.name] = entry
    return named
