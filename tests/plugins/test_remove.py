"""Deleting guests against a server: the one that is meant goes, once, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from tool_bench import NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import Steer

DB: dict[str, Any] = {"vmid": 101, "name": "db-01"}


async def test_a_guest_goes_with_its_disks(tools: Bench, steered: Steer) -> None:
    """It is gone, what it was is told, and who approves sees what goes with it."""
    call = MemoryCall()
    gone = await tools.once("delete_guest", call, **DB)
    again = await tools.once("delete_guest", MemoryCall("wf.again"), **DB)

    assert await steered.found(101) is None
    assert (gone.was.name, gone.was.status) == ("db-01", "stopped")
    assert again.was is None
    (target,) = call.targets
    assert target.name == "guest/101"
    assert target.loses == ["scsi0 32 GiB", "no snapshots"]
    assert len(await steered.log("DELETE")) == 1


async def test_an_answer_that_is_lost(tools: Bench, steered: Steer) -> None:
    """It is found done, not done again."""
    await steered.rule("DELETE", "/qemu/101$", {"cut_after": True}, 1)
    await tools.until_done("delete_guest", MemoryCall(), **DB)

    assert await steered.found(101) is None
    assert len(await steered.log("DELETE")) == 1


@pytest.mark.parametrize(
    ("wish", "line"),
    [
        ({"vmid": 101, "name": "db-02"}, "is not called 'db-02'"),
        ({"vmid": 100, "name": "web-01"}, "is running: shutdown_vm or stop_vm first; nothing was done"),
    ],
)
async def test_what_is_refused(tools: Bench, steered: Steer, wish: dict[str, Any], line: str) -> None:
    """A guest that is called otherwise, or that runs, stays."""
    with pytest.raises(errors.Rejected, match=line):
        await tools.once("delete_guest", **wish)

    assert await steered.log("DELETE") == []


async def test_a_protected_guest_stays(tools: Bench, steered: Steer) -> None:
    """Proxmox' own option `protection` is believed before anything is sent."""
    await tools.once(
        "api_call", MemoryCall("wf.p"), method="PUT", path="/nodes/pve1/qemu/101/config", parameters={"protection": 1}
    )
    with pytest.raises(errors.Rejected, match="is protected"):
        await tools.once("delete_guest", **DB)

    assert await steered.log("DELETE") == []


async def test_a_workflow_discards_what_it_made(tools: Bench, steered: Steer) -> None:
    """Running or not; what another workflow made, or a person, stays."""
    await tools.once("create_vm", MemoryCall("wf-1.create"), **NEW)
    await tools.once("start_vm", MemoryCall("wf-1.start"), vmid=300)
    with pytest.raises(errors.Rejected, match="was not made by this workflow: nothing was done"):
        await tools.once("discard_guest", MemoryCall("wf-2.undo-create"), vmid=300)
    with pytest.raises(errors.Rejected, match="was not made by this workflow"):
        await tools.once("discard_guest", MemoryCall("wf-1.undo-create"), vmid=101)
    gone = await tools.once("discard_guest", MemoryCall("wf-1.undo-create"), vmid=300)

    assert gone.was.status == "running"
    assert await steered.found(300) is None
    assert await steered.found(101) is not None
