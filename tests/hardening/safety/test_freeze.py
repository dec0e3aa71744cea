"""The freeze of the network: nothing is changed until it is thawed, and what waits is done afterwards, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import pytest_asyncio
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentd.bus.setup.provision import provision
from agentd.cli.freeze import parse_duration
from agentd.client.requests import state_of, submit
from agentd.client.tool_calls import call_tool
from agentd.errors import AgentdError, BusError, Frozen, UsageError
from agentd.safety import freeze, tokens
from agentd.tools import effects
from agentd.wire import subjects
from agentd.wire.announcements import Freeze, NetworkRequest
from agentd.wire.messages import TaskCompletion, TaskError, Tier, ToolCall, WorkflowRequest
from agentd_orchestrator.state_machine.inputs import AgentReport
from core.jetstream import connected
from core.probe import SERVICE, Probe, a_worker, assign, completion, record, serving
from fake_agent import engine
from harness import SCRIPTS, NatsServer, Net, eventually
from plugins.flow import begin, spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from pve.client import FakePve


@pytest_asyncio.fixture
async def there(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned, and a queue of the service `probe`."""
    async with connected(nats_server.url) as bus:
        await provision(bus, [SERVICE])
        yield bus


async def no_note(outcome: str, found: Freeze | None) -> None:
    """Write no audit line."""


async def change(bus: Bus, action: str, principal: str = "alice", tier: Tier = Tier.OPERATE, **more: Any) -> Any:
    """Freeze or thaw as an orchestrator does."""
    request = NetworkRequest(action, more.pop("reason", "storage is being moved"), **more)
    return await freeze.carry_out(bus, "o", principal, tier, request, no_note)


@pytest.mark.parametrize("tool", ["idempotent", "marked", "probed", "unsafe"])
async def test_no_change_starts_while_frozen(there: Bus, tool: str) -> None:
    """While frozen an agent starts no change; the error names principal, reason and how to thaw."""
    probe = Probe()
    async with serving(a_worker(there, probe)):
        await change(there, "freeze")
        with pytest.raises(Frozen) as refused:
            await call_tool(there, subjects.tool_call("tester", SERVICE, tool), ToolCall({}, "w.t"), seconds=5)
        read = await call_tool(
            there, subjects.tool_call("tester", SERVICE, "read_it"), ToolCall({"text": "x"}), seconds=5
        )
        dry = ToolCall({}, "w.d", dry_run=True)
        dry_run = await call_tool(there, subjects.tool_call("tester", SERVICE, tool), dry, seconds=5)
        await change(there, "thaw")
        done = await call_tool(there, subjects.tool_call("tester", SERVICE, tool), ToolCall({}, "w.t"), seconds=5)

    assert "frozen by alice since" in str(refused.value)
    assert "storage is being moved" in str(refused.value)
    assert "`agentd thaw` ends it" in str(refused.value)
    assert read.result == {"text": "x"} or read.result["text"] == "x"
    assert dry_run.dry_run
    assert done.status == "completed"
    assert probe.acts == 1


async def test_a_freeze_between_check_and_apply(there: Bus) -> None:
    """A freeze during a tool's check prevents its change, although the agent has not received the freeze."""
    probe = Probe()

    async def freeze_now(_: object) -> None:
        await change(there, "freeze")

    probe.on_check = freeze_now
    async with serving(a_worker(there, probe)) as worker:
        worker.runner.freeze_watch._last = None  # noqa: SLF001 - it has received nothing
        await assign(there, "probed")
        reported = await completion(there)

    assert (reported.status, reported.error.code) == ("failed", "frozen")  # type: ignore[union-attr]
    assert probe.acts == 0


async def test_a_running_change_is_completed(there: Bus) -> None:
    """A task that has begun to change something is finished whole, with its result."""
    probe = Probe()

    async def freeze_now(_: object) -> None:
        await change(there, "freeze")

    probe.on_act = freeze_now
    async with serving(a_worker(there, probe)):
        await assign(there, "probed")
        reported = await completion(there)

    assert reported.status == "completed"
    assert probe.acts == 1
    assert (await record(there)).phase == effects.DONE


@pytest.mark.parametrize("data", [b"not JSON", b"{}", b'{"by": 7}', b""])
async def test_a_state_that_cannot_be_understood_is_frozen(there: Bus, data: bytes) -> None:
    """Any record in the bucket that is not a freeze stops every change."""
    probe = Probe()
    await there.kv_put(subjects.FREEZE, freeze.KEY, data)
    async with serving(a_worker(there, probe)):
        with pytest.raises(Frozen, match="cannot be read"):
            await call_tool(there, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.t"), seconds=5)

    assert probe.acts == 0


async def test_a_state_that_cannot_be_asked_for(there: Bus) -> None:
    """Without the bucket, or without NATS, nothing is changed."""
    probe = Probe()
    await there.api(f"STREAM.DELETE.KV_{subjects.FREEZE}")
    async with serving(a_worker(there, probe)):
        with pytest.raises(BusError, match="agentd provision"):
            await call_tool(there, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.t"), seconds=3)

    assert probe.acts == 0


async def test_nats_is_unreachable_before_apply(nats_server: NatsServer) -> None:
    """An agent that loses NATS between check and apply does not apply."""
    probe = Probe()
    async with connected(nats_server.url, timeout=1.0) as bus:
        await provision(bus, [SERVICE])

        async def away(_: object) -> None:
            nats_server.kill()

        probe.on_check = away
        worker = a_worker(bus, probe)
        async with serving(worker):
            await assign(bus, "probed")

            async def checked() -> bool:
                return probe.checks > 0

            await eventually(checked, "the tool has checked the state")
            await asyncio.sleep(2)
            assert probe.acts == 0
            probe.on_check = Probe().on_check
            nats_server.start()


async def test_external_agents_receive_no_change(there: Bus) -> None:
    """An agent in another language, which knows of no freeze, is given nothing that changes something meanwhile."""
    only = engine(there, external=frozenset({"svc"}))
    await change(there, "freeze")
    plan = [spec("write"), spec("read", tier=Tier.READ)]
    await only.feed("w", begin(*plan))
    given = await there.every(subjects.WORKFLOWS, "ai.tasks.assign.>")
    held = await there.last(subjects.INPUT, "ai.tasks.complete.>")
    assert held is not None
    reported = held.decode(TaskCompletion)
    waits = await only.feed("w", AgentReport("write", reported))

    assert [assignment.subject for assignment in given] == [subjects.assign("svc", "w", "read", 1)]
    assert isinstance(reported.error, TaskError)
    assert reported.error.code == "frozen"
    assert waits is not None
    assert (waits.tasks["write"].status, waits.tasks["write"].retried) == ("waiting", 0)


async def test_it_ends_by_itself(there: Bus) -> None:
    """A freeze with a time ends by the server's clock, in the bucket too."""
    reply = await change(there, "freeze", seconds=1.0)

    async def ended() -> bool:
        return await freeze.read(there) is None

    assert reply.freeze.until is not None
    assert await freeze.read(there) is not None
    await eventually(ended, "the freeze ends", 5)


WRONG = [
    (NetworkRequest("freeze", "x"), "rita", Tier.READ, None, "needs tier operate"),
    (NetworkRequest("freeze", "  "), "alice", Tier.OPERATE, None, "reason: give one"),
    (NetworkRequest("freeze", "x" * 501), "alice", Tier.OPERATE, None, "1 to 500 characters"),
    (NetworkRequest("freeze", "x", 0.0), "alice", Tier.OPERATE, None, "seconds: 0 is not"),
    (NetworkRequest("freeze", "x", 1e9), "alice", Tier.OPERATE, None, "seconds: 1e\\+09 is not"),
    (NetworkRequest("melt"), "oscar", Tier.EXEC, None, "action: unknown 'melt'"),
]


@pytest.mark.parametrize(("request_", "principal", "tier", "found", "text"), WRONG)
def test_a_principal_that_may_not_freeze(
    request_: NetworkRequest, principal: str, tier: Tier, found: Freeze | None, text: str
) -> None:
    """A request that may not be, or cannot be understood, is refused with what is wrong."""
    with pytest.raises(AgentdError, match=text):
        freeze.check_request(request_, principal, tier, found)


async def test_principals_that_may_thaw(there: Bus) -> None:
    """The principal that froze may thaw, others need destroy; a second freeze is refused; a second thaw is fine."""
    await change(there, "freeze", "alice", id="1")
    with pytest.raises(AgentdError, match="needs tier destroy"):
        await change(there, "thaw", "oscar")
    with pytest.raises(AgentdError, match="frozen already: frozen by alice"):
        await change(there, "freeze", "oscar", id="2")
    assert (await change(there, "freeze", "alice", id="1")).done  # what another orchestrator has just done
    assert (await change(there, "thaw", "bob", Tier.DESTROY)).done
    await change(there, "freeze", "alice")
    assert (await change(there, "thaw", "alice")).done
    assert await freeze.read(there) is None
    again = await change(there, "thaw", "oscar")
    assert (again.done, again.message) == (True, "the network is not frozen: nothing was changed")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15min", 900), ("15m", 900), ("4h", 14400), ("2d", 172800)]
)
def test_times(text: str, seconds: float) -> None:
    """Times are written as people write them."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "-1h", "0s", "31d", "1.5h", "4 h", "h", "٤h"])
def test_no_times(text: str) -> None:
    """What is no time is refused, and the option is named."""
    with pytest.raises(UsageError, match="--for"):
        parse_duration(text)


async def agentd(net: Net, *arguments: str) -> tuple[int, str, str]:
    """Run one command to its end; return exit code, output and errors."""
    command = [str(SCRIPTS / "agentd"), "--config", str(net.config_file()), *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, env=os.environ
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.system
async def test_a_freeze_outlives_every_process(net: Net, nats_server: NatsServer, pve: FakePve) -> None:
    """A freeze outlives every process; a workflow waits, and is done once after the thaw."""
    async with net.client("tester") as bus:
        daemons = [net.daemon("all")]
        with daemons[0] as daemon:
            frozen = await agentd(net, "freeze", "--reason", "moving the storage")
            again = await agentd(net, "--json", "freeze", "--reason", "once more")
            await submit(bus, "tester", WorkflowRequest("vm_deployment", "web", {"name": "web1", "template": 9000}))

            async def waits() -> bool:
                state = await state_of(bus, "web")
                return state is not None and any(
                    task.error and task.error.code == "frozen" for task in state.tasks.values()
                )

            await eventually(waits, "the workflow waits", 30)
            daemon.kill()
            nats_server.kill()
            nats_server.start()
            daemon.start()
            listed = await agentd(net, "agents")
            shown = await agentd(net, "show", "web")
            before = await asyncio.to_thread(pve.creates)

            async def serves() -> bool:
                return (await agentd(net, "call", "list_guests"))[0] == 0

            await eventually(serves, "the daemon works again", 40)
            call = await agentd(net, "call", "start_guest", "vmid=100")
            read = await agentd(net, "--json", "call", "list_guests")

            async def thawed() -> bool:
                return (await agentd(net, "thaw"))[0] == 0

            await eventually(thawed, "an orchestrator thaws", 30)

            async def over() -> bool:
                state = await state_of(bus, "web")
                return state is not None and state.over

            await eventually(over, "the workflow ends", 60)
            state = await state_of(bus, "web")
            audit = json.loads((await agentd(net, "--json", "audit", "list", "--principal", "tester"))[1])

    assert frozen[0] == 0
    assert (again[0], json.loads(again[1])["done"]) == (77, False)
    assert "frozen by tester" in listed[2]
    assert "frozen by tester" in shown[2]
    assert before == []
    assert call[0] == 75
    assert "frozen by tester" in call[2]
    assert read[0] == 0
    assert state is not None
    assert state.status == "completed"
    assert len([entry for entry in state.timeline if entry.what.startswith("waits: ")]) == 1
    assert [item["tool"] for item in audit if item["key"].startswith("network.")] == ["freeze", "thaw"]


@contextlib.asynccontextmanager
async def _mcp(url: str, token: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers) as shown,
        Client(streamable_http_client(f"{url}/mcp", http_client=shown)) as client,
    ):
        yield client


async def test_over_mcp(net: Net) -> None:
    """A client with a token freezes and thaws as over HTTP; one without sees the freeze and is refused."""
    made = {name: tokens.new_token() for name in ("alice", "bob", "rita")}
    net.settings["web"] = {"port": 0, "tokens": {name: kept for name, (_, kept) in made.items()}}
    net.settings["policy"] = {
        "default_tier": "read",
        "principals": {"alice": "operate", "bob": "operate", "mcp": "operate", "rita": "read"},
    }
    async with net.client(), net.here() as daemon:
        async with _mcp(daemon.url, "") as anonymous:
            refused = await anonymous.call_tool("freeze_network", {"reason": "x"})
        async with _mcp(daemon.url, made["rita"][0]) as reader:
            with pytest.raises(MCPError, match="there is no tool 'freeze_network' within tier read"):
                await reader.call_tool("freeze_network", {"reason": "x"})
        async with _mcp(daemon.url, made["alice"][0]) as alice:
            listed = {tool.name for tool in (await alice.list_tools()).tools}
            wrong = await alice.call_tool("freeze_network", {"reason": ""})
            frozen = await alice.call_tool("freeze_network", {"reason": "storage is being moved"})
            acted = await alice.call_tool("start_guest", {"vmid": 101})
        async with _mcp(daemon.url, made["bob"][0]) as bob:
            denied = await bob.call_tool("use_tool", {"tool": "thaw_network", "arguments": {}})
        async with _mcp(daemon.url, "") as anonymous:
            shown = await anonymous.call_tool("network_status", {})
        async with _mcp(daemon.url, made["alice"][0]) as alice:
            thawed = await alice.call_tool("thaw_network", {"reason": "moved"})
            after = await alice.call_tool("network_status", {})

    assert "give the client a token" in str(refused.content)
    assert {"freeze_network", "network_status"} <= listed
    assert wrong.is_error
    assert frozen.structured_content is not None
    assert (frozen.structured_content["frozen"], frozen.structured_content["by"]) == (True, "alice")
    assert acted.is_error
    assert "frozen by alice" in str(acted.content)
    assert denied.is_error
    assert "thawing what alice froze needs tier destroy" in str(denied.content)
    assert shown.structured_content is not None
    assert shown.structured_content["reason"] == "storage is being moved"
    assert not thawed.is_error
    assert after.structured_content == {"frozen": False, "text": "the network is not frozen"}
    assert net.pve is not None
    assert net.pve.found(101)["status"] == "stopped"  # type: ignore[index]
