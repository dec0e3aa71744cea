"""A readable form of a plan: the graph, and the parameters of each task.

Parameters that depend on results are shown as the expression that will be evaluated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from agentd.wire.workflow import Workflow


class PlannedTask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task of a plan; `with_` (`with` in JSON): its known parameters."""

    name: str
    calls: str
    queue: str
    after: list[str] = []
    when: str = ""
    for_each: Any = None
    max_parallel: int = 0
    approval: str = ""
    with_: Any = msgspec.field(default=None, name="with")
    undo: str = ""
    undo_with: Any = None


def preview(state: Workflow) -> list[PlannedTask]:
    """Return the tasks of a workflow's plan."""
    planned = []
    for task in state.tasks.values():
        spec = task.spec
        if spec is None:
            continue
        undo = spec.compensation
        planned.append(
            PlannedTask(
                name=spec.name,
                calls=f"workflow {spec.workflow}" if spec.workflow else spec.tool,
                queue=spec.queue,
                after=spec.after,
                when=spec.condition,
                for_each=_readable(spec.for_each),
                max_parallel=spec.max_parallel if spec.for_each is not None else 0,
                approval=spec.approval,
                with_=_readable(spec.parameters),
                undo="" if undo is None else undo.tool,
                undo_with=None if undo is None else _readable(undo.parameters),
            )
        )
    return planned


def _readable(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return parameters in the notation of workflow files."""
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$template" in value:
        return value["$template"]
    if "$result" in value:
        task, field = value["$result"], value.get("field", "")
        return f"{{{{ tasks.{task}.result{f'.{field}' if field else ''} }}}}"
    return {key: _readable(item) for key, item in value.items()}
