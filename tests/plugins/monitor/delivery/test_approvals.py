"""Requests for approval as notifications: each once, to those who may approve, with buttons that approve exactly it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from agentd import Approval, Policy, Tier
from agentd_monitor.delivery import formats
from agentd_monitor.delivery.approvals import ApprovalRequests, WaitingSpec, WaitingTask, WaitingWorkflow
from agentd_monitor.delivery.outbox import Outbox
from agentd_monitor.delivery.receivers import ReceiverSettings

if TYPE_CHECKING:
    from agentd_monitor.delivery.message import Message

AT = datetime(2026, 11, 30, 5, tzinfo=UTC)
APPROVAL = Approval("delete VM 101\nits disk", "d1", AT)
DESTROYS = WaitingSpec(Tier.DESTROY)
WAITS = {"delete": WaitingTask("waiting_approval", APPROVAL, DESTROYS), "next": WaitingTask()}
POLICY = Policy(principals=dict.fromkeys(("alice", "bob", "carol", "mcp"), Tier.DESTROY) | {"dave": Tier.OPERATE})


def workflow(
    status: str = "waiting_approval", tasks: dict[str, WaitingTask] | None = None, *, authenticated: bool = True
) -> WaitingWorkflow:
    """Return the event of a workflow that alice requested for carol."""
    held = WAITS if tasks is None else tasks
    return WaitingWorkflow("w1", status, "tool_call", "", "alice", "carol", authenticated=authenticated, tasks=held)


def request() -> Message:
    """Return the request for approval of that workflow."""
    requests = ApprovalRequests()
    assert requests.observe(workflow())
    (found,) = requests.waiting().values()
    return found


def test_each_once() -> None:
    """A request has the same id however often it is observed, another one after the plan has changed, none at last."""
    requests = ApprovalRequests()
    changed = WaitingTask("waiting_approval", Approval("delete VM 102", "d2", AT))

    assert requests.observe(workflow())
    first = set(requests.waiting())
    assert not requests.observe(workflow())
    assert set(requests.waiting()) == first == {request().id}
    assert requests.observe(workflow(tasks={"delete": changed}))
    assert set(requests.waiting()).isdisjoint(first)
    assert requests.observe(workflow("cancelled"))
    assert not requests.waiting()


def test_decided() -> None:
    """A request that was decided before it could be delivered is not delivered."""
    outbox = Outbox()
    outbox.add("phone", request(), 0)
    outbox.withdraw_requests({request().id})
    assert outbox.deliveries()
    outbox.withdraw_requests(set())

    assert not outbox.deliveries()
    assert not outbox.due(0)


def test_receivers() -> None:
    """Only principals who may approve get a request: not the requesters, nor those without the tier or a token."""
    quiet = ReceiverSettings(type="webhook", url="http://x/", principal="bob")
    readers = {
        name: ReceiverSettings(type="webhook", url="http://x/", approvals=True, principal=name)
        for name in ("alice", "bob", "carol", "dave", "eve", "mcp")
    }

    assert [name for name, reader in readers.items() if reader.takes(request(), POLICY)] == ["bob"]
    assert not quiet.takes(request(), POLICY)
    with pytest.raises(ValidationError, match="approvals needs principal"):
        ReceiverSettings(type="webhook", url="http://x/", approvals=True)


def test_requester_without_token() -> None:
    """A request that no principal may approve is not sent."""
    requests = ApprovalRequests()

    assert not requests.observe(workflow(authenticated=False))
    assert not requests.waiting()


def test_buttons() -> None:
    """The buttons of ntfy decide exactly what was shown, with the person's token; without a token there are none."""
    made = json.loads(formats.ntfy("http://n", "t", request(), "", "https://page", "tok").body)
    without = json.loads(formats.ntfy("http://n", "t", request(), "", "https://page").body)
    approve, reject = made["actions"]

    assert approve["url"] == "https://page/api/workflows/w1/approve"
    assert reject["url"] == "https://page/api/workflows/w1/reject"
    assert json.loads(approve["body"])["digest"] == "d1"
    assert approve["headers"]["Authorization"] == "Bearer tok"
    assert made["click"] == "https://page/workflows/w1"
    assert made["title"] == "[approval] w1 of alice waits for an approval: delete VM 101 its disk"
    assert "actions" not in without
