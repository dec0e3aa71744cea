"""What destroys or executes needs two principals, and each of them has logged in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mcp.client import Client
from mcp_types import ElicitRequestParams, ElicitResult
from msgspec.structs import replace
from pydantic import ValidationError

from agentd.client import requests
from agentd.errors import Denied
from agentd.safety import tokens
from agentd.safety.policy import ANONYMOUS, Policy
from agentd.wire import subjects
from agentd.wire.messages import Consent, Outcome, Target, Tier, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import Status
from agentd_mcp.role import BridgeSettings
from core.probe import Probe, a_worker, assign, completion, serving
from plugins.flow import step
from plugins.orchestrator.engine.test_plan_approvals import approve, asked, drop, seen

if TYPE_CHECKING:
    from mcp.client.session import ClientRequestContext

    from agentd.bus.jetstream import Bus
    from harness import Net

DELETE = {"vmid": 101, "name": "db-01"}
EVERYTHING = {"default_tier": "exec", "anonymous_tier": "exec", "principals": {"alice": "exec", "mcp": "exec"}}


@pytest.fixture
def net(net: Net) -> Net:
    """Grant every principal everything: what is refused is refused for another reason."""
    net.settings["policy"] = EVERYTHING
    return net


async def _yes(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    del context, params
    return ElicitResult(action="accept", content={"approve": True})


@pytest.mark.parametrize("tool", ["delete_guest", "use_tool", "api_destroy"])
async def test_an_anonymous_client_cannot_request_destruction(net: Net, tool: str) -> None:
    """For any grant and any answer to forms: no plan is made, and nothing is sent."""
    assert net.pve is not None
    every: dict[str, dict[str, Any]] = {
        "delete_guest": DELETE,
        "use_tool": {"tool": "delete_guest", "arguments": DELETE},
        "api_destroy": {"method": "DELETE", "path": "/nodes/pve1/qemu/101", "parameters": {}},
    }
    async with (
        net.client() as bus,
        net.here() as daemon,
        Client(f"{daemon.url}/mcp", elicitation_callback=_yes) as mcp,
    ):
        try:
            answer = str(await mcp.call_tool(tool, every[tool]))
        except Exception as error:  # noqa: BLE001 - an error of the protocol, by whatever class of the SDK
            answer = str(error)
        events = await bus.every(subjects.WORKFLOWS, subjects.ALL_EVENTS)

    assert "within tier operate" in answer
    assert events == []
    assert net.pve.log("DELETE") == []


@pytest.mark.parametrize("principal", ["mcp", "plain"])
async def test_a_request_of_an_anonymous_principal_is_rejected(net: Net, principal: str) -> None:
    """A request under a name that needs no login is refused, and lists what to do; no token approves it."""
    async with net.client() as bus, net.here():
        plan = await requests.plan(bus, principal, "delete_guest", DELETE)

    assert plan.status is Status.REJECTED
    assert "needs tier destroy" in plan.error or "two authenticated principals" in plan.error


async def test_a_request_that_declares_no_login(net: Net) -> None:
    """A daemon that publishes for a client without a token says so, and it counts under any name."""
    requested = {"tool": "delete_guest", "parameters": DELETE}
    async with net.client() as bus, net.here():
        plan = await requests.begin(bus, "alice", WorkflowRequest("tool_call", "x", requested, authenticated=False))

    assert plan.status is Status.REJECTED
    assert "it needs two authenticated principals" in plan.error
    assert "agentd token NAME" in plan.error
    assert not plan.authenticated


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("granted", [Tier.DESTROY, Tier.EXEC])
def test_anonymous_is_at_most_operate(granted: Tier, plain: bool) -> None:  # noqa: FBT001 - a case
    """Whichever setting grants more."""
    for name in ANONYMOUS:
        for policy in (Policy(granted, granted), Policy(Tier.READ, granted, {name: granted})):
            if plain or policy.principals or policy.default_tier is granted:
                assert policy.tier_of(name, plain=plain) is Tier.OPERATE
    assert Policy(granted).tier_of("alice", plain=False) is granted
    assert Policy(Tier.READ).tier_of("mcp", plain=False) is Tier.READ


def test_a_grant_without_a_holder_is_a_warning() -> None:
    """It is reported when the daemon starts, with what to do."""
    (text,) = Policy(principals={"mcp": Tier.DESTROY, "alice": Tier.EXEC}).warnings()

    assert '[policy.principals] mcp = "destroy"' in text
    assert "agentd token NAME" in text
    assert Policy(principals={"mcp": Tier.OPERATE}).warnings() == []


@pytest.mark.parametrize(
    ("approvers", "line"),
    [
        ({"mcp": "bob"}, "mcp needs no token, so the person at its client is not known: give the client a token"),
        ({"plain": "bob"}, "plain needs no token"),
        ({"eve": "mcp"}, "mcp needs no token, so it approves nothing"),
        ({"eve": "eve"}, "eve would approve its own requests"),
    ],
)
def test_an_approver_that_is_none(approvers: dict[str, str], line: str) -> None:
    """No person approves at the client of a principal that needs no token: that is an error of the configuration."""
    with pytest.raises(ValidationError, match=line):
        BridgeSettings(approvers=approvers)
    assert BridgeSettings(approvers={"assistant": "bob"}).approvers == {"assistant": "bob"}


def test_the_engine_takes_no_yes_for_an_anonymous_requester() -> None:
    """A plan of a requester without a login cannot be approved; it can be rejected."""
    state = asked(drop(), found=seen(Target("thing/1", "the thing")))
    for anonymous in (
        replace(state, authenticated=False),
        replace(state, principal="mcp"),
        replace(state, principal="plain"),
    ):
        with pytest.raises(Denied, match="two authenticated principals"):
            step(anonymous, approve(anonymous))
    for by in ANONYMOUS:
        with pytest.raises(Denied, match="needs no token, so it decides nothing"):
            step(state, approve(state, by=by))


async def test_the_agent_takes_no_consent_of_or_for_an_anonymous_principal(probing: Bus, probe: Probe) -> None:
    """The agent that acts checks it too."""
    consent = Consent("bob", "", [Target("thing/1", "the thing", {"looks": "whole"}, ["tag/old"], ["all of it"])])
    async with serving(a_worker(probing, probe)):
        for task, by, proven in (("a", "bob", False), ("b", "mcp", True), ("c", "plain", True)):
            given = Consent(by, consent.digest, consent.targets)
            await assign(probing, "wipe", task=task, tier=Tier.DESTROY, consent=given, authenticated=proven)
            done = await completion(probing, task=task)

            assert done.status == Outcome.FAILED
            assert done.error is not None
            assert "two authenticated principals" in done.error.message  # type: ignore[union-attr]
    assert probe.acts == 0


async def test_the_same_person_with_a_token_is_no_second_one(net: Net) -> None:
    """Mcp requests, and the person there approves with alice's token: there is nothing to approve."""
    assert net.pve is not None
    token, kept = tokens.new_token()
    del token
    net.settings["web"] = {"port": 0, "tokens": {"alice": kept}}
    async with net.client() as bus, net.here():
        plan = await requests.plan(bus, "mcp", "delete_guest", DELETE)
        with pytest.raises(Exception, match="has ended: rejected"):
            await requests.send_decision(bus, "alice", plan.workflow_id, "call", WorkflowSignal("approve"))
    assert net.pve.found(101) is not None
