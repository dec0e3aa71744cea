"""No principal makes NATS leave out the message of another one by using its message id before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agentd.client import requests
from agentd.wire import subjects
from agentd.wire.codec import decode
from agentd.wire.messages import WorkflowRequest, WorkflowSignal, request_digest

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored

ID = "Nats-Msg-Id"
AWAY = 0.5
"""Seconds between the two messages: much longer than the server keeps the id of one."""


async def _requests(bus: Bus) -> list[Stored]:
    """Return what waits for an orchestrator."""
    return await bus.every(subjects.REQUESTS, "ai.workflows.request.*")


async def test_a_guessed_id(bus: Bus) -> None:
    """A request is stored though another principal has used every id that can be made of it."""
    request = WorkflowRequest("health_check", "nightly-1", {})
    digest = request_digest(request)
    for guessed in ("nightly-1", f"alice.nightly-1.{digest[:16]}", f"alice.nightly-1.{digest}"):
        await bus.store(subjects.request("rita"), b"{}", headers={ID: guessed})
    await requests.submit(bus, "alice", request)

    stored = [found for found in await _requests(bus) if found.subject == subjects.request("alice")]
    assert [decode(found.data, WorkflowRequest).workflow_id for found in stored] == ["nightly-1"]
    assert ID not in stored[0].headers


@pytest.mark.parametrize(
    "subjects_",
    [
        (subjects.request("rita"), subjects.request("alice")),
        (subjects.request("rita"), subjects.WORKFLOW_REQUEST),
        (subjects.signal("rita", "w"), subjects.signal("alice", "w")),
        (subjects.signal("rita", "w"), subjects.complete("all-pve1", "w", "t")),
        (subjects.signal("rita", "w"), subjects.TASK_COMPLETE),
    ],
    ids=["request", "plain request", "signal", "completion", "plain completion"],
)
async def test_an_id_of_another_client(bus: Bus, subjects_: tuple[str, str]) -> None:
    """A client with its own message ids loses none to another client that used a guessed id before."""
    first = await bus.store(subjects_[0], b"{}", headers={ID: "backup-2026-11-29"})
    await asyncio.sleep(AWAY)
    second = await bus.store(subjects_[1], b"{}", headers={ID: "backup-2026-11-29"})

    assert second == first + 1


async def test_our_messages_have_none(bus: Bus) -> None:
    """What is sent twice is stored twice: an orchestrator knows by the workflow's id that it is the same."""
    request = WorkflowRequest("health_check", "w1", {})
    await requests.submit(bus, "alice", request)
    await requests.submit(bus, "alice", request)
    await bus.store(subjects.signal("alice", "w1"), WorkflowSignal("pause"))

    assert [found.headers.get(ID) for found in await _requests(bus)] == [None, None]
