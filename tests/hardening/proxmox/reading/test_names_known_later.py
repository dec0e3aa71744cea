"""A guest whose name the cluster's list does not know yet is found by it: unknown is not absent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import errors
from agentd.safety.policy import NEEDS_APPROVAL
from plugins.proxmox.walk import bench_of, keyed, walk
from proxmox_access import AsyncPve, connect
from tool_bench import NEW, Bench, Doubt, MemoryCall

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve


async def test_after_create(tools: Bench, sim: AsyncPve) -> None:
    """A VM that was just made is found, started, listed and deleted by its name."""
    await sim.settings(stat_lag=10)
    await tools.call("create_vm", MemoryCall("wf.c"), **NEW)
    found = await tools.call("get_guest", name="app-01")
    listed = await tools.call("list_guests", name="app-01", status="stopped")
    started = await tools.call("start_guest", MemoryCall("wf.s"), name="app-01")
    await tools.call("stop_guest", MemoryCall("wf.p"), name="app-01")
    call = MemoryCall("wf.d")
    await tools.call("delete_guest", call, vmid=300, name="app-01")

    assert (found.vmid, listed.total, started.status) == (300, 1, "running")
    assert "'app-01'" in call.targets[0].title


async def test_after_a_restart_of_pvestatd(tools: Bench, sim: AsyncPve) -> None:
    """Every guest of a node is found by its name after pvestatd was restarted there, containers too."""
    await sim.settings(stat_lag=10)
    await tools.call("restart_service", MemoryCall("wf.r"), node="pve1", service="pvestatd")
    names = {guest.name for guest in (await tools.call("list_guests", node="pve1")).guests}
    template = await tools.call("convert_to_template", MemoryCall("wf.t"), vmid=101, name="db-01")

    assert names == {"web-01", "db-01", "dns"}
    assert (await tools.call("get_guest", name="dns")).vmid == 200
    assert template.template
    assert {line.name for line in (await tools.call("list_templates")).templates} == {"debian-12", "db-01"}


async def test_another_name(tools: Bench, sim: AsyncPve) -> None:
    """A guest that has another name is refused, though the list does not know its name."""
    await sim.settings(stat_lag=10)
    await tools.call("create_vm", MemoryCall("wf.c"), **NEW)
    with pytest.raises(errors.Rejected, match="'app-01' on pve2 is not called 'web-01'"):
        await tools.call("delete_guest", vmid=300, name="web-01")
    with pytest.raises(errors.NotFound, match="no guest 'nope'"):
        await tools.call("get_guest", name="nope")


async def test_not_to_be_known(tools: Bench, sim: AsyncPve) -> None:
    """Where the node does not answer, a name is unknown, not absent, and nothing is done."""
    await sim.settings(stat_lag=60)
    await tools.call("restart_service", MemoryCall("wf.r"), node="pve1", service="pvestatd")
    await sim.rule("GET", "/nodes/pve1/(qemu|lxc)$", {"status": 596})
    with pytest.raises(errors.ProxmoxUnavailable, match="whether a guest is called 'web-01' is not known"):
        await tools.call("get_guest", name="web-01")
    with pytest.raises(errors.ProxmoxUnavailable, match=r"the name of VM 101 on pve1 is not known now"):
        await tools.call("delete_guest", vmid=101, name="db-01")

    assert await sim.log("DELETE") == []


async def test_of_a_pool(tools: Bench, sim: AsyncPve) -> None:
    """The members of a pool have their names and states, also while the cluster's list does not know them."""
    await tools.call("create_pool", MemoryCall("wf.pool"), pool="core")
    await tools.call("update_pool", MemoryCall("wf.add"), pool="core", guests=[100, 200])
    before = await tools.call("get_pool", pool="core")
    await sim.settings(stat_lag=60)
    await tools.call("restart_service", MemoryCall("wf.r"), node="pve1", service="pvestatd")
    await tools.call("restart_service", MemoryCall("wf.s"), node="pve2", service="pvestatd")

    assert await tools.call("get_pool", pool="core") == before
    assert [(guest.name, guest.status) for guest in before.guests] == [("web-01", "running"), ("dns", "running")]


@pytest.mark.timeout(240)
async def test_all_tools(lab: FakePve, tmp_path: Path, download_server: str) -> None:
    """Every tool does its work while no name of any guest is in the cluster's list, and shows names and states."""
    proxmox, sim = connect(lab), AsyncPve(lab)
    bench = bench_of(proxmox, tmp_path)
    await sim.settings(stat_lag=600)
    for node in ("pve1", "pve2", "pve3"):
        await proxmox.wait(await proxmox.post(f"/nodes/{node}/services/pvestatd/restart"), 20)
    unnamed: list[str] = []

    async def call(tool: str, parameters: dict[str, Any]) -> Any:
        made = keyed(Doubt(), tool)
        result = await bench(tool, made, **parameters)
        unnamed.extend(f"{tool}: {path}" for path in _unnamed(msgspec.to_builtins(result)))
        if bench.tools[tool].tier in NEEDS_APPROVAL:  # what is approved is shown by its name
            titles = [target.title for target in made.targets if target.title.startswith(("VM ", "container "))]
            unnamed.extend(f"{tool}: {title}" for title in titles if "'" not in title)
        return result

    listed = await proxmox.get("/cluster/resources", type="vm")
    await walk(lambda _: bench, sim, download_server, call=call)
    await proxmox.close()

    assert {(entry.get("name"), entry["status"]) for entry in listed} == {(None, "unknown")}
    assert unnamed == []


def _unnamed(result: Any, path: str = "") -> list[str]:
    """Return where in a result a guest has no name, or a state that is not known."""
    if isinstance(result, list):
        return [line for number, item in enumerate(result) for line in _unnamed(item, f"{path}[{number}]")]
    if not isinstance(result, dict):
        return []
    here = [path] if result.get("vmid") and (result.get("name") == "" or result.get("status") == "unknown") else []
    return here + [line for name, item in result.items() for line in _unnamed(item, f"{path}.{name}")]
