"""Plain clients index the fields that they know: each is in the JSON, also with its default value."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import nats
import pytest

from agentd.wire import announcements, messages
from agentd.wire.codec import now
from agentd.wire.messages import Outcome
from harness import eventually

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from harness import NatsServer, Net

PLAIN: list[tuple[msgspec.Struct, tuple[str, ...]]] = [
    (announcements.Heartbeat("a", now()), ("agent_id", "timestamp", "status")),
    (announcements.AgentRegistration("a"), ("agent_id", "capabilities", "load", "status")),
    (
        announcements.ServiceRegistration("s", "t"),
        ("service_id", "service_type", "capabilities", "endpoint", "status", "timestamp"),
    ),
    (announcements.DiscoveryRequest("a"), ("requester", "timestamp")),
    (announcements.MetricReport("a", now(), {}), ("agent_id", "timestamp", "metrics", "tags")),
    (announcements.Alert("k", "m", now(), "s"), ("alert_type", "message", "timestamp", "source")),
    (
        messages.TaskCompletion("t", Outcome.COMPLETED),
        ("task_id", "status", "result", "error", "service_id", "agent_id", "timestamp"),
    ),
    (
        messages.TaskAssignment("t", "w", "list_guests", "mcp-proxmox", {}, now()),
        ("task_id", "task_type", "parameters", "workflow_id"),
    ),
    (messages.WorkflowRequest("health_check"), ("workflow_id", "workflow_type", "parameters")),
    (messages.WorkflowSignal("cancel"), ("workflow_id",)),
    (messages.WorkflowResponse("w", "completed"), ("workflow_id", "status", "result", "error")),
    (messages.TimerDue("deadline", "_", 1), ("workflow_id",)),
    (messages.ScheduleDue("n", "health_check", "* * * * *", "UTC", "p"), ("workflow_id",)),
]


@pytest.mark.parametrize(("message", "fields"), PLAIN, ids=lambda item: type(item).__name__)
def test_named_fields_are_in_the_json(message: msgspec.Struct, fields: tuple[str, ...]) -> None:
    """Indexing a named field never fails."""
    read: dict[str, Any] = json.loads(msgspec.json.encode(message))

    assert [field for field in fields if field not in read] == []


FIELDS: dict[str, tuple[str, ...]] = {
    "ai.heartbeat": ("agent_id", "timestamp", "status"),
    "ai.metrics": ("agent_id", "timestamp", "metrics", "tags"),
    "ai.agents.discovery.request": ("requester", "timestamp"),
    "ai.mcp.discovery.request": ("requester", "timestamp"),
    "ai.agents.register": ("agent_id", "capabilities", "load", "status"),
    "ai.mcp.register": ("service_id", "service_type", "capabilities", "endpoint", "status", "timestamp"),
    "ai.tasks.assign": ("task_id", "task_type", "parameters", "workflow_id"),
    "ai.tasks.complete": ("task_id", "status", "result", "error", "service_id", "agent_id", "timestamp"),
    "ai.workflows": ("workflow_id",),
    "ai.workflows.event": ("workflow_id", "status"),
    "ai.workflows.response": ("workflow_id", "status", "result", "error"),
}
"""What a plain client indexes or reads of each message that it can hear."""


async def test_a_plain_client_from_the_request_to_the_answer(net: Net, nats_server: NatsServer) -> None:
    """Requests on the plain subject are answered on the plain subject, and each message on the way has its fields.

    One workflow completes, a task of another one fails, and the type of a third one does not exist.
    """
    received: list[tuple[str, dict[str, Any]]] = []

    async def on_message(msg: Msg) -> None:
        received.append((msg.subject, json.loads(msg.data)))

    plain = await nats.connect(nats_server.url)
    await plain.subscribe("ai.>", cb=on_message)
    async with net.client(), net.here():
        requests = [
            {"workflow_type": "health_check", "workflow_id": "good", "parameters": {}},
            {"workflow_type": "health_check", "workflow_id": "bad", "parameters": {"node": "nowhere"}},
            {"workflow_type": "nothing", "workflow_id": "unknown", "parameters": {}},
        ]
        await plain.publish("ai.agents.discovery.request", b'{"requester": "p", "timestamp": "2026-11-29T00:00:00Z"}')
        for request in requests:
            await plain.publish("ai.workflows.request", json.dumps(request).encode())

        async def answered() -> dict[str, dict[str, Any]] | None:
            found = {body["workflow_id"]: body for subject, body in received if subject == "ai.workflows.response"}
            return found if len(found) == len(requests) else None

        answers = await eventually(answered, "the answers on the plain subject", 60)
        await asyncio.sleep(0.5)
    await plain.close()

    assert answers is not None
    assert {name: body["status"] for name, body in answers.items()} == {
        "good": "completed",
        "bad": "failed",
        "unknown": "rejected",
    }
    assert "nothing" in answers["unknown"]["error"]
    for start, fields in FIELDS.items():
        those = [body for subject, body in received if subject == start or subject.startswith(f"{start}.")]
        assert those, start
        assert [(start, field) for body in those for field in fields if field not in body] == []
    ended = [
        body for subject, body in received if subject.startswith("ai.tasks.complete") and body["status"] != "started"
    ]
    assert [body for body in ended if (body["result"] is None) == (body["error"] is None)] == []
    assert {body["status"] for body in ended} == {"completed", "failed"}
    assert {body["status"] for subject, body in received if subject == "ai.workflows.event.good"} >= {"completed"}
