"""Requests for approval as notifications: each once, not to the requester, with buttons that approve what is shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentd import Approval
from agentd_monitor.delivery import formats
from agentd_monitor.delivery.approvals import ApprovalRequests, WaitingTask, WaitingWorkflow
from agentd_monitor.delivery.outbox import Outbox
from agentd_monitor.delivery.receivers import ReceiverSettings

if TYPE_CHECKING:
    from agentd_monitor.delivery.message import Message

AT = datetime(2026, 11, 30, 5, tzinfo=UTC)
APPROVAL = Approval("delete VM 101\nits disk", "d1", AT)
WAITS = {"delete": WaitingTask("waiting_approval", APPROVAL), "next": WaitingTask()}


def workflow(status: str = "waiting_approval", tasks: dict[str, WaitingTask] | None = None) -> WaitingWorkflow:
    """Return the event of a workflow of alice."""
    return WaitingWorkflow("w1", status, "tool_call", principal="alice", tasks=WAITS if tasks is None else tasks)


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
    """A receiver gets requests if it is switched on, but not those of its own reader."""
    quiet = ReceiverSettings(type="webhook", url="http://x/")
    open_, bob, alice = (
        ReceiverSettings(type="webhook", url="http://x/", approvals=True, principal=name)
        for name in ("", "bob", "alice")
    )

    assert [receiver.takes(request()) for receiver in (quiet, open_, bob, alice)] == [False, True, True, False]


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
