"""What passes while a tool is at work: restarts, busy workers, a node that is away; nothing is done twice or lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from tool_bench import NEW, Bench, MemoryCall, until

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


async def _performed(sim: AsyncPve, path: str) -> list[dict[str, Any]]:
    return [request for request in await sim.log("POST", path) if request["performed"]]


@pytest.mark.parametrize(
    "effect",
    [
        {"lost_before": True},
        {"status": 595, "reason": "Connection refused"},
        {
            "status": 500,
            "reason": "RPCEnvironment init request failed: Unable to load access control list",
            "empty": True,
        },
    ],
    ids=["pveproxy restarts", "pvedaemon restarts", "pmxcfs restarts"],
)
async def test_restarts_while_a_task_is_waited_for(tools: Bench, sim: AsyncPve, effect: dict[str, Any]) -> None:
    """A service of the node that restarts while its task runs is waited for; the task is begun once."""
    await sim.durations(qmstart=0.3)
    await sim.rule("GET", "/tasks/[^/]*/status$", effect, 4)
    started = await tools.until_done("start_guest", MemoryCall(), vmid=101)

    assert started.status == "running"
    assert len(await _performed(sim, "/status/start$")) == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "got no worker upid - start worker failed"),
        (500, "cluster not ready - no quorum?"),
        (500, "unable to create VM 300: can't lock file '/var/lock/qemu-server/lock-300.conf' - got timeout"),
        (595, "No route to host"),
    ],
)
async def test_a_temporary_refusal_is_retried(tools: Bench, sim: AsyncPve, status: int, reason: str) -> None:
    """A create that was refused for what passes is sent again, and makes one VM."""
    await sim.rule("POST", "/qemu$", {"status": status, "reason": reason}, 2)
    made = await tools.until_done("create_vm", MemoryCall(), **NEW)

    assert (made.vmid, made.name) == (NEW["vmid"], NEW["name"])
    assert len(await _performed(sim, "/nodes/pve2/qemu$")) == 1


@pytest.mark.parametrize("code", [596, 599])
@pytest.mark.parametrize("fault", ["after", "before"])
async def test_an_answer_lost_on_its_way(tools: Bench, sim: AsyncPve, code: int, fault: str) -> None:
    """596 and 599 on a write say nothing of whether it was done: the world is asked before it is sent again."""
    if fault == "after":
        await sim.rule("POST", "/qemu$", {"cut_after": True}, 1)
    else:
        await sim.rule("POST", "/qemu$", {"status": code, "reason": "Connection timed out"}, 1)
    made = await tools.until_done("create_vm", MemoryCall(), **NEW)

    assert made.vmid == NEW["vmid"]
    assert len(await _performed(sim, "/nodes/pve2/qemu$")) == 1


async def test_a_task_is_asked_at_its_own_node(tools: Bench, sim: AsyncPve) -> None:
    """Wherever the API is reached, a task's status and log are asked at the node that runs it."""
    await tools.call("create_vm", **NEW)
    asked = {request["path"] for request in await sim.log("GET", "/tasks/UPID")}

    assert asked
    assert all(path.split("/")[2] == path.split("/")[4].split(":")[1] == "pve2" for path in asked)


async def test_a_fresh_guest_has_no_name_yet(tools: Bench, sim: AsyncPve) -> None:
    """What was made a moment ago is found by its number although the cluster's list does not know it well yet."""
    await sim.settings(stat_lag=5)
    made = await tools.call("create_vm", **NEW)
    started = await tools.call("start_guest", MemoryCall("wf.start"), vmid=NEW["vmid"])

    assert (made.name, started.name, started.status) == (NEW["name"], NEW["name"], "running")


async def test_four_want_the_same_number(tools: Bench, sim: AsyncPve) -> None:
    """Of four that create the same VMID at once one does; the others get its owner, to draw another."""
    await sim.durations(qmcreate=0.2)
    wanted = [tools.until_done("create_vm", MemoryCall(f"wf{number}.create"), **NEW) for number in range(4)]
    ended = await asyncio.gather(*wanted, return_exceptions=True)

    assert sum(not isinstance(item, BaseException) for item in ended) == 1
    assert {type(item) for item in ended if isinstance(item, BaseException)} == {errors.VmidTaken}
    assert len(await sim.tasks("qmcreate")) == 1


async def test_the_guest_is_migrated_meanwhile(tools: Bench, sim: AsyncPve) -> None:
    """A guest that was migrated after it was looked up is not taken for gone: the next try finds it."""
    moving = asyncio.create_task(tools("migrate_guest", vmid=201, target="pve1"))
    await until(lambda: sim.tasks("vzmigrate"))
    started = await tools.until_done("start_guest", MemoryCall("wf.start"), vmid=201)
    await moving

    assert started.status == "running"
    assert (await tools.call("get_guest", vmid=201)).node == "pve1"
