"""A guest whose name the cluster's list does not know yet is found by it: unknown is not absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import errors
from tool_bench import NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import Steer


async def test_after_create(tools: Bench, steered: Steer) -> None:
    """A VM that was just made is found, started, listed and deleted by its name."""
    await steered.settings(stat_lag=10)
    await tools.once("create_vm", MemoryCall("wf.c"), **NEW)
    found = await tools.once("get_vm", name="app-01")
    listed = await tools.once("list_vms", name="app-01", status="stopped")
    started = await tools.once("start_vm", MemoryCall("wf.s"), name="app-01")
    await tools.once("stop_vm", MemoryCall("wf.p"), name="app-01")
    call = MemoryCall("wf.d")
    await tools.once("delete_guest", call, vmid=300, name="app-01")

    assert (found.vmid, listed.total, started.status) == (300, 1, "running")
    assert "'app-01'" in call.targets[0].title


async def test_after_a_restart_of_pvestatd(tools: Bench, steered: Steer) -> None:
    """Every guest of a node is found by its name after pvestatd was restarted there, containers too."""
    await steered.settings(stat_lag=10)
    await tools.once("restart_service", MemoryCall("wf.r"), node="pve1", service="pvestatd")
    names = {guest.name for guest in (await tools.once("list_vms", node="pve1")).guests}
    template = await tools.once("make_template", MemoryCall("wf.t"), vmid=101, name="db-01")

    assert names == {"web-01", "db-01", "dns"}
    assert (await tools.once("get_vm", name="dns")).vmid == 200
    assert template.template
    assert {line.name for line in (await tools.once("list_templates")).templates} == {"debian-12", "db-01"}


async def test_another_name(tools: Bench, steered: Steer) -> None:
    """A guest that has another name is refused, though the list does not know its name."""
    await steered.settings(stat_lag=10)
    await tools.once("create_vm", MemoryCall("wf.c"), **NEW)
    with pytest.raises(errors.Rejected, match="'app-01' on pve2 is not called 'web-01'"):
        await tools.once("delete_guest", vmid=300, name="web-01")
    with pytest.raises(errors.NotFound, match="no guest 'nope'"):
        await tools.once("get_vm", name="nope")


async def test_not_to_be_known(tools: Bench, steered: Steer) -> None:
    """Where the node does not answer, a name is unknown, not absent, and nothing is done."""
    await steered.settings(stat_lag=60)
    await tools.once("restart_service", MemoryCall("wf.r"), node="pve1", service="pvestatd")
    await steered.rule("GET", "/nodes/pve1/(qemu|lxc)$", {"status": 596})
    with pytest.raises(errors.ProxmoxUnavailable, match="whether a guest is called 'web-01' is not known"):
        await tools.once("get_vm", name="web-01")
    with pytest.raises(errors.ProxmoxUnavailable, match=r"the name of VM 101 on pve1 is not known now"):
        await tools.once("delete_guest", vmid=101, name="db-01")

    assert await steered.log("DELETE") == []
