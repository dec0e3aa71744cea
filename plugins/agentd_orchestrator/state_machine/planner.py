"""Turns a request into a plan, or into the reason for its rejection; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from agentd import (
    ANONYMOUS,
    NEEDS_APPROVAL,
    AgentdError,
    Denied,
    InvalidMessage,
    Rejected,
    TaskSpec,
    Tier,
    WorkflowRequest,
    plain,
    secrets,
)
from agentd.safety.policy import unproven_reason
from agentd.similar import suggestion
from agentd.wire.codec import fault
from agentd.wire.workflow import PREVIEW
from agentd_orchestrator.declared.parameters import refuse_markers
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine.inputs import PlannedRequest
from agentd_orchestrator.state_machine.outgoing import MAX_TIMEOUT
from agentd_orchestrator.state_machine.plan_check import check_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd import Compensation, Definition, Parent, Policy, Workflow

MAX_DEPTH: Final = 5
"""Maximum nesting of workflows that start one another."""


class Planner:
    """Plans requests with the workflow definitions and the policy of this daemon."""

    def __init__(self, definitions: Mapping[str, Definition], policy: Policy) -> None:
        """Use these workflow definitions and this policy."""
        self._definitions = definitions
        self._policy = policy

    def begin(  # noqa: PLR0913 - the request and its origin
        self,
        request: WorkflowRequest,
        principal: str,
        tier: Tier,
        *,
        plain: bool,
        retried: Workflow | None = None,
        parent: Parent | None = None,
    ) -> PlannedRequest:
        """Return the request with its plan, or with the reason for its rejection.

        Raises only what a bug in a definition raises.

        retried  the workflow that the request retries
        parent   the task that starts this workflow
        """
        begin = PlannedRequest(
            request, [], principal, tier, parent=parent, authenticated=is_authenticated(request, principal)
        )
        try:
            _check(request, parent)
            begin = _retry_of(begin, retried) if request.retry_of else self._planned(begin)
            self._allow(begin, plain=plain)
        except AgentdError as error:
            return replace(begin, plan=[], carried={}, refused=str(error))
        return begin

    def _planned(self, begin: PlannedRequest) -> PlannedRequest:
        request = begin.request
        definition = self._definitions.get(request.workflow_type)
        if definition is None:
            hint = suggestion(request.workflow_type, sorted(self._definitions))
            raise Rejected(f"workflow_type: unknown {request.workflow_type!r}{hint}")
        values = _parameters(request, definition.parameters)
        plan = with_previews(definition.plan(values), self._policy.approval_timeout)
        check_plan(plan)
        if secret := secrets.refusal([task.parameters for task in plan]):
            raise Rejected(f"a task of {request.workflow_type}: {secret}")
        return replace(begin, plan=plan, parameters=plain(values))

    def _allow(self, begin: PlannedRequest, *, plain: bool) -> None:
        for task in begin.plan:
            self._check_tier(task.tool or task.name, task.tier, begin, plain=plain)
            if not begin.authenticated and (task.approval or (task.tier in NEEDS_APPROVAL and not task.workflow)):
                what = f"task {task.name}: {task.tool or task.workflow} has to be approved"
                raise Denied(unproven_reason(what, begin.principal))
            if task.compensation is not None:
                _undoable(task.name, task.compensation)
                self._check_tier(task.compensation.tool, task.compensation.tier, begin, plain=plain)
            if task.workflow and task.workflow not in self._definitions:
                raise Rejected(f"task {task.name}: there is no workflow {task.workflow!r}")

    def _check_tier(self, what: str, tier: Tier, begin: PlannedRequest, *, plain: bool) -> None:
        if tier is not Tier.READ:
            self._policy.allow(what, tier, begin.tier, principal=begin.principal, plain=plain)


def with_previews(plan: list[TaskSpec], within: float) -> list[TaskSpec]:
    """Add a preview and an approval before each task of tier `destroy` or `exec`.

    within  seconds for the approval of a task that has no `approve_within` of its own
    """
    result: list[TaskSpec] = []
    for task in plan:
        if task.workflow or task.tier not in NEEDS_APPROVAL:
            result.append(task)
            continue
        preview = replace(
            task, name=PREVIEW + task.name, preview=True, tier=Tier.READ, approval="", on_error={}, compensation=None
        )
        seconds = within if task.approve_within is None else task.approve_within
        result += [preview, replace(task, after=[*task.after, preview.name], approve_within=seconds)]
    return result


def is_authenticated(request: WorkflowRequest, principal: str) -> bool:
    """Return whether the principal of a request is authenticated."""
    return request.authenticated and principal not in ANONYMOUS


def _undoable(name: str, undo: Compensation) -> None:
    """Raise Rejected for a compensation that needs approval: it runs without one."""
    if undo.tier in NEEDS_APPROVAL:
        raise Rejected(f"task {name}: its compensation {undo.tool} is of tier {undo.tier}, and could not be approved")


def _check(request: WorkflowRequest, parent: Parent | None) -> None:
    if request.timeout is not None and request.timeout <= 0:
        raise Rejected(f"timeout: {request.timeout:g} s has passed already")
    if request.timeout is not None and request.timeout > MAX_TIMEOUT:
        raise Rejected(f"timeout: {request.timeout:g} s is too long; at most {MAX_TIMEOUT:.0f} s")
    if not 1 <= request.priority <= 10:  # noqa: PLR2004 - as documented
        raise Rejected(f"priority: {request.priority} is not 1 to 10")
    if parent is not None and parent.depth > MAX_DEPTH:
        raise Rejected(f"more than {MAX_DEPTH} workflows have started one another")


def _retry_of(begin: PlannedRequest, old: Workflow | None) -> PlannedRequest:
    """Return the request with plan and completed tasks of the workflow it retries."""
    request = begin.request
    if old is None:
        raise Rejected(f"retry_of: there is no workflow {request.retry_of!r}")
    if request.parameters or request.workflow_type not in {"", old.workflow_type}:
        raise Rejected(f"retry_of: {old.workflow_id} is continued as it was requested; leave type and parameters out")
    tasks = wf.retry_tasks(old)
    plan = [task.spec for task in tasks.values() if task.spec is not None]
    request = replace(request, workflow_type=old.workflow_type, parameters=old.parameters)
    return replace(begin, request=request, plan=plan, carried=tasks)


def _parameters(request: WorkflowRequest, kind: type[msgspec.Struct]) -> Any:  # noqa: ANN401 - the definition's own
    """Return the request's parameters as the definition's type.

    Raises InvalidMessage that names the invalid field.
    """
    known = kind.__struct_encode_fields__
    unknown = sorted(set(request.parameters) - set(known))
    if unknown:
        raise InvalidMessage(f"parameters: unknown {unknown[0]!r}{suggestion(unknown[0], known)}")
    refuse_markers(request.parameters)
    try:
        return msgspec.convert(request.parameters, kind)
    except msgspec.ValidationError as error:
        raise InvalidMessage(fault(error, "parameters")) from error
