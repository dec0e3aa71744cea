"""resource_optimization on real daemons: kills, failing, refused and slow migrations; no node is ever overfilled."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.wire import subjects
from agentd.wire.messages import ToolCall, WorkflowRequest, WorkflowSignal
from approvals import wanted_approval
from harness import eventually
from pve.client import FakePve
from pve.cluster import NODES, STORAGES, vm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.wire.messages import WorkflowResponse
    from harness import Net

pytestmark = pytest.mark.system
GIB = 2**30
CROWD = range(301, 307)
"""Guests of 8 GiB that all run on pve1, of which the simulator says that each uses three quarters."""


@pytest.fixture
def pve(tmp_path: Path) -> Iterator[FakePve]:
    """Run a cluster of which one node carries everything."""
    guests = [vm(n, f"app-{n}", "pve1", memory=8192, storage="shared", status="running") for n in CROWD]
    described = tmp_path / "cluster.json"
    described.write_text(json.dumps({"name": "lab", "nodes": NODES, "storages": STORAGES, "guests": guests}))
    with FakePve(str(described), directory=tmp_path / "pve") as simulator:
        yield simulator


def places(pve: FakePve) -> dict[int, str]:
    """Return where each guest is; none may be lost or left locked."""
    guests = {guest["vmid"]: guest for guest in pve.inventory()["guests"]}
    assert set(guests) == set(CROWD)
    assert not [guest for guest in guests.values() if guest["lock"] or guest["status"] != "running"]
    return {vmid: guest["node"] for vmid, guest in guests.items()}


def count(pve: FakePve) -> dict[str, int]:
    """Return the number of guests on each node."""
    found = list(places(pve).values())
    return {node: found.count(node) for node in ("pve1", "pve2", "pve3")}


def inflow(pve: FakePve) -> int:
    """Return how many migrations to one node have run at the same time."""
    spans = [
        (task["starttime"], task["endtime"] or float("inf"), task["log"][0].rpartition("'")[0].rpartition("'")[2])
        for task in pve.tasks("qmigrate")
    ]
    return max((sum(s <= start < e and to == target for s, e, to in spans) for start, _, target in spans), default=0)


async def submit(bus: Bus, name: str, kind: str = "resource_optimization", **parameters: Any) -> WorkflowResponse:
    """Submit a workflow and wait for its end."""
    await requests.submit(bus, "tester", WorkflowRequest(kind, name, parameters))
    return await queries.follow(bus, name, lambda _: None, wait=90)


async def test_the_cluster_is_balanced(net: Net, pve: FakePve) -> None:
    """Guests leave the crowded node, one at a time to each node; a second run finds nothing to do."""
    pve.durations(qmigrate=0.3)
    async with net.client() as bus, net.here():
        first = await submit(bus, "first")
        moves = len(pve.tasks("qmigrate"))
        second = await submit(bus, "second")

    assert (first.status, second.status) == ("completed", "completed"), (first.error, second.error)
    assert max(count(pve).values()) <= 3
    plan = first.result["tasks"]["plan"]["result"]
    assert plan["before"]["gap"] > plan["after"]["gap"]
    assert all("is at" in move["reason"] for move in plan["moves"])
    assert first.result["tasks"]["move"]["result"]["failed"] == 0
    assert second.result["tasks"]["plan"]["result"]["moves"] == []
    done = first.result["tasks"]["report"]["result"]
    assert f"done: {moves} migrations" in done["text"]
    assert done["gap_after"] < done["gap_before"]
    assert second.result["tasks"]["report"]["result"]["text"].startswith("nothing was moved: nothing to do")
    assert len(pve.tasks("qmigrate")) == moves


async def test_large_plans_wait_for_approval(net: Net, pve: FakePve) -> None:
    """A plan that is larger than the settings let pass moves nothing until another principal has approved it."""
    net.settings["specialist"] = {"automatic_moves": 1}
    net.settings["policy"]["principals"] = {"boss": "destroy"}
    async with net.client() as bus, net.here():
        await requests.submit(bus, "tester", WorkflowRequest("resource_optimization", "large", {}))
        approval = await wanted_approval(bus, "large", "approve")
        assert "moves from pve1" in approval.text
        assert pve.tasks("qmigrate") == []
        await requests.signal(bus, "boss", "large", WorkflowSignal("approve", task="approve", digest=approval.digest))
        answer = await queries.follow(bus, "large", lambda _: None, wait=60)

    assert answer.status == "completed", answer.error
    assert max(count(pve).values()) <= 3


async def test_failing_and_refused_migrations(net: Net, pve: FakePve) -> None:
    """A migration that fails and one that is refused leave their guests, the others go on, and a second plan helps."""
    pve.rule("POST", "/qemu/(301|302)/migrate$", {"task_exit": "migration aborted"})
    pve.rule("POST", "/qemu/303/migrate$", {"status": 500, "reason": "can't migrate VM which uses local devices"})
    async with net.client() as bus, net.here():
        answer = await submit(bus, "failing")

    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    where = places(pve)
    assert "app-303 (303) stays on pve1: " in answer.result["tasks"]["report"]["result"]["text"]
    assert {where[vmid] for vmid in (301, 302, 303)} == {"pve1"}
    assert max(count(pve).values()) <= 4


@pytest.mark.parametrize("role", ["specialist", "mcp-bridge"])
async def test_killed_while_it_moves(net: Net, pve: FakePve, role: str) -> None:
    """A process that is killed in the middle of a drain continues: no guest is moved twice, lost or left locked."""
    pve.durations(qmigrate=0.6)
    others = [name for name in ("orchestrator", "specialist", "mcp-bridge") if name != role]
    async with net.client() as bus:
        with net.daemon(others[0]), net.daemon(others[1]):
            victim = net.daemon(role)
            await asyncio.to_thread(lambda: victim.start().ready())
            request = WorkflowRequest("resource_optimization", "drain", {"mode": "drain", "nodes": ["pve1"]})
            await requests.submit(bus, "tester", request)

            async def two_moved() -> bool:
                return len(await asyncio.to_thread(pve.tasks, "qmigrate")) >= 3

            await eventually(two_moved, "some guests have moved", 60)
            await asyncio.to_thread(victim.kill)
            with net.daemon(role):
                answer = await queries.follow(bus, "drain", lambda _: None, wait=120)

    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    assert count(pve)["pve1"] == 0
    assert len(pve.tasks("qmigrate")) == len(CROWD)


async def test_cancelled_while_it_moves(net: Net, pve: FakePve) -> None:
    """A cancelled drain completes what runs and begins nothing more: no guest is lost or left locked."""
    pve.durations(qmigrate=0.8)
    async with net.client() as bus, net.here():
        request = WorkflowRequest("resource_optimization", "stop", {"mode": "drain", "nodes": ["pve1"]})
        await requests.submit(bus, "tester", request)

        async def begun() -> bool:
            return bool(await asyncio.to_thread(pve.tasks, "qmigrate"))

        await eventually(begun, "a guest moves", 60)
        await requests.signal(bus, "tester", "stop", WorkflowSignal("cancel"))
        answer = await queries.follow(bus, "stop", lambda _: None, wait=60)

    assert answer.status == "cancelled", answer.error
    assert 0 < len(pve.tasks("qmigrate")) < len(CROWD)
    assert count(pve)["pve1"] == len(CROWD) - len(pve.tasks("qmigrate"))


async def test_a_guest_that_others_move(net: Net, pve: FakePve) -> None:
    """A guest that another client moves is left to it, and the plan goes on when it has arrived."""
    pve.durations(qmigrate=0.3)
    pve.lock(306, "migrate")
    async with net.client() as bus, net.here():
        await requests.submit(
            bus, "tester", WorkflowRequest("resource_optimization", "others", {"mode": "drain", "nodes": ["pve1"]})
        )
        await asyncio.sleep(4)
        while_locked = len(pve.tasks("qmigrate"))
        await asyncio.to_thread(pve.lock, 306, None)
        answer = await queries.follow(bus, "others", lambda _: None, wait=90)

    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    assert while_locked == 0
    assert count(pve)["pve1"] == 1


async def test_guests_under_ha(net: Net, pve: FakePve) -> None:
    """The HA manager moves its guest; a rule that keeps two guests apart is kept by the plan."""
    pve.settings(ha_lag=0.3)
    async with net.client() as bus, net.here():
        for vmid in (301, 302):
            call = ToolCall({"vmid": vmid}, f"wf.ha{vmid}")
            await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "create_ha_resource"), call, seconds=30)
        parameters = {"name": "apart", "type": "resource-affinity", "guests": [301, 302], "affinity": "negative"}
        call = ToolCall(parameters, "wf.rule")
        await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "create_ha_rule"), call, seconds=30)
        answer = await submit(bus, "ha", mode="drain", nodes=["pve1"])

    where = places(pve)
    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    assert len(pve.tasks("hamigrate")) == 2
    assert where[301] != where[302]
    assert "pve1" not in where.values()


async def test_a_guest_that_comes_back(net: Net, pve: FakePve) -> None:
    """A guest that another client moves back while its node is emptied stays there, with the reason."""
    pve.durations(qmigrate=0.4)
    async with net.client() as bus, net.here():
        await requests.submit(
            bus, "tester", WorkflowRequest("resource_optimization", "back", {"mode": "drain", "nodes": ["pve1"]})
        )

        async def arrived() -> int:
            inventory = await asyncio.to_thread(pve.inventory)
            gone = [g for g in inventory["guests"] if g["node"] != "pve1" and not g["lock"]]
            return gone[0]["vmid"] if gone else 0

        vmid = await eventually(arrived, "a guest has left", 60)
        call = ToolCall({"vmid": vmid, "target": "pve1"}, "wf.back")
        await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "migrate_guest"), call, seconds=30)
        answer = await queries.follow(bus, "back", lambda _: None, wait=120)

    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    left = answer.result["tasks"]["move"]["result"]["left"]
    assert [one["vmid"] for one in left] == [vmid]
    assert "HA or another client moved it to pve1" in left[0]["reason"]
    assert count(pve)["pve1"] == 1
    assert len(pve.tasks("qmigrate")) == len(CROWD) + 1


async def test_options_that_cannot_be_read(net: Net, pve: FakePve) -> None:
    """If Proxmox may balance the guests under HA itself, they stay, and the plan says why; the others move."""
    pve.settings(ha_lag=0.3)
    pve.rule("GET", "/cluster/options$", {"status": 403, "reason": "Permission check failed (/, Sys.Audit)"})
    async with net.client() as bus, net.here():
        for vmid in (301, 302, 303):
            call = ToolCall({"vmid": vmid}, f"wf.ha{vmid}")
            await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "create_ha_resource"), call, seconds=30)
        call = ToolCall({}, "wf.plan")
        subject = subjects.tool_call("tester", "specialist", "plan_moves")
        reply = await call_tool(bus, subject, call, seconds=60)

    reasons = {one["vmid"]: one["reason"] for one in reply.result["left"]}
    assert {move["vmid"] for move in reply.result["moves"]} <= {304, 305, 306}
    assert reply.result["moves"]
    assert all("its options were not read" in reasons[vmid] for vmid in (301, 302, 303))
    assert any("its options were not read" in warning for warning in reply.warnings)


@pytest.mark.usefixtures("pve")
async def test_a_guest_is_not_sent_back(net: Net) -> None:
    """A plan knows from the task lists which node a guest has left, and says so."""
    async with net.client() as bus, net.here():
        call = ToolCall({"vmid": 301, "target": "pve2"}, "wf.away")
        await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "migrate_guest"), call, seconds=30)
        subject = subjects.tool_call("tester", "specialist", "plan_moves")
        reply = await call_tool(bus, subject, ToolCall({}, "wf.plan"), seconds=60)

    reasons = {one["vmid"]: one["reason"] for one in reply.result["left"]}
    assert reasons[301] == "it came from pve1 lately, and is not sent back so soon"
    assert reply.result["moves"]


async def test_the_cluster_changes_before_the_approval(net: Net, pve: FakePve) -> None:
    """A plan whose guests are elsewhere when it is approved is not carried out: the error names them."""
    net.settings["specialist"] = {"automatic_moves": 0}
    net.settings["policy"]["principals"] = {"boss": "destroy"}
    async with net.client() as bus, net.here():
        await requests.submit(bus, "tester", WorkflowRequest("resource_optimization", "changed", {}))
        approval = await wanted_approval(bus, "changed", "approve")
        moved = next(vmid for vmid in CROWD if f"VM {vmid} " in approval.text or f'"vmid": {vmid}' in approval.text)
        call = ToolCall({"vmid": moved, "target": "pve3"}, "wf.away")
        await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "migrate_guest"), call, seconds=30)
        await requests.signal(bus, "boss", "changed", WorkflowSignal("approve", task="approve", digest=approval.digest))
        answer = await queries.follow(bus, "changed", lambda _: None, wait=60)

    assert answer.status == "failed"
    assert "not on the node of the plan any more; nothing was done, plan again" in str(answer.error)
    assert len(pve.tasks("qmigrate")) == 1


async def test_a_guest_that_is_deleted_while_others_move(net: Net, pve: FakePve) -> None:
    """A guest that another client deletes in the middle of a drain is left out, and the others move."""
    pve.durations(qmigrate=0.6)
    async with net.client() as bus, net.here():
        await requests.submit(
            bus, "tester", WorkflowRequest("resource_optimization", "gone", {"mode": "drain", "nodes": ["pve1"]})
        )

        async def begun() -> bool:
            return bool(await asyncio.to_thread(pve.tasks, "qmigrate"))

        await eventually(begun, "a guest moves", 60)
        there = {guest["vmid"]: guest for guest in (await asyncio.to_thread(pve.inventory))["guests"]}
        victim = next(vmid for vmid in reversed(CROWD) if not there[vmid]["lock"] and there[vmid]["node"] == "pve1")
        await asyncio.to_thread(pve.drop_guest, victim)
        answer = await queries.follow(bus, "gone", lambda _: None, wait=90)

    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    guests = {guest["vmid"]: guest["node"] for guest in pve.inventory()["guests"]}
    assert set(guests) == set(CROWD) - {victim}
    assert "pve1" not in guests.values()
    assert [one["vmid"] for one in answer.result["tasks"]["move"]["result"]["left"]] == [victim]
