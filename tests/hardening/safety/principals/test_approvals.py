"""An approval shows all that will be done, or it cannot be given; and what is approved is what is done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from msgspec.structs import replace

from agentd.client import queries, requests
from agentd.errors import Rejected, UsageError
from agentd.safety import tokens
from agentd.safety.policy import Policy, check_unchanged
from agentd.wire.codec import digest
from agentd.wire.messages import Consent, Inverse, Outcome, Target, TaskError, Tier, WorkflowSignal
from agentd.wire.workflow import Workflow, template
from agentd_orchestrator.state_machine import approval_text as shown
from agentd_orchestrator.state_machine import outgoing
from agentd_proxmox.guests.agent import guest_output
from core.probe import Probe, a_worker, assign, completion, serving
from plugins.flow import LATER, ended, fold, step
from plugins.orchestrator.engine.test_plan_approvals import approve, asked, begun, drop, seen

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Net

LONG = ["sh", "-c", "echo " + "x" * 60 + "; rm -rf /"]
THING = Target("thing/1", "the thing", {"looks": "whole"}, ["tag/old"], ["all of it"])


@pytest.fixture
def net(net: Net) -> Net:
    """Let alice ask and bob approve."""
    net.settings["policy"] = {
        "default_tier": "read",
        "principals": {"alice": "exec", "bob": "exec", "oscar": "operate"},
    }
    return net


def _text(state: Workflow) -> str:
    approval = state.tasks["drop"].approval
    assert approval is not None
    return approval.text


# -- all of it is shown ---------------------------------------------------------------------------------------------


def test_the_whole_command_is_shown() -> None:
    """However long a parameter is, its end is in the question."""
    state = asked(drop(parameters={"vmid": 100, "command": LONG}))

    assert "rm -rf /" in _text(state)
    assert guest_output.command(["sh", "-c", "x" * 5000 + "; rm -rf /"]).endswith("rm -rf /'")


@pytest.mark.parametrize("count", [1, 21, 25, 200])
def test_every_target_is_shown(count: int) -> None:
    """None is counted instead of named."""
    targets = [Target(f"guest/{number}", f"VM {number} 'web'", loses=[f"disk {number}"]) for number in range(count)]
    text = _text(asked(found=seen(*targets)))

    assert all(f"VM {number} 'web' (disk {number})" in text for number in range(count))
    assert "more" not in text


def test_parameters_are_shown_without_secrets() -> None:
    """What is named like a secret is hidden, at any depth; everything else is there."""
    given = {"vmid": 100, "password": "hunter2", "more": {"token_secret": "hunter3", "purge": True}}
    text = _text(asked(drop(parameters=given)))

    assert "hunter" not in text
    assert '"purge":true' in text


def test_the_inverse_and_the_risks_are_shown() -> None:
    """The call that takes it back with its parameters, or that nothing does; and the risks of each target."""
    risky = Target("guest/100", "VM 100 'web'", risks=["it runs for 12 days", "tag prod", "HA manages it"])
    back = _text(asked(found=seen(risky, undo=Inverse("make", {"vmid": 100}))))
    gone = _text(asked(found=seen(risky)))

    for text in (back, gone):
        assert "VM 100 'web': it runs for 12 days, tag prod, HA manages it" in text
    assert 'can be undone by make with {"vmid":100}' in back
    assert "cannot be undone" in gone


@pytest.mark.parametrize("many", [False, True])
def test_a_plan_too_large_to_show_is_not_approved(many: bool) -> None:  # noqa: FBT001 - a case
    """Nothing is asked and nothing is done: the error says how much may be shown, and to split it."""
    if many:
        state = begun(drop(for_each=list(range(60)), parameters={"vmid": template("{{ item }}"), "text": "x" * 1500}))
        checks = [ended(state, f"preview-drop-{number}", result=seen(THING)) for number in range(10)]
        while checks:
            state = step(state, *checks)
            checks = [
                ended(state, name, result=seen(THING))
                for name, task in state.tasks.items()
                if name.startswith("preview-drop-") and task.status == "assigned"
            ]
    else:
        state = asked(drop(parameters={"vmid": 100, "text": "x" * shown.LARGEST}))

    assert state.over
    assert "at most 65536 can be approved at once: split it" in state.error
    assert state.tasks["drop"].approval is None


def test_a_parameter_by_reference_is_not_approved() -> None:
    """A parameter that is not shown cannot be approved."""
    state = asked(drop(parameters={"vmid": 100, "list": {"$stored": "w.first", "bytes": 99_999}}))

    assert state.over
    assert "cannot be shown" in state.error


# -- what is approved is what is done -------------------------------------------------------------------------------


def test_the_digest_binds_tool_parameters_targets_and_text() -> None:
    """Each of them changes it."""
    states = [
        asked(),
        asked(drop(parameters={"vmid": 101})),
        asked(replace(drop(), tool="burn")),
        asked(found=seen(THING)),
        asked(found=seen(replace(THING, loses=["some of it"]))),
        asked(drop(approval="Really?")),
    ]
    digests = {state.tasks["drop"].approval.digest for state in states if state.tasks["drop"].approval is not None}

    assert len(digests) == len(states)


@pytest.mark.parametrize("given", ["", "0" * 64])
def test_an_approval_names_the_digest(given: str) -> None:
    """Without the digest, or with another one, it is refused."""
    with pytest.raises(Rejected, match="digest: drop is not what was shown any more"):
        fold(asked(), [approve(asked(), digest=given)], LATER)


def test_every_item_has_its_own_call() -> None:
    """The consent of an item is for its own tool and parameters."""
    state = begun(drop(for_each=[100, 200], parameters={"vmid": template("{{ item }}")}))
    state = step(state, *(ended(state, f"preview-drop-{number}", result=seen(THING)) for number in (0, 1)))
    state = step(state, approve(state))
    calls = [outgoing.consent_for(state, f"drop-{number}") for number in (0, 1)]

    assert [call.call for call in calls if call] == [digest(["drop", {"vmid": vmid}]) for vmid in (100, 200)]


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (replace(THING, title="another thing"), "title"),
        (replace(THING, labels=["tag/new"]), "labels"),
        (replace(THING, labels=["tag/old", "pool/core"]), "labels"),
        (replace(THING, loses=["all of it", "and more"]), "loses"),
        (replace(THING, state={"looks": "in use"}), "looks"),
        (replace(THING, state={}), "looks"),
    ],
)
def test_the_whole_target_is_compared(now: Target, what: str) -> None:
    """Its name, title, state, labels and losses; the risks change by themselves."""
    with pytest.raises(Rejected, match=rf"is not as it was when bob approved it \({what}: .* request it again"):
        check_unchanged([now], Consent("bob", "", [THING]))
    check_unchanged([replace(THING, risks=["it runs for 13 days"])], Consent("bob", "", [THING]))


@pytest.mark.parametrize("call", [digest(["wipe", {"number": 8}]), digest(["shell", {"number": 7}]), "0" * 64, ""])
async def test_the_agent_refuses_a_call_that_was_not_approved(probing: Bus, probe: Probe, call: str) -> None:
    """Another tool or other parameters than those of the consent, or a consent that names no call: nothing is done."""
    async with serving(a_worker(probing, probe)):
        await assign(probing, "wipe", {"number": 7}, tier=Tier.DESTROY, consent=Consent("bob", "", [THING], call))
        done = await completion(probing)

    assert done.status == Outcome.FAILED
    assert isinstance(done.error, TaskError)
    reply = "its parameters are not those that bob approved" if call else "does not name the call"
    assert reply in done.error.message
    assert "nothing was done; request it again" in done.error.message
    assert probe.acts == 0


async def test_the_agent_runs_the_approved_call(probing: Bus, probe: Probe) -> None:
    """The same tool and parameters, and a target that is as it was."""
    consent = Consent("bob", "", [THING], digest(["wipe", {"number": 7}]))
    async with serving(a_worker(probing, probe, policy=Policy(Tier.DESTROY))):
        await assign(probing, "wipe", {"number": 7}, tier=Tier.DESTROY, consent=consent)
        done = await completion(probing)

    assert done.status == Outcome.COMPLETED
    assert probe.acts == 1


async def test_a_plan_is_shown_completely_in_every_interface(net: Net) -> None:
    """Its parameters, risks and digest are in the question, in the API and on the page."""
    assert net.pve is not None
    precious = {"config": {"tags": "production;web", "protection": 1}}
    await asyncio.to_thread(net.pve.guest, vmid=150, node="pve1", name="app", **precious)
    async with net.client() as bus, net.here() as daemon, httpx2.AsyncClient() as http:
        requested = {"method": "DELETE", "path": "/nodes/pve1/qemu/150", "parameters": {"purge": True}}
        plan = await requests.plan(bus, "alice", "api_destroy", requested)
        url = f"{daemon.url}/api/workflows/{plan.workflow_id}"
        reported = (await http.get(url)).json()["tasks"][-1]
        page = (await http.get(f"{daemon.url}/workflows/{plan.workflow_id}?format=text")).text

    approval = plan.tasks["call"].approval
    assert approval is not None
    for text in ('"path":"/nodes/pve1/qemu/150"', "tag production", "its option `protection` is on", "no backup that"):
        assert text in approval.text
        assert text in page
    assert "tag web" not in approval.text
    assert approval.text in reported["asks"]
    assert reported["digest"] == approval.digest
    assert approval.digest in page


async def test_the_api_needs_the_digest_of_the_plan(net: Net) -> None:
    """Without it, with another one or a stale one nothing is approved; with it the plan is done."""
    made = tokens.new_token()
    net.settings["web"] = {"port": 0, "tokens": {"bob": made[1]}}
    async with net.client() as bus, net.here() as daemon, httpx2.AsyncClient() as http:
        plan = await requests.plan(bus, "alice", "delete_guest", {"vmid": 101, "name": "db-01"})
        approval = plan.tasks["call"].approval
        assert approval is not None
        url = f"{daemon.url}/api/workflows/{plan.workflow_id}/approve"
        reported = {"Authorization": f"Bearer {made[0]}"}
        bodies: list[dict[str, Any]] = [{}, {"digest": "0" * 64}, {"digest": approval.digest}]
        codes = [(await http.post(url, json=body, headers=reported, timeout=30)).status_code for body in bodies]
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)

    assert codes == [400, 409, 200]
    assert answer.status == "completed"


async def test_a_target_that_was_renamed_is_left_alone(net: Net) -> None:
    """Its title and labels are part of what was approved."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        plan = await requests.plan(bus, "alice", "delete_guest", {"vmid": 101, "name": "db-01"})
        guest = await asyncio.to_thread(net.pve.found, 101)
        assert guest is not None
        await asyncio.to_thread(net.pve.drop_guest, 101)
        await asyncio.to_thread(net.pve.guest, vmid=101, node="pve1", name="db-99", status="stopped")
        await requests.send_decision(bus, "bob", plan.workflow_id, "", WorkflowSignal("approve"))
        answer = await queries.follow(bus, plan.workflow_id, lambda _: None, wait=30)

    assert answer.status == "failed"
    assert net.pve.log("DELETE") == []


async def test_deciding_with_a_digest_that_is_not_shown(net: Net) -> None:
    """An approval with the digest of an older text is refused."""
    async with net.client() as bus, net.here():
        plan = await requests.plan(bus, "alice", "delete_guest", {"vmid": 101, "name": "db-01"})
        other = await requests.send_decision(
            bus, "bob", plan.workflow_id, "", WorkflowSignal("approve", digest="0" * 64)
        )
        name, approval = await requests.waiting_approval(bus, plan.workflow_id, "")
        with pytest.raises(UsageError):
            await requests.waiting_approval(bus, plan.workflow_id, "other")

    assert not other.done
    assert "is not what was shown any more" in other.message
    assert name == "call"
    assert approval.text
