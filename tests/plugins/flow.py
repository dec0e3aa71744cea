"""Workflows without anything around them: plans, inputs, and one step after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from agentd.wire.messages import Outcome, TaskCompletion, TaskError, Tier, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import Compensation, TaskSpec, Workflow
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine.inputs import AgentReport, Input, PlannedRequest, Signal, TimerFired

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LATER = T0 + timedelta(seconds=10)
PASSING = TaskError("temporary", "later", retry=True)


def fold(state: Workflow | None, inputs: list[Input], at: datetime) -> Workflow | None:
    """Decide over `inputs` in turn, as the engine does; return the next state, or None for no change."""
    start = current = wf.without_outbox(state)
    for given in inputs:
        current = wf.decide(current, given, at)
    return None if current is start else current


def spec(name: str, *after: str, tier: Tier = Tier.OPERATE, **more: Any) -> TaskSpec:
    """Return a task of a plan."""
    values: dict[str, Any] = {"tool": name, "queue": "svc", "tier": tier, "after": list(after), "timeout": 60.0}
    return TaskSpec(name, **(values | more))


def begin(*plan: TaskSpec, **request: Any) -> PlannedRequest:
    """Return alice's request with its plan."""
    return PlannedRequest(WorkflowRequest("test", "w", **request), list(plan), "alice", Tier.OPERATE)


def started(*plan: TaskSpec, **request: Any) -> Workflow:
    """Return the first state of a workflow."""
    state = fold(None, [begin(*plan, **request)], T0)
    assert state is not None
    return state


def ended(state: Workflow, task: str, error: TaskError | str | None = None, **more: Any) -> AgentReport:
    """Return the completion of the attempt that is assigned now, unless given."""
    values: dict[str, Any] = {
        "status": Outcome.COMPLETED if error is None else Outcome.FAILED,
        "attempt": state.tasks[task].attempt,
        "service_id": "svc",
        "agent_id": "a1",
        "error": error,
    }
    return AgentReport(task, TaskCompletion(f"w.{task}", **(values | more)))


def cancel(reason: str = "", *, undo: bool = False, by: str = "bob") -> Signal:
    """Return bob's request to cancel the workflow."""
    return Signal(by, Tier.OPERATE, WorkflowSignal("cancel", reason, undo=undo))


def signal(action: str, by: str = "bob", tier: Tier = Tier.OPERATE, **more: Any) -> Signal:
    """Return a signal to the workflow."""
    return Signal(by, tier, WorkflowSignal(action, **more))


def step(state: Workflow, *inputs: Input, at: datetime = LATER) -> Workflow:
    """Return the state after inputs that change it."""
    changed = fold(state, list(inputs), at)
    assert changed is not None
    return changed


def fire(state: Workflow) -> Workflow:
    """Return the state after its timer has rung."""
    assert state.next_timer_at is not None
    return step(state, TimerFired(state.timers), at=state.next_timer_at)


def kinds(state: Workflow) -> list[tuple[str, str, int]]:
    """Return what leaves because of the last change."""
    return [(message.kind, message.task, message.attempt) for message in state.outbox]


def undo(tool: str = "undo", **more: Any) -> Compensation:
    """Return what undoes a task."""
    return Compensation(tool, "svc", Tier.OPERATE, **more)


def statuses(state: Workflow) -> dict[str, str]:
    """Return the status of each task."""
    return {name: str(task.status) for name, task in state.tasks.items()}
