"""The extension for tasks: a long call is a workflow, the client gets a handle, and every bridge answers for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.extension import ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentd.wire import subjects
from agentd.wire.records import AuditRecord
from agentd_mcp import tasks
from harness import free_port
from plugins.mcp.test_network_tools import client_of, data, with_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import Net

DROP = {"tool": "delete_guest", "arguments": {"vmid": 101, "name": "db-01"}}


class Task(types.Result):
    """A task, in any status."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    status_message: str = ""
    poll_interval_ms: int = 0


class State(types.Result):
    """The answer to tasks/get."""

    task_id: str
    status: str
    status_message: str = ""
    result: dict[str, Any] | None = None
    input_requests: dict[str, dict[str, Any]] | None = None


class Get(types.Request[tasks.TaskParams, Literal["tasks/get"]]):
    """The request tasks/get."""

    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"


class Cancel(types.Request[tasks.TaskParams, Literal["tasks/cancel"]]):
    """The request tasks/cancel."""

    method: Literal["tasks/cancel"] = "tasks/cancel"
    name_param = "taskId"


class Update(types.Request[tasks.UpdateParams, Literal["tasks/update"]]):
    """The request tasks/update."""

    method: Literal["tasks/update"] = "tasks/update"
    name_param = "taskId"


class TaskExtension(ClientExtension):
    """Declare the extension."""

    identifier = tasks.ID

    def claims(self) -> list[ResultClaim[Any]]:
        """Claim the results that are tasks; each test finishes them itself."""

        async def resolve(task: Task, _context: object) -> types.CallToolResult:
            raise AssertionError(task)

        return [ResultClaim(result_type="task", model=Task, resolve=resolve)]


@contextlib.asynccontextmanager
async def tasking(url: str, token: str, **more: Any) -> AsyncIterator[Client]:
    """Yield a client that shows this token and declares the extension."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as shown,
        Client(
            streamable_http_client(f"{url}/mcp", http_client=shown), mode="auto", extensions=[TaskExtension()], **more
        ) as client,
    ):
        yield client


async def call(client: Client, called: str, /, **arguments: Any) -> Any:
    """Return what the server answers to a call: a result or a task."""
    return await client.session.call_tool(called, arguments, allow_claimed=True, allow_input_required=True)


async def got(client: Client, task_id: str) -> State:
    """Return the present state of a task."""
    return await client.session.send_request(Get(params=tasks.TaskParams(task_id=task_id)), State)


async def ended(client: Client, task_id: str) -> State:
    """Return the state of a task once it does not work any more."""
    async with asyncio.timeout(60):
        while (state := await got(client, task_id)).status == "working":  # noqa: ASYNC110 - clients poll
            await asyncio.sleep(0.2)
    return state


async def acts(bus: Bus, agent: str) -> list[tuple[str, str, str]]:
    """Return principal, tool and phase of each line of an agent's audit."""
    chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit(agent))]
    return [(record.principal, record.tool, record.phase) for record in chain]


async def test_a_long_call_is_a_task(net: Net) -> None:
    """A call that takes longer than a second is answered with a handle; the task ends with the result of the tool."""
    assert net.pve is not None
    net.pve.durations(qmstart=3)
    shown = with_tokens(net, alice="operate")
    async with net.client() as bus, net.here() as daemon, tasking(daemon.url, shown["alice"]) as alice:
        task = await call(alice, "start_guest", vmid=101)
        first = await got(alice, task.task_id)
        last = await ended(alice, task.task_id)
        status = await data(alice, "workflow_status", workflow_id=tasks.workflow_of(task.task_id))
        audit = await acts(bus, "all-pve1")

    assert isinstance(task, Task)
    assert (task.status, first.status, last.status) == ("working", "working", "completed")
    assert last.result is not None
    assert not last.result.get("isError")
    assert last.result["structuredContent"]["status"] == "running"
    assert status["status"] == "completed"
    assert audit == [("alice", "start_guest", "before"), ("alice", "start_guest", "after")]


async def test_a_quick_call_and_a_read_are_answered_at_once(net: Net) -> None:
    """What ends within a second is answered with its result, and a read is never a task."""
    assert net.pve is not None
    net.pve.durations(qmstart=0.1)
    shown = with_tokens(net, alice="operate")
    async with net.client(), net.here() as daemon, tasking(daemon.url, shown["alice"]) as alice:
        started = await call(alice, "start_guest", vmid=101)
        read = await call(alice, "list_nodes")
        wrong = await call(alice, "start_guest", vmid=999)

    assert isinstance(started, types.CallToolResult)
    assert not started.is_error
    assert isinstance(read, types.CallToolResult)
    assert isinstance(wrong, types.CallToolResult)
    assert wrong.is_error


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_without_the_extension(net: Net, mode: str) -> None:
    """A client that has not declared the extension waits for its result, and cannot ask for tasks."""
    assert net.pve is not None
    net.pve.durations(qmstart=2)
    shown = with_tokens(net, alice="operate")
    async with (
        net.client(),
        net.here() as daemon,
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {shown['alice']}"}) as http,
        Client(streamable_http_client(f"{daemon.url}/mcp", http_client=http), mode=mode) as alice,
    ):
        started = await alice.call_tool("start_guest", {"vmid": 101})
        with pytest.raises(MCPError) as caught:
            await got(alice, f"start_guest.{'x' * 32}")

    assert not started.is_error
    assert caught.value.code == (types.METHOD_NOT_FOUND if mode == "legacy" else -32021)
    if mode == "auto":
        assert caught.value.data == {"requiredCapabilities": {"extensions": {tasks.ID: {}}}}


async def test_a_task_belongs_to_its_principal(net: Net) -> None:
    """Another principal neither reads nor cancels a task, and an unknown id looks the same to it."""
    assert net.pve is not None
    net.pve.durations(qmstart=3)
    shown = with_tokens(net, alice="operate", bob="destroy")
    refused = []
    async with net.client(), net.here() as daemon, tasking(daemon.url, shown["alice"]) as alice:
        task = await call(alice, "start_guest", vmid=101)
        async with tasking(daemon.url, shown["bob"]) as bob:
            for name in (task.task_id, f"start_guest.{'x' * 32}", "start_guest.1", "", tasks.workflow_of(task.task_id)):
                for request in (Get, Cancel):
                    with pytest.raises(MCPError) as caught:
                        await bob.session.send_request(request(params=tasks.TaskParams(task_id=name)), State)
                    refused.append((caught.value.code, caught.value.message))
        last = await ended(alice, task.task_id)

    assert len(set(refused)) == 1
    assert refused[0][0] == types.INVALID_PARAMS
    assert last.status == "completed"


async def test_a_task_is_cancelled(net: Net) -> None:
    """A cancelled plan ends as cancelled, and nothing was done; a repeated cancel is accepted."""
    assert net.pve is not None
    shown = with_tokens(net, alice="destroy")
    async with net.client(), net.here() as daemon, tasking(daemon.url, shown["alice"]) as alice:
        task = await call(alice, "use_tool", **DROP)
        cancel = Cancel(params=tasks.TaskParams(task_id=task.task_id))
        await alice.session.send_request(cancel, types.EmptyResult)
        last = await ended(alice, task.task_id)
        await alice.session.send_request(cancel, types.EmptyResult)

    assert "must approve" in task.status_message
    assert last.status == "cancelled"
    assert net.pve.log("DELETE") == []


async def test_the_person_at_the_client_approves_in_a_task(net: Net) -> None:
    """A task asks the person at the client by a form; only the answer to its own question counts."""
    assert net.pve is not None
    net.settings["mcp-bridge"] = {"approvers": {"eve": "bob"}}
    shown = with_tokens(net, eve="destroy", bob="destroy")

    async def unused(*_: object) -> types.ElicitResult:
        raise AssertionError

    async with (
        net.client(),
        net.here() as daemon,
        tasking(daemon.url, shown["eve"], elicitation_callback=unused) as eve,
    ):
        task = await call(eve, "use_tool", **DROP)
        asked = await ended(eve, task.task_id)
        assert asked.input_requests is not None
        ((key, question),) = asked.input_requests.items()
        yes = {"action": "accept", "content": {"approve": True}}
        other, own = (
            Update(params=tasks.UpdateParams(task_id=task.task_id, input_responses={name: yes})) for name in ("k", key)
        )
        await eve.session.send_request(other, types.EmptyResult)
        still = await got(eve, task.task_id)
        await eve.session.send_request(own, types.EmptyResult)
        last = await ended(eve, task.task_id)

    assert asked.status == still.status == "input_required"
    assert question["method"] == "elicitation/create"
    assert "You approve as bob" in question["params"]["message"]
    assert last.status == "completed"
    assert net.pve.found(101) is None


async def test_the_bridge_is_killed_during_a_task(net: Net) -> None:
    """After kill -9 of the bridge that created a task, another bridge answers for it; the change is made once."""
    assert net.pve is not None
    net.pve.durations(qmstart=3)
    shown = with_tokens(net, alice="operate")
    net.settings["web"]["port"] = port = free_port()
    async with net.client():
        with (
            net.daemon("brain", ("orchestrator",), AGENTD_WEB__PORT="0"),
            net.daemon("front", ("mcp-bridge",)) as front,
        ):
            async with tasking(f"http://127.0.0.1:{port}", shown["alice"]) as alice:
                task = await call(alice, "start_guest", vmid=101)
            await asyncio.to_thread(front.kill)
            net.settings["web"]["port"] = 0
            async with net.here("all") as daemon, tasking(daemon.url, shown["alice"]) as alice:
                last = await ended(alice, task.task_id)

    assert last.status == "completed"
    assert [item["path"] for item in net.pve.log("POST")].count("/nodes/pve1/qemu/101/status/start") == 1


async def test_without_an_orchestrator(net: Net) -> None:
    """Where no orchestrator stores the workflow, the client gets no handle, but the id to ask for later."""
    shown = with_tokens(net, alice="operate")
    net.settings["instances"]["bridge"] = {"roles": ["mcp-bridge"]}
    async with net.client(), net.here("bridge") as daemon, tasking(daemon.url, shown["alice"]) as alice:
        refused = await call(alice, "start_guest", vmid=101)

    assert isinstance(refused, types.CallToolResult)
    assert refused.is_error
    assert "workflow_status of tool_call-start_guest-" in str(refused.content)


async def test_a_handle_without_the_extension(net: Net) -> None:
    """A client without the extension gets a handle by submit_workflow, and its result by workflow_status."""
    assert net.pve is not None
    net.pve.durations(qmstart=2)
    shown = with_tokens(net, alice="operate")
    made = {"tool": "start_guest", "parameters": {"vmid": 101}}
    async with net.client(), net.here() as daemon, client_of(daemon.url, shown["alice"]) as alice:
        handle = await data(alice, "submit_workflow", workflow_type="tool_call", parameters=made)
        last = await data(alice, "workflow_status", workflow_id=handle["workflow_id"], wait=60)

    assert handle["status"] in {"planned", "running"}
    assert last["status"] == "completed"
