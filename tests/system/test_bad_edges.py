"""Inputs at the edge of what is allowed: each was once stuck, silent or misunderstood, and is answered now."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from agentd.client import queries, requests
from agentd.errors import InvalidMessage
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import MAX_REQUEST, ToolReply, WorkflowRequest
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from agentd.wire.messages import WorkflowResponse
    from harness import Net


@contextlib.asynccontextmanager
async def running(net: Net) -> AsyncIterator[Bus]:
    """Yield a network at work; at the end it must still do work."""
    async with net.client() as bus, net.here("all") as daemon:
        yield bus
        await requests.submit(bus, "tester", WorkflowRequest("health_check", "still-alive"))
        answer = await queries.follow(bus, "still-alive", lambda _: None, wait=45)
        assert answer.status.startswith("completed")
        assert daemon.is_ready


async def answer(bus: Bus, name: str) -> WorkflowResponse:
    """Wait for the answer under this id."""
    found = await eventually(lambda: queries.answer_of(bus, name), f"an answer to {name}", 45)
    assert found is not None
    return found


async def test_requests_at_the_edge(net: Net) -> None:
    """Each is refused under its own id with what is wrong; none comes again for ever, none is lost."""
    subject = subjects.request("tester")
    lines = {
        "priority": (b'"priority": "high"', "WorkflowRequest.priority: expected int, got str"),
        "deep": (b'"parameters": {"a": ' + b"[" * 50_000, "WorkflowRequest: it is nested too deeply"),
        "endless": (b'"timeout": 1e300', "timeout: 1e+300 s is too long; at most 2592000 s"),
        "digits": (b'"parameters": {"a": ' + b"1" * 5000 + b"}", "WorkflowRequest.parameters[...]: integer value out"),
        "none": (b'"timeout": -3', "timeout: -3 s has passed already"),
        "null": (b'"parameters": null', "WorkflowRequest.parameters: expected object, got null"),
    }
    async with running(net) as bus:
        numbers = {}
        for name, (field, _) in lines.items():
            data = b'{"workflow_type": "health_check", "workflow_id": "%s", %s}' % (name.encode(), field)
            numbers[name] = await bus.store(subject, data)
        answers = {}
        for name, number in numbers.items():
            known = name not in {"deep", "digits"}  # what is no JSON has no id
            answers[name] = (await answer(bus, name if known else f"req-{number}")).error

    assert {name: text[: len(lines[name][1])] for name, text in answers.items()} == {
        name: line for name, (_, line) in lines.items()
    }


async def test_calls_at_the_edge(net: Net) -> None:
    """A call that cannot be understood is answered at once; a caller without a reply repeats the call for ever."""
    calls = {
        b'{"parameters": {}, "deadline": "2026-01-01T00:00:00"}': (
            "ToolCall.deadline: expected datetime with a timezone component"
        ),
        b'{"parameters": {}, "key": "one"}': "key: 'one' is not <word>.<word> or <word>.<word>.<word>",
        b'{"parameters": {}, "key": "a.b.c.d"}': "key: 'a.b.c.d' is not <word>.<word> or <word>.<word>.<word>",
        b'{"parameters": {}, "key": "a.*"}': "key: '*' is not an id; use 1 to 64 of A-Z a-z 0-9 _ and -",
        b'{"parameters": {"a": ' + b"[" * 50_000: "ToolCall: it is nested too deeply",
    }
    async with running(net) as bus:
        replies = {}
        for data in calls:
            found = await bus.ask(subjects.tool_call("tester", "mcp-proxmox", "list_nodes"), data)
            replies[data] = found.data

    for data, line in calls.items():
        assert line.encode() in replies[data], data[:60]


async def test_a_completion_of_an_unknown_workflow(net: Net) -> None:
    """Completions of workflows, tasks and services that are not, or of no shape at all, change nothing."""
    async with running(net) as bus:
        await bus.store(subjects.complete("a", "ghost", "t"), b'{"task_id": "ghost.t", "status": "completed"}')
        await bus.store(subjects.TASK_COMPLETE, b'{"task_id": "nodot", "status": "completed"}')
        await bus.store(subjects.TASK_COMPLETE, b'{"task_id": "a b.c", "status": "completed"}')
        await bus.store(f"{subjects.TASK_COMPLETE}.a.b.c.d.e", b'{"task_id": "x.y", "status": "melted"}')
        await bus.store(subjects.TASK_COMPLETE, b'{"task_id": ' + b"[" * 50_000)

        async def dead() -> bool:
            return len(await bus.every(subjects.DEAD, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>")) == 4

        await eventually(dead, "the four that cannot be understood are given up, the first is not")


async def test_a_request_that_is_too_large_never_leaves(net: Net) -> None:
    """The client says what an orchestrator would say, before anything is stored."""
    large = WorkflowRequest("vm_deployment", "large", {"name": "x", "description": "y" * MAX_REQUEST})
    size = len(encode(large))
    async with net.client() as bus:
        with pytest.raises(InvalidMessage, match=f"WorkflowRequest: {size} bytes; at most 131072 are accepted"):
            await requests.submit(bus, "tester", large)

        assert await bus.last(subjects.REQUESTS, subjects.request("tester")) is None


async def test_a_large_parameter_reaches_its_tasks(net: Net) -> None:
    """What is too large to stand in the state reaches the tasks that need a part of it."""
    assert net.pve is not None
    requested = {
        "name": "keys",
        "template": 9000,
        "description": "d" * 8000,
        "sshkeys": f"ssh-ed25519 {'A' * 3900} person",
        "ciuser": "u" * 1500,
        "tags": [f"tag-{number:030d}" for number in range(110)],
    }
    async with running(net) as bus:
        await requests.submit(bus, "tester", WorkflowRequest("vm_deployment", "keys", requested))
        found = await queries.follow(bus, "keys", lambda _: None, wait=45)

    assert found.status.startswith("completed"), found
    assert (
        found.result["tasks"]["validate_vm_parameters"]["result"]["$stored"] == "all-pve1.keys.validate_vm_parameters"
    )
    vm = net.pve.found(found.result["tasks"]["create_vm"]["result"]["vmid"])
    assert vm is not None
    assert "person" in vm["config"]["sshkeys"]
    assert vm["description"].count("d") >= 8000


async def test_a_tool_that_is_not(net: Net) -> None:
    """A call of a tool that no agent offers has no answer, and the caller learns it from NATS at once."""
    async with running(net) as bus:
        with pytest.raises(Exception, match=r"no answer on ai\.tools\.call\.tester\.mcp-proxmox\.make_coffee"):
            await bus.request(subjects.tool_call("tester", "mcp-proxmox", "make_coffee"), b"{}", ToolReply)
