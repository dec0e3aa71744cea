"""Every model of the schema keeps its model and MAC address when another option of the card changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd_proxmox.model.option_strings import MODELS, card

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from tool_bench import Bench

MAC = "BC:24:11:00:AB:67"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("form", ["{model}={mac},bridge=vmbr0,firewall=0", "bridge=vmbr0,macaddr={mac},model={model}"])
async def test_kept(tools: Bench, sim: AsyncPve, model: str, form: str) -> None:
    """In its short and its long form a card gets a VLAN and is the same card."""
    config = {"net0": form.format(model=model, mac=MAC)}
    await sim.guest(vmid=300, node="pve1", name="odd", config=config)
    done = await tools.call("set_guest_network", vmid=300, tag=20)

    found = card(done.networks["net0"])
    assert (found["model"], found["macaddr"], found["bridge"], found["tag"]) == (model, MAC, "vmbr0", "20")


async def test_without_mac(tools: Bench, sim: AsyncPve) -> None:
    """A card that is written without a MAC address is changed too."""
    await sim.guest(vmid=300, node="pve1", name="odd", config={"net0": "e1000-82545em,bridge=vmbr0"})
    done = await tools.call("set_guest_network", vmid=300, tag=20)

    assert done.networks["net0"].startswith("e1000-82545em=")


async def test_container(tools: Bench, sim: AsyncPve) -> None:
    """A container's card keeps its hwaddr and its name."""
    net = f"name=lan0,bridge=vmbr0,hwaddr={MAC},ip=dhcp,mtu=1400,type=veth"
    config = {"rootfs": "local-lvm:vm-200-disk-0,size=8G", "net0": net}
    await sim.guest(vmid=310, node="pve1", name="ct", type="lxc", config=config)
    done = await tools.call("set_guest_network", vmid=310, tag=20)

    assert {f"hwaddr={MAC}", "name=lan0", "mtu=1400", "tag=20"} < set(done.networks["net0"].split(","))
