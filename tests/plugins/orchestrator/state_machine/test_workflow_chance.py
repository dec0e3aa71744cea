"""Invariants of `decide` for any inputs in any order."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentd.errors import Denied, Rejected
from agentd.wire.messages import Outcome, TaskCompletion, TaskError, Tier, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import (
    DONE,
    TERMINAL,
    UNDER_WAY,
    UNDO,
    Compensation,
    Status,
    TaskSpec,
    TaskStatus,
    Workflow,
    template,
)
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine import failures
from agentd_orchestrator.state_machine.inputs import AgentReport, Input, PlannedRequest, Signal, TimerFired
from agentd_orchestrator.state_machine.plan_check import check_plan
from agentd_orchestrator.state_machine.state import satisfied
from plugins.flow import T0, fold

if TYPE_CHECKING:
    from collections.abc import Callable


@st.composite
def plans(draw: st.DrawFn) -> list[TaskSpec]:
    """Return a plan of one to six tasks of every kind, whose dependencies point backwards."""
    plan: list[TaskSpec] = []
    for number in range(draw(st.integers(1, 6))):
        names = [task.name for task in plan]
        after: list[str] = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        more: dict[str, Any] = {}
        several = draw(st.integers(0, 5)) == 0
        if several:
            more = {"for_each": draw(st.sampled_from([[], [1], [1, 2, 3], template("{{ [7, 8] }}"), template("none")]))}
            more["max_parallel"] = draw(st.integers(1, 2))
        elif after and all(task.for_each is None for task in plan) and draw(st.booleans()):
            more = {"on_error": {"vmid_taken": after[0]}}
        if draw(st.integers(0, 3)) == 0:
            more["compensation"] = Compensation("undo", "svc", Tier.OPERATE, retries=1, backoff=1.0)
        if draw(st.integers(0, 5)) == 0:
            more["approval"] = "may it?"
        if draw(st.integers(0, 5)) == 0:
            more["condition"] = draw(st.sampled_from(["true", "false", "parameters.missing > 1"]))
        if draw(st.integers(0, 5)) == 0:
            more |= {"start_within": 5.0, "heartbeat_timeout": 3.0}
        tier = draw(st.sampled_from([Tier.READ, Tier.OPERATE]))
        retries, optional = draw(st.integers(0, 2)), draw(st.integers(0, 4)) == 0
        plan.append(
            TaskSpec(
                f"t{number}", "tool", "svc", tier, after=after, retries=retries, backoff=1.0, optional=optional, **more
            )
        )
    check_plan(plan)
    return plan


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    """Return anything that may come in, right or stray."""
    item = draw(st.sampled_from(["", "", "-0", "-1"]))
    task = f"{draw(st.sampled_from(['', '', '', UNDO]))}t{draw(st.integers(0, 6))}{item}"
    attempt = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["ended"] * 8 + ["due", "due", "signal", "again"]))
    if kind == "due":
        return TimerFired(attempt)
    if kind == "signal":
        action = draw(st.sampled_from(["cancel", "pause", "resume", "approve", "reject", "nonsense"]))
        undo, by = draw(st.booleans()), draw(st.sampled_from(["alice", "bob"]))
        return Signal(by, Tier.OPERATE, WorkflowSignal(action, task=task, undo=undo))
    if kind == "again":
        return PlannedRequest(WorkflowRequest("test", "w"), [], "alice", Tier.OPERATE)
    status = draw(st.sampled_from([Outcome.COMPLETED] * 5 + [Outcome.WARNINGS, Outcome.FAILED, Outcome.FAILED]))
    status = draw(st.sampled_from([status, status, status, Outcome.RUNNING, Outcome.CANCELLED]))
    code = draw(st.sampled_from(["vmid_taken", "temporary", "broken"]))
    error = TaskError(code, code, retry=code == "temporary") if status is Outcome.FAILED else None
    service = draw(st.sampled_from(["svc"] * 6 + ["foreign"]))
    warnings = ["look"] if status is Outcome.WARNINGS else []
    done = TaskCompletion(f"w.{task}", status, "w", attempt, service_id=service, error=error, warnings=warnings)
    return AgentReport(task, done)


def begun(plan: list[TaskSpec]) -> Workflow:
    """Return the first state of a workflow."""
    state = fold(None, [PlannedRequest(WorkflowRequest("test", "w"), plan, "alice", Tier.OPERATE)], T0)
    assert state is not None
    return state


def decided(state: Workflow, given_: Input, seconds: float) -> Workflow | None:
    """Return the next state, None for no change; a signal that is refused changes nothing."""
    if isinstance(given_, Signal) and given_.signal.task in state.tasks:
        approval = state.tasks[given_.signal.task].approval
        digest = "" if approval is None else approval.digest
        signal = WorkflowSignal(given_.signal.action, task=given_.signal.task, digest=digest)
        given_ = Signal(given_.principal, given_.tier, signal)
    try:
        return fold(state, [given_], T0 + timedelta(seconds=seconds))
    except (Rejected, Denied):
        return None


def play(state: Workflow, given_: list[Input], check: Callable[[Workflow, Workflow, Input], None]) -> Workflow:
    """Decide over each input in turn; `check` sees every change."""
    for number, assignment in enumerate(given_):
        changed = decided(state, assignment, number)
        if changed is not None:
            check(state, changed, assignment)
            state = changed
    return state


class Watch:
    """Sees every change of a workflow, and what must never be."""

    def __init__(self, state: Workflow) -> None:
        """Begin with the first state."""
        self.assigned: set[tuple[str, int]] = set()
        self.answers = 0
        self.timers = 0
        self.most = len(state.tasks)
        self.sees(replace(state, failing=False, undo=False, status=Status.RUNNING), state)

    def __call__(self, before: Workflow, after: Workflow, _: Input) -> None:
        """Check one change."""
        assert not before.over
        assert len(after.timeline) >= len(before.timeline)
        for name, task in before.tasks.items():
            assert after.tasks[name].attempt >= task.attempt
        self.sees(before, after)

    def sees(self, before: Workflow, after: Workflow) -> None:
        """Check what leaves: nothing twice, nothing too early, nothing after the end, one answer, one timer ahead."""
        for effect in after.outbox:
            if effect.kind == "assign":
                self._assigned(before, after, effect.task, effect.attempt)
            if effect.kind == "timer":
                assert effect.attempt == self.timers + 1
                self.timers += 1
        self.answers += sum(message.kind == "respond" for message in after.outbox)
        assert self.answers == int(after.over)
        waits = [task for task in after.tasks.values() if task.status in UNDER_WAY and not task.items]
        assert after.over or not waits or after.next_timer_at is not None
        for name, task in after.tasks.items():
            if task.items:
                spec = after.spec(name)
                assert sum(after.tasks[item].status in UNDER_WAY for item in after.items(name)) <= spec.max_parallel

    def _assigned(self, before: Workflow, after: Workflow, name: str, attempt: int) -> None:
        assert (name, attempt) not in self.assigned
        self.assigned.add((name, attempt))
        spec, task = after.spec(name), after.tasks[name]
        assert attempt <= 1 + spec.retries + (failures.MAX_SENT_BACK + 1) * self.most
        if name.startswith(UNDO):
            assert after.tasks[task.parent].attempt
            assert before.failing or before.undo or after.failing or after.undo
        else:
            assert all(satisfied(after, item) for item in spec.after)
            assert not before.failing
            assert before.status != "cancelling"
            group = after.tasks[task.parent] if task.parent else task
            assert not spec.approval or (group.approval is not None and group.approval.by == "bob")


@settings(max_examples=600, deadline=None)
@given(plans(), st.lists(inputs(), max_size=60))
def test_any_sequence_of_inputs(plan: list[TaskSpec], given_: list[Input]) -> None:
    """Nothing is assigned twice or too early, attempts only grow, the end is answered once and stays."""
    state = begun(plan)
    play(state, given_, Watch(state))


@settings(max_examples=200, deadline=None)
@given(plans(), st.lists(inputs().filter(lambda item: not isinstance(item, Signal)), max_size=40))
def test_one_by_one_or_all_at_once(plan: list[TaskSpec], given_: list[Input]) -> None:
    """Folding a batch is deciding one after the other, with the outboxes joined; and deciding again is the same."""
    state = begun(plan)
    outbox = []
    one = state
    for assignment in given_:
        changed = fold(one, [assignment], T0)
        if changed is not None:
            one = changed
            outbox += changed.outbox
    batch = fold(state, given_, T0)

    assert batch == fold(state, given_, T0)
    if batch is None:
        assert not outbox
    else:
        assert batch.outbox == outbox
        assert wf.without_outbox(batch) == wf.without_outbox(one)


def moves_of(state: Workflow) -> list[Input]:
    """Return what comes from outside if nothing fails: ends, approvals, timers, and a principal that resumes."""
    moves: list[Input] = [TimerFired(state.timers)] if state.next_timer_at is not None else []
    if state.status is Status.PAUSED:
        moves.append(Signal("bob", Tier.OPERATE, WorkflowSignal("resume")))
    for name, task in state.tasks.items():
        if task.status in UNDER_WAY and not task.items:
            moves.append(
                AgentReport(name, TaskCompletion(f"w.{name}", Outcome.COMPLETED, "w", task.attempt, service_id="svc"))
            )
        elif task.status is TaskStatus.WAITING_APPROVAL:
            moves.append(Signal("bob", Tier.OPERATE, WorkflowSignal("approve", task=name)))
    return moves


@settings(max_examples=400, deadline=None)
@given(plans(), st.lists(inputs(), max_size=30), st.randoms(use_true_random=False))
def test_it_always_ends(plan: list[TaskSpec], given_: list[Input], random: Any) -> None:
    """Once agents answer, people decide and timers ring, every workflow comes to its end."""
    state = begun(plan)
    watch = Watch(state)
    state = play(state, given_, watch)
    seconds = len(given_)
    rounds = 0
    while not state.over and rounds < 300:
        moves = moves_of(state)
        assert moves, "it waits for nothing that could come"
        random.shuffle(moves)
        for move in moves:
            changed = decided(state, move, seconds)
            seconds += 1
            if changed is not None:
                watch(state, changed, move)
                state = changed
        rounds += 1

    assert state.status in TERMINAL
    assert all(
        task.status in DONE or task.status in {TaskStatus.FAILED, TaskStatus.CANCELLED} for task in state.tasks.values()
    )
