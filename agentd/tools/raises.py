"""Parameters that raise the tier of a tool; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd.wire.messages import Tier


@dataclass(frozen=True)
class Raise:
    """Parameters with which a tool needs a higher tier than its own.

    Its calls then need the approval of a second principal.

    tier  the needed tier, `destroy` or `exec`
    says  the parameters as documentation and errors name them: `firewall=false`
    when  returns whether it applies to the parameters; pure.  It gets them as the caller wrote them: text may be given
          for any value, and a template of a workflow is not resolved.  What it cannot read must count as applying
    made  tools: it does not apply to a `target` that one of them has created in the same workflow
    """

    tier: Tier
    says: str
    when: Callable[[Mapping[str, Any]], bool]
    made: tuple[str, ...] = ()
    target: str = "guest/{vmid}"


def is_given(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a condition that is true if one of these parameters is given.

    Null counts as not given.
    """
    return lambda parameters: any(parameters.get(name) is not None for name in names)


def is_not_true(name: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a condition that is true if the switch `name` is given and is not true."""
    return lambda parameters: parameters.get(name) is not None and _word(parameters[name]) not in {"true", "1"}


def _word(value: object) -> str:
    return str(value).strip().lower()
