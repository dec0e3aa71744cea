"""What `decide` does with each input."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentd.errors import InvalidMessage, Rejected
from agentd.wire.codec import decode, encode
from agentd.wire.messages import Outcome, TaskError, Tier, WorkflowRequest
from agentd.wire.workflow import OutboxMessage, Status, TaskSpec, TaskStatus, Workflow, result_of
from agentd_orchestrator.state_machine import failures, outgoing
from agentd_orchestrator.state_machine.inputs import AgentReport, DecideFailed, PlannedRequest, TimerFired
from agentd_orchestrator.state_machine.plan_check import check_plan
from plugins.flow import LATER, PASSING, T0, begin, cancel, ended, fire, fold, kinds, spec, started, step


def test_a_request_starts_tasks_without_dependencies() -> None:
    """The first event assigns the tasks without dependencies, and sets one timer for what falls due first."""
    state = started(spec("a"), spec("b"), spec("c", "a", "b"))

    assert kinds(state) == [("assign", "a", 1), ("assign", "b", 1), ("timer", "_", 1)]
    assert state.next_timer_at == T0 + timedelta(seconds=60)
    assert state.deadline == T0 + timedelta(seconds=3 * 3 * 60), "three tasks of three attempts each"
    assert state.tasks["c"].status is TaskStatus.WAITING


def test_a_task_follows_those_that_it_waits_for() -> None:
    """A task is assigned once all before it are done, with their results in the place of their names."""
    plan = (spec("a"), spec("b"), spec("c", "a", "b", parameters={"x": result_of("a", "n"), "y": [result_of("b")]}))
    state = started(*plan)
    state = step(state, ended(state, "a", result={"n": 7}))
    assert not state.outbox
    state = step(state, ended(state, "b", result="beta"))
    message = outgoing.assignment(state, "c", 1)

    assert kinds(state) == [("assign", "c", 1)], "its deadline is later than the timer that is set"
    assert message is not None
    assert message.parameters == {"x": 7, "y": ["beta"]}
    assert (message.task_id, message.tier, message.principal) == ("w.c", Tier.OPERATE, "alice")
    assert outgoing.assignment(state, "c", 2) is None


def test_the_end_is_answered_once() -> None:
    """The last completion ends the workflow with one response; later messages change nothing."""
    state = started(spec("a"))
    last = ended(state, "a", result=1)
    over = step(state, last)

    assert over.status is Status.COMPLETED
    assert kinds(over) == [("respond", "_", 0)]
    assert outgoing.response(over, "o1").result == {"tasks": {"a": {"status": "completed", "result": 1}}}
    for late in (last, TimerFired(1), begin(spec("a"))):
        assert fold(over, [late], LATER) is None


def test_warnings_are_a_success_of_their_own_kind() -> None:
    """A task with warnings completes; the workflow reports that a person should read them."""
    state = started(spec("a"))
    state = step(state, ended(state, "a", status=Outcome.WARNINGS, warnings=["disk is small"]))

    assert state.status is Status.COMPLETED_WITH_WARNINGS
    assert outgoing.response(state, "o").result["tasks"]["a"]["warnings"] == ["disk is small"]


@pytest.mark.parametrize(
    "stray", [{"attempt": 2}, {"attempt": 0}, {"service_id": "other"}, {"service_id": ""}], ids=str
)
def test_a_stray_completion_has_no_effect(stray: dict[str, Any]) -> None:
    """Only the assigned attempt of the assigned service counts."""
    state = started(spec("a"))

    assert fold(state, [ended(state, "a", **stray)], LATER) is None
    assert fold(state, [AgentReport("ghost", ended(state, "a").completion)], LATER) is None
    assert fold(None, [ended(state, "a")], LATER) is None


def test_an_error_that_may_pass_is_tried_again_later() -> None:
    """A retry waits for its time, twice as long each time and never quite as long, then it is for good."""
    state = started(spec("a", retries=1, backoff=2.0))
    state = step(state, ended(state, "a", PASSING))
    retry_at = state.tasks["a"].retry_at
    assert retry_at is not None
    assert timedelta(seconds=1.6) <= retry_at - LATER <= timedelta(seconds=2.4)
    assert state.outbox == [OutboxMessage("timer", attempt=2, at=retry_at)]
    assert fold(state, [TimerFired(1)], retry_at - timedelta(seconds=1)) is None, "another timer changes nothing before"
    state = fire(state)
    assert kinds(state) == [("assign", "a", 2), ("timer", "_", 3)]
    assert fold(state, [TimerFired(2), TimerFired(1)], retry_at) is None
    state = step(state, ended(state, "a", PASSING))

    assert state.status is Status.FAILED
    assert state.error == "a: later"


def test_a_deadline_ends_an_attempt() -> None:
    """Without a result in time the next attempt begins; a late failure of the first changes nothing."""
    state = started(spec("a", retries=1))
    late = ended(state, "a", "too late")
    state = fire(state)
    assert "no result within 60 s of attempt 1" in state.timeline[-1].what
    state = fire(state)

    assert fold(state, [late], LATER) is None
    assert state.tasks["a"].attempt == 2


def test_a_timer_that_fires_early_fires_again() -> None:
    """A timer is right by the server's clock; ours may be behind, and nothing falls through that."""
    state = started(spec("a", retries=1), spec("b", timeout=90.0))
    early = step(state, TimerFired(state.timers), at=T0 + timedelta(seconds=59.9))
    stray = fold(state, [TimerFired(9)], T0 + timedelta(seconds=59.9))

    assert early.tasks["a"].retried == 1
    assert stray is None


def test_a_taken_vmid_repeats_the_earlier_task() -> None:
    """`on_error` lets the earlier task decide again, in a new event; attempts go on counting, and not for ever."""
    plan = (spec("draw", tier=Tier.READ), spec("make", "draw", on_error={"vmid_taken": "draw"}), spec("end", "make"))
    state = started(*plan)
    for attempt in range(1, failures.MAX_SENT_BACK + 2):
        state = step(state, ended(state, "draw", result={"vmid": attempt}))
        assert state.tasks["make"].attempt == attempt
        state = step(state, ended(state, "make", TaskError("vmid_taken", "another client's")))

    assert state.status is Status.FAILED
    assert state.tasks["draw"].attempt == failures.MAX_SENT_BACK + 1
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
    answer = outgoing.response(state, "o")
    assert answer.error == "a: broken"
    assert answer.result["left"] == ["b: VM 5 x on n"]
    assert state.tasks["c"].status is TaskStatus.CANCELLED


def test_cancel_waits_for_running_tasks() -> None:
    """A cancelled workflow begins nothing, ends what runs, and names what it leaves."""
    state = started(spec("a"), spec("b", "a"))
    state = step(state, cancel("changed my mind"))
    assert state.status is Status.CANCELLING
    assert kinds(state) == [("stop", "a", 1)]
    assert fold(state, [cancel()], LATER) is None
    buried = step(state, ended(state, "a", status=Outcome.CANCELLED))
    halted = step(state, ended(state, "a", TaskError("cancelled", "UPID:1 ended: stopped"), status=Outcome.CANCELLED))
    silent = fire(state)
    failed = step(state, ended(state, "a", TaskError("x", "no", retry=True)))

    assert {item.status for item in (buried, halted, silent, failed)} == {Status.CANCELLED}
    assert buried.error == "cancelled by bob: changed my mind"
    assert outgoing.response(buried, "o").result["left"] == []
    assert outgoing.response(halted, "o").result["left"] == ["a: not known, UPID:1 ended: stopped"]
    assert outgoing.response(silent, "o").result["left"] == ["a: not known, its deadline passed while it ran"]


def test_the_time_out_of_the_whole() -> None:
    """A workflow that is not done in its time fails, once what changes the world has ended."""
    state = fire(started(spec("a"), timeout=5.0))
    assert kinds(state) == [("entomb", "a", 1), ("timer", "_", 2)]
    assert fold(state, [TimerFired(1)], LATER) is None
    state = step(state, ended(state, "a"))

    assert state.status is Status.FAILED
    assert state.error == "not done within 5 s"


def test_refused_and_planned() -> None:
    """A refusal is an ended workflow with its reason; a dry run shows the plan and does nothing."""
    refused = fold(None, [PlannedRequest(WorkflowRequest("test", "w"), [], "bob", Tier.READ, "no")], T0)
    expired = fold(None, [PlannedRequest(WorkflowRequest("t", "w"), [], "b", Tier.READ, "old", Status.EXPIRED)], T0)
    planned = started(spec("a"), dry_run=True)

    assert refused is not None
    assert (refused.status, refused.error, kinds(refused)) == (Status.REJECTED, "no", [("respond", "_", 0)])
    assert expired is not None
    assert expired.status is Status.EXPIRED
    assert (planned.status, kinds(planned)) == (Status.COMPLETED, [("respond", "_", 0)])
    assert planned.tasks["a"].status is TaskStatus.SKIPPED


def test_a_bug_ends_the_workflow() -> None:
    """An undecidable input ends the workflow, and a person is notified."""
    state = step(started(spec("a")), DecideFailed("deciding failed"))

    assert (state.status, state.error, kinds(state)) == (Status.FAILED, "deciding failed", [("respond", "_", 0)])


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ([], "a plan has 1 to 1000 tasks; this one has 0"),
        ([spec("a", "b")], "task a: depends on 'b', which the plan does not have"),
        ([spec("a"), spec("a")], "two tasks of the plan have the same name"),
        ([spec("a", "b"), spec("b", "a")], "the tasks a, b wait for one another"),
        ([spec("a"), spec("b", on_error={"x": "a"})], "task b: goes back to 'a', which is not before it"),
    ],
)
def test_a_plan_that_cannot_be(plan: list[TaskSpec], text: str) -> None:
    """A plan is refused before anything is done, with what is wrong with it."""
    with pytest.raises(Rejected, match=f"^{text}$"):
        check_plan(plan)


@pytest.mark.parametrize("name", ["_", "1a", "a.b", "", "a b"])
def test_a_name_that_cannot_be_a_token(name: str) -> None:
    """A task's name is one token of a subject; `_` is the workflow's own."""
    with pytest.raises(InvalidMessage):
        check_plan([spec(name)])


def test_a_state_survives_json() -> None:
    """What an event carries is the whole state."""
    state = started(spec("a"), spec("b", "a", parameters=result_of("a")))
    state = step(state, ended(state, "a", result={"x": [1, None, "ü"]}))

    assert decode(encode(state), Workflow) == state
