"""What tasks can be: conditional, several at once, approved, undone, optional, timed; what workflows can be told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agentd.errors import Denied, Rejected
from agentd.messages import Outcome, TaskError, Tier, WorkflowRequest, decode, encode
from agentd.workflows import Compensation, Parent, Status, TaskSpec, TaskStatus, Workflow, result_of, template
from agentd_orchestrator import derived, signals
from agentd_orchestrator import workflow as wf
from agentd_orchestrator.inputs import Begin, Due
from agentd_orchestrator.plan import check_plan, default_timeout
from plugins.flow import LATER, PASSING, T0, begin, cancel, ended, kinds, ring, signal, spec, started, step

HOUR = timedelta(hours=1)


def undo(tool: str = "undo", **more: Any) -> Compensation:
    """Return what undoes a task."""
    return Compensation(tool, "svc", Tier.OPERATE, **more)


def statuses(state: Workflow) -> dict[str, str]:
    """Return where each task stands."""
    return {name: str(task.status) for name, task in state.tasks.items()}


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
    wish = {
        "memory": template("{{ tasks.look.result.free // 2 }}"),
        "name": template("{{ parameters.name }}-{{ workflow_id }}"),
        "text": "{{ not a template }}",
    }
    state = started(spec("look"), spec("act", "look", parameters=wish), parameters={"name": "web"})
    state = step(state, ended(state, "look", result={"free": 10}))
    message = derived.assignment(state, "act", 1)

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


def test_a_result_that_lies_elsewhere_is_no_value_of_a_template() -> None:
    """A result above 16 KiB is carried by reference: a template that wants to look into it says so."""
    state = started(spec("look"), spec("act", "look", parameters={"x": template("{{ tasks.look.result.a }}")}))
    state = step(state, ended(state, "look", result={"$stored": "w.look", "bytes": 20_000}))

    assert "tasks.look.result: it takes 20000 bytes; a template sees at most 16384" in state.error


# -- items ----------------------------------------------------------------------------------------------------------


def test_items_are_worked_on_in_a_window() -> None:
    """One task an item, so many at once; later tasks get the results in the order of the items."""
    each = spec("move", each=[10, 20, 30], window=2, parameters={"vmid": template("{{ item + index }}")})
    state = started(each, spec("end", "move", parameters={"all": result_of("move")}))
    assert kinds(state)[:2] == [("assign", "move-0", 1), ("assign", "move-1", 1)]
    second = derived.assignment(state, "move-1", 1)
    state = step(state, ended(state, "move-1", result="b"))
    assert kinds(state) == [("assign", "move-2", 1)]
    state = step(state, ended(state, "move-0", result="a"), ended(state, "move-2", result="c", attempt=1))
    message = derived.assignment(state, "end", 1)

    assert second is not None
    assert (second.parameters, second.task_id) == ({"vmid": 21}, "w.move-1")
    assert message is not None
    assert message.parameters == {"all": ["a", "b", "c"]}
    assert state.timeline[-2].what == "3 of 3 items done"
    assert decode(encode(state), Workflow) == state


def test_no_items_and_no_list() -> None:
    """An empty list is done at once; what is no list is an error that says what it is."""
    none = started(spec("a", each=[]), spec("b", "a", parameters={"x": result_of("a")}))
    wrong = started(spec("a", each=template("{{ parameters.names }}")), parameters={"names": "web1"})
    message = derived.assignment(none, "b", 1)

    assert message is not None
    assert message.parameters == {"x": []}
    assert wrong.error == "a: each: it is to be a list, and is str"


def test_a_failed_item_ends_the_others() -> None:
    """Items that nobody began are not begun; optional ones are a warning, and what comes after goes on."""
    state = started(spec("a", each=[1, 2, 3], window=1), spec("b", "a"))
    failed = step(state, ended(state, "a-0", "broken"))
    lenient = started(spec("a", each=[1, 2], window=1, optional=True), spec("b", "a", parameters={"x": result_of("a")}))
    lenient = step(lenient, ended(lenient, "a-0", "broken"))
    lenient = step(lenient, ended(lenient, "a-1", result=2))
    message = derived.assignment(lenient, "b", 1)

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
    state = started(spec("a", each=names, window=100, parameters={"name": template("{{ item }}")}))
    for _ in range(10):
        running = [name for name, task in state.tasks.items() if task.status is TaskStatus.ASSIGNED]
        state = step(state, *(ended(state, name, result={"vmid": 1, "ok": True}) for name in running))
    many = started(spec("a", each=[0] * 1000))

    assert state.status is Status.COMPLETED
    assert len(encode(state)) < Workflow.MAX_BYTES / 2
    assert many.error == "a: each: 1000 items; a workflow has at most 1000 tasks"


def test_an_optional_task_may_fail() -> None:
    """The workflow goes on, and ends with warnings."""
    state = started(spec("a", optional=True), spec("b", "a"))
    state = step(state, ended(state, "a", "broken"))
    state = step(state, ended(state, "b"))

    assert (state.status, state.error) == (Status.COMPLETED_WITH_WARNINGS, "")


# -- undoing --------------------------------------------------------------------------------------------------------


def test_what_was_done_is_undone_in_reverse_order() -> None:
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
    message = derived.assignment(state, "undo-net", 1)
    state = step(state, ended(state, "undo-net"))

    assert message is not None
    assert (message.task_type, message.parameters, message.task_id) == ("undo", {"id": "net"}, "w.undo-net")
    assert (state.status, state.error) == (Status.COMPENSATED, "dns: broken")
    assert "undo-mail" not in state.tasks
    answer = derived.response(state, "o")
    assert answer.result["left"] == ["look: done"], "it has nothing that undoes it"


def test_an_undoing_that_fails_is_loud() -> None:
    """What the failed one stands on is left as it is and named; the rest is undone; a person is told."""
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
    assert derived.response(state, "o").result["left"] == [
        "a: VM 5 x on n; not undone: what depends on it could not be undone",
        "b: done; not undone: no rights",
    ]


def test_undoing_is_tried_again() -> None:
    """An error that may pass is tried again, also while the workflow's own time is over."""
    state = started(spec("a", compensation=undo(backoff=1.0)), spec("b", "a"), timeout=20.0)
    state = step(state, ended(state, "a"))
    state = step(state, ended(state, "b", "broken"))
    state = step(state, ended(state, "undo-a", PASSING))
    state = ring(state)
    late = step(state, ended(state, "undo-a"), at=T0 + HOUR)

    assert state.tasks["undo-a"].attempt == 2
    assert late.status is Status.COMPENSATED


def test_a_cancelled_workflow_is_undone_on_demand() -> None:
    """Cancelling alone leaves what was done; with `compensate` it is undone."""
    state = started(spec("a", compensation=undo()), spec("b", "a"))
    state = step(state, ended(state, "a"))
    left = step(state, cancel())
    left = step(left, ended(left, "b", status=Outcome.CANCELLED))
    undone = step(state, cancel(undo=True))
    undone = step(undone, ended(undone, "b", status=Outcome.CANCELLED))

    assert left.status is Status.CANCELLED
    assert derived.response(left, "o").result["left"] == ["a: done"]
    assert undone.status is Status.COMPENSATING
    with pytest.raises(Rejected, match="w is being undone already"):
        wf.fold(undone, [cancel()], LATER)
    assert step(undone, ended(undone, "undo-a")).status is Status.COMPENSATED


def test_items_are_undone_one_by_one() -> None:
    """Each item that was begun is undone with its own item; a thousand of them add nothing but their states."""
    each = spec("a", each=[7, 8, 9], window=2, compensation=undo(parameters={"vmid": template("{{ item }}")}))
    state = started(each)
    state = step(state, ended(state, "a-1"))
    state = step(state, ended(state, "a-0", "broken"))
    state = step(state, ended(state, "a-2"))
    message = derived.assignment(state, "undo-a-1", 1)

    assert sorted(task for kind, task, _ in kinds(state) if kind == "assign") == ["undo-a-0", "undo-a-1", "undo-a-2"]
    assert message is not None
    assert message.parameters == {"vmid": 8}


def test_what_cannot_be_filled_in_is_not_undone() -> None:
    """A compensation that wants the result of a task that has none is a failure that says so."""
    state = started(spec("a", compensation=undo(parameters={"id": template("{{ tasks.a.result.id }}")})))
    state = step(state, ended(state, "a", "broken"))

    assert state.status is Status.COMPENSATION_FAILED
    assert (
        "a: failed; not undone: expression '{{ tasks.a.result.id }}': 'id' is looked for in what is nothing"
        in derived.response(state, "o").result["left"][0]
    )


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


def test_somebody_else_says_yes() -> None:
    """The workflow waits, its clock stands still, however long; then exactly what was shown is done."""
    state = asked()
    waiting = state
    state = step(state, signal("approve", task="boot", digest=digest_of(state), reason="ok"), at=LATER + 24 * HOUR)

    assert waiting.status is Status.WAITING_APPROVAL
    assert wf.fold(waiting, [Due(1)], LATER + 240 * HOUR) is not None, "its timer rings, and nothing is over"
    assert state.status is Status.RUNNING
    assert kinds(state)[0] == ("assign", "boot", 1)
    assert waiting.deadline is not None
    assert state.deadline == waiting.deadline + 24 * HOUR
    assert state.tasks["boot"].approval is not None
    assert (state.tasks["boot"].approval.by, state.timeline[-2].what) == ("bob", "approved by bob: ok")
    assert wf.fold(state, [signal("approve", task="boot", digest=digest_of(state))], LATER) is None, (
        "once more: no error"
    )


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (signal("approve", "alice", task="boot"), Denied, "alice asked for w: somebody else has to approve boot"),
        (signal("approve", "bob", Tier.READ, task="boot"), Denied, "bob may read; approving boot needs operate"),
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
        wf.fold(asked(), [given], LATER)


def test_a_signal_for_what_is_over_or_nowhere() -> None:
    """Nobody is left in doubt about a signal that comes too late."""
    over = step(started(spec("a")), ended(started(spec("a")), "a"))

    with pytest.raises(Rejected, match="pause: it is over: completed"):
        wf.fold(over, [signal("pause")], LATER)
    with pytest.raises(Rejected, match="cancel: there is no such workflow"):
        wf.fold(None, [cancel()], LATER)


def test_a_no_fails_the_workflow() -> None:
    """What was done before is undone where the plan says how."""
    state = started(spec("a", compensation=undo()), spec("b", "a", approval="Go on?"))
    state = step(state, ended(state, "a"))
    state = step(state, signal("reject", task="b", digest=digest_of(state, "b"), reason="not today"))

    assert state.status is Status.COMPENSATING
    assert state.error == "b: refused by bob: not today"


def test_an_approval_for_all_items() -> None:
    """A task with items is approved once, for exactly these items."""
    state = started(spec("a", each=template("{{ parameters.names }}"), approval="All?"), parameters={"names": [1, 2]})
    other = started(spec("a", each=template("{{ parameters.names }}"), approval="All?"), parameters={"names": [1, 3]})

    assert digest_of(state, "a") != digest_of(other, "a")
    state = step(state, signal("approve", task="a", digest=digest_of(state, "a")))
    assert [task for kind, task, _ in kinds(state) if kind == "assign"] == ["a-0", "a-1"]


# -- pauses ---------------------------------------------------------------------------------------------------------


def test_a_paused_workflow_begins_nothing() -> None:
    """What runs is finished; the clock stands still; then it goes on where it was."""
    state = started(spec("a"), spec("b", "a"), timeout=100.0)
    paused = step(state, signal("pause", reason="window closes"))
    paused = step(paused, ended(paused, "a"))
    silent = wf.fold(paused, [Due(1)], T0 + HOUR)
    resumed = step(paused, signal("resume"), at=LATER + HOUR)

    assert (paused.status, statuses(paused)["b"]) == (Status.PAUSED, "waiting")
    assert silent is not None
    assert not silent.failing
    assert kinds(resumed)[0] == ("assign", "b", 1)
    assert resumed.deadline == T0 + timedelta(seconds=100) + HOUR
    assert wf.fold(paused, [signal("pause")], LATER) is None


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


def test_an_attempt_that_nobody_begins() -> None:
    """`start_within` is for the queue; the deadline counts from when an agent says that it began."""
    state = started(spec("a", start_within=30.0, retries=1))
    message = derived.assignment(state, "a", 1)
    begun = step(state, ended(state, "a", status=Outcome.RUNNING), at=T0 + timedelta(seconds=25))
    late = ring(state)

    assert message is not None
    assert message.start_by == T0 + timedelta(seconds=30)
    assert (message.seconds, message.deadline) == (60.0, T0 + timedelta(seconds=90))
    assert begun.tasks["a"].status is TaskStatus.RUNNING
    assert begun.tasks["a"].deadline == T0 + timedelta(seconds=85)
    assert late.tasks["a"].error == TaskError("not_started", "nobody began attempt 1 within 30 s", retry=True)


def test_an_agent_that_falls_silent() -> None:
    """With a heartbeat a silent agent loses the attempt long before its deadline."""
    state = started(spec("a", heartbeat=5.0, retries=1))
    state = step(state, ended(state, "a", status=Outcome.RUNNING), at=T0 + timedelta(seconds=1))
    lives = step(state, ended(state, "a", status=Outcome.RUNNING), at=T0 + timedelta(seconds=4))
    rung = step(lives, Due(lives.timers), at=T0 + timedelta(seconds=6))
    lost = ring(rung)

    assert state.armed == T0 + timedelta(seconds=6)
    assert rung.tasks["a"].status is TaskStatus.RUNNING
    assert lost.tasks["a"].error == TaskError("lost", "a1 was silent for 5 s", retry=True)
    assert len(lives.timeline) == len(state.timeline), "a sign of life is no event that a person reads"


def test_how_long_a_plan_may_take() -> None:
    """Every attempt of every task in turn; a month where nobody can say how many items or steps there are."""
    assert default_timeout([spec("a"), spec("b", retries=0, start_within=40.0)]) == 180 + 100
    assert default_timeout([spec("a"), spec("b", each=[1])]) == derived.MAX_TIMEOUT


# -- workflows of workflows, priorities, and carrying on ------------------------------------------------------------


def child(name: str, *after: str, **more: Any) -> TaskSpec:
    """Return a task that is a workflow."""
    return TaskSpec(name, "", "orchestrator", Tier.OPERATE, workflow="deploy", after=list(after), **more)


def test_a_task_can_be_a_workflow() -> None:
    """It is assigned to the orchestrators, has no deadline but its own, and is ended with its parent."""
    state = started(child("a", parameters={"name": "web"}), child("b"))
    message = derived.assignment(state, "a", 1)
    failed = step(state, ended(state, "b", "broken", service_id="orchestrator"))

    assert message is not None
    assert (message.task_type, message.assigned_to, message.seconds) == ("deploy", "orchestrator", 300.0)
    assert state.armed == state.deadline
    assert derived.child_id("w", "a", 1) == "w--a"
    assert kinds(failed) == [("stop", "a", 1)]
    long = {derived.child_id("x" * 64, "a", attempt) for attempt in (1, 2)}
    assert {len(each) for each in long} == {64}
    assert len(long) == 2


def test_a_child_tells_its_parent() -> None:
    """Its end is a completion of the task that started it, with its results."""
    request = WorkflowRequest("deploy", "w--a")
    given = Begin(request, [spec("x")], "alice", Tier.OPERATE, parent=Parent("w", "a", 2))
    state = wf.fold(None, [given], T0)
    assert state is not None
    done = step(state, ended(state, "x", result=7))
    failed = step(state, ended(state, "x", "broken"))
    told, bad = derived.report(done, "o1"), derived.report(failed, "o1")

    assert kinds(done) == [("report", "a", 2), ("respond", "_", 0)]
    assert (told.task_id, told.workflow_id, told.attempt, told.service_id) == ("w.a", "w", 2, "orchestrator")
    assert told.result == {"workflow_id": "w--a", "status": "completed", "results": {"x": 7}}
    assert bad.error == TaskError("child_failed", "workflow w--a failed: x: broken")


@pytest.mark.parametrize(("priority", "queue"), [(5, "specialist"), (6, "specialist+urgent")])
def test_what_is_urgent_has_a_lane(priority: int, queue: str) -> None:
    """Above 5 the tasks of a workflow do not wait behind those of others; classes keep their own queue."""
    state = started(spec("a", queue="specialist"), spec("b", queue="specialist+disk"), priority=priority)
    lane, classed = derived.assignment(state, "a", 1), derived.assignment(state, "b", 1)

    assert lane is not None
    assert classed is not None
    assert (lane.assigned_to, classed.assigned_to) == (queue, "specialist+disk")
    assert step(state, ended(state, "a", service_id="specialist")).tasks["a"].status is TaskStatus.COMPLETED


def test_a_failed_workflow_is_carried_on() -> None:
    """Under a new id what was done is not done again; items too; what was undone is done anew."""
    state = started(spec("a"), spec("b", "a", each=[1, 2], window=1, parameters={"x": result_of("a")}), spec("c", "b"))
    state = step(state, ended(state, "a", result=5))
    state = step(state, ended(state, "b-0"))
    state = step(state, ended(state, "b-1", "broken"))
    tasks = wf.carried(state)
    plan = [task.spec for task in tasks.values() if task.spec is not None]
    again = wf.fold(
        None, [Begin(WorkflowRequest("test", "w2", retry_of="w"), plan, "bob", Tier.OPERATE, carried=tasks)], T0
    )

    assert again is not None
    assert [each for each in kinds(again) if each[0] == "assign"] == [("assign", "b-1", 1)]
    assert again.timeline[0].what == "requested by bob, carrying on w"
    assert again.retry_of == "w"
    again = step(again, ended(again, "b-1"))
    assert step(again, ended(again, "c")).status is Status.COMPLETED


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.RUNNING, Status.COMPENSATION_FAILED, Status.REJECTED])
def test_what_cannot_be_carried_on(status: Status) -> None:
    """It says how it stands, and what to do."""
    state = replace(started(spec("a")), status=status)

    with pytest.raises(Rejected, match=f"retry_of: w is {status}: there is nothing to carry on"):
        wf.carried(state)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (spec("undo-a"), "names that begin with 'undo-' are those of what undoes a task"),
        (spec("a", tool=""), "it calls a tool or starts a workflow, one of the two"),
        (spec("a", workflow="x"), "it calls a tool or starts a workflow, one of the two"),
        (spec("a", tool="", workflow="x"), "workflows, and they alone, go to the queue 'orchestrator'"),
        (spec("a", each=[1], redo={"x": "z"}), "items cannot go back to an earlier task"),
        (spec("a", window=0), "window: 0; it is at least 1"),
        (spec("a", retries=-1), "retries and backoff are at least 0"),
        (spec("a", deadline=0), "deadline: 0 s; it is more than 0 and at most 2592000 s"),
        (spec("a", heartbeat=-1), "heartbeat: -1 s; it is more than 0 and at most 2592000 s"),
        (spec("a", "z", condition="tasks.b.status"), "wants the result of 'b', which does not come before it"),
        (spec("a", each=result_of("b")), "wants the result of 'b', which does not come before it"),
        (
            spec("a", compensation=undo(parameters={"x": result_of("b")})),
            "its compensation wants the result of 'b', which does not come before it",
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
    plan = [spec("a"), spec("b", "a", each=[1]), spec("c", "b", redo={"x": "a"})]

    with pytest.raises(Rejected, match="task c: cannot go back over 'b', which has items"):
        check_plan(plan)


def test_actions_are_named() -> None:
    """Every action that there is is carried out on a workflow that can take it."""
    assert set(signals.ACTIONS) == {"cancel", "pause", "resume", "approve", "reject"}
    assert begin(spec("a")).principal == "alice"
