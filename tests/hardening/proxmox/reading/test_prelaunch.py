"""A process that a backup has started is not a running guest: Proxmox lists it as running, with qmpstatus prelaunch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agentd import errors
from agentd_proxmox.model import guest_model
from tool_bench import Bench, MemoryCall, until

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


async def _backup(tools: Bench, sim: AsyncPve, vmid: int = 101) -> asyncio.Task[object]:
    """Begin a backup of a stopped VM and return when Proxmox lists the VM as running."""
    await sim.durations(vzdump=3)
    backup = asyncio.ensure_future(tools.call("create_backup", MemoryCall("wf.backup"), vmid=vmid, storage="local"))

    async def begun() -> bool:
        return bool((await sim.found(vmid))["status"] == "running")

    await until(begun)
    return backup


async def test_it_is_not_running(tools: Bench, sim: AsyncPve) -> None:
    """A stopped VM stays stopped for every tool while it is backed up, and its lock says why."""
    backup = await _backup(tools, sim)
    shown = await tools.call("get_guest", vmid=101)
    listed = {guest.vmid: guest for guest in (await tools.call("list_guests")).guests}
    running = await tools.call("list_guests", status="running")
    report = await tools.call("check_migration", vmid=101, target="pve2")
    usage = await tools.call("list_guests", status="stopped", node="pve1")

    assert (shown.status, shown.lock) == ("stopped", "backup")
    assert (listed[101].status, listed[101].lock) == ("stopped", "backup")
    assert 101 not in {guest.vmid for guest in running.guests}
    assert 101 in {guest.vmid for guest in usage.guests}
    assert report.running is False
    await backup


async def test_start_is_sent(tools: Bench, sim: AsyncPve) -> None:
    """A start during the backup of a stopped VM is sent, and the VM still runs after the backup."""
    backup = await _backup(tools, sim)
    call = MemoryCall("wf.start")
    started = await tools.call("start_guest", call, vmid=101)
    await backup

    assert (started.status, call.acted, call.undo) == ("running", 1, ("shutdown_guest", {"vmid": 101}))
    assert (await tools.call("get_guest", vmid=101)).status == "running"


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        ("reboot_guest", "only a running guest"),
        ("reset_vm", "only a running VM"),
        ("suspend_vm", "only a running VM"),
    ],
)
async def test_only_a_running_guest(tools: Bench, sim: AsyncPve, tool: str, text: str) -> None:
    """What only a running guest can do is refused once the backup is over, and nothing is sent."""
    backup = await _backup(tools, sim)
    with pytest.raises((errors.Rejected, errors.GuestLocked), match=f"{text}|locked"):
        await tools.call(tool, MemoryCall("wf.other"), vmid=101)
    await backup

    assert [entry for entry in await sim.log("POST") if "/status/" in entry["path"]] == []


async def test_stop_and_shutdown(tools: Bench, sim: AsyncPve) -> None:
    """A VM that is off needs no stop: the process that the backup has started is left to the backup."""
    backup = await _backup(tools, sim)
    for tool in ("stop_guest", "shutdown_guest"):
        assert (await tools.call(tool, MemoryCall(f"wf.{tool}"), vmid=101)).status == "stopped"
    await backup

    assert [entry for entry in await sim.log("POST") if "/status/" in entry["path"]] == []


async def test_a_running_guest_in_a_backup_runs(tools: Bench, sim: AsyncPve) -> None:
    """A running VM is listed as running while it is backed up."""
    await sim.durations(vzdump=2)
    backup = asyncio.ensure_future(tools.call("create_backup", vmid=100, storage="local"))
    await until(lambda: _locked(sim))
    listed = {guest.vmid: guest.status for guest in (await tools.call("list_guests")).guests}

    assert ((await tools.call("get_guest", vmid=100)).status, listed[100]) == ("running", "running")
    await backup


async def _locked(sim: AsyncPve) -> bool:
    return bool((await sim.found(100))["lock"] == "backup")


async def test_start_of_a_paused_vm(tools: Bench, sim: AsyncPve) -> None:
    """A paused VM does not run: start_guest names resume_vm and does not claim that it runs."""
    await tools.call("suspend_vm", MemoryCall("wf.pause"), vmid=100)
    with pytest.raises(errors.Rejected, match="paused: resume_vm"):
        await tools.call("start_guest", MemoryCall("wf.start"), vmid=100)

    assert (await tools.call("get_guest", vmid=100)).status == "paused"
    assert len(await sim.log("POST")) == 1


@pytest.mark.parametrize(
    ("status", "state", "runs"),
    [
        ({"status": "running", "qmpstatus": "running"}, "running", True),
        ({"status": "running"}, "running", True),
        ({"status": "running", "qmpstatus": "running", "lock": "backup"}, "running", True),
        ({"status": "running", "qmpstatus": "prelaunch", "lock": "backup"}, "stopped", False),
        ({"status": "running", "qmpstatus": "prelaunch"}, "prelaunch", True),
        ({"status": "running", "qmpstatus": "paused"}, "paused", True),
        ({"status": "running", "qmpstatus": "io-error"}, "io-error", True),
        ({"status": "stopped", "qmpstatus": "stopped"}, "stopped", False),
        ({"status": "stopped", "lock": "suspended"}, "suspended", False),
        ({}, "unknown", False),
    ],
)
def test_state(status: dict[str, str], state: str, *, runs: bool) -> None:
    """One function says what a guest does, from its status, its qmpstatus and its lock."""
    assert (guest_model.state(status), guest_model.is_powered_on(status)) == (state, runs)
