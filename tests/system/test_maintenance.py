"""node_maintenance on real daemons: a node is emptied, rebooted, checked, and its guests return."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.wire.messages import WorkflowRequest, WorkflowSignal
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


@pytest.fixture
def pve(tmp_path: Path) -> Iterator[FakePve]:
    """Run a cluster with guests on two nodes, one of them stopped."""
    guests = [vm(n, f"app-{n}", "pve1", memory=4096, storage="shared", status="running") for n in (301, 302, 303)]
    guests += [vm(304, "other", "pve2", memory=4096, storage="shared", status="running")]
    guests += [vm(305, "off", "pve1", memory=4096, storage="shared")]
    described = tmp_path / "cluster.json"
    described.write_text(json.dumps({"name": "lab", "nodes": NODES, "storages": STORAGES, "guests": guests}))
    with FakePve(str(described), directory=tmp_path / "pve") as simulator:
        yield simulator


def where(pve: FakePve) -> dict[int, tuple[str, str]]:
    """Return node and status of each guest; none may be locked."""
    guests = pve.inventory()["guests"]
    assert not [guest for guest in guests if guest["lock"]]
    return {guest["vmid"]: (guest["node"], guest["status"]) for guest in guests}


async def ask(bus: Bus, name: str, **parameters: Any) -> WorkflowResponse:
    """Submit a maintenance of pve1 and wait for its end."""
    await requests.submit(bus, "tester", WorkflowRequest("node_maintenance", name, {"node": "pve1"} | parameters))
    return await queries.follow(bus, name, lambda _: None, wait=90)


async def test_a_node_is_emptied_and_filled_again(net: Net, pve: FakePve) -> None:
    """The running guests leave and return; the one that is off stays off."""
    before = where(pve)
    async with net.client() as bus, net.here():
        answer = await ask(bus, "held", hold=1)

    assert answer.status == "completed", answer.error
    tasks = answer.result["tasks"]
    assert {move["vmid"] for move in tasks["drain"]["result"]["moves"]} == {301, 302, 303}
    assert tasks["wait"]["result"]["waited"] >= 1
    assert where(pve) == before
    assert len(pve.tasks("qmigrate")) == 6


async def test_the_node_is_rebooted_after_an_approval(net: Net, pve: FakePve) -> None:
    """The reboot waits for another principal, happens once while no guest runs there, and the guests return."""
    net.settings["policy"]["principals"] = {"tester": "destroy", "boss": "destroy"}
    pve.settings(boot_lag=1, offline_delay=0.1)
    before = where(pve)
    async with net.client() as bus, net.here():
        await requests.submit(
            bus, "tester", WorkflowRequest("node_maintenance", "reboot", {"node": "pve1", "reboot": True})
        )

        async def waits() -> Any:
            for state in await queries.states(bus):  # the reboot is a workflow of its own
                for task in state.tasks.values():
                    if task.status == "waiting_approval" and task.approval is not None:
                        return state.workflow_id, task.approval
            return None

        child, approval = await eventually(waits, "the reboot waits", 60)
        there = [vmid for vmid, (node, status) in where(pve).items() if (node, status) == ("pve1", "running")]
        await requests.signal(bus, "boss", child, WorkflowSignal("approve", task="reboot", digest=approval.digest))
        answer = await queries.follow(bus, "reboot", lambda _: None, wait=90)

    assert there == []
    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    assert where(pve) == before
    assert len([request for request in pve.log("POST", "/nodes/pve1/status") if request["performed"]]) == 1


async def test_a_guest_that_cannot_leave_stops_it(net: Net, pve: FakePve) -> None:
    """If a guest stays, nothing is done to the node, and the error names the guest."""
    pve.lock(302, "backup")
    async with net.client() as bus, net.here():
        answer = await ask(bus, "stuck")

    assert answer.status == "failed"
    assert "pve1 is not empty: 302 app-302 run there" in str(answer.error)
    left = answer.result["tasks"]["plan"]["result"]["left"]
    assert [(one["vmid"], one["reason"]) for one in left] == [(302, "it is locked (backup)")]


async def test_a_node_that_is_not_well_gets_no_guests(net: Net, pve: FakePve) -> None:
    """A failed check ends the workflow with every fault, and the guests stay where they are."""
    pve.storage("local-lvm", active=False)
    async with net.client() as bus, net.here():
        answer = await ask(bus, "unwell", settle=1)

    assert answer.status == "failed"
    assert "pve1 is not well: storage local-lvm is" in str(answer.error)
    assert {node for vmid, (node, status) in where(pve).items() if status == "running"} <= {"pve2", "pve3"}
