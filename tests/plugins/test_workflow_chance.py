"""What `decide` promises whatever comes, however often, in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.messages import Outcome, TaskCompletion, TaskError, Tier, WorkflowRequest
from agentd.workflows import DONE, Status, TaskSpec, TaskStatus, Workflow
from agentd_orchestrator import workflow as wf

if TYPE_CHECKING:
    from collections.abc import Callable

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@st.composite
def plans(draw: st.DrawFn) -> list[TaskSpec]:
    """Return a plan of one to six tasks whose dependencies point backwards."""
    plan: list[TaskSpec] = []
    for number in range(draw(st.integers(1, 6))):
        names = [each.name for each in plan]
        after: list[str] = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        going_back: bool = draw(st.booleans())
        redo = {"vmid_taken": after[0]} if after and going_back else {}
        tier = draw(st.sampled_from([Tier.READ, Tier.OPERATE]))
        retries = draw(st.integers(0, 2))
        plan.append(TaskSpec(f"t{number}", "tool", "svc", tier, after=after, redo=redo, retries=retries, backoff=1.0))
    return plan


@st.composite
def inputs(draw: st.DrawFn) -> wf.Input:
    """Return anything that may come in, right or stray."""
    task = f"t{draw(st.integers(0, 6))}"
    attempt = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["ended"] * 6 + ["deadline", "retry", "retry", "timeout", "cancel", "again"]))
    if kind in {"deadline", "retry"}:
        return wf.Due(kind, task, attempt)
    if kind == "timeout":
        return wf.Due("timeout", "_", 0)
    if kind == "cancel":
        return wf.Cancel("bob")
    if kind == "again":
        return wf.Begin(WorkflowRequest("test", "w"), [], "alice", Tier.OPERATE)
    status = draw(st.sampled_from([Outcome.COMPLETED] * 5 + [Outcome.WARNINGS, Outcome.FAILED, Outcome.FAILED]))
    code = draw(st.sampled_from(["vmid_taken", "temporary", "broken"]))
    error = TaskError(code, code, retry=code == "temporary") if status is Outcome.FAILED else None
    service = draw(st.sampled_from(["svc"] * 6 + ["stranger"]))
    warnings = ["look"] if status is Outcome.WARNINGS else []
    done = TaskCompletion(f"w.{task}", status, "w", attempt, service_id=service, error=error, warnings=warnings)
    return wf.Ended(task, done)


def begun(plan: list[TaskSpec]) -> Workflow:
    """Return the first state of a workflow."""
    state = wf.fold(None, [wf.Begin(WorkflowRequest("test", "w"), plan, "alice", Tier.OPERATE)], T0)
    assert state is not None
    return state


def play(state: Workflow, given_: list[wf.Input], check: Callable[[Workflow, Workflow, wf.Input], None]) -> Workflow:
    """Decide over each input in turn; `check` sees every change."""
    for number, each in enumerate(given_):
        changed = wf.fold(state, [each], T0 + timedelta(seconds=number))
        if changed is not None:
            check(state, changed, each)
            state = changed
    return state


@settings(max_examples=400, deadline=None)
@given(plans(), st.lists(inputs(), max_size=60))
def test_whatever_comes(plan: list[TaskSpec], given_: list[wf.Input]) -> None:
    """Nothing is assigned twice or too early, attempts only grow, the end is answered once and stays."""
    state = begun(plan)
    assigned = {(each.task, each.attempt) for each in state.outbox if each.kind == "assign"}
    answers = [sum(each.kind == "respond" for each in state.outbox)]
    cancelled: list[bool] = [False]

    def check(before: Workflow, after: Workflow, cause: wf.Input) -> None:
        assert not before.over
        for effect in after.outbox:
            if effect.kind == "assign":
                assert (effect.task, effect.attempt) not in assigned
                assigned.add((effect.task, effect.attempt))
                spec = after.tasks[effect.task].spec
                assert all(after.tasks[each].status in DONE for each in spec.after)
                assert not cancelled[0]
        answers[0] += sum(each.kind == "respond" for each in after.outbox)
        cancelled[0] = cancelled[0] or isinstance(cause, wf.Cancel)
        for name, task in after.tasks.items():
            assert task.attempt >= before.tasks[name].attempt
            assert task.attempt <= 1 + task.spec.retries + (wf.MAX_REDO + 1) * len(plan)
        assert answers[0] == int(after.over)

    play(state, given_, check)


@settings(max_examples=200, deadline=None)
@given(plans(), st.lists(inputs(), max_size=40))
def test_one_by_one_or_all_at_once(plan: list[TaskSpec], given_: list[wf.Input]) -> None:
    """Folding a batch is deciding one after the other, with the outboxes joined; and deciding again is the same."""
    state = begun(plan)
    outbox = []
    one = state
    for each in given_:
        changed = wf.fold(one, [each], T0)
        if changed is not None:
            one = changed
            outbox += changed.outbox
    batch = wf.fold(state, given_, T0)

    assert batch == wf.fold(state, given_, T0)
    if batch is None:
        assert not outbox
    else:
        assert batch.outbox == outbox
        assert wf.cleared(batch) == wf.cleared(one)


@settings(max_examples=200, deadline=None)
@given(plans(), st.lists(inputs(), max_size=30), st.randoms(use_true_random=False))
def test_it_always_ends(plan: list[TaskSpec], given_: list[wf.Input], random: object) -> None:
    """Once agents answer and timers fire, every workflow comes to its end."""
    state = play(begun(plan), given_, lambda *_: None)
    for _ in range(200):
        if state.over:
            break
        moves: list[wf.Input] = []
        for name, task in state.tasks.items():
            if task.status is TaskStatus.ASSIGNED:
                done = TaskCompletion(f"w.{name}", Outcome.COMPLETED, "w", task.attempt, service_id="svc")
                moves.append(wf.Ended(name, done))
            elif task.retry_at is not None:
                moves.append(wf.Due("retry", name, task.attempt + 1))
        random.shuffle(moves)  # type: ignore[attr-defined]
        assert moves, "it waits for nothing that could come"
        state = wf.fold(state, moves, T0) or state

    assert state.over
    assert state.status in {
        Status.COMPLETED,
        Status.COMPLETED_WITH_WARNINGS,
        Status.FAILED,
        Status.CANCELLED,
    }
