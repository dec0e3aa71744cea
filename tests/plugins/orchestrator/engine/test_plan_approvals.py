"""What destroys is previewed, shown, approved by another principal, and done as it was shown; without a bus."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from agentd.errors import Denied, Rejected
from agentd.safety.policy import Policy
from agentd.wire.codec import digest, plain
from agentd.wire.messages import Consent, Inverse, Preview, Target, Tier, WorkflowRequest
from agentd.wire.workflow import Compensation, Status, TaskSpec, TaskStatus, Workflow, template
from agentd_orchestrator.builtin_workflows import tool_call
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine import outgoing
from agentd_orchestrator.state_machine.inputs import PlannedRequest
from agentd_orchestrator.state_machine.planner import Planner, with_previews
from plugins.flow import LATER, T0, ended, fire, fold, kinds, signal, spec, step

DAY = 86_400.0
WEB = Target("guest/100", "VM 100 'web' on pve1, stopped", {"status": "stopped"}, ["tag/web"], ["2 disks, 40 GiB"])

BACK = Inverse("make", {"vmid": 100})


def begun(*plan: TaskSpec, **request: Any) -> Workflow:
    """Return the first state of a workflow from the planner."""
    looked = with_previews(list(plan), DAY)
    given = PlannedRequest(WorkflowRequest("test", "w", **request), looked, "alice", Tier.DESTROY)
    state = fold(None, [given], T0)
    assert state is not None
    return state


def drop(*after: str, **more: Any) -> TaskSpec:
    """Return a task that destroys."""
    return spec("drop", *after, tier=Tier.DESTROY, **({"parameters": {"vmid": 100}} | more))


def seen(*targets: Target, already: bool = False, undo: Inverse | None = None) -> Any:
    """Return the result of a preview."""
    return plain(Preview("drop", list(targets), already, undo))


def asked(*plan: TaskSpec, found: Any = None) -> Workflow:
    """Return a workflow that has its preview and waits for an approval."""
    state = begun(*(plan or (drop(),)))
    return step(state, ended(state, "preview-drop", result=found or seen(WEB)))


def approve(state: Workflow, by: str = "bob", tier: Tier = Tier.DESTROY, **more: Any) -> Any:
    """Return an approval of what is shown."""
    approval = state.tasks["drop"].approval
    assert approval is not None
    return signal("approve", by, tier, **({"task": "drop", "digest": approval.digest} | more))


def test_a_preview_precedes_a_destructive_task() -> None:
    """The preview has the same tool and parameters, changes nothing, and needs no approval."""
    state = begun(spec("stop"), drop("stop"))
    assert kinds(state) == [("assign", "stop", 1), ("timer", "-", 1)] or kinds(state)[0] == ("assign", "stop", 1)
    state = step(state, ended(state, "stop"))
    look = outgoing.assignment(state, "preview-drop", 1)

    assert look is not None
    assert (look.task_type, look.parameters, look.dry_run, look.consent) == ("drop", {"vmid": 100}, True, None)
    assert state.tasks["drop"].status is TaskStatus.WAITING


def test_the_approver_sees_the_losses() -> None:
    """The question names target and losses, and until when; nothing is assigned meanwhile."""
    state = asked()
    approval = state.tasks["drop"].approval

    assert state.status is Status.WAITING_APPROVAL
    assert approval is not None
    first, gap, rest = approval.text.partition(";\n  ")
    assert first == "drop: VM 100 'web' on pve1, stopped (2 disks, 40 GiB); cannot be undone"
    assert rest == 'drop with {"vmid":100}'
    assert approval.until == LATER + timedelta(seconds=DAY)
    assert approval.digest == digest(["drop", {"vmid": 100}, seen(WEB), first + gap + rest])
    assert approval.calls == [digest(["drop", {"vmid": 100}])]
    assert not [kind for kind in kinds(state) if kind[0] == "assign"]


def test_the_assignment_contains_the_approved_text() -> None:
    """The agent gets the approver, the approved call and its preview; also in a retry."""
    state = asked()
    state = step(state, approve(state))
    message = outgoing.assignment(state, "drop", 1)
    approval = state.tasks["drop"].approval

    assert message is not None
    assert approval is not None
    assert message.consent == Consent("bob", approval.digest, [WEB], digest(["drop", {"vmid": 100}]))
    assert not message.dry_run


def test_an_approval_of_an_older_version_is_asked_for_again() -> None:
    """An approval that names no calls is not enough: the task waits for a new one, which names them."""
    state = asked()
    approval = state.tasks["drop"].approval
    assert approval is not None
    old = replace(state.tasks["drop"], approval=replace(approval, calls=[]))
    state = step(replace(state, tasks=state.tasks | {"drop": old}), approve(state))
    again = state.tasks["drop"].approval

    assert state.status is Status.WAITING_APPROVAL
    assert not [kind for kind in kinds(state) if kind[0] == "assign"]
    assert again is not None
    assert again.at is None
    assert again.calls == approval.calls
    assert outgoing.assignment(step(state, approve(state)), "drop", 1) is not None


@pytest.mark.parametrize(
    ("given", "error", "line"),
    [
        ({"by": "alice"}, Denied, "alice requested w: another principal has to approve drop"),
        ({"tier": Tier.OPERATE}, Denied, "bob has tier operate; approving drop needs tier destroy"),
        ({"digest": "0" * 64}, Rejected, "digest: drop is not what was shown any more"),
    ],
)
def test_an_approval_that_is_none(given: dict[str, Any], error: type[Exception], line: str) -> None:
    """An approval by the requester, without the tier, or for another text has no effect."""
    state = asked()
    with pytest.raises(error) as caught:
        fold(state, [approve(state, **given)], LATER)

    assert line in str(caught.value)


def test_an_approval_after_its_time_is_refused() -> None:
    """When the time is up the workflow fails by itself; a yes that is late is refused."""
    state = asked()
    approval = state.tasks["drop"].approval
    assert approval is not None
    assert approval.until is not None
    with pytest.raises(Rejected, match=r"drop was to be approved by 2026-01-02 00:00:10 UTC; request it again"):
        fold(state, [approve(state)], approval.until)
    over = fire(state)
    while not over.over:
        over = fire(over)

    assert over.status is Status.FAILED
    assert over.error == "drop: it was not approved within 86400 s"


def test_a_task_without_a_change_needs_no_approval() -> None:
    """A preview without a change skips the task, and no approval is requested."""
    state = asked(drop(), found=seen(already=True))

    assert state.tasks["drop"].status is TaskStatus.SKIPPED
    assert state.status is Status.COMPLETED


def test_items_are_approved_at_once_and_bound_to_their_previews() -> None:
    """All items are previewed and shown, and each gets its own preview."""
    plan = drop(for_each=[100, 200], parameters={"vmid": template("{{ item }}")})
    state = begun(plan)
    other = replace(WEB, name="guest/200", title="VM 200")
    checks = [seen(WEB, undo=BACK), seen(other, undo=BACK)]
    state = step(state, *(ended(state, f"preview-drop-{number}", result=look) for number, look in enumerate(checks)))
    approval = state.tasks["drop"].approval
    assert approval is not None
    assert approval.text.split(";\n  ") == [
        "drop: VM 100 'web' on pve1, stopped (2 disks, 40 GiB); VM 200 (2 disks, 40 GiB)",
        *['can be undone by make with {"vmid":100}'] * 2,
        'drop with {"vmid":100}',
        'drop with {"vmid":200}',
    ]
    state = step(state, approve(state))
    messages = [outgoing.assignment(state, f"drop-{number}", 1) for number in (0, 1)]

    assert [message.consent.targets for message in messages if message and message.consent] == [[WEB], [other]]


def test_a_task_that_is_only_called_so() -> None:
    """A user's own task `preview-act` is no preview of `act`: its result is its own, and no approval is requested."""
    state = begun(spec("preview-act"), spec("act", "preview-act"))
    state = step(state, ended(state, "preview-act", result={"free": 3}))

    assert kinds(state) == [("assign", "act", 1)]


def test_an_empty_list_needs_no_approval() -> None:
    """An empty list destroys nothing and needs no approval... it has ended."""
    state = begun(drop(for_each=[], parameters={"vmid": template("{{ item }}")}))

    assert state.status is Status.COMPLETED


def test_a_failed_preview_ends_the_workflow() -> None:
    """What is protected, or not there, is not even asked for."""
    state = begun(drop())
    state = step(state, ended(state, "preview-drop", "drop: VM 100 is protected"))

    assert state.status is Status.FAILED
    assert state.error == "preview-drop: drop: VM 100 is protected"
    assert state.tasks["drop"].status is TaskStatus.CANCELLED


def test_a_retry_needs_a_new_approval() -> None:
    """The old preview and approval are outdated: the new workflow begins with a preview."""
    state = asked()
    state = step(state, approve(state))
    state = step(state, ended(state, "drop", "is not as it was when bob approved it"))
    tasks = wf.retry_tasks(state)

    assert {name: str(task.status) for name, task in tasks.items()} == {"preview-drop": "waiting", "drop": "waiting"}
    assert tasks["drop"].approval is None


def test_a_completed_task_has_no_second_preview() -> None:
    """A retry after a later task has failed leaves the destroyed as it is."""
    state = asked(drop(), spec("after", "drop"))
    state = step(state, approve(state))
    state = step(state, ended(state, "drop"))
    state = step(state, ended(state, "after", "no"))
    tasks = wf.retry_tasks(state)

    assert {name: str(task.status) for name, task in tasks.items()} == {
        "preview-drop": "completed",
        "drop": "completed",
        "after": "waiting",
    }


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_control_of_a_workflow_needs_its_tier(action: str) -> None:
    """Another principal's workflow is cancelled, paused and resumed by a principal with its tier; one's own always."""
    state = asked()
    with pytest.raises(Denied) as caught:
        fold(state, [signal(action, "bob", Tier.OPERATE)], LATER)

    assert str(caught.value) == f"bob has tier operate; {action} of w of alice needs tier destroy"
    assert step(state, signal("cancel", "alice", Tier.READ)).over


# -- the planner ------------------------------------------------------------------------------------------------------


def planner(**more: Any) -> Planner:
    """Return a planner that knows the workflow `tool_call` with the tool `wipe`."""
    from core.probe import Probe

    known = {definition.name: definition for definition in tool_call.definitions(Probe().tools)}
    return Planner(known, Policy(**({"principals": {"alice": Tier.DESTROY}} | more)))


def call(tool: str, **parameters: Any) -> WorkflowRequest:
    """Return a request for one call."""
    return WorkflowRequest("tool_call", "w", {"tool": tool, "parameters": parameters})


def test_one_call_of_a_tool() -> None:
    """A call that destroys is a preview, an approval and the call; another one is the call alone."""
    wipe = planner().begin(call("wipe"), "alice", Tier.DESTROY, plain=False)
    made = planner().begin(call("marked", text="x"), "alice", Tier.DESTROY, plain=False)

    assert [(task.name, task.preview, task.after) for task in wipe.plan] == [
        ("preview-call", True, []),
        ("call", False, ["preview-call"]),
    ]
    assert [(task.name, task.tool, task.queue, task.parameters) for task in made.plan] == [
        ("call", "marked", "probe", {"text": "x"})
    ]


@pytest.mark.parametrize(
    ("request_", "tier", "plain", "line"),
    [
        (call("wipe"), Tier.OPERATE, False, "wipe needs tier destroy; alice has operate"),
        (call("wipe"), Tier.DESTROY, True, "wipe is of tier destroy; an anonymous request cannot have it"),
        (call("wip"), Tier.DESTROY, False, "tool: there is no tool 'wip'"),
        (call("wipe", size=1), Tier.DESTROY, False, "wipe: unknown parameter 'size'; there are number, text"),
    ],
)
def test_a_call_that_cannot_be(request_: WorkflowRequest, tier: Tier, plain: bool, line: str) -> None:  # noqa: FBT001
    """It is refused before a preview or an approval."""
    begin = planner().begin(request_, "alice", tier, plain=plain)

    assert begin.refused.startswith(line)
    assert begin.plan == []


def test_a_compensation_may_not_destroy() -> None:
    """It would run when no person is there to approve it."""
    undo = Compensation("wipe", "probe", Tier.DESTROY)
    given = PlannedRequest(WorkflowRequest("t", "w"), [spec("a", compensation=undo)], "alice", Tier.EXEC)

    with pytest.raises(Rejected, match=r"task a: its compensation wipe is of tier destroy, and could not be approved"):
        planner()._allow(given, plain=False)  # noqa: SLF001 - no definition of this test's has one
