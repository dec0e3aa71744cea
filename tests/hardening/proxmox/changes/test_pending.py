"""A change whose hotplug fails is not left for the next start, and a bridge that is not there is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import connect
from tool_bench import CONTAINER, NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.proxmox.client import Proxmox
    from proxmox_access import AsyncPve
    from pve.client import FakePve

MAC = "BC:24:11:00:AB:66"


@pytest.fixture
async def proxmox(lab: FakePve) -> AsyncIterator[Proxmox]:
    """Yield the real client, beside the tools."""
    client = connect(lab)
    yield client
    await client.close()


async def test_reverted(tools: Bench, sim: AsyncPve, proxmox: Proxmox) -> None:
    """A value that Proxmox kept as pending when its hotplug failed is reverted, and the error says so."""
    net = f"virtio={MAC},bridge=vmbr9"
    await sim.guest(vmid=300, node="pve1", name="odd", status="running", config={"net0": net})
    with pytest.raises(errors.TaskFailed, match=r"hotplug problem.*net0 of VM 300 .* is as before"):
        await tools.call("set_guest_network", vmid=300, tag=5)

    entries = await proxmox.get("/nodes/pve1/qemu/300/pending")
    assert [entry for entry in entries if "pending" in entry] == []
    assert (await proxmox.get("/nodes/pve1/qemu/300/config"))["net0"] == net


async def test_the_inverse_restores_the_live_value(tools: Bench, proxmox: Proxmox) -> None:
    """A pending value of a card that another client left behind is named, and not taken for the one to put back."""
    was = (await proxmox.get("/nodes/pve1/qemu/100/config"))["net0"]
    with pytest.raises(errors.AgentdError):
        await proxmox.put("/nodes/pve1/qemu/100/config", net0=was.replace("vmbr0", "vmbr9"))
    call = MemoryCall()
    await tools.call("set_guest_network", call, vmid=100, bridge="vmbr0", tag=5)

    assert call.undo is not None
    assert call.undo[1]["options"] == {"net0": was}
    assert "vmbr9" in call.warnings[0]


async def test_interfaces_of_a_node(tools: Bench, sim: AsyncPve) -> None:
    """Proxmox keeps its file of changes after a change was taken back: it is dropped, unless it says something else."""
    made = MemoryCall("wf.make")
    before = await tools.call("list_interfaces", node="pve1")
    await tools.call("set_interface", made, node="pve1", iface="vmbr7", type="bridge")
    assert made.undo is not None
    after = await tools.call(made.undo[0], MemoryCall("wf.undo"), **made.undo[1])
    await tools.call("set_interface", MemoryCall("wf.other"), node="pve1", iface="vmbr8", type="bridge")
    await tools.call("set_interface", MemoryCall("wf.again"), node="pve1", iface="vmbr7", type="bridge")
    other = await tools.call(made.undo[0], MemoryCall("wf.undone"), **made.undo[1])

    assert (after.pending, after.digest, after.interfaces) == ([], "", before.interfaces)
    assert any("vmbr8" in line for line in other.pending)
    assert [entry["path"] for entry in await sim.log("DELETE", "/network$")] == ["/nodes/pve1/network"]


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [
        ("set_guest_network", {"vmid": 100, "bridge": "vmbr9"}),
        ("set_guest_network", {"vmid": 101, "bridge": "vmbr9"}),
        ("set_guest_network", {"vmid": 200, "bridge": "vmbr9"}),
        ("create_vm", {**NEW, "bridge": "vmbr9"}),
        ("create_container", {**CONTAINER, "bridge": "vmbr9"}),
    ],
)
async def test_bridge(tools: Bench, sim: AsyncPve, tool: str, parameters: dict[str, Any]) -> None:
    """A bridge that the node does not have is refused by its name, with those that there are; nothing is sent."""
    with pytest.raises(errors.Rejected, match=r"bridge: there is no bridge 'vmbr9' on pve\d.*it has vmbr0"):
        await tools.call(tool, **parameters)

    assert await sim.log("POST") == await sim.log("PUT") == []
