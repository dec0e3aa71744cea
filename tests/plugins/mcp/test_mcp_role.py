"""The bridge: its address, which clients it admits, and what a daemon without it never loads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import uvicorn
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from starlette.applications import Starlette

import agentd_mcp
from agentd.plugins.role import Health, Role
from agentd.safety import tokens
from agentd.safety.policy import CallsAtOnce
from agentd.telemetry import logs
from agentd.tools.declaration import collect
from agentd.tools.definition import Tool, Toolbox
from agentd.wire.messages import Outcome, Tier, ToolReply
from agentd_mcp.role import Bridge, BridgeSettings
from agentd_specialist.settings import SpecialistSettings
from agentd_specialist.tools import Domain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


VALID = {"vmid": 100, "node": "pve1", "create": {}, "configure": {}, "reasons": []}


class Calls:
    """As much of the worker's calls as the bridge uses."""

    def __init__(self) -> None:
        """Note what is asked."""
        self.at_once = CallsAtOnce(2, "mcp-bridge-pve1")
        self.asked: list[tuple[str, dict[str, Any], str]] = []

    async def perform_here(
        self, asked: Tool, parameters: dict[str, Any], *, principal: str, progress: Callable[[str], None], dry_run: bool
    ) -> ToolReply:
        """Answer."""
        assert not dry_run
        progress("looking")
        self.asked.append((asked.name, parameters, principal))
        return ToolReply(status=Outcome.COMPLETED, result=VALID)


class Worker:
    """As much of the worker as the bridge uses."""

    def __init__(self) -> None:
        """Serve nothing yet."""
        self.calls = Calls()
        self.served: list[str] = []

    async def serve(
        self,
        service: str,
        stopping: asyncio.Event,
        *,
        queues: list[str],
        drain: float,
        version: str,
        ready: Callable[[], None],
    ) -> None:
        """Wait for the stop."""
        assert not queues
        assert drain
        assert version
        self.served.append(service)
        ready()
        await stopping.wait()


async def _no_values(*_: object) -> dict[str, Any]:
    """Return an empty bucket."""
    return {}


def surroundings(**changes: Any) -> Any:
    """Return what a bridge touches, with the specialist's tools in the place of Proxmox'."""
    offered = collect(Domain(SpecialistSettings()), service="mcp-proxmox")
    return SimpleNamespace(
        settings=changes.get("settings", BridgeSettings()),
        node="pve1",
        queues=lambda _service: [],
        tools={tool.name: tool for tool in offered if isinstance(tool, Tool)},
        config=SimpleNamespace(
            web=SimpleNamespace(
                host=changes.get("host", "127.0.0.1"), allowed_hosts=(), tokens=changes.get("tokens", {})
            ),
            drain=SimpleNamespace(timeout=1.0),
        ),
        policy=SimpleNamespace(tier_of=lambda _principal, *, plain: Tier.DESTROY if plain else Tier.READ),
        worker=Worker(),
        bus=SimpleNamespace(kv_values=_no_values),
        known_tools=dict,
        log=logs.get_logger(),
        health=Health(),
        stopping=asyncio.Event(),
    )


@contextlib.asynccontextmanager
async def page(bridge: Bridge) -> AsyncIterator[str]:
    """Serve the bridge's routes as the instance's web server does; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = Starlette(routes=bridge.routes)
        server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None))
        answering = asyncio.create_task(server.serve(sockets=[listening]))
        async with asyncio.timeout(5):
            while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await answering


@contextlib.asynccontextmanager
async def running(bridge: Bridge, context: Any) -> AsyncIterator[None]:
    """Run the bridge."""
    task = asyncio.create_task(bridge.run(context))
    async with asyncio.timeout(10):
        while not context.worker.served and not task.done():  # noqa: ASYNC110 - it is ready when it serves
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        context.stopping.set()
        await task


def test_the_plugin_has_a_role() -> None:
    """The hooks return what the supervisor wants."""
    assert isinstance(agentd_mcp.agentd_role(), Role)
    assert agentd_mcp.agentd_settings() is BridgeSettings
    assert agentd_mcp.agentd_role().port == 8001


async def test_tools_are_served_while_the_role_runs() -> None:
    """Before and after there is a reason instead of tools; a role that runs again serves again."""
    bridge = Bridge()
    async with page(bridge) as url, httpx2.AsyncClient() as http:
        before = await http.get(url)
        for _ in range(2):
            context = surroundings()
            async with running(bridge, context), Client(url) as client:
                listed = [tool.name for tool in (await client.list_tools()).tools]
                requested = {"name": "app"}
                called = await client.call_tool("validate_vm_parameters", requested)
            after = await http.get(url)

            assert context.worker.served == ["mcp-proxmox"]
            assert context.health.ready
            assert listed == ["workflow_status", "network_status", "dry_run", "find_tools", "read_tool"]
            assert called.structured_content == VALID
            assert context.worker.calls.asked == [("validate_vm_parameters", requested, "mcp")]
            assert (after.status_code, after.text) == (503, "MCP is not served: stopping\n")

    assert (before.status_code, before.text) == (503, "MCP is not served: starting\n")


async def test_all_tools_are_listed_where_that_is_wanted() -> None:
    """`tool_list = "all"` names each tool at once."""
    bridge, context = Bridge(), surroundings(settings=BridgeSettings(tool_list="all"))
    async with page(bridge) as url, running(bridge, context), Client(url) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}

    assert listed == {
        "summarize_health",
        "validate_vm_parameters",
        "dry_run",
        "find_tools",
        "list_agent_services",
        "list_agents",
        "list_workflows",
        "network_status",
        "read_tool",
        "workflow_status",
    }


async def test_a_carried_call_needs_its_own_tier() -> None:
    """What a principal may not call, it may not call through use_tool either, and cannot see that it exists."""
    bridge, context = Bridge(), surroundings()
    async with page(bridge) as url, running(bridge, context), Client(url) as client:
        with pytest.raises(MCPError, match="there is no tool 'configure_vm' within tier read"):
            await client.call_tool("use_tool", {"tool": "configure_vm", "arguments": {"vmid": 100}})

    assert context.worker.calls.asked == []


def _with(token: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("protocol", ["legacy", "auto"])
async def test_a_token_is_a_principal(protocol: str) -> None:
    """A client with alice's token is alice; without one it is `mcp`; a session serves no other principal."""
    bridge, (token, kept) = Bridge(), tokens.new_token()
    context = surroundings(tokens={"alice": kept})
    async with page(bridge) as url, running(bridge, context), _with(token) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=protocol) as client:
            await client.call_tool("read_tool", {"tool": "validate_vm_parameters", "arguments": {"name": "app"}})
        async with Client(url, mode=protocol) as client:
            await client.call_tool("validate_vm_parameters", {"name": "app"})
        wrong = await http.post(url, json={}, headers={"Authorization": "Bearer agentd_guess"})

    assert [request[2] for request in context.worker.calls.asked] == ["alice", "mcp"]
    assert wrong.status_code == 401
    assert "unknown" in wrong.text


@pytest.mark.parametrize(
    "changes", [{"host": "192.0.2.1"}, {"settings": BridgeSettings(anonymous=False)}], ids=["remote", "set"]
)
async def test_a_client_without_a_token_is_refused(changes: dict[str, Any]) -> None:
    """Beyond loopback, or with `anonymous = false`, a client needs a token."""
    bridge, (token, kept) = Bridge(), tokens.new_token()
    context = surroundings(tokens={"alice": kept}, **changes)
    async with page(bridge) as url, running(bridge, context), httpx2.AsyncClient() as http, _with(token) as known:
        refused = await http.post(url, json={})
        let_in = await known.post(url, json={})

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="agentd"'
    assert "agentd token NAME" in refused.text
    assert let_in.status_code not in {401, 503}


def test_a_form_does_not_approve_the_own_request() -> None:
    """`approvers` names another principal."""
    with pytest.raises(ValueError, match="eve would approve its own requests"):
        BridgeSettings(approvers={"eve": "eve"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": BridgeSettings(mcp=False)}, "[mcp-bridge] mcp = false"),
        ({"host": "192.0.2.1"}, "beyond a loopback address it is served to known principals only; see [web.tokens]"),
    ],
    ids=["off", "remote"],
)
async def test_without_mcp_the_queue_is_served_all_the_same(changes: dict[str, Any], reason: str) -> None:
    """What prevents MCP prevents no task, and is reported at /readyz."""
    bridge, context = Bridge(), surroundings(**changes)
    async with running(bridge, context), page(bridge) as url, httpx2.AsyncClient() as http:
        answer = await http.post(url, json={})

    assert answer.status_code == 503
    assert reason in answer.text
    assert context.health.ready


async def test_without_the_sdk_the_reason_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK is an extra: without it the bridge works for the network."""
    monkeypatch.setitem(sys.modules, "agentd_mcp.assembly", None)
    monkeypatch.delattr(agentd_mcp, "serve", raising=False)
    bridge, context = Bridge(), surroundings()
    async with running(bridge, context):
        reason = bridge.gate.reason

    assert "install agentd[mcp]" in reason


def test_other_roles_never_load_the_sdk() -> None:
    """Loading every face, role and setting loads no SDK; it costs 35 MB and half a second."""
    code = (
        "import sys, agentd_mcp, agentd_monitor, agentd_specialist, agentd_orchestrator\n"
        "from agentd.tools.definition import Toolbox\n"
        "for plugin in (agentd_mcp, agentd_monitor, agentd_specialist, agentd_orchestrator):\n"
        "    plugin.agentd_settings(), plugin.agentd_role()\n"
        "agentd_specialist.agentd_tools(Toolbox('pve1', None, None))\n"
        "agentd_orchestrator.agentd_workflows(dict)\n"
        "print(*sorted({'mcp', 'mcp_types'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "\n", "")


def test_the_specialist_needs_no_proxmox_of_its_own() -> None:
    """Its tools are offered where the configuration names no Proxmox."""
    from agentd_specialist import agentd_tools

    assert {tool.name for tool in agentd_tools(Toolbox("pve1", None, None))} == {
        *("validate_vm_parameters", "configure_vm", "summarize_health", "place_guest", "diagnose", "propose_sizes"),
        *("plan_moves", "plan_return", "confirm_moves", "move_guests", "check_empty", "await_node", "check_node"),
        *("list_changes", "summarize_moves"),
    }
