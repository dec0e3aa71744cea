"""The role `cloud` on a network: each change once in spite of kills, tiers, no secret in anything that is stored."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.errors import Denied, PermanentError, TemporaryError
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import ToolCall, ToolReply, WorkflowRequest
from cloud.client import KEY
from harness import until
from plugins.cloud.conftest import IMAGE, SECRET, ZONE

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from cloud.client import Moto
    from harness import Net

SERVICE = "mcp-cloud"
NODE: dict[str, Any] = {"name": "web1", "size": "t3.micro", "image": IMAGE, "location": ZONE}


@pytest.fixture
def net_with_cloud(quiet_net: Net, lab: dict[str, Any]) -> Net:
    """Return a network whose instance `cloud` serves the account `lab`."""
    quiet_net.settings["cloud"] = {"accounts": {"lab": lab}}
    quiet_net.settings["instances"]["cloud"] = {"roles": ["cloud"]}
    return quiet_net


async def called(bus: Bus, tool: str, key: str = "", *, dry_run: bool = False, **parameters: Any) -> ToolReply:
    """Call a tool of the service as `tester`."""
    call = ToolCall(
        {"account": "lab", **parameters},
        key=key,
        principal="tester",
        attempt=1,
        deadline=now() + timedelta(seconds=80),
        dry_run=dry_run,
    )
    return await call_tool(bus, subjects.tool_call("tester", SERVICE, tool), call, seconds=80)


async def test_over_the_bus(net_with_cloud: Net, moto: Moto) -> None:
    """A dry run creates nothing, a call creates one node, again it is the same result; deletion needs more."""
    async with net_with_cloud.client() as bus, net_with_cloud.here("cloud"):
        preview = await called(bus, "create_cloud_node", "w.0", dry_run=True, **NODE)
        assert "RunInstances" not in moto.seen()
        made = await called(bus, "create_cloud_node", "w.1", **NODE)
        again = await called(bus, "create_cloud_node", "w.1", **NODE)
        with pytest.raises(Denied, match="destroy"):
            await called(bus, "delete_cloud_node", "w.2", node="web1")

    assert "0.0104 an hour" in str(preview.result["targets"])
    assert made.result == again.result
    assert made.result["state"] == "running"
    assert moto.seen().count("RunInstances") == 1
    assert "TerminateInstances" not in moto.seen()


async def test_protected(net_with_cloud: Net, moto: Moto) -> None:
    """[policy] protected names objects of an account by their name."""
    net_with_cloud.settings["policy"] |= {"protected": ["cloud/lab/web*"], "protected_min_tier": "operate"}
    async with net_with_cloud.client() as bus, net_with_cloud.here("cloud"):
        with pytest.raises(Denied, match="protected"):
            await called(bus, "create_cloud_node", "p.1", **NODE)

    assert "RunInstances" not in moto.seen()


@pytest.mark.parametrize(("action", "point"), [("RunInstances", ""), ("", "after-claim"), ("", "after-post")])
async def test_killed_on_the_way(net_with_cloud: Net, moto: Moto, tmp_path: Path, action: str, point: str) -> None:
    """A daemon killed between request and answer, before or after it: the retry finds the node, and there is one."""
    (tmp_path / "reached").mkdir()
    crash = {"AGENTD_TEST_CRASH": point, "AGENTD_TEST_CRASH_DIR": str(tmp_path / "reached")} if point else {}
    async with net_with_cloud.client() as bus:
        first = net_with_cloud.daemon("cloud")
        await asyncio.to_thread(lambda: first.start(**crash))
        await asyncio.to_thread(first.ready)
        if action:
            await asyncio.to_thread(moto.fault, action, "hold", seconds=15)
        asked = asyncio.create_task(called(bus, "create_cloud_node", "wf.t.k", **NODE))
        if action:
            await asyncio.to_thread(until, lambda: action in moto.seen(), action, 40)
            await asyncio.to_thread(first.kill)
        else:
            assert await asyncio.to_thread(first.wait, 40) == -9
        with net_with_cloud.daemon("cloud"):
            reply = await asked
            nodes = await called(bus, "list_cloud_nodes", "r.1")

    assert reply.status == "completed"
    assert [node["mark"] for node in nodes.result["nodes"]] == ["tester=wf.t.k"]
    assert moto.seen().count("RunInstances") == 1


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory but the secret's own."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "secret")
    return {str(path): path.read_bytes() for path in files}


async def test_no_secret_is_stored(net_with_cloud: Net, moto: Moto, tmp_path: Path) -> None:
    """After calls that worked and calls that failed, the secret is in no log, record or message, the key in no log."""
    net_with_cloud.settings["instances"]["cloud"] = {"roles": ["cloud"]}
    async with net_with_cloud.client() as bus:
        with net_with_cloud.daemon("cloud") as daemon:
            await called(bus, "create_cloud_node", "s.1", **NODE)
            moto.fault("DescribeInstances", "error")
            await called(bus, "list_cloud_nodes", "r.1")
            moto.fault("RunInstances", "lose")
            await called(bus, "create_cloud_node", "s.2", **NODE | {"name": "web2"})
        log = await asyncio.to_thread(daemon.log.read_text)
    stored = await asyncio.to_thread(contents, tmp_path)

    assert any("AI_EFFECTS" in path for path in stored)
    assert [path for path, content in stored.items() if SECRET.encode() in content] == []
    assert KEY not in log


async def test_a_vm_deployment_to_a_cloud_account(net_with_cloud: Net, moto: Moto) -> None:
    """The workflow vm_deployment creates a node in the account that it names."""
    net_with_cloud.settings["instances"]["both"] = {"roles": ["orchestrator", "cloud"]}
    async with net_with_cloud.client() as bus, net_with_cloud.here("both"):
        request = WorkflowRequest("vm_deployment", "deploy", {"account": "lab", **NODE})
        await requests.submit(bus, "tester", request)
        answer = await queries.follow(bus, "deploy", lambda _: None, wait=80)

    assert answer.status == "completed", answer
    assert answer.result["tasks"]["create_cloud_node"]["result"]["mark"] == "deploy.create_cloud_node"
    assert moto.seen().count("RunInstances") == 1


async def test_without_the_extra(net_with_cloud: Net, tmp_path: Path) -> None:
    """A daemon without apache-libcloud starts, shows why it cannot work, and answers each call with that reason."""
    stub = tmp_path / "without"
    (stub / "libcloud").mkdir(parents=True)
    (stub / "libcloud" / "__init__.py").write_text("raise ImportError('no libcloud here')\n")
    async with net_with_cloud.client() as bus:
        daemon = net_with_cloud.daemon("cloud", PYTHONPATH=str(stub))
        with daemon, pytest.raises((PermanentError, TemporaryError), match=r"agentd\[cloud\]"):
            await called(bus, "list_cloud_nodes", "r.1")
        log = await asyncio.to_thread(daemon.log.read_text)

    assert "agentd[cloud]" in log
