"""Network cards of guests: changed in parts, kept by their MAC address, and put back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import add_bridge, without_hotplug
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from pve.client import FakePve

MAC = "BC:24:11:00:00:65"


@pytest.fixture(autouse=True)
async def bridges(lab: FakePve) -> None:
    """Give the nodes a second bridge."""
    await add_bridge(lab, "vmbr1")


async def test_changed_and_back(tools: Bench, sim: AsyncPve) -> None:
    """Only what is given changes, once; the inverse restores the former value."""
    before = (await tools.call("get_guest", vmid=101)).networks
    wanted: dict[str, Any] = {
        "vmid": 101,
        "tag": 5,
        "firewall": True,
        "connected": False,
        "rate": 12.5,
        "bridge": "vmbr1",
    }
    call = MemoryCall()
    done = [await tools.call("set_guest_network", item, **wanted) for item in (call, MemoryCall())][1]
    assert call.undo is not None
    back = await tools.call(call.undo[0], **call.undo[1])

    assert done.networks["net0"] == f"virtio={MAC},bridge=vmbr1,firewall=1,link_down=1,rate=12.5,tag=5"
    assert back.networks == before
    assert len(await sim.log("POST", "/config$")) == 2


async def test_add_and_remove(tools: Bench) -> None:
    """A VM gets a second card, of a model, and loses it; with its MAC address it is the same again."""
    call, gone = MemoryCall(), MemoryCall()
    made = await tools.call("set_guest_network", call, vmid=101, card="net1", bridge="vmbr0", model="e1000", mac=MAC)
    left = [await tools.call("delete_guest_network", item, vmid=101, card="net1") for item in (gone, MemoryCall())][1]
    assert gone.undo is not None
    again = await tools.call(gone.undo[0], **gone.undo[1])

    assert call.undo == ("delete_guest_network", {"vmid": 101, "card": "net1"})
    assert made.networks["net1"] == f"e1000={MAC},bridge=vmbr0"
    assert list(left.networks) == ["net0"]
    assert again.networks == made.networks


async def test_container(tools: Bench, sim: AsyncPve) -> None:
    """A container's card has addresses; a new one is called after its number."""
    call = MemoryCall()
    await tools.call("set_guest_network", call, vmid=201, ip="192.0.2.5/24", gateway="192.0.2.1")
    made = await tools.call("set_guest_network", vmid=201, card="net1", bridge="vmbr1", tag=7)
    back = await tools.call("set_guest_network", vmid=201, ip="dhcp")

    assert call.undo is not None
    assert "ip=dhcp" in call.undo[1]["options"]["net0"].split(",")
    assert "name=eth1" in made.networks["net1"].split(",")
    assert {"ip=192.0.2.5/24", "gw=192.0.2.1"} < set(made.networks["net0"].split(","))
    assert "gw=" not in back.networks["net0"]
    assert "hwaddr=BC:24:11:01:00:C9" in back.networks["net0"].split(",")
    assert len(await sim.log("PUT")) == 3


async def test_running(tools: Bench, lab: FakePve) -> None:
    """What a running VM applies only at its next start is reported."""
    await without_hotplug(lab, 100)
    call = MemoryCall()
    await tools.call("set_guest_network", call, vmid=100, tag=9)

    assert call.warnings == ["VM 100 'web-01' on pve1 takes net0 on at its next start"]


@pytest.mark.parametrize(
    ("wrong", "reported"),
    [
        ({"card": "net3"}, "bridge: VM 101 'db-01' on pve1 has no net3 yet, and a new one needs a bridge; nothing was"),
        ({"ip": "dhcp"}, "ip: VM 101 'db-01' on pve1 has none in its network cards; leave it out; nothing was done"),
        ({"vmid": 201, "model": "virtio"}, "model: container 201 'proxy' on pve2 has none in its network cards"),
        ({"tag": 1, "digest": "0" * 40}, "was changed since it was read"),
    ],
)
async def test_wrong(tools: Bench, sim: AsyncPve, wrong: dict[str, Any], reported: str) -> None:
    """What a guest cannot have, and another configuration than the one that was read, is refused; nothing is sent."""
    with pytest.raises(errors.AgentdError, match=reported):
        await tools.call("set_guest_network", **{"vmid": 101, **wrong})
    with pytest.raises(errors.InvalidMessage, match="bridge"):
        tools.tools["set_guest_network"].parse({"vmid": 101, "bridge": "vmbr0,tag=1"})
    assert await sim.log("POST", "/config$") == await sim.log("PUT", "/config$") == []


@pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
async def test_lost(tools: Bench, sim: AsyncPve, fault: str) -> None:
    """A change with a lost answer or request is settled by reading the state."""
    await sim.rule("POST", "/config$", {fault: True}, 1)
    done = await tools.until_done("set_guest_network", MemoryCall(), vmid=101, card="net1", bridge="vmbr0")

    assert sorted(done.networks) == ["net0", "net1"]


async def test_whole(tools: Bench, sim: AsyncPve) -> None:
    """All options are shown as they are written, secrets as stars, texts in one line."""
    config = {"cipassword": "geheim", "description": "a\x1b[31m\nb", "cores": 2}
    await sim.guest(vmid=300, node="pve1", name="odd", config=config)
    shown = await tools.call("get_guest_config", vmid=300)

    assert shown.options["cipassword"] == "***"
    assert (shown.options["description"], shown.options["cores"]) == ("a [31m b", "2")
    assert len(shown.digest) == 40


async def test_options(tools: Bench, sim: AsyncPve) -> None:
    """Options are written whole and removed, once, and put back by the inverse; a key in both lists is refused."""
    before = (await sim.found(101))["config"]
    wanted: dict[str, Any] = {"vmid": 101, "options": {"startup": "order=3"}, "remove": ["net0"]}
    call = MemoryCall()
    for item in (call, MemoryCall()):
        await tools.call("update_guest_options", item, **wanted)
    between = (await sim.found(101))["config"]
    assert call.undo is not None
    await tools.call(call.undo[0], MemoryCall("wf.back"), **call.undo[1])

    assert (between["startup"], "net0" in between) == ("order=3", False)
    assert (await sim.found(101))["config"] == before
    with pytest.raises(errors.Rejected, match="net0: name it in `options` or in `remove`"):
        await tools.call("update_guest_options", vmid=101, options={"net0": "x"}, remove=["net0"])
