"""Plain clients index the fields that they know: each is in the JSON, also with its default value."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agentd import messages
from agentd.messages import Outcome, now

PLAIN: list[tuple[msgspec.Struct, tuple[str, ...]]] = [
    (messages.Heartbeat("a", now()), ("agent_id", "timestamp", "status")),
    (messages.AgentRegistration("a"), ("agent_id", "capabilities", "load", "status")),
    (messages.ServiceRegistration("s", "t"), ("service_id", "capabilities", "endpoint", "status", "timestamp")),
    (messages.DiscoveryRequest("a"), ("requester", "timestamp")),
    (messages.MetricReport("a", now(), {}), ("agent_id", "timestamp", "metrics", "tags")),
    (messages.Alert("k", "m", now(), "s"), ("alert_type", "message", "timestamp", "source")),
    (messages.TaskCompletion("t", Outcome.COMPLETED), ("task_id", "status", "result", "error", "timestamp")),
    (
        messages.TaskAssignment("t", "w", "list_vms", "mcp-proxmox", {}, now()),
        ("task_id", "task_type", "parameters", "workflow_id"),
    ),
    (messages.WorkflowRequest("health_check"), ("workflow_id", "workflow_type", "parameters")),
    (messages.WorkflowSignal("cancel"), ("workflow_id",)),
    (messages.WorkflowResponse("w", "completed"), ("workflow_id", "status", "result", "error")),
    (messages.TimerDue("deadline", "_", 1), ("workflow_id",)),
    (messages.ScheduleDue("n", "health_check", "* * * * *", "UTC", "p"), ("workflow_id",)),
]


@pytest.mark.parametrize(("message", "fields"), PLAIN, ids=lambda each: type(each).__name__)
def test_named_fields_are_in_the_json(message: msgspec.Struct, fields: tuple[str, ...]) -> None:
    """Indexing a named field never fails."""
    read: dict[str, Any] = json.loads(msgspec.json.encode(message))

    assert [field for field in fields if field not in read] == []
