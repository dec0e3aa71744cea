"""The built-in workflows for the care of guests, on real daemons: each waits for its approval and does its work."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.wire import subjects
from agentd.wire.messages import ToolCall, WorkflowRequest, WorkflowSignal
from approvals import wanted_approval
from harness import eventually
from plugins.download_server import IMAGE, serving

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.wire.messages import WorkflowResponse
    from harness import Net

pytestmark = pytest.mark.system


@pytest.fixture
def net(net: Net) -> Net:
    """Let tester ask and boss approve."""
    net.settings["policy"] = {"principals": {"tester": "exec", "boss": "exec"}}
    return net


async def approved(bus: Bus, kind: str, **parameters: Any) -> WorkflowResponse:
    """Submit a workflow, approve whatever waits, and return its answer."""
    await requests.submit(bus, "tester", WorkflowRequest(kind, kind, parameters))

    async def step() -> WorkflowResponse | None:
        state = {state.workflow_id: state for state in await queries.states(bus)}.get(kind)
        for name, task in (state.tasks if state else {}).items():
            if task.status == "waiting_approval" and task.approval is not None:
                signal = WorkflowSignal("approve", task=name, digest=task.approval.digest)
                await requests.signal(bus, "boss", kind, signal)
        return await queries.answer_of(bus, kind)

    return await eventually(step, f"{kind} ends", 90)


async def test_snapshot_cleanup(net: Net) -> None:
    """Old snapshots are found and deleted after the approval."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        for vmid in (100, 101):
            call = ToolCall({"vmid": vmid, "name": "before"}, f"wf.{vmid}")
            await call_tool(bus, subjects.tool_call("tester", "mcp-proxmox", "create_snapshot"), call, seconds=60)
        answer = await approved(bus, "snapshot_cleanup", days=0)

    assert answer.status == "completed", answer.error
    assert [(net.pve.found(vmid) or {})["snapshots"] for vmid in (100, 101)] == [[], []]


@pytest.mark.parametrize("code", [0, 1])
async def test_guest_update(net: Net, code: int) -> None:
    """A command that succeeds leaves the guest as it made it; one that fails is rolled back to the snapshot."""
    assert net.pve is not None
    pve = net.pve
    agent = {"exec": {"upgrade": {"out-data": "", "exitcode": code}}}
    pve.guest(vmid=330, node="pve1", name="app", status="running", config={"agent": "1"}, agent=agent)
    async with net.client() as bus, net.here():
        answer = await approved(
            bus, "guest_update", vmid=330, guest="app", command=["upgrade"], seconds=1, drop_snapshot=code == 0
        )

    tasks = answer.result["tasks"]
    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    assert (tasks["restore"]["status"], tasks["drop"]["status"]) == (
        ("skipped", "completed") if code == 0 else ("completed", "skipped")
    )
    assert len(pve.tasks("qmrollback")) == code
    assert (pve.found(330) or {})["status"] == "running"


async def test_a_command_that_is_not_approved(net: Net) -> None:
    """A command that an approver refuses is not run, and the guest is not rolled back."""
    assert net.pve is not None
    pve = net.pve
    pve.guest(vmid=330, node="pve1", name="app", status="running", config={"agent": "1"}, agent={"exec": {}})
    async with net.client() as bus, net.here():
        parameters = {"vmid": 330, "guest": "app", "command": ["upgrade"], "seconds": 1}
        await requests.submit(bus, "tester", WorkflowRequest("guest_update", "refused", parameters))
        approval = await wanted_approval(bus, "refused", "act")
        signal = WorkflowSignal("reject", task="act", digest=approval.digest, reason="not today")
        await requests.signal(bus, "boss", "refused", signal)
        answer = await queries.follow(bus, "refused", lambda _: None, wait=60)

    assert answer.status == "completed_with_warnings", answer.error
    assert answer.result["tasks"]["restore"]["status"] == "skipped"
    assert pve.tasks("qmrollback") == []


async def test_right_sizing(net: Net) -> None:
    """Sizes are proposed; they are set only if that is asked for and approved."""
    assert net.pve is not None
    pve = net.pve
    pve.guest(vmid=331, node="pve1", name="idle", status="running", config={"memory": "4096", "cores": "4"})
    async with net.client() as bus, net.here():
        await requests.submit(bus, "tester", WorkflowRequest("right_sizing", "propose", {}))
        proposed = await queries.follow(bus, "propose", lambda _: None, wait=60)
        before = [request for request in pve.log("POST") if request["path"].endswith("/331/config")]
        applied = await approved(bus, "right_sizing", apply=True)

    assert (proposed.status, applied.status) == ("completed", "completed"), (proposed.error, applied.error)
    changed = [request["params"] for request in pve.log() if request["path"].endswith("/331/config")]
    assert before == []
    assert [str(params["cores"]) for params in changed if "cores" in params] == ["1"]  # pending: the VM runs


async def test_template_build(net: Net) -> None:
    """A template is made of an image whose checksum is right; with a wrong one nothing is left."""
    assert net.pve is not None
    pve = net.pve
    pve.storage("local", content="iso,vztmpl,backup,snippets,import")
    right = hashlib.sha256(IMAGE).hexdigest()
    with serving() as address:
        wanted = {"name": "debian-13", "node": "pve1", "storage": "local-lvm", "url": f"{address}/image.iso"}
        async with net.client() as bus, net.here():
            answer = await approved(bus, "template_build", checksum=right, **wanted)
    made = [guest for guest in pve.inventory()["guests"] if guest["name"] == "debian-13"]

    assert answer.status in {"completed", "completed_with_warnings"}, answer.error
    assert [guest["config"].get("template") for guest in made] == [1]
