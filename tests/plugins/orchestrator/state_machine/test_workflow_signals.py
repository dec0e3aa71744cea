"""The signals of workflows and how long they may take: approvals, pauses, times, children, carrying on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agentd.errors import Denied, Rejected
from agentd.wire.messages import Outcome, TaskError, Tier, WorkflowRequest
from agentd.wire.workflow import Parent, Status, TaskSpec, TaskStatus, Workflow, result_of, template
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine import outgoing, signals
from agentd_orchestrator.state_machine.inputs import PlannedRequest, TimerFired
from agentd_orchestrator.state_machine.plan_check import check_plan, default_timeout
from plugins.flow import (
    LATER,
    PASSING,
    T0,
    begin,
    cancel,
    ended,
    fire,
    fold,
    kinds,
    signal,
    spec,
    started,
    statuses,
    step,
    undo,
)

HOUR = timedelta(hours=1)


# -- approvals ------------------------------------------------------------------------------------------------------


def asked(**more: Any) -> Workflow:
    """Return a workflow that waits for an approval."""
    state = started(
        spec("look"), spec("boot", "look", approval="Boot it?", parameters={"n": result_of("look")}, **more)
    )
    return step(state, ended(state, "look", result=5))


def digest_of(state: Workflow, task: str = "boot") -> str:
    """Return what has to be shown to be approved."""
    approval = state.tasks[task].approval
    assert approval is not None
    return approval.digest


def test_another_principal_approves() -> None:
    """The workflow waits, its clock is stopped, however long; then exactly what was shown is done."""
    state = asked()
    waiting = state
    state = step(state, signal("approve", task="boot", digest=digest_of(state), reason="ok"), at=LATER + 24 * HOUR)

    assert waiting.status is Status.WAITING_APPROVAL
    assert fold(waiting, [TimerFired(1)], LATER + 240 * HOUR) is not None, "its timer rings, and nothing is over"
    assert state.status is Status.RUNNING
    assert kinds(state)[0] == ("assign", "boot", 1)
    assert waiting.deadline is not None
    assert state.deadline == waiting.deadline + 24 * HOUR
    assert state.tasks["boot"].approval is not None
    assert (state.tasks["boot"].approval.by, state.timeline[-2].what) == ("bob", "approved by bob: ok")
    assert fold(state, [signal("approve", task="boot", digest=digest_of(state))], LATER) is None, "once more: no error"


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (signal("approve", "alice", task="boot"), Denied, "alice requested w: another principal has to approve boot"),
        (
            signal("approve", "bob", Tier.READ, task="boot"),
            Denied,
            "bob has tier read; approving boot needs tier operate",
        ),
        (signal("approve", task="boot", digest="old"), Rejected, "digest: boot is not what was shown any more"),
        (signal("approve", task="look"), Rejected, "task: look does not wait for an approval; it is completed"),
        (signal("approve", task="ghost"), Rejected, "task: w has no task 'ghost'"),
        (signal("resume"), Rejected, "w is waiting_approval, not paused"),
        (signal("explode"), Rejected, "action: unknown 'explode'; there are cancel, pause, resume, approve, reject"),
    ],
    ids=["own", "tier", "digest", "done", "ghost", "resume", "unknown"],
)
def test_a_signal_that_cannot_be(given: Any, error: type[Exception], text: str) -> None:
    """It is refused with the reason, and the state is as it was."""
    with pytest.raises(error, match=f"^{text}"):
        fold(asked(), [given], LATER)


def test_a_signal_for_an_ended_or_unknown_workflow() -> None:
    """A signal that comes too late gets a definite answer."""
    over = step(started(spec("a")), ended(started(spec("a")), "a"))

    with pytest.raises(Rejected, match="pause: it has ended: completed"):
        fold(over, [signal("pause")], LATER)
    with pytest.raises(Rejected, match="cancel: there is no such workflow"):
        fold(None, [cancel()], LATER)


def test_a_no_fails_the_workflow() -> None:
    """What was done before is undone where the plan defines how."""
    state = started(spec("a", compensation=undo()), spec("b", "a", approval="Go on?"))
    state = step(state, ended(state, "a"))
    state = step(state, signal("reject", task="b", digest=digest_of(state, "b"), reason="not today"))

    assert state.status is Status.COMPENSATING
    assert state.error == "b: refused by bob: not today"


def test_an_approval_for_all_items() -> None:
    """A task with items is approved once, for exactly these items."""
    state = started(
        spec("a", for_each=template("{{ parameters.names }}"), approval="All?"), parameters={"names": [1, 2]}
    )
    other = started(
        spec("a", for_each=template("{{ parameters.names }}"), approval="All?"), parameters={"names": [1, 3]}
    )

    assert digest_of(state, "a") != digest_of(other, "a")
    state = step(state, signal("approve", task="a", digest=digest_of(state, "a")))
    assert [task for kind, task, _ in kinds(state) if kind == "assign"] == ["a-0", "a-1"]


# -- pauses ---------------------------------------------------------------------------------------------------------


def test_a_paused_workflow_starts_no_task() -> None:
    """What runs is finished; the clock is stopped; then it goes on where it was."""
    state = started(spec("a"), spec("b", "a"), timeout=100.0)
    paused = step(state, signal("pause", reason="window closes"))
    paused = step(paused, ended(paused, "a"))
    silent = fold(paused, [TimerFired(1)], T0 + HOUR)
    resumed = step(paused, signal("resume"), at=LATER + HOUR)

    assert (paused.status, statuses(paused)["b"]) == (Status.PAUSED, "waiting")
    assert silent is not None
    assert not silent.failing
    assert kinds(resumed)[0] == ("assign", "b", 1)
    assert resumed.deadline == T0 + timedelta(seconds=100) + HOUR
    assert fold(paused, [signal("pause")], LATER) is None


def test_a_retry_waits_for_the_end_of_a_pause() -> None:
    """An attempt that fails meanwhile is tried again afterwards; one that fails for good is undone afterwards."""
    state = started(spec("a", backoff=1.0, compensation=undo()))
    paused = step(state, signal("pause"))
    passing = step(paused, ended(paused, "a", PASSING))
    broken = step(paused, ended(paused, "a", "broken"))

    assert kinds(step(passing, signal("resume"), at=LATER + HOUR))[0] == ("assign", "a", 2)
    assert broken.status is Status.PAUSED
    assert step(broken, signal("resume")).status is Status.COMPENSATING


# -- times ----------------------------------------------------------------------------------------------------------


def test_an_attempt_that_no_agent_starts() -> None:
    """`start_within` is for the queue; the deadline counts from when an agent says that it began."""
    state = started(spec("a", start_within=30.0, retries=1))
    message = outgoing.assignment(state, "a", 1)
    begun = step(state, ended(state, "a", status=Outcome.RUNNING), at=T0 + timedelta(seconds=25))
    late = fire(state)

    assert message is not None
    assert message.start_by == T0 + timedelta(seconds=30)
    assert (message.seconds, message.deadline) == (60.0, T0 + timedelta(seconds=90))
    assert begun.tasks["a"].status is TaskStatus.RUNNING
    assert begun.tasks["a"].deadline == T0 + timedelta(seconds=85)
    assert late.tasks["a"].error == TaskError("not_started", "no agent started attempt 1 within 30 s", retry=True)


def test_an_agent_that_falls_silent() -> None:
    """With a heartbeat a silent agent loses the attempt long before its deadline."""
    state = started(spec("a", heartbeat_timeout=5.0, retries=1))
    state = step(state, ended(state, "a", status=Outcome.RUNNING), at=T0 + timedelta(seconds=1))
    lives = step(state, ended(state, "a", status=Outcome.RUNNING), at=T0 + timedelta(seconds=4))
    fired = step(lives, TimerFired(lives.timers), at=T0 + timedelta(seconds=6))
    lost = fire(fired)

    assert state.next_timer_at == T0 + timedelta(seconds=6)
    assert fired.tasks["a"].status is TaskStatus.RUNNING
    assert lost.tasks["a"].error == TaskError("lost", "a1 was silent for 5 s", retry=True)
    assert len(lives.timeline) == len(state.timeline), "a sign of life is no event that a person reads"


def test_how_long_a_plan_may_take() -> None:
    """Every attempt of every task in turn; a month where it is unknown how many items or steps there are."""
    assert default_timeout([spec("a"), spec("b", retries=0, start_within=40.0)]) == 180 + 100
    assert default_timeout([spec("a"), spec("b", for_each=[1])]) == outgoing.MAX_TIMEOUT


# -- workflows of workflows, priorities, and carrying on ------------------------------------------------------------


def child(name: str, *after: str, **more: Any) -> TaskSpec:
    """Return a task that is a workflow."""
    return TaskSpec(name, "", "orchestrator", Tier.OPERATE, workflow="deploy", after=list(after), **more)


def test_a_task_can_be_a_workflow() -> None:
    """It is assigned to the orchestrators, has no deadline but its own, and is ended with its parent."""
    state = started(child("a", parameters={"name": "web"}), child("b"))
    message = outgoing.assignment(state, "a", 1)
    failed = step(state, ended(state, "b", "broken", service_id="orchestrator"))

    assert message is not None
    assert (message.task_type, message.assigned_to, message.seconds) == ("deploy", "orchestrator", 300.0)
    assert state.next_timer_at == state.deadline
    assert outgoing.child_id("w", "a", 1) == "w--a"
    assert kinds(failed) == [("stop", "a", 1)]
    long = {outgoing.child_id("x" * 64, "a", attempt) for attempt in (1, 2)}
    assert {len(item) for item in long} == {64}
    assert len(long) == 2


def test_a_child_completes_the_task_of_its_parent() -> None:
    """Its end is a completion of the task that started it, with its results."""
    request = WorkflowRequest("deploy", "w--a")
    given = PlannedRequest(request, [spec("x")], "alice", Tier.OPERATE, parent=Parent("w", "a", 2))
    state = fold(None, [given], T0)
    assert state is not None
    done = step(state, ended(state, "x", result=7))
    failed = step(state, ended(state, "x", "broken"))
    reported, bad = outgoing.child_report(done, "o1"), outgoing.child_report(failed, "o1")

    assert kinds(done) == [("report", "a", 2), ("respond", "_", 0)]
    assert (reported.task_id, reported.workflow_id, reported.attempt, reported.service_id) == (
        "w.a",
        "w",
        2,
        "orchestrator",
    )
    assert reported.result == {"workflow_id": "w--a", "status": "completed", "results": {"x": 7}}
    assert bad.error == TaskError("child_failed", "workflow w--a failed: x: broken")


def test_a_completion_from_an_urgent_queue() -> None:
    """A service completes the tasks of its queue for urgent tasks under its own name."""
    state = started(spec("a", queue="specialist+urgent"))

    assert step(state, ended(state, "a", service_id="specialist")).tasks["a"].status is TaskStatus.COMPLETED


def test_a_failed_workflow_is_carried_on() -> None:
    """Under a new id what was done is not done again; items too; what was undone is done again."""
    state = started(
        spec("a"), spec("b", "a", for_each=[1, 2], max_parallel=1, parameters={"x": result_of("a")}), spec("c", "b")
    )
    state = step(state, ended(state, "a", result=5))
    state = step(state, ended(state, "b-0"))
    state = step(state, ended(state, "b-1", "broken"))
    tasks = wf.retry_tasks(state)
    plan = [task.spec for task in tasks.values() if task.spec is not None]
    again = fold(
        None,
        [PlannedRequest(WorkflowRequest("test", "w2", retry_of="w"), plan, "bob", Tier.OPERATE, carried=tasks)],
        T0,
    )

    assert again is not None
    assert [kind for kind in kinds(again) if kind[0] == "assign"] == [("assign", "b-1", 1)]
    assert again.timeline[0].what == "requested by bob, continuing w"
    assert again.retry_of == "w"
    again = step(again, ended(again, "b-1"))
    assert step(again, ended(again, "c")).status is Status.COMPLETED


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.RUNNING, Status.COMPENSATION_FAILED, Status.REJECTED])
def test_a_workflow_that_cannot_continue(status: Status) -> None:
    """It reports its state, and what to do."""
    state = replace(started(spec("a")), status=status)

    with pytest.raises(Rejected, match=f"retry_of: w is {status}: there is nothing to continue"):
        wf.retry_tasks(state)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (spec("undo-a"), "names that begin with 'undo-' are those of what undoes a task"),
        (spec("a", tool=""), "it calls a tool or starts a workflow, one of the two"),
        (spec("a", workflow="x"), "it calls a tool or starts a workflow, one of the two"),
        (spec("a", tool="", workflow="x"), "only workflows go to the queue 'orchestrator'"),
        (spec("a", for_each=[1], on_error={"x": "z"}), "items cannot go back to an earlier task"),
        (spec("a", max_parallel=0), "max_parallel: 0; it is at least 1"),
        (spec("a", retries=-1), "retries and backoff are at least 0"),
        (spec("a", timeout=0), "timeout: 0 s; it is more than 0 and at most 2592000 s"),
        (spec("a", heartbeat_timeout=-1), "heartbeat_timeout: -1 s; it is more than 0 and at most 2592000 s"),
        (spec("a", "z", condition="tasks.b.status"), "needs the result of 'b', which is not before it"),
        (spec("a", for_each=result_of("b")), "needs the result of 'b', which is not before it"),
        (
            spec("a", compensation=undo(parameters={"x": result_of("b")})),
            "its compensation needs the result of 'b', which is not before it",
        ),
    ],
    ids=str,
)
def test_a_task_that_cannot_be(task: TaskSpec, text: str) -> None:
    """A plan is refused before anything is done, with the task and what is wrong with it."""
    with pytest.raises(Rejected, match=f"^task {task.name}: {text}$"):
        check_plan([spec("z"), spec("b", "z"), task])


def test_going_back_over_items() -> None:
    """Names of items cannot be used twice: a task that would go back over them is refused."""
    plan = [spec("a"), spec("b", "a", for_each=[1]), spec("c", "b", on_error={"x": "a"})]

    with pytest.raises(Rejected, match="task c: cannot go back over 'b', which has items"):
        check_plan(plan)


def test_actions_are_named() -> None:
    """Every action that there is is carried out on a workflow that can take it."""
    assert set(signals.ACTIONS) == {"cancel", "pause", "resume", "approve", "reject"}
    assert begin(spec("a")).principal == "alice"
