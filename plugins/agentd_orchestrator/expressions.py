"""Templates and conditions of a plan, filled in by jinja2 in its sandbox."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agentd.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

_TASK = re.compile(r"\btasks\.([A-Za-z][A-Za-z0-9_]*)")


@lru_cache(maxsize=1)
def _environment() -> Any:  # noqa: ANN401 - jinja2 is loaded at first use
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined)


def check(template: str) -> None:
    """Raise Rejected for a template that cannot be read."""
    _guarded(template, lambda: _environment().parse(template))


def check_condition(condition: str) -> None:
    """Raise Rejected for a condition that cannot be read."""
    _guarded(condition, lambda: _environment().compile_expression(condition))


def wanted(template: str) -> set[str]:
    """Return the tasks that a template refers to."""
    return set(_TASK.findall(template))


def evaluate(template: str, names: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return what a template says; raises Rejected."""
    text = template.strip()
    if text.startswith("{{") and text.endswith("}}") and text.count("{{") == 1:
        return _value(text[2:-2], names)
    return _guarded(template, lambda: _environment().from_string(template).render(names))


def holds(condition: str, names: Mapping[str, Any]) -> bool:
    """Tell whether a condition is so; raises Rejected."""
    return bool(_value(condition, names))


def _value(expression: str, names: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    from jinja2 import Undefined

    def value() -> Any:  # noqa: ANN401 - JSON
        found = _environment().compile_expression(expression, undefined_to_none=False)(**names)
        return str(found) if isinstance(found, Undefined) else found

    return _guarded(expression, value)


def _guarded(text: str, work: Any) -> Any:  # noqa: ANN401 - JSON
    from jinja2 import TemplateError

    try:
        return work()
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        message = f"{text.strip()}: {error}"
        raise Rejected(message) from error
