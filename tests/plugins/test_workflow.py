"""What `decide` promises, input by input."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentd.errors import InvalidMessage, Rejected
from agentd.messages import Outcome, TaskCompletion, TaskError, Tier, WorkflowRequest, decode, encode
from agentd.workflows import Effect, Status, TaskSpec, TaskStatus, Workflow, result_of
from agentd_orchestrator import workflow as wf

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LATER = T0 + timedelta(seconds=10)


def spec(name: str, *after: str, tier: Tier = Tier.OPERATE, **more: Any) -> TaskSpec:
    """Return a task of a plan."""
    return TaskSpec(name=name, tool=name, queue="svc", tier=tier, after=list(after), deadline=60.0, **more)


def started(*plan: TaskSpec, **request: Any) -> Workflow:
    """Return the first state of a workflow."""
    state = wf.fold(None, [begin(*plan, **request)], T0)
    assert state is not None
    return state


def begin(*plan: TaskSpec, **request: Any) -> wf.Begin:
    """Return a request with its plan."""
    return wf.Begin(WorkflowRequest("test", "w", **request), list(plan), "alice", Tier.OPERATE)


def ended(
    state: Workflow, task: str, error: TaskError | str | None = None, *, result: Any = None, **more: Any
) -> wf.Ended:
    """Return the completion of the attempt that is assigned now, unless told otherwise."""
    status = Outcome.COMPLETED if error is None else Outcome.FAILED
    values: dict[str, Any] = {"attempt": state.tasks[task].attempt, "service_id": "svc", "agent_id": "a1", **more}
    return wf.Ended(task, TaskCompletion(f"w.{task}", more.pop("status", status), result=result, error=error, **{
        key: value for key, value in values.items() if key != "status"}))  # fmt: skip


def step(state: Workflow, *inputs: wf.Input, at: datetime = LATER) -> Workflow:
    """Return the state after inputs that change it."""
    changed = wf.fold(state, list(inputs), at)
    assert changed is not None
    return changed


def kinds(state: Workflow) -> list[tuple[str, str, int]]:
    """Return what leaves because of the last change."""
    return [(each.kind, each.task, each.attempt) for each in state.outbox]


def test_a_request_begins_what_waits_for_nothing() -> None:
    """The first event assigns the tasks without dependencies, each with its deadline, and arms the time-out."""
    state = started(spec("a"), spec("b"), spec("c", "a", "b"))

    assert kinds(state) == [
        ("timeout", "_", 0),
        ("assign", "a", 1),
        ("deadline", "a", 1),
        ("assign", "b", 1),
        ("deadline", "b", 1),
    ]
    assert state.deadline == T0 + timedelta(seconds=180)
    assert state.tasks["c"].status is TaskStatus.WAITING


def test_a_task_follows_those_that_it_waits_for() -> None:
    """A task is assigned once all before it are done, with their results in the place of their names."""
    plan = (spec("a"), spec("b"), spec("c", "a", "b", parameters={"x": result_of("a", "n"), "y": [result_of("b")]}))
    state = started(*plan)
    state = step(state, ended(state, "a", result={"n": 7}))
    assert not state.outbox
    state = step(state, ended(state, "b", result="beta"))
    message = wf.assignment(state, "c", 1)

    assert kinds(state) == [("assign", "c", 1), ("deadline", "c", 1)]
    assert message is not None
    assert message.parameters == {"x": 7, "y": ["beta"]}
    assert (message.task_id, message.tier, message.principal) == ("w.c", Tier.OPERATE, "alice")
    assert wf.assignment(state, "c", 2) is None


def test_the_end_is_answered_once() -> None:
    """The last completion ends the workflow with one response; whatever comes after changes nothing."""
    state = started(spec("a"))
    last = ended(state, "a", result=1)
    over = step(state, last)

    assert over.status is Status.COMPLETED
    assert kinds(over) == [("respond", "_", 0)]
    assert wf.response(over, "o1").result == {"tasks": {"a": {"status": "completed", "result": 1}}}
    for late in (last, wf.Due("timeout", "_", 0), wf.Due("deadline", "a", 1), wf.Cancel("bob"), begin(spec("a"))):
        assert wf.fold(over, [late], LATER) is None


def test_warnings_are_a_success_of_their_own_kind() -> None:
    """A task with warnings completes; the workflow says that somebody should read them."""
    state = started(spec("a"))
    state = step(state, ended(state, "a", status=Outcome.WARNINGS, warnings=["disk is small"]))

    assert state.status is Status.COMPLETED_WITH_WARNINGS
    assert wf.response(state, "o").result["tasks"]["a"]["warnings"] == ["disk is small"]


@pytest.mark.parametrize(
    "stray", [{"attempt": 2}, {"attempt": 0}, {"service_id": "other"}, {"service_id": ""}], ids=str
)
def test_a_stray_completion_changes_nothing(stray: dict[str, Any]) -> None:
    """Only the assigned attempt of the assigned service counts."""
    state = started(spec("a"))

    assert wf.fold(state, [ended(state, "a", **stray)], LATER) is None
    assert wf.fold(state, [wf.Ended("ghost", ended(state, "a").completion)], LATER) is None
    assert wf.fold(None, [ended(state, "a")], LATER) is None


def test_an_error_that_may_pass_is_tried_again_later() -> None:
    """A retry waits for its own timer, twice as long each time, then it is for good."""
    passing = TaskError("temporary", "later", retry=True)
    state = started(spec("a", retries=1, backoff=2.0))
    state = step(state, ended(state, "a", passing))
    assert state.outbox == [Effect("retry", "a", 2, LATER + timedelta(seconds=2))]
    assert wf.fold(state, [wf.Due("retry", "a", 3)], LATER) is None
    state = step(state, wf.Due("retry", "a", 2))
    assert kinds(state) == [("assign", "a", 2), ("deadline", "a", 2)]
    assert wf.fold(state, [wf.Due("retry", "a", 2), wf.Due("deadline", "a", 1)], LATER) is None
    state = step(state, ended(state, "a", passing))

    assert state.status is Status.FAILED
    assert state.error == "a: later"


def test_a_deadline_ends_an_attempt() -> None:
    """Without a result in time the next attempt begins; a late failure of the first changes nothing."""
    state = started(spec("a", retries=1))
    late = ended(state, "a", "too late")
    state = step(state, wf.Due("deadline", "a", 1))
    state = step(state, wf.Due("retry", "a", 2))

    assert wf.fold(state, [late], LATER) is None
    assert state.tasks["a"].attempt == 2
    assert "no result within 60 s of attempt 1" in state.timeline[-2].what


def test_a_taken_vmid_goes_back() -> None:
    """`redo` lets the earlier task decide anew, in a new event; attempts go on counting, and not for ever."""
    plan = (spec("draw", tier=Tier.READ), spec("make", "draw", redo={"vmid_taken": "draw"}), spec("end", "make"))
    state = started(*plan)
    for attempt in range(1, wf.MAX_REDO + 2):
        state = step(state, ended(state, "draw", result={"vmid": attempt}))
        assert state.tasks["make"].attempt == attempt
        state = step(state, ended(state, "make", TaskError("vmid_taken", "a stranger's")))

    assert state.status is Status.FAILED
    assert state.tasks["draw"].attempt == wf.MAX_REDO + 1
    assert state.tasks["end"].status is TaskStatus.CANCELLED


def test_a_failure_lets_the_others_finish() -> None:
    """Nothing new begins after a failure; what changes the world is waited for, what only reads is not."""
    state = started(spec("a"), spec("b"), spec("look", tier=Tier.READ), spec("c", "b"))
    state = step(state, ended(state, "a", "broken"))

    assert state.status is Status.RUNNING
    assert kinds(state) == [("entomb", "b", 1)]
    assert state.tasks["look"].status is TaskStatus.CANCELLED
    state = step(state, ended(state, "b", result={"vmid": 5, "name": "x", "node": "n"}))
    assert state.status is Status.FAILED
    answer = wf.response(state, "o")
    assert answer.error == "a: broken"
    assert answer.result["left"] == ["b: VM 5 x on n"]
    assert state.tasks["c"].status is TaskStatus.CANCELLED


def test_cancel_waits_for_what_runs() -> None:
    """A cancelled workflow begins nothing, entombs what nobody began, and names what it leaves."""
    state = started(spec("a"), spec("b", "a"))
    state = step(state, wf.Cancel("bob", "changed my mind"))
    assert state.status is Status.CANCELLING
    assert kinds(state) == [("entomb", "a", 1)]
    assert wf.fold(state, [wf.Cancel("bob"), wf.Due("timeout", "_", 0)], LATER) is None
    buried = step(state, ended(state, "a", status=Outcome.CANCELLED))
    silent = step(state, wf.Due("deadline", "a", 1))
    failed = step(state, ended(state, "a", TaskError("x", "no", retry=True)))

    assert buried.status is silent.status is failed.status is Status.CANCELLED
    assert buried.error == "cancelled by bob: changed my mind"
    assert wf.response(buried, "o").result["left"] == []
    assert wf.response(silent, "o").result["left"] == ["a: not known, its deadline passed while it ran"]


def test_the_time_out_of_the_whole() -> None:
    """A workflow that is not done in its time fails, once what changes the world has ended."""
    state = started(spec("a"), timeout=5.0)
    state = step(state, wf.Due("timeout", "_", 0))
    assert wf.fold(state, [wf.Due("timeout", "_", 0)], LATER) is None
    state = step(state, ended(state, "a"))

    assert state.status is Status.FAILED
    assert state.error == "not done within 5 s"


def test_refused_and_planned() -> None:
    """A refusal is an ended workflow with its reason; a dry run shows the plan and does nothing."""
    refused = wf.fold(None, [wf.Begin(WorkflowRequest("test", "w"), [], "bob", Tier.READ, "no")], T0)
    expired = wf.fold(None, [wf.Begin(WorkflowRequest("t", "w"), [], "b", Tier.READ, "old", Status.EXPIRED)], T0)
    planned = started(spec("a"), dry_run=True)

    assert refused is not None
    assert (refused.status, refused.error, kinds(refused)) == (Status.REJECTED, "no", [("respond", "_", 0)])
    assert expired is not None
    assert expired.status is Status.EXPIRED
    assert (planned.status, kinds(planned)) == (Status.COMPLETED, [("respond", "_", 0)])
    assert planned.tasks["a"].status is TaskStatus.SKIPPED


def test_a_bug_ends_the_workflow() -> None:
    """What cannot be decided ends the workflow, so that a person looks."""
    state = step(started(spec("a")), wf.Broken("deciding failed"))

    assert (state.status, state.error, kinds(state)) == (Status.FAILED, "deciding failed", [("respond", "_", 0)])


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ([], "a plan has 1 to 1000 tasks; this one has 0"),
        ([spec("a", "b")], "task a: depends on 'b', which the plan does not have"),
        ([spec("a"), spec("a")], "two tasks of the plan have the same name"),
        ([spec("a", "b"), spec("b", "a")], "the tasks a, b wait for one another"),
        ([spec("a"), spec("b", redo={"x": "a"})], "task b: goes back to 'a', which does not come before it"),
    ],
)
def test_a_plan_that_cannot_be(plan: list[TaskSpec], text: str) -> None:
    """A plan is refused before anything is done, with what is wrong with it."""
    with pytest.raises(Rejected, match=f"^{text}$"):
        wf.check_plan(plan)


@pytest.mark.parametrize("name", ["_", "1a", "a.b", "", "a b"])
def test_a_name_that_cannot_be_a_token(name: str) -> None:
    """A task's name is one token of a subject; `_` is the workflow's own."""
    with pytest.raises(InvalidMessage):
        wf.check_plan([spec(name)])


def test_a_state_goes_through_json() -> None:
    """What an event carries is the whole state."""
    state = started(spec("a"), spec("b", "a", parameters=result_of("a")))
    state = step(state, ended(state, "a", result={"x": [1, None, "ü"]}))

    assert decode(encode(state), Workflow) == state
