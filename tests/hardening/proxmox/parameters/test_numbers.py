"""A number means the same where it is read and where it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from tool_bench import Bench


async def test_unlimited(tools: Bench, sim: AsyncPve) -> None:
    """A container without `cores` has no limit: it is shown so, a limit of one core is sent, and 0 removes it."""
    config = {"rootfs": "local-lvm:vm-200-disk-0,size=8G"}
    await sim.guest(vmid=310, node="pve1", name="free", type="lxc", config=config)
    before = await tools.call("get_guest", vmid=310)
    one = await tools.call("update_container", vmid=310, cores=1)
    again = await tools.call("update_container", vmid=310, cores=0)

    assert (before.cores, one.cores, again.cores) == (None, 1, None)
    assert len(await sim.log("PUT", "/lxc/310/config$")) == 2


async def test_sockets(tools: Bench, sim: AsyncPve) -> None:
    """Cores are those of each socket; what get_guest shows and update_vm is given back changes nothing."""
    await sim.guest(vmid=311, node="pve1", name="two", config={"sockets": 2, "cores": 2, "memory": "512"})
    seen = await tools.call("get_guest", vmid=311)
    same = await tools.call("update_vm", vmid=311, cores=seen.cores, sockets=seen.sockets, memory=seen.memory)
    more = await tools.call("update_vm", vmid=311, cores=4)

    assert (seen.cores, seen.sockets, seen.cpus) == (2, 2, 4)
    assert (same.cores, same.sockets) == (2, 2)
    assert (more.cores, more.sockets) == (4, 2)
    assert len(await sim.log("POST", "/config$")) == 1


async def test_defaults(tools: Bench, sim: AsyncPve) -> None:
    """What Proxmox takes for an option that is not named is not sent; a zero is."""
    await sim.guest(vmid=312, node="pve1", name="bare", config={})
    rootfs = {"rootfs": "local-lvm:vm-200-disk-0,size=8G"}
    await sim.guest(vmid=313, node="pve1", name="ct", type="lxc", config=rootfs)
    await tools.call("update_vm", vmid=312, cores=1, sockets=1, onboot=False)
    await tools.call("update_container", vmid=313, swap=512)
    await tools.call("update_container", vmid=313, swap=0)

    assert await sim.log("POST", "/config$") == []
    assert [entry["params"]["swap"] for entry in await sim.log("PUT", "/config$")] == ["0"]


ROOTFS = {"rootfs": "local-lvm:vm-200-disk-0,size=8G"}
UNSET = {"cores": 1, "sockets": 1, "memory": 512, "cpulimit": None, "cpuunits": 100, "balloon": None, "swap": None}
READ: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("qemu", {}, UNSET),
    ("qemu", {"cpulimit": "0", "balloon": "0", "memory": "2048"}, {"cpulimit": None, "balloon": 0, "memory": 2048}),
    ("qemu", {"cpulimit": "1.5", "cpuunits": "9", "balloon": "256"}, {"cpulimit": 1.5, "cpuunits": 9, "balloon": 256}),
    ("lxc", ROOTFS, {"cores": None, "memory": 512, "swap": 512, "cpulimit": None, "cpuunits": 100, "balloon": None}),
    ("lxc", ROOTFS | {"swap": "0", "cpulimit": "2", "cores": "2"}, {"swap": 0, "cpulimit": 2, "cores": 2}),
]


@pytest.mark.parametrize(("kind", "config", "shown"), READ)
async def test_read_and_written_back(
    tools: Bench, sim: AsyncPve, kind: str, config: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Each number is shown as it is meant, unlimited as null; written back as it is shown it changes nothing."""
    await sim.guest(vmid=314, node="pve1", name="n", type=kind, config=config)
    seen = await tools.call("get_guest", vmid=314)
    back = {key: value for key, value in shown.items() if value is not None}
    again = await tools.call("update_vm" if kind == "qemu" else "update_container", vmid=314, **back)

    assert {key: getattr(seen, key) for key in shown} == shown
    assert again == seen
    assert [*await sim.log("POST", "/config$"), *await sim.log("PUT", "/config$")] == []


@pytest.mark.parametrize(
    ("kind", "change", "shown", "sent"),
    [
        ("qemu", {"cpulimit": 2.5}, {"cpulimit": 2.5}, {"cpulimit": "2.5"}),
        ("qemu", {"balloon": 0}, {"balloon": 0}, {"balloon": "0"}),
        ("qemu", {"balloon": 128, "cpuunits": 200}, {"balloon": 128, "cpuunits": 200}, {"balloon": "128"}),
        ("lxc", {"cpulimit": 1, "cpuunits": 50}, {"cpulimit": 1, "cpuunits": 50}, {"cpuunits": "50"}),
        ("lxc", {"swap": 0}, {"swap": 0}, {"swap": "0"}),
    ],
)
async def test_written_and_read(
    tools: Bench, sim: AsyncPve, kind: str, change: dict[str, Any], shown: dict[str, Any], sent: dict[str, str]
) -> None:
    """A number that is written is read as it was written; 0 takes a limit away, and unlimited is shown as null."""
    await sim.guest(vmid=315, node="pve1", name="n", type=kind, config=ROOTFS if kind == "lxc" else {})
    tool = "update_vm" if kind == "qemu" else "update_container"
    changed = await tools.call(tool, vmid=315, **change)
    free = await tools.call(tool, vmid=315, cpulimit=0)
    first = (await sim.log("POST" if kind == "qemu" else "PUT", "/config$"))[0]["params"]

    assert {key: getattr(changed, key) for key in shown} == shown
    assert {key: first[key] for key in sent} == sent
    assert free.cpulimit is None


async def test_balloon_and_memory(tools: Bench, sim: AsyncPve) -> None:
    """A balloon larger than the memory is refused before anything is sent, whichever of the two is changed."""
    await sim.guest(vmid=316, node="pve1", name="b", config={"memory": "512", "balloon": "256"})
    changes: list[dict[str, Any]] = [{"balloon": 1024}, {"memory": 128}]
    for change in changes:
        with pytest.raises(errors.Rejected, match=r"balloon: .* more than the memory"):
            await tools.call("update_vm", vmid=316, **change)

    assert await sim.log("POST", "/config$") == []


@pytest.mark.parametrize("units", [0, 10_001, 262_144])
async def test_clamped(tools: Bench, units: int) -> None:
    """A share that Proxmox would store as another one is refused."""
    with pytest.raises(errors.InvalidMessage, match="cpuunits"):
        await tools.call("update_vm", vmid=101, cpuunits=units)


@pytest.mark.parametrize(
    "vmid", ["0101", "\uff11\uff10\uff11", "\u0661\u0660\u0661", "+101", "-101", "99", "1e2", "\u00b2"]
)
@pytest.mark.parametrize("tool", ["api_call", "api_destroy"])
async def test_a_vmid_is_written_in_one_way(tools: Bench, sim: AsyncPve, tool: str, vmid: str) -> None:
    """A path names a guest by the digits 0 to 9, without zeros before them; anything else is refused and not sent."""
    sent = {"description": "x"} if tool == "api_call" else {"delete": "scsi0"}
    with pytest.raises(errors.Rejected, match="vmid: "):
        await tools(tool, path=f"/nodes/pve1/qemu/{vmid}/config", method="PUT", parameters=sent)

    assert await sim.log("PUT", "/config$") == []
