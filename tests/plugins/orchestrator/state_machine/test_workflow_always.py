"""What a task creates for its workflow alone is undone at any end of the workflow."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.wire.codec import decode, encode
from agentd.wire.workflow import Status, TaskStatus, Workflow
from agentd_orchestrator.state_machine import outgoing
from plugins.flow import PASSING, cancel, ended, fire, kinds, signal, spec, started, statuses, step, undo

PLAN = [
    spec("keep", compensation=undo("unkeep")),
    spec("make", "keep", compensation=undo("unmake", always=True)),
    spec("check", "make"),
]


def at_check() -> Workflow:
    """Return the workflow before its last task ends."""
    state = started(*PLAN)
    for name in ("keep", "make"):
        state = step(state, ended(state, name))
    return state


def test_undone_when_all_is_done() -> None:
    """It is undone before the answer, which says that all is done; what is there to stay stays."""
    state = at_check()
    undoing = step(state, ended(state, "check"))
    done = step(decode(encode(undoing), Workflow), ended(undoing, "undo-make"))

    assert (undoing.status, kinds(undoing)) == (Status.RUNNING, [("assign", "undo-make", 1)])
    assert (done.status, kinds(done)) == (Status.COMPLETED, [("respond", "_", 0)])
    assert "undo-keep" not in done.tasks


@pytest.mark.parametrize("how", ["failed", "cancelled with undoing"])
def test_undone_with_all_else(how: str) -> None:
    """A workflow that fails, or is cancelled so, undoes it as it does all else, in reverse order."""
    state = at_check()
    given = cancel(undo=True) if how != "failed" else ended(state, "check", "no")
    state = step(state, given)
    state = step(state, ended(state, "check")) if how != "failed" else state
    last = step(state, ended(state, "undo-make"))

    assert (state.status, kinds(last)) == (Status.COMPENSATING, [("assign", "undo-keep", 1)])
    assert step(last, ended(last, "undo-keep")).status is Status.COMPENSATED


def test_undone_alone_when_cancelled() -> None:
    """A workflow that is cancelled as it is undoes this alone."""
    state = at_check()
    state = step(state, cancel())
    state = step(state, ended(state, "check"))
    over = step(state, ended(state, "undo-make"))

    assert state.status is Status.COMPENSATING
    assert (over.status, over.error, "undo-keep" in over.tasks) == (Status.COMPENSATED, "cancelled by bob", False)
    assert outgoing.remaining_changes(over) == ["keep: done", "check: done"]


def test_nothing_to_undo() -> None:
    """What was never begun is not undone."""
    state = started(*PLAN)
    over = step(state, ended(state, "keep", "no"))

    assert [task for task in over.tasks if task.startswith("undo-")] == ["undo-keep"]


def test_a_failure_is_loud() -> None:
    """An undoing that fails for good is reported; what was done for good stays."""
    state = at_check()
    state = step(state, ended(state, "check"))
    over = step(state, ended(state, "undo-make", "cannot"))

    assert (over.status, over.error) == (Status.COMPENSATION_FAILED, "undo-make: cannot")
    assert ("alert", "_", 0) in kinds(over)
    assert "undo-keep" not in over.tasks
    assert "make: done; not undone: cannot" in outgoing.remaining_changes(over)


def test_tried_again() -> None:
    """What may pass is tried again."""
    state = at_check()
    state = step(state, ended(state, "check"))
    again = fire(step(state, ended(state, "undo-make", PASSING)))

    assert kinds(again)[0] == ("assign", "undo-make", 2)


@pytest.mark.parametrize("given", [cancel(), cancel(undo=True)])
def test_a_cancel_does_not_break_it(given: Any) -> None:
    """A cancel during the undo lets the undo finish."""
    state = at_check()
    state = step(state, ended(state, "check"))
    cancelled = step(state, given)
    over = step(cancelled, ended(cancelled, "undo-make"))

    assert cancelled.tasks["undo-make"].status is TaskStatus.ASSIGNED
    assert ("stop", "undo-make", 1) not in kinds(cancelled)
    assert statuses(over)["undo-make"] == TaskStatus.COMPLETED


def test_a_pause_holds_it() -> None:
    """A workflow that is paused begins it when it is resumed."""
    state = step(at_check(), signal("pause"))
    held = step(state, ended(state, "check"))
    resumed = step(held, signal("resume"))

    assert (held.status, kinds(held)) == (Status.PAUSED, [])
    assert kinds(resumed) == [("assign", "undo-make", 1)]
