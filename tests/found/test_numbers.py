"""A number means the same where it is read and where it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import errors

if TYPE_CHECKING:
    from proxmox_access import Steer
    from tool_bench import Bench


async def test_unlimited(tools: Bench, steered: Steer) -> None:
    """A container without `cores` has no limit: it is shown so, a limit of one core is sent, and 0 removes it."""
    config = {"rootfs": "local-lvm:vm-200-disk-0,size=8G"}
    await steered.guest(vmid=310, node="pve1", name="free", type="lxc", config=config)
    before = await tools.once("get_vm", vmid=310)
    one = await tools.once("update_container", vmid=310, cores=1)
    again = await tools.once("update_container", vmid=310, cores=0)

    assert (before.cores, one.cores, again.cores) == (None, 1, None)
    assert len(await steered.log("PUT", "/lxc/310/config$")) == 2


async def test_sockets(tools: Bench, steered: Steer) -> None:
    """Cores are those of each socket; what get_vm shows and update_vm is given back changes nothing."""
    await steered.guest(vmid=311, node="pve1", name="two", config={"sockets": 2, "cores": 2, "memory": "512"})
    seen = await tools.once("get_vm", vmid=311)
    same = await tools.once("update_vm", vmid=311, cores=seen.cores, sockets=seen.sockets, memory=seen.memory)
    more = await tools.once("update_vm", vmid=311, cores=4)

    assert (seen.cores, seen.sockets, seen.cpus) == (2, 2, 4)
    assert (same.cores, same.sockets) == (2, 2)
    assert (more.cores, more.sockets) == (4, 2)
    assert len(await steered.log("POST", "/config$")) == 1


async def test_defaults(tools: Bench, steered: Steer) -> None:
    """What Proxmox takes for an option that is not named is not sent; a zero is."""
    await steered.guest(vmid=312, node="pve1", name="bare", config={})
    rootfs = {"rootfs": "local-lvm:vm-200-disk-0,size=8G"}
    await steered.guest(vmid=313, node="pve1", name="ct", type="lxc", config=rootfs)
    await tools.once("update_vm", vmid=312, cores=1, sockets=1, onboot=False)
    await tools.once("update_container", vmid=313, swap=512)
    await tools.once("update_container", vmid=313, swap=0)

    assert await steered.log("POST", "/config$") == []
    assert [entry["params"]["swap"] for entry in await steered.log("PUT", "/config$")] == ["0"]


@pytest.mark.parametrize(
    "vmid", ["0101", "\uff11\uff10\uff11", "\u0661\u0660\u0661", "+101", "-101", "99", "1e2", "\u00b2"]
)
@pytest.mark.parametrize("tool", ["api_call", "api_destroy"])
async def test_a_vmid_is_written_in_one_way(tools: Bench, steered: Steer, tool: str, vmid: str) -> None:
    """A path names a guest by the digits 0 to 9, without zeros before them; anything else is refused and not sent."""
    sent = {"description": "x"} if tool == "api_call" else {"delete": "scsi0"}
    with pytest.raises(errors.Rejected, match="vmid: "):
        await tools(tool, path=f"/nodes/pve1/qemu/{vmid}/config", method="PUT", parameters=sent)

    assert await steered.log("PUT", "/config$") == []
