"""Signals to a running workflow: cancel, pause, resume, approve, reject.

A repeated signal (delivery is at least once) changes nothing and is not an error.  A signal that cannot be executed
raises Rejected with the reason, and the state does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agentd import ANONYMOUS, Denied, Rejected, Status, TaskError, TaskState, TaskStatus, Tier, Workflow
from agentd.safety.policy import unproven_reason
from agentd_orchestrator.state_machine import failures
from agentd_orchestrator.state_machine.state import add_entry, continues, set_task

if TYPE_CHECKING:
    from datetime import datetime

    from agentd_orchestrator.state_machine.inputs import Signal

MAX_TEXT: Final = 4000
"""Characters that are stored of an error, a warning or a reason: the state contains it more than once."""
CONTROLS: Final = ("cancel", "pause", "resume")
ACTIONS: Final = (*CONTROLS, "approve", "reject")


def apply_signal(state: Workflow, given: Signal, at: datetime) -> Workflow:
    """Return the state after a signal.

    Raises Rejected or Denied if it cannot be executed.
    """
    if given.signal.action in CONTROLS:
        _check_control(state, given)
    match given.signal.action:
        case "cancel":
            return _cancel(state, given, at)
        case "pause":
            return _pause(state, given, at)
        case "resume":
            return _resume(state, given, at)
        case "approve" | "reject":
            return _apply_decision(state, given, at)
        case _:
            raise Rejected(f"action: unknown {given.signal.action!r}; there are {', '.join(ACTIONS)}")


def _check_control(state: Workflow, given: Signal) -> None:
    """Raise Denied unless the principal owns the workflow or its tier is sufficient.

    The tier must cover every task of the workflow.
    """
    needed = max((state.spec(name).tier for name in state.tasks), key=lambda tier: tier.rank, default=Tier.READ)
    if given.principal != state.principal and not given.tier.covers(needed):
        raise Denied(
            f"{given.principal} has tier {given.tier}; {given.signal.action} of {state.workflow_id} of "
            f"{state.principal} needs tier {needed}"
        )


def _reason(given: Signal) -> str:
    reason = given.signal.reason[:MAX_TEXT]
    return f"by {given.principal}" + (f": {reason}" if reason else "")


def _cancel(state: Workflow, given: Signal, at: datetime) -> Workflow:
    undo = given.signal.undo
    if state.status is Status.COMPENSATING:
        raise Rejected(f"{state.workflow_id} is being undone already; that is not cancelled")
    if state.status is Status.CANCELLING:
        return replace(state, undo=True) if undo and not state.undo else state
    text = f"cancelled {_reason(given)}"
    state = replace(
        add_entry(state, at, text), status=Status.CANCELLING, error=state.error or text, undo=state.undo or undo
    )
    return failures.wind_down(state, at, stop=True)


def _pause(state: Workflow, given: Signal, at: datetime) -> Workflow:
    if state.status is Status.PAUSED:
        return state
    if not continues(state):
        raise Rejected(f"{state.workflow_id} is {_progress_text(state)}: it cannot be paused")
    state = add_entry(state, at, f"paused {_reason(given)}")
    return replace(state, status=Status.PAUSED, clock_stopped_at=state.clock_stopped_at or at)


def _resume(state: Workflow, given: Signal, at: datetime) -> Workflow:
    if state.status is not Status.PAUSED:
        raise Rejected(f"{state.workflow_id} is {_progress_text(state)}, not paused")
    state = replace(add_entry(state, at, f"resumed {_reason(given)}"), status=Status.RUNNING)
    overdue = {
        name: replace(task, retry_at=None)
        for name, task in state.tasks.items()
        if task.retry_at is not None and task.retry_at <= at
    }
    return replace(state, tasks=state.tasks | overdue)


def _progress_text(state: Workflow) -> str:
    return "failing" if state.failing and state.status is Status.RUNNING else str(state.status)


def _apply_decision(state: Workflow, given: Signal, at: datetime) -> Workflow:
    """Apply a principal's approval or rejection of a task."""
    name = given.signal.task
    task = state.tasks.get(name)
    if task is None:
        raise Rejected(f"task: {state.workflow_id} has no task {name!r}")
    approval = task.approval
    if approval is not None and approval.at is not None and approval.by == given.principal:
        return state
    if approval is None or task.status is not TaskStatus.WAITING_APPROVAL:
        raise Rejected(f"task: {name} does not wait for an approval; it is {task.status}")
    _check_approver(state, given, task)
    if approval.until is not None and approval.until <= at:
        raise Rejected(f"task: {name} was to be approved by {approval.until:%Y-%m-%d %H:%M:%S} UTC; request it again")
    approval = replace(approval, by=given.principal, at=at, reason=given.signal.reason[:MAX_TEXT])
    task = replace(task, approval=approval)
    if given.signal.action == "approve":
        return set_task(state, name, replace(task, status=TaskStatus.WAITING), at, f"approved {_reason(given)}")
    return failures.fail(state, name, task, TaskError("refused", f"refused {_reason(given)}"), at)


def _check_approver(state: Workflow, given: Signal, task: TaskState) -> None:
    name, spec = given.signal.task, state.spec(given.signal.task)
    if given.principal in ANONYMOUS:
        raise Denied(
            f"{given.principal} needs no token, so it decides nothing; approve as a principal that has logged in"
        )
    if given.signal.action == "approve" and (not state.authenticated or state.principal in ANONYMOUS):
        raise Denied(unproven_reason(f"{name} of {state.workflow_id} cannot be approved", state.principal))
    if given.principal in {state.principal, state.requester_id}:
        raise Denied(f"{given.principal} requested {state.workflow_id}: another principal has to approve {name}")
    if not given.tier.covers(spec.tier):
        raise Denied(f"{given.principal} has tier {given.tier}; approving {name} needs tier {spec.tier}")
    expected = "" if task.approval is None else task.approval.digest
    if given.signal.digest != expected:
        raise Rejected(f"digest: {name} is not what was shown any more; read it again, then approve {expected[:12]}")
