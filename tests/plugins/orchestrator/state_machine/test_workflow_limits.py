"""What `decide` does at its edges: bugs, sizes, unrequested inputs, and results that are stored elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import Rejected
from agentd.wire.codec import decode, encode
from agentd.wire.messages import Outcome, TaskCompletion, TaskError, Tier
from agentd.wire.workflow import Status, TaskState, TaskStatus, Workflow, result_of
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine import inputs, outgoing, signals
from agentd_orchestrator.state_machine.inputs import AgentReport, Input, TimerFired
from agentd_orchestrator.state_machine.plan_check import check_plan
from plugins.flow import PASSING, T0, begin, cancel, ended, fire, fold, spec, started, step

TAKEN = TaskError("vmid_taken", "another client's")


# -- unrequested inputs ----------------------------------------------------------------------------------------


def test_a_task_that_an_agent_cancels_has_failed() -> None:
    """`cancelled` without a cancellation is a failure: the workflow is not `completed`, and does not wait for ever."""
    state = started(spec("a"), spec("b", "a"))
    named = step(state, ended(state, "a", status=Outcome.CANCELLED, agent_id="x1"))
    nameless = step(state, ended(state, "a", status=Outcome.CANCELLED, agent_id=""))

    assert (named.status, named.error) == (Status.FAILED, "a: x1 cancelled it, and that was not requested")
    assert nameless.error == "a: an agent cancelled it, and that was not requested"


def test_a_failure_without_a_reason_is_reported() -> None:
    """An agent may fail without saying why; the answer says that."""
    state = started(spec("a"))
    state = step(state, ended(state, "a", status=Outcome.FAILED))

    assert state.error == "a: failed without a reason"


# -- how often ----------------------------------------------------------------------------------------------------


def test_going_back_uses_up_no_retries() -> None:
    """`retries` are for errors that may pass; a taken VMID does not cost one, nor does a retry cost a new draw."""
    state = started(spec("draw", tier=Tier.READ), spec("make", "draw", retries=1, on_error={"vmid_taken": "draw"}))
    for _ in range(3):
        state = step(state, ended(state, "draw"))
        state = step(state, ended(state, "make", TAKEN))
    state = step(state, ended(state, "draw"))
    state = step(state, ended(state, "make", PASSING))
    waiting = state.tasks["make"]
    state = fire(state)
    state = step(state, ended(state, "make", TAKEN))
    state = step(state, ended(state, "draw"))
    state = step(state, ended(state, "make", TAKEN))

    assert (waiting.status, waiting.retried, waiting.sent_back) == (TaskStatus.WAITING, 1, 3)
    assert state.status is Status.RUNNING
    assert (state.tasks["draw"].attempt, state.tasks["make"].sent_back) == (6, 5)


@pytest.mark.parametrize(("retried", "pause"), [(0, 2), (1, 4), (5, 64), (8, 300), (5000, 300)])
def test_the_pause_doubles_up_to_five_minutes(retried: int, pause: float) -> None:
    """However often it is tried, the pause is never longer than MAX_BACKOFF, and never an error."""
    state = started(spec("a", retries=10_000))
    state = Workflow(**{**_fields(state), "tasks": {"a": _with(state.tasks["a"], retried=retried)}})
    state = step(state, ended(state, "a", PASSING), at=T0)

    retry_at = state.tasks["a"].retry_at

    assert retry_at is not None
    assert 0.8 * pause <= (retry_at - T0).total_seconds() <= 1.2 * pause


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


def _with(task: TaskState, **changes: Any) -> TaskState:
    return TaskState(**{**_fields(task), **changes})


# -- sizes --------------------------------------------------------------------------------------------------------


def test_long_texts_are_cut() -> None:
    """What agents and people write is in the state several times: it is kept as far as a person would read it."""
    state = started(spec("a"), spec("b"))
    long = "x" * 100_000
    error = TaskError("broken", long, log=[long] * 100)
    state = step(state, ended(state, "b", warnings=[long] * 100))
    warned = state.tasks["b"].warnings
    failed = step(state, ended(state, "a", error)).tasks["a"].error
    cancelled = step(state, cancel(long))

    assert failed is not None
    assert len(failed.message) == len(failed.log[0]) == len(warned[0]) == signals.MAX_TEXT
    assert len(failed.log) == len(warned) == wf.MAX_LINES
    assert len(cancelled.error) == signals.MAX_TEXT + len("cancelled by bob: ")


def test_a_workflow_that_grows_too_large_ends() -> None:
    """It ends with the reason, without its results; what may still be going on in the world is named."""
    state = started(spec("done"), spec("running"), spec("later", "running"), spec("odd"), parameters={"a": 1})
    state = step(state, ended(state, "done", result="x" * 100_000))
    state = step(state, ended(state, "odd", PASSING))
    over = wf.end_oversized(state, 1_000_000, new=False)
    answer = outgoing.response(over, "o1")

    assert (answer.status, answer.error) == ("failed", "its state takes 1000000 bytes, and one event carries 983040")
    assert {name: task["status"] for name, task in answer.result["tasks"].items()} == {
        "done": "completed",
        "running": "cancelled",
        "later": "cancelled",
        "odd": "cancelled",
    }
    assert answer.result["left"] == ["done: done", "running: not known, the workflow ended while it ran"]
    assert over.digest == state.digest, "the same request again is still the same"
    assert [message.kind for message in over.outbox] == ["respond"]
    assert len(encode(over)) < 3000


def test_a_request_that_is_too_large_is_rejected() -> None:
    """A plan that one event cannot carry is rejected, with nothing assigned."""
    over = wf.end_oversized(started(spec("a")), 1_000_000, new=True)

    assert (over.status, over.tasks, [message.kind for message in over.outbox]) == (Status.REJECTED, {}, ["respond"])


def test_the_largest_plan_fits() -> None:
    """A plan of MAX_TASKS tasks fits one event, from its beginning to its end, and one more is refused."""
    plan = [spec(f"look-at-node-{number}", tier=Tier.READ, parameters={"vmid": number}) for number in range(1000)]
    check_plan(plan)
    state = started(*plan)
    begun = len(encode(state))
    all_done = [ended(state, name, result={"vmid": 100, "ok": True}, agent_id="all-pve1") for name in state.tasks]
    state = step(state, *all_done)

    assert begun < len(encode(state)) < Workflow.MAX_BYTES
    assert decode(encode(state), Workflow) == state
    with pytest.raises(Rejected, match="a plan has 1 to 1000 tasks; this one has 1001"):
        check_plan([*plan, spec("one-more")])


# -- bugs ---------------------------------------------------------------------------------------------------------


def test_a_bug_ends_its_input() -> None:
    """What takes the place of an input that cannot be decided: an end for a workflow, a refusal for a request."""
    state = started(spec("a"), spec("b", "a"))
    over = step(state, inputs.decide_failed(cancel(), "deciding failed"))
    refused = fold(None, [inputs.decide_failed(begin(spec("a", timeout=1e300)), "deciding failed")], T0)

    assert [(task.status, task.attempt) for task in over.tasks.values()] == [
        (TaskStatus.CANCELLED, 1),
        (TaskStatus.CANCELLED, 0),
    ]
    assert outgoing.remaining_changes(over) == ["a: not known, the workflow ended while it ran"]
    assert refused is not None
    assert (refused.status, refused.error, refused.tasks) == (Status.FAILED, "deciding failed", {})
    with pytest.raises(OverflowError):
        started(spec("a", timeout=1e300))


# -- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "whole", "field"),
    [
        ({"vmid": 7}, {"vmid": 7}, 7),
        ({"name": "x"}, {"name": "x"}, None),
        (
            {"$stored": "w.a", "bytes": 9},
            {"$stored": "w.a", "bytes": 9},
            {"$stored": "w.a", "bytes": 9, "field": "vmid"},
        ),
    ],
    ids=["field", "without", "stored"],
)
def test_a_result_is_handed_on(result: Any, whole: Any, field: Any) -> None:
    """A field of a result that is in the bucket is taken by the worker that fetches it; it was lost before."""
    parameters = {"whole": [result_of("a")], "field": result_of("a", "vmid"), "plain": 1}
    state = started(spec("a"), spec("b", "a", parameters=parameters))
    state = step(state, ended(state, "a", result=result))
    message = outgoing.assignment(state, "b", 1)

    assert message is not None
    assert message.parameters == {"whole": [whole], "field": field, "plain": 1}


def test_a_field_of_a_list() -> None:
    """A list has no fields: the task that wants one fails with that, nothing wrong is handed on."""
    state = started(spec("a"), spec("b", "a", parameters={"x": result_of("a", "n")}))
    state = step(state, ended(state, "a", result=[1]))

    assert state.error == "b: the result of a is list: it has no 'n'"


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"x": result_of("ghost")}, "'ghost'"),
        ({"x": [{"y": result_of("b")}]}, "'b'"),
        (result_of("c", "z"), "'c'"),
        ({"x": {"$result": ["a"]}}, r"\['a'\]"),
    ],
)
def test_a_plan_that_needs_a_later_result(parameters: dict[str, Any], wanted: str) -> None:
    """A result can only be had of a task that is done by then; once begun such a workflow could not go on."""
    plan = [spec("a"), spec("b", "a", parameters=parameters), spec("c", "b")]

    with pytest.raises(Rejected, match=f"^task b: needs the result of {wanted}, which is not before it$"):
        check_plan(plan)


def test_a_plan_that_needs_an_earlier_result() -> None:
    """It may be the result of any task that has to be done before, not only of the last."""
    check_plan([spec("a"), spec("b", "a"), spec("c", "b", parameters={"x": [result_of("a"), 1], "y": "z"})])


# -- by chance ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def ends(draw: st.DrawFn) -> TaskCompletion:
    """Return any completion of the first attempt of the task `a`."""
    error = draw(
        st.none()
        | st.text(max_size=5)
        | st.builds(TaskError, st.sampled_from(["deadline", "vmid_taken", "x"]), st.text(), st.booleans())
    )
    return TaskCompletion(
        "w.a",
        draw(st.sampled_from(list(Outcome))),
        draw(st.sampled_from(["", "w", "other"])),
        draw(st.integers(0, 2)),
        result=draw(JSON),
        error=error,
        warnings=draw(st.lists(st.text(max_size=5), max_size=3)),
        service_id=draw(st.sampled_from(["svc", "svc", ""])),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(ends(), max_size=6), st.booleans())
def test_every_state_survives_json(completions: list[TaskCompletion], cancelled: bool) -> None:  # noqa: FBT001
    """For any reports the stored state is the state that is read, and it decides the same."""
    state = started(spec("a", backoff=0.1), spec("b", "a", parameters={"x": result_of("a", "y")}))
    given_: list[Input] = [AgentReport("a", completion) for completion in completions]
    given_ += [cancel()] if cancelled and not completions else []
    for assignment in given_:
        read = decode(encode(state), Workflow)
        assert read == state
        changed, again = fold(state, [assignment], T0), fold(read, [assignment], T0)
        assert changed == again
        state = changed or state

    assert decode(encode(state), Workflow) == state
    assert outgoing.response(state, "o").workflow_id == "w"


@settings(max_examples=100, deadline=None)
@given(st.permutations(["a", "b", "c", "d"]), st.permutations([0, 1, 2, 3, 4]))
def test_the_order_of_a_plan_and_of_its_inputs(order: list[str], arrival: list[int]) -> None:
    """However a plan is written down and its inputs arrive, the same tasks are done and it ends the same."""
    after = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    plan = [spec(name, *after[name]) for name in order]
    check_plan(plan)
    state = started(*plan)
    for _ in range(4):
        running = [name for name, task in state.tasks.items() if task.status is TaskStatus.ASSIGNED]
        given_: list[Input] = [
            *(ended(state, name) for name in running),
            *(TimerFired(9) for _ in running),
        ]
        shuffled = [given_[number % len(given_)] for number in arrival] + given_ if given_ else []
        state = fold(state, shuffled, T0) or state

    assert state.status is Status.COMPLETED
    assert {name: task.attempt for name, task in state.tasks.items()} == dict.fromkeys("abcd", 1)
