"""What tasks can be: conditional, several at once, optional, undone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentd.errors import Rejected
from agentd.wire.codec import decode, encode
from agentd.wire.messages import Outcome
from agentd.wire.workflow import Status, TaskStatus, Workflow, result_of, template
from agentd_orchestrator.state_machine import outgoing
from agentd_orchestrator.state_machine.plan_check import check_plan
from plugins.flow import (
    LATER,
    PASSING,
    T0,
    cancel,
    ended,
    fire,
    fold,
    kinds,
    spec,
    started,
    statuses,
    step,
    undo,
)

HOUR = timedelta(hours=1)


# -- conditions and templates ---------------------------------------------------------------------------------------


def test_a_condition_that_is_not_so_skips_its_task() -> None:
    """What comes after a skipped task goes on, and the answer says that it was skipped."""
    plan = [spec("look"), spec("act", "look", condition="tasks.look.result.free > 9"), spec("end", "act")]
    state = started(*plan)
    enough = step(state, ended(state, "look", result={"free": 10}))
    skipped = step(state, ended(state, "look", result={"free": 9}))

    assert kinds(enough) == [("assign", "act", 1)]
    assert kinds(skipped) == [("assign", "end", 1)]
    assert skipped.tasks["act"].status is TaskStatus.SKIPPED


def test_templates_are_filled_in_when_a_task_is_assigned() -> None:
    """They know the workflow's parameters and what came before; a lone expression keeps its type."""
    requested = {
        "memory": template("{{ tasks.look.result.free // 2 }}"),
        "name": template("{{ parameters.name }}-{{ workflow_id }}"),
        "text": "{{ not a template }}",
    }
    state = started(spec("look"), spec("act", "look", parameters=requested), parameters={"name": "web"})
    state = step(state, ended(state, "look", result={"free": 10}))
    message = outgoing.assignment(state, "act", 1)

    assert message is not None
    assert message.parameters == {"memory": 5, "name": "web-w", "text": "{{ not a template }}"}


@pytest.mark.parametrize(
    "wrong",
    [{"parameters": {"x": template("{{ tasks.look.result.no }}")}}, {"condition": "1 / 0"}],
    ids=["names", "sums"],
)
def test_a_template_that_cannot_be_filled_in_fails_its_task(wrong: dict[str, Any]) -> None:
    """It says which expression and why; nothing is assigned."""
    state = started(spec("look"), spec("act", "look", **wrong))
    state = step(state, ended(state, "look", result={}))

    assert state.status is Status.FAILED
    error = state.tasks["act"].error
    assert error is not None
    assert error.code == "expression"
    assert state.error.startswith("act: ")


def test_a_result_by_reference_is_no_value_of_a_template() -> None:
    """A result above 16 KiB is carried by reference: a template that reads it fails with that reason."""
    state = started(spec("look"), spec("act", "look", parameters={"x": template("{{ tasks.look.result.a }}")}))
    state = step(state, ended(state, "look", result={"$stored": "w.look", "bytes": 20_000}))

    assert "tasks.look.result: it takes 20000 bytes; a template sees at most 16384" in state.error


# -- items ----------------------------------------------------------------------------------------------------------


def test_items_are_worked_on_in_a_window() -> None:
    """One task an item, so many at once; later tasks get the results in the order of the items."""
    mover = spec("move", for_each=[10, 20, 30], max_parallel=2, parameters={"vmid": template("{{ item + index }}")})
    state = started(mover, spec("end", "move", parameters={"all": result_of("move")}))
    assert kinds(state)[:2] == [("assign", "move-0", 1), ("assign", "move-1", 1)]
    second = outgoing.assignment(state, "move-1", 1)
    state = step(state, ended(state, "move-1", result="b"))
    assert kinds(state) == [("assign", "move-2", 1)]
    state = step(state, ended(state, "move-0", result="a"), ended(state, "move-2", result="c", attempt=1))
    message = outgoing.assignment(state, "end", 1)

    assert second is not None
    assert (second.parameters, second.task_id) == ({"vmid": 21}, "w.move-1")
    assert message is not None
    assert message.parameters == {"all": ["a", "b", "c"]}
    assert state.timeline[-2].what == "3 of 3 items done"
    assert decode(encode(state), Workflow) == state


def test_no_items_and_no_list() -> None:
    """An empty list is done at once; what is no list is an error that says what it is."""
    none = started(spec("a", for_each=[]), spec("b", "a", parameters={"x": result_of("a")}))
    wrong = started(spec("a", for_each=template("{{ parameters.names }}")), parameters={"names": "web1"})
    message = outgoing.assignment(none, "b", 1)

    assert message is not None
    assert message.parameters == {"x": []}
    assert wrong.error == "a: for_each: it must be a list, and is str"


def test_a_failed_item_ends_the_others() -> None:
    """Items that were not started are not started; optional ones are a warning, and what comes after goes on."""
    state = started(spec("a", for_each=[1, 2, 3], max_parallel=1), spec("b", "a"))
    failed = step(state, ended(state, "a-0", "broken"))
    lenient = started(
        spec("a", for_each=[1, 2], max_parallel=1, optional=True), spec("b", "a", parameters={"x": result_of("a")})
    )
    lenient = step(lenient, ended(lenient, "a-0", "broken"))
    lenient = step(lenient, ended(lenient, "a-1", result=2))
    message = outgoing.assignment(lenient, "b", 1)

    assert (failed.status, failed.error) == (Status.FAILED, "a-0: broken")
    assert statuses(failed) == {
        "a": "cancelled",
        "b": "cancelled",
        "a-0": "failed",
        "a-1": "cancelled",
        "a-2": "cancelled",
    }
    assert lenient.tasks["a"].status is TaskStatus.COMPLETED_WITH_WARNINGS
    assert message is not None
    assert message.parameters == {"x": [None, 2]}


def test_a_thousand_items_fit_one_event() -> None:
    """A fan-out of almost MAX_TASKS is carried from its beginning to its end; more is refused by name."""
    names = [f"guest-{number}" for number in range(998)]
    state = started(spec("a", for_each=names, max_parallel=100, parameters={"name": template("{{ item }}")}))
    for _ in range(10):
        running = [name for name, task in state.tasks.items() if task.status is TaskStatus.ASSIGNED]
        state = step(state, *(ended(state, name, result={"vmid": 1, "ok": True}) for name in running))
    many = started(spec("a", for_each=[0] * 1000))

    assert state.status is Status.COMPLETED
    assert len(encode(state)) < Workflow.MAX_BYTES / 2
    assert many.error == "a: for_each: 1000 items; a workflow has at most 1000 tasks"


def test_an_optional_task_may_fail() -> None:
    """The workflow goes on, and ends with warnings."""
    state = started(spec("a", optional=True), spec("b", "a"))
    state = step(state, ended(state, "a", "broken"))
    state = step(state, ended(state, "b"))

    assert (state.status, state.error) == (Status.COMPLETED_WITH_WARNINGS, "")


# -- undoing --------------------------------------------------------------------------------------------------------


def test_completed_tasks_are_undone_in_reverse_order() -> None:
    """A task is undone once all that depends on it is; what was not begun is not undone."""
    plan = [
        spec("net", compensation=undo(parameters={"id": result_of("net", "id")})),
        spec("vm", "net", compensation=undo()),
        spec("look", "vm"),
        spec("dns", "look", compensation=undo()),
        spec("mail", "dns", compensation=undo()),
    ]
    check_plan(plan)
    state = started(*plan)
    for name in ("net", "vm", "look"):
        state = step(state, ended(state, name, result={"id": name}))
    state = step(state, ended(state, "dns", "broken"))
    assert state.status is Status.COMPENSATING
    assert kinds(state) == [("assign", "undo-dns", 1)]
    state = step(state, ended(state, "undo-dns"))
    assert kinds(state) == [("assign", "undo-vm", 1)]
    state = step(state, ended(state, "undo-vm"))
    message = outgoing.assignment(state, "undo-net", 1)
    state = step(state, ended(state, "undo-net"))

    assert message is not None
    assert (message.task_type, message.parameters, message.task_id) == ("undo", {"id": "net"}, "w.undo-net")
    assert (state.status, state.error) == (Status.COMPENSATED, "dns: broken")
    assert "undo-mail" not in state.tasks
    answer = outgoing.response(state, "o")
    assert answer.result["left"] == ["look: done"], "it has nothing that undoes it"


def test_an_undoing_that_fails_is_loud() -> None:
    """What the failed one depends on is left as it is and named; the rest is undone; a person is notified."""
    plan = [
        spec("a", compensation=undo()),
        spec("b", "a", compensation=undo(retries=0)),
        spec("c", compensation=undo()),
    ]
    state = started(*plan, spec("end", "b", "c"))
    state = step(state, ended(state, "a", result={"vmid": 5, "name": "x", "node": "n"}), ended(state, "c"))
    state = step(state, ended(state, "b"))
    state = step(state, ended(state, "end", "broken"))
    assert kinds(state) == [("assign", "undo-b", 1), ("assign", "undo-c", 1)]
    state = step(state, ended(state, "undo-b", "no rights"), ended(state, "undo-c"))

    assert state.status is Status.COMPENSATION_FAILED
    assert kinds(state) == [("alert", "_", 0), ("respond", "_", 0)]
    assert outgoing.response(state, "o").result["left"] == [
        "a: VM 5 x on n; not undone: what depends on it could not be undone",
        "b: done; not undone: no rights",
    ]


def test_undoing_is_tried_again() -> None:
    """An error that may pass is tried again, also while the workflow's own time is over."""
    state = started(spec("a", compensation=undo(backoff=1.0)), spec("b", "a"), timeout=20.0)
    state = step(state, ended(state, "a"))
    state = step(state, ended(state, "b", "broken"))
    state = step(state, ended(state, "undo-a", PASSING))
    state = fire(state)
    late = step(state, ended(state, "undo-a"), at=T0 + HOUR)

    assert state.tasks["undo-a"].attempt == 2
    assert late.status is Status.COMPENSATED


def test_a_cancelled_workflow_is_undone_on_demand() -> None:
    """Cancelling alone leaves what was done; with `undo` it is undone."""
    state = started(spec("a", compensation=undo()), spec("b", "a"))
    state = step(state, ended(state, "a"))
    left = step(state, cancel())
    left = step(left, ended(left, "b", status=Outcome.CANCELLED))
    undone = step(state, cancel(undo=True))
    undone = step(undone, ended(undone, "b", status=Outcome.CANCELLED))

    assert left.status is Status.CANCELLED
    assert outgoing.response(left, "o").result["left"] == ["a: done"]
    assert undone.status is Status.COMPENSATING
    with pytest.raises(Rejected, match="w is being undone already"):
        fold(undone, [cancel()], LATER)
    assert step(undone, ended(undone, "undo-a")).status is Status.COMPENSATED


def test_items_are_undone_one_by_one() -> None:
    """Each item that was begun is undone with its own item; a thousand of them add nothing but their states."""
    mover = spec(
        "a", for_each=[7, 8, 9], max_parallel=2, compensation=undo(parameters={"vmid": template("{{ item }}")})
    )
    state = started(mover)
    state = step(state, ended(state, "a-1"))
    state = step(state, ended(state, "a-0", "broken"))
    state = step(state, ended(state, "a-2"))
    message = outgoing.assignment(state, "undo-a-1", 1)

    assert sorted(task for kind, task, _ in kinds(state) if kind == "assign") == ["undo-a-0", "undo-a-1", "undo-a-2"]
    assert message is not None
    assert message.parameters == {"vmid": 8}


def test_a_compensation_without_its_values_fails() -> None:
    """A compensation that needs the result of a task that has none is a failure that says so."""
    state = started(spec("a", compensation=undo(parameters={"id": template("{{ tasks.a.result.id }}")})))
    state = step(state, ended(state, "a", "broken"))

    assert state.status is Status.COMPENSATION_FAILED
    assert (
        "a: failed; not undone: expression '{{ tasks.a.result.id }}': 'id' is searched in a value that is nothing"
        in outgoing.response(state, "o").result["left"][0]
    )
