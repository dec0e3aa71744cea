"""The specialist's tools over the network: diagnoses, places and sizes, as they are for a user."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.client.tool_calls import call_tool
from agentd.wire import subjects
from agentd.wire.messages import ToolCall

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Net

pytestmark = pytest.mark.system


async def ask(bus: Bus, tool: str, service: str = "specialist", **parameters: Any) -> Any:
    """Call a tool and return its result."""
    call = ToolCall(parameters=parameters, key=f"wf.{tool}-{len(str(parameters))}")
    return (await call_tool(bus, subjects.tool_call("tester", service, tool), call, seconds=60)).result


async def test_diagnoses(net: Net) -> None:
    """A failed start leads to its cause, a lock without a task to its advice, an alert to what it names."""
    assert net.pve is not None
    pve = net.pve
    pve.rule("POST", "/101/status/start$", {"task_exit": "bridge 'vmbr7' does not exist"})
    async with net.client() as bus, net.here():
        with pytest.raises(errors.TaskFailed):
            await ask(bus, "start_guest", "mcp-proxmox", vmid=101)
        failed = await ask(bus, "diagnose", vmid=101)
        upid = pve.tasks("qmstart")[-1]["upid"]
        task = await ask(bus, "diagnose", upid=upid)
        await asyncio.to_thread(pve.lock, 100, "snapshot")
        locked = await ask(bus, "diagnose", vmid=100)
        await asyncio.to_thread(lambda: pve.storage("shared", active=False))
        changes = await ask(bus, "list_changes", hours=1)
        alert = await ask(bus, "diagnose", alert="storage shared on pve2 is not active")
        with pytest.raises(errors.Rejected, match="name one of"):
            await ask(bus, "diagnose")

    for found in (failed, task):
        assert found["verdict"] == "a network bridge of the guest does not exist on the node"
        assert "vmbr7" in found["causes"][0]["evidence"][0]["text"]
    assert changes["counts"]["failed"] == 1
    assert "qmstart on pve1 failed: bridge 'vmbr7' does not exist" in changes["text"].splitlines()[1]
    assert locked["verdict"] == "the guest is locked (snapshot), and no task runs that could hold the lock"
    assert alert["verdict"] == "a storage that the guest needs is not available on the node"
    assert alert["facts"]["node"] == "pve2"


async def test_places_and_sizes(net: Net) -> None:
    """Nodes are proposed with reasons, rules of tags hold for new VMs, and idle guests get smaller sizes."""
    assert net.pve is not None
    pve = net.pve
    config = {"memory": "4096", "cores": "4", "tags": "agentd-apart-x"}
    gpu = {"memory": "1024", "hostpci0": "0000:01:00.0"}
    old = {"memory": "1024", "cpu": "x86-64-v3"}
    pve.guest(vmid=312, node="pve1", name="gpu", status="running", config=gpu)
    pve.guest(vmid=313, node="pve1", name="modern", status="stopped", config=old)
    pve.guest(vmid=314, node="pve2", name="image", status="stopped", config=gpu, template=True)
    status = {"data": {"cpuinfo": {"model": "Xeon E5-2670", "flags": "ssse3 sse4_1 sse4_2 popcnt aes avx"}}}
    pve.rule("GET", "/nodes/pve3/status$", {"status": 200, "body": status})
    pve.guest(vmid=310, node="pve2", name="a", status="running", config=config)
    pve.guest(vmid=311, node="pve1", name="b", status="running", config=config)
    async with net.client() as bus, net.here():
        placed = await ask(bus, "place_guest", memory=4096, cores=2, disk=8, tags=["agentd-apart-x"])
        moved = await ask(bus, "place_guest", vmid=310)
        fixed = await ask(bus, "place_guest", vmid=312)
        modern = await ask(bus, "place_guest", vmid=313)
        cloned = await ask(bus, "place_guest", template=314, disk=8)
        with pytest.raises(errors.Rejected, match="there is no template 999"):
            await ask(bus, "place_guest", template=999)
        held = ToolCall({"node": "pve1", "hold": 1}, "wf.held")
        subject = subjects.tool_call("tester", "specialist", "await_node")
        crowded = await call_tool(bus, subject, held, seconds=30)
        valid = await ask(bus, "validate_vm_parameters", name="c", memory=2048, tags=["agentd-apart-x"])
        huge = await ask(bus, "place_guest", memory=900_000)
        sizes = await ask(bus, "propose_sizes")

    assert placed["best"] == "pve3"
    against = {one["node"]: one["con"] for one in placed["candidates"] if not one["fits"]}
    assert set(against) == {"pve1", "pve2"}
    assert "the tag agentd-apart-x keeps 0, 310, 311 apart" in against["pve1"]
    assert (placed["candidates"][0]["storage"], placed["candidates"][0]["bridge"]) == ("shared", "vmbr0")
    assert {one["node"]: one["fits"] for one in moved["candidates"]} == {"pve1": False, "pve2": True, "pve3": True}
    assert {one["node"]: one["fits"] for one in fixed["candidates"]} == {"pve1": True, "pve2": False, "pve3": False}
    assert "uses devices of pve1: hostpci0" in str(fixed["candidates"][-1]["con"])
    assert {one["node"]: one["fits"] for one in modern["candidates"]} == {"pve1": True, "pve2": True, "pve3": False}
    assert "x86-64-v3 needs abm, avx2, bmi1" in str(modern["candidates"][-1]["con"])
    assert {one["node"] for one in cloned["candidates"] if one["fits"]} == {"pve2"}
    assert "uses devices of pve2: hostpci0" in str(cloned["candidates"])
    assert crowded.result["waited"] >= 1
    assert any("pve1 was to be empty, and " in warning and "312 gpu" in warning for warning in crowded.warnings)
    assert valid["node"] == "pve3"
    assert (huge["best"], huge["text"]) == ("", "none of 3 nodes can take it")
    assert {one["vmid"] for one in sizes["proposals"]} >= {310, 311}
    assert all(
        "of 4096 MiB" in one["reason"] or "cores" in one["reason"] for one in sizes["proposals"] if one["vmid"] > 300
    )
