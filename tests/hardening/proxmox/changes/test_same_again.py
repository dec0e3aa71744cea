"""A client that left before the answer asks the same again: Proxmox gets one task."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.client import Client

from agentd import errors
from plugins.mcp.test_mcp_server import Desk, serving
from tool_bench import Bench, MemoryCall, until

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


@pytest.mark.parametrize(
    ("tool", "vmid", "kind", "more"),
    [
        ("start_guest", 101, "qmstart", {}),
        ("stop_guest", 100, "qmstop", {}),
        ("shutdown_guest", 100, "qmshutdown", {"patience": 30}),
        ("start_guest", 202, "vzstart", {}),
        ("stop_guest", 200, "vzstop", {}),
        ("shutdown_guest", 200, "vzshutdown", {"patience": 30}),
    ],
)
async def test_power(tools: Bench, sim: AsyncPve, tool: str, vmid: int, kind: str, more: dict[str, Any]) -> None:
    """Each power tool waits for the task that does the same to the guest now, whichever principal started it."""
    rootfs = {"rootfs": "local-lvm:vm-202-disk-0,size=8G"}
    await sim.guest(vmid=202, node="pve1", name="off", type="lxc", config=rootfs)
    await sim.durations(**{kind: 1.5})
    first = asyncio.create_task(tools.call(tool, MemoryCall("alice.first"), vmid=vmid, **more))
    await until(lambda: sim.tasks(kind))
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    second = MemoryCall("alice.second")
    guest = await tools.call(tool, second, vmid=vmid, **more)

    assert guest.status == ("running" if tool == "start_guest" else "stopped")
    assert len(await sim.tasks(kind)) == 1
    assert (second.acted, second.undo, second.warnings) == (0, None, [])


async def test_another_guest(tools: Bench, sim: AsyncPve) -> None:
    """A task of another guest, or one that does something else to this one, is not waited for."""
    await sim.durations(qmstart=1.5)
    first = asyncio.create_task(tools.call("start_guest", MemoryCall("alice.first"), vmid=101))
    await until(lambda: sim.tasks("qmstart"))
    await tools.call("stop_guest", MemoryCall("alice.stop"), vmid=100)
    await tools.call("start_guest", MemoryCall("alice.second"), vmid=100)
    await first

    assert len(await sim.tasks("qmstart")) == 2


async def test_it_failed(tools: Bench, sim: AsyncPve) -> None:
    """Where the task that was waited for fails, the call has failed too, and nothing is sent by it."""
    await sim.durations(qmstart=1.5)
    await sim.rule("POST", "/status/start$", {"task_exit": "start failed: no such bridge"}, 1)
    first = asyncio.create_task(tools.call("start_guest", MemoryCall("alice.first"), vmid=101))
    await until(lambda: sim.tasks("qmstart"))
    with pytest.raises(errors.TaskFailed, match="no such bridge"):
        await tools.call("start_guest", MemoryCall("alice.second"), vmid=101)
    with pytest.raises(errors.TaskFailed, match="no such bridge"):
        await first

    assert len(await sim.tasks("qmstart")) == 1


async def _leave(url: str, name: str) -> None:
    """Ask for a name to be painted, and leave as soon as that is under way."""
    begun = asyncio.Event()

    async def listen(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
        begun.set()

    async def paint() -> None:
        async with Client(url) as client:
            await client.call_tool("paint", {"name": name}, progress_callback=listen)

    painting = asyncio.create_task(paint())
    await begun.wait()
    painting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await painting


async def test_mcp() -> None:
    """An MCP client, which has no key to repeat, gets the end of the call that it left; another call is its own."""
    async with serving() as served:
        await _leave(served.url, "Ada")
        async with Client(served.url) as client, asyncio.TaskGroup() as group:
            again = group.create_task(client.call_tool("paint", {"name": "Ada"}))
            other = group.create_task(client.call_tool("paint", {"name": "Bob"}))
            asyncio.get_running_loop().call_later(0.5, Desk.wet.set)

    assert sorted(Desk.painted) == ["Ada", "Bob"]
    assert not again.result().is_error
    assert not other.result().is_error
