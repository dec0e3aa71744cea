"""Bad input at every edge: the exact line that the user sees, and a daemon that goes on.

Each test ends with a health check that completes: nothing of this kills or stops anything.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.errors import AgentdError, InvalidMessage
from agentd.wire import subjects
from agentd.wire.messages import (
    MAX_REQUEST,
    ToolCall,
    ToolReply,
    WorkflowRequest,
    WorkflowResponse,
    WorkflowSignal,
    request_digest,
)
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from agentd.daemon.supervisor import Supervisor
    from harness import Net


@contextlib.asynccontextmanager
async def running(net: Net) -> AsyncIterator[tuple[Bus, Supervisor]]:
    """Yield a network at work; at the end it must still do work."""
    async with net.client() as bus, net.here("all") as daemon:
        yield bus, daemon
        answer = await ask(bus, "health_check", "still-alive", {})
        assert answer.status.startswith("completed")
        assert daemon.is_ready


async def ask(bus: Bus, kind: str, name: str, parameters: dict[str, Any], **more: Any) -> WorkflowResponse:
    """Submit and wait for the answer."""
    await requests.submit(bus, "tester", WorkflowRequest(kind, name, parameters, **more))
    return await queries.follow(bus, name, lambda _state: None, wait=45)


async def answer_to(bus: Bus, data: bytes, *, subject: str = subjects.WORKFLOW_REQUEST) -> WorkflowResponse:
    """Store raw bytes as a request; return the answer under the id that the orchestrator gives it."""
    sequence = await bus.store(subject, data)
    found = await eventually(lambda: queries.answer_of(bus, f"req-{sequence}"), "an answer")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"hello", "WorkflowRequest: JSON is malformed: invalid character (byte 0)"),
        (b"[]", "WorkflowRequest: expected object, got array"),
        (b"{}", "WorkflowRequest: object missing required field workflow_type"),
        (b'{"workflow_type": 7}', "WorkflowRequest.workflow_type: expected str, got int"),
        (
            b'{"workflow_type": "health_check", "workflow_id": "a.b"}',
            "workflow_id: 'a.b' is not an id; use 1 to 64 of A-Z a-z 0-9 _ and -",
        ),
        (
            b'{"workflow_type": "make_coffee"}',
            (
                "workflow_type: unknown 'make_coffee'; there are backup_verification, guest_update, health_check, "
                "node_maintenance, node_reboot, resource_optimization, right_sizing, snapshot_cleanup, template_build, "
                "tool_call, undo, vm_deployment"
            ),
        ),
        (
            b'{"workflow_type": "health_check", "parameters": {"nod": "pve1"}}',
            "parameters: unknown 'nod'; did you mean node?",
        ),
        (
            b'{"workflow_type": "vm_deployment", "parameters": {"name": "x", "cores": "two"}}',
            "parameters.cores: expected int or nothing, got str",
        ),
        (b'{"workflow_type": "vm_deployment"}', "parameters: object missing required field name"),
        (b'{"workflow_type": "health_check", "timeout": 0}', "timeout: 0 s has passed already"),
        (
            b'{"workflow_type": "' + b"x" * MAX_REQUEST + b'"}',
            f"WorkflowRequest: {MAX_REQUEST + 21} bytes; at most {MAX_REQUEST} are accepted",
        ),
    ],
    ids=["text", "list", "empty", "type", "dot", "unknown", "foreign", "wrong", "missing", "over", "huge"],
)
async def test_a_request_that_cannot_be(net: Net, data: bytes, line: str) -> None:
    """A request that cannot be understood is rejected with the field, and kept as a workflow that never began."""
    async with running(net) as (bus, _):
        answer = await answer_to(bus, data)
        state = await queries.state(bus, answer.workflow_id)

    assert (answer.status, answer.error) == ("rejected", line)
    assert state is not None
    assert not state.tasks


async def test_the_same_again(net: Net) -> None:
    """The same request twice is one workflow; the same id with other parameters is refused, and harms nothing."""
    async with running(net) as (bus, _):
        first = await ask(bus, "health_check", "same", {"node": "pve1"})
        again = await ask(bus, "health_check", "same", {"node": "pve1"})
        other = WorkflowRequest("health_check", "same", {"node": "pve2"})
        await requests.submit(bus, "tester", other)
        refusal = await eventually(
            lambda: queries.answer_of(bus, "same", subjects.conflict("same", request_digest(other))), "a refusal"
        )
        answers = await bus.every(subjects.WORKFLOWS, subjects.response("same"))

    assert first == again
    assert refusal is not None
    assert (refusal.status, refusal.error) == (
        "conflict",
        "workflow_id: 'same' is a health_check with other parameters (completed); use another id",
    )
    assert len(answers) == 1


async def test_too_old(net: Net) -> None:
    """A request that waited longer than its start_by is answered `expired`: nothing begins days after an outage."""
    async with net.client() as bus:
        await requests.submit(bus, "tester", WorkflowRequest("health_check", "old", {}, start_by=0.0))
    async with running(net) as (bus, _):
        answer = await eventually(lambda: queries.answer_of(bus, "old"), "an answer")

    assert answer is not None
    assert answer.status == "expired"
    assert answer.error.endswith("to be started; it was to start within 0 s")


async def test_a_principal_that_may_only_read(net: Net) -> None:
    """A principal without the tier gets the missing one and how it is granted."""
    net.settings["policy"] = {"default_tier": "read"}
    async with running(net) as (bus, _):
        answer = await ask(bus, "vm_deployment", "forbidden", {"name": "x"})
        plain = await answer_to(bus, b'{"workflow_type": "vm_deployment", "parameters": {"name": "x"}}')

    assert answer.error == (
        'create_vm needs tier operate; tester has read; grant it with [policy.principals] tester = "operate"'
    )
    assert plain.error == (
        'create_vm needs tier operate; an anonymous request has read; grant it with [policy] anonymous_tier = "operate"'
    )


async def test_garbage_on_the_other_subjects(net: Net) -> None:
    """Completions and signals that cannot be understood are given up and kept; calls are answered with the fault."""
    async with running(net) as (bus, _):
        await bus.store(subjects.TASK_COMPLETE, b"garbage")
        await bus.store(subjects.complete("a1", "w", "t"), b'{"task_id": 1}')
        await bus.store(subjects.signal("tester", "w"), b'{"action": 1}')
        call = await bus.request(subjects.tool_call("tester", "mcp-proxmox", "list_guests"), b"garbage", ToolReply)
        keyless = await bus.request(
            subjects.tool_call("tester", "mcp-proxmox", "start_guest"), ToolCall({"vmid": 101}), ToolReply
        )

        async def dead() -> bool:
            return len(await bus.every(subjects.DEAD, "$JS.EVENT.ADVISORY.>")) == 3

        await eventually(dead, "three dead letters")

    assert call.error is not None
    assert call.error.message == "ToolCall: JSON is malformed: invalid character (byte 0)"
    assert keyless.error is not None
    assert keyless.error.message == "start_guest: a call above tier read needs a key, so that repeating it is safe"


async def test_another_client_takes_the_vmid(net: Net) -> None:
    """A VMID that another client takes is chosen again; a fixed one fails, and the other guest is not changed."""
    assert net.pve is not None
    net.pve.rule("POST", "/clone$", {"delay": 1.5}, count=1)
    async with running(net) as (bus, _):
        await requests.submit(bus, "tester", WorkflowRequest("vm_deployment", "drawn", {"name": "d", "template": 9000}))
        vmid = await _validated(bus, "drawn")
        net.pve.guest(vmid=vmid, node="pve2", name="foreign")
        drawn = await queries.follow(bus, "drawn", lambda _state: None, wait=45)
        net.pve.rule("POST", "/clone$", {"delay": 1.5}, count=1)
        fixed = {"name": "f", "template": 9000, "vmid": 777}
        await requests.submit(bus, "tester", WorkflowRequest("vm_deployment", "fixed", fixed))
        await _validated(bus, "fixed")
        net.pve.guest(vmid=777, node="pve3", name="other")
        failed = await queries.follow(bus, "fixed", lambda _state: None, wait=45)

    assert drawn.status == "completed", drawn
    assert drawn.result["tasks"]["create_vm"]["result"]["vmid"] != vmid
    assert failed.status == "failed"
    assert "777" in failed.error
    assert "'other'" in failed.error or "other" in failed.error
    assert [guest["name"] for guest in net.pve.inventory()["guests"] if guest["vmid"] in {vmid, 777}] == [
        "foreign",
        "other",
    ]


async def _validated(bus: Bus, name: str) -> int:
    async def vmid() -> int | None:
        state = await queries.state(bus, name)
        found = None if state is None else state.tasks["validate_vm_parameters"].result
        return None if found is None else int(found["vmid"])

    found = await eventually(vmid, "a validated request")
    assert found is not None
    return found


async def test_a_node_goes_offline_meanwhile(net: Net) -> None:
    """A node that goes offline between validation and creation: the create waits, and happens once it is back."""
    assert net.pve is not None
    net.pve.rule("POST", "/qemu$", {"delay": 1.0}, count=1)
    async with running(net) as (bus, _):
        requested = {"name": "away", "node": "pve2"}
        await requests.submit(bus, "tester", WorkflowRequest("vm_deployment", "away", requested))
        await _validated(bus, "away")
        net.pve.node("pve2", online=False)

        async def refused() -> bool:
            return bool(
                net.pve and [request for request in net.pve.log(path="/nodes/pve2/") if request["status"] == 595]
            )

        await eventually(refused, "a refused look at the node, or create")
        net.pve.node("pve2", online=True)
        answer = await queries.follow(bus, "away", lambda _state: None, wait=60)

    assert answer.status.startswith("completed"), answer
    assert len(net.pve.creates()) == 1


AUDIT = (
    "making a guest needs VM.Allocate on /vms/700; to grant it: "
    "pveum acl modify /vms/700 --tokens 'agentd@pve!audit' --roles PVEVMAdmin "
)
WRONG = (
    "validate_vm_parameters: Proxmox does not accept the token agentd@pve!full (Authentication failed!): "
    "check its id and secret"
)


@pytest.mark.parametrize(("token", "line"), [("audit", AUDIT), ("wrong", WRONG)])
async def test_a_token_that_may_not(net: Net, token: str, line: str) -> None:
    """A token with too few rights, or a wrong one, fails the deployment with what is missing; nothing is made."""
    assert net.pve is not None
    if token == "wrong":  # noqa: S105 - its name
        net.use_token("full")
        (net.directory / "token-full").write_text("00000000-0000-0000-0000-000000000000")
    else:
        net.use_token(token)
    async with net.client() as bus, net.here("all") as daemon:
        answer = await ask(bus, "vm_deployment", "mayi", {"name": "x", "node": "pve1", "vmid": 700})

        assert daemon.is_ready

    assert answer.status == "failed"
    assert line in answer.error
    assert not net.pve.creates()


async def test_no_proxmox(net: Net) -> None:
    """Without Proxmox a workflow fails in time with the address; the daemon continues."""
    assert net.pve is not None
    net.settings["drain"] = {"timeout": 2.0}
    async with net.client() as bus, net.here("all") as daemon:
        net.pve.stop()
        answer = await ask(bus, "vm_deployment", "none", {"name": "x"}, timeout=4.0)

        assert daemon.is_ready

    assert answer.status == "failed"
    assert answer.error == "not done within 4 s"


async def test_a_client_checks_before_it_asks(net: Net) -> None:
    """An id that cannot be a token never leaves the client."""
    async with net.client() as bus:
        with pytest.raises(InvalidMessage, match="workflow_id: 'a b' is not an id"):
            await requests.submit(bus, "tester", WorkflowRequest("health_check", "a b"))
        with pytest.raises(AgentdError, match="there is no workflow 'ghost'"):
            await requests.signal(bus, "tester", "ghost", WorkflowSignal("cancel"))
