"""`agentd mcp`: an AI client starts it as a child process and gets the tools of the network."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from agentd.wire import subjects
from agentd.wire.records import AuditRecord
from harness import SCRIPTS
from plugins.mcp.test_network_tools import data

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net


def command(net: Net, principal: str) -> StdioServerParameters:
    """Return the command as a client's configuration would name it: with the configuration file of the network."""
    config = str(net.config_file())
    return StdioServerParameters(
        command=str(SCRIPTS / "agentd"),
        args=["--config", config, "mcp"],
        # The SDK passes few variables on: without this one, a mutant in another tree would not be run.
        env={"AGENTD_CLIENT__PRINCIPAL": principal, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_a_client_reads_and_acts_as_its_principal(net: Net, era: str) -> None:
    """A client of either era lists, reads and changes; the agent audits the principal, and its policy decides."""
    net.settings["policy"] = {"default_tier": "read", "principals": {"alice": "operate"}}
    async with net.client() as bus, net.here():
        async with Client(command(net, "alice"), mode=era) as alice:
            listed = {tool.name for tool in (await alice.list_tools()).tools}
            nodes = await data(alice, "list_nodes")
            await data(alice, "start_guest", vmid=101)
            preview = await data(alice, "dry_run", tool="stop_guest", arguments={"vmid": 101})
            agents = await data(alice, "list_agents")
        async with Client(command(net, "rita"), mode=era) as rita:
            refused = await rita.call_tool("start_guest", {"vmid": 101})
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]

    assert {"find_tools", "list_guests", "start_guest", "workflow_status"} <= listed
    assert [node["node"] for node in nodes["nodes"]] == ["pve1", "pve2", "pve3"]
    assert preview["tool"] == "stop_guest"
    assert [agent["agent_id"] for agent in agents["agents"]] == ["all-pve1"]
    assert refused.is_error
    assert "rita has read" in str(refused.content)
    assert {(record.principal, record.tool) for record in chain if record.phase == "after"} == {
        ("alice", "start_guest")
    }


async def test_a_destructive_call_waits_for_another_principal(net: Net) -> None:
    """What destroys becomes a plan of the principal, and nothing is done until another one approves."""
    net.settings["policy"] = {"default_tier": "destroy"}
    async with net.client(), net.here(), Client(command(net, "alice")) as alice:
        asked = await alice.call_tool("use_tool", {"tool": "delete_guest", "arguments": {"vmid": 101, "name": "db-01"}})
        listed = await data(alice, "list_workflows", status="waiting_approval")

    assert asked.is_error
    assert "Another principal than alice must approve it" in str(asked.content)
    assert [line["requester"] for line in listed["workflows"]] == ["alice"]
    assert net.pve is not None
    assert net.pve.found(101) is not None


async def test_it_needs_no_file(net: Net, tmp_path: Path) -> None:
    """The address of NATS, the principal and its key in the environment are sufficient."""
    net.settings["policy"] = {"default_tier": "operate"}
    async with net.client(), net.here():
        environment = {
            "AGENTD_BUS__SERVERS": net.nats_url,
            "AGENTD_BUS__NKEY_FILE": str(net.directory / "keys" / "alice.nk"),
            "AGENTD_CLIENT__PRINCIPAL": "alice",
            "HOME": str(tmp_path),
        }
        server = StdioServerParameters(command=str(SCRIPTS / "agentd"), args=["mcp"], env=environment)
        async with Client(server) as alice:
            nodes = await data(alice, "list_nodes")

    assert len(nodes["nodes"]) == 3


async def test_it_ends_with_its_client_and_keeps_stdout_clean(net: Net) -> None:
    """When stdin is closed it exits with 0; stdout has had nothing but messages of the protocol."""
    opening = (
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
        '"clientInfo":{"name":"t","version":"1"}}}\n'
    )
    async with net.client(), net.here():
        server = command(net, "alice")
        done = await asyncio.to_thread(
            subprocess.run,
            [server.command, *server.args],
            input=opening,
            env=os.environ | (server.env or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert [line[:17] for line in done.stdout.splitlines()] == ['{"jsonrpc":"2.0",']


async def test_without_nats_it_says_so(net: Net) -> None:
    """Where NATS is not reachable it ends with the code 69, and the reason is on stderr only."""
    net.settings["bus"] = {"servers": ["nats://127.0.0.1:1"]}
    net.exact = False
    server = command(net, "alice")
    done = await asyncio.to_thread(
        subprocess.run,
        [server.command, *server.args],
        input="",
        env=os.environ | (server.env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (69, "")
    assert "NATS" in done.stderr
