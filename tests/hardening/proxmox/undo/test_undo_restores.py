"""An offered undo restores the raw configuration; where that is impossible, none is offered."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentd import errors
from agentd_proxmox.model.option_strings import MODELS
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

MAC = "BC:24:11:00:AB:65"
DISK = "local-lvm:vm-101-disk-0"
MOUNTED = "local-lvm:vm-200-disk-0"
IDS = itertools.count(5000)

CASES: list[tuple[str, dict[str, Any], tuple[str, dict[str, Any]]]] = [
    (
        "qemu",
        {"net0": f"virtio={MAC},bridge=vmbr0,firewall=1,mtu=9000,queues=4,trunks=210;310;610"},
        ("delete_guest_network", {"card": "net0"}),
    ),
    (
        "lxc",
        {"net0": f"name=lan0,bridge=vmbr0,gw6=2001:db8::1,hwaddr={MAC},ip6=2001:db8::5/64,mtu=1400,type=veth"},
        ("delete_guest_network", {"card": "net0"}),
    ),
    (
        "qemu",
        {"scsi0": f"{DISK},backup=0,cache=writeback,discard=on,iothread=1,mbps_rd=50,serial=DATA01,size=32G,ssd=1"},
        ("detach_disk", {"disk": "scsi0"}),
    ),
    ("qemu", {"scsi0": f"{DISK},size=32G", "ide2": "none,media=cdrom", "boot": "order=scsi0;ide2"},
     ("detach_disk", {"disk": "scsi0"})),
    ("qemu", {"net0": f"virtio={MAC},bridge=vmbr0", "boot": "order=net0"},
     ("delete_guest_network", {"card": "net0"})),
    (
        "lxc",
        {"mp0": f"{MOUNTED},mp=/a,acl=1,mountoptions=noatime;nosuid,quota=1,replicate=0,ro=1,size=8G"},
        ("detach_disk", {"disk": "mp0"}),
    ),
    ("qemu", {"tags": "prod;web"}, ("update_tags", {"add": ["Extra"], "remove": ["PROD"]})),
    ("qemu", {"startup": "2,up=30"}, ("update_vm", {"startup": "order=5"})),
    ("qemu", {}, ("update_vm", {"name": "renamed", "cores": 4, "sockets": 2, "memory": 2048, "onboot": True})),
    ("qemu", {"agent": "enabled=0,fstrim_cloned_disks=1"}, ("update_vm", {"agent": True})),
    ("qemu", {"net0": f"virtio={MAC},bridge=vmbr0", "onboot": 1}, ("isolate_guest", {})),
    ("lxc", {}, ("update_container", {"cores": 1, "swap": 0, "onboot": True, "startup": "order=1"})),
]  # fmt: skip


def made(lab: FakePve, kind: str, config: dict[str, Any]) -> int:
    """Make a stopped guest with exactly this configuration beside what it cannot be without."""
    vmid = next(IDS)
    rest = {"rootfs": "local-lvm:vm-201-disk-0,size=8G"} if kind == "lxc" else {}
    lab.guest(vmid=vmid, node="pve2" if kind == "lxc" else "pve1", type=kind, config={**rest, **config})
    return vmid


def raw(lab: FakePve, vmid: int) -> dict[str, str]:
    """Return the configuration as it is on the node."""
    return {key: str(value) for key, value in (lab.found(vmid) or {})["config"].items()}


async def do_and_undo(lab: FakePve, vmid: int, act: tuple[str, dict[str, Any]]) -> MemoryCall:
    """Call a tool, then the undo that it reported."""
    proxmox = connect(lab)
    tools, call = Bench(proxmox, ToolSettings(lock_timeout=3)), MemoryCall(f"a.{vmid}")
    try:
        await tools.call(act[0], call, vmid=vmid, **act[1])
        if call.undo is not None:
            await tools.call(call.undo[0], MemoryCall(f"b.{vmid}"), **call.undo[1])
    finally:
        await proxmox.close()
    return call


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case[2][0]}" for n, case in enumerate(CASES)])
async def test_as_it_was(lab: FakePve, case: tuple[str, dict[str, Any], tuple[str, dict[str, Any]]]) -> None:
    """Everything that the option had, and the boot order, is there again."""
    kind, config, act = case
    vmid = await asyncio.to_thread(made, lab, kind, config)
    if kind == "qemu":
        proxmox = connect(lab)
        await proxmox.put(f"/nodes/pve1/qemu/{vmid}/config", delete="name")
        await proxmox.close()
    before = await asyncio.to_thread(raw, lab, vmid)
    call = await do_and_undo(lab, vmid, act)

    assert call.undo is not None
    assert parsed(await asyncio.to_thread(raw, lab, vmid)) == parsed(before)


def printed(first: str, parts: dict[str, str]) -> str:
    """Return an option string as Proxmox prints it."""
    return ",".join([first, *(f"{key}={parts[key]}" for key in sorted(parts))])


def some(**values: list[str]) -> st.SearchStrategy[dict[str, str]]:
    """Generate a part of the options, each with one of its values."""
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(texts) for key, texts in values.items()})


CARD = some(bridge=["vmbr0"], tag=["1", "4094"], trunks=["1;2", "10;20-30"], rate=["0.5", "100"], queues=["0", "64"],
            mtu=["1", "9000"], firewall=["0", "1"], link_down=["0", "1"])  # fmt: skip
CT_CARD = some(bridge=["vmbr0"], tag=["7"], trunks=["1;2"], rate=["2.5"], mtu=["64", "1400"], firewall=["1"],
               link_down=["1"], ip=["dhcp", "192.0.2.5/24"], ip6=["auto", "dhcp", "2001:db8::5/64"])  # fmt: skip
DRIVE = some(cache=["none", "writeback", "directsync"], backup=["0", "1"], replicate=["0"], discard=["on", "ignore"],
             detect_zeroes=["1"], aio=["native", "io_uring"], serial=["DATA01", "a%20b"], mbps_rd=["50"],
             iops_wr=["1000"], rerror=["stop"], snapshot=["1"], shared=["1"])  # fmt: skip
MOUNT = some(acl=["0", "1"], ro=["1"], quota=["1"], replicate=["0"], backup=["0", "1"], shared=["1"],
             mountoptions=["noatime", "discard;nodev;nosuid"])  # fmt: skip
DEVICES = [
    *(f"ide{n}" for n in range(4)), *(f"sata{n}" for n in range(6)),
    *(f"scsi{n}" for n in range(31)), *(f"virtio{n}" for n in range(16)),
]  # fmt: skip
KEYS = some(
    cores=["4"], memory=["1024"], cpulimit=["0", "1.5"], cpuunits=["200"], onboot=["0", "1"],
    startup=["2,up=30", "order=0", "0,up=5,down=7"], tags=["a;b", "prod"], description=["one", "two%0Alines: ü"],
    nameserver=["192.0.2.1"], searchdomain=["example.com"], protection=["0"],
)  # fmt: skip
VM_KEYS = some(
    memory=["current=2048", "2048"], sockets=["2"], balloon=["0", "256"], ciuser=["ops"],
    agent=["1", "0", "enabled=1,fstrim_cloned_disks=1"], ipconfig0=["ip=dhcp", "ip=192.0.2.7/24,gw=192.0.2.1"],
    sshkeys=["ssh-ed25519%20AAAA%20a%40b"],
)  # fmt: skip
CT_KEYS = some(swap=["0", "1024"], features=["nesting=1", "keyctl=1,nesting=1"])


def changes(**values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generate parameters of an update, each with one of its values; an empty one removes."""
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(given) for key, given in values.items()})


UPDATE = changes(
    cores=[1, 2], memory=[512, 4096], cpulimit=[0, 2.5], cpuunits=[100, 50], onboot=[True, False],
    startup=["", "order=1", "0,down=3"], tags=[[], ["X", "y"]], description=["", "new"],
    nameserver=["", "192.0.2.9"], searchdomain=["", "example.org"], protection=[True],
)  # fmt: skip
VM_UPDATE = changes(
    sockets=[1, 3], balloon=[0, 128], agent=[True, False], ciuser=["", "root"],
    ipconfig0=["", "ip=192.0.2.5/24"], sshkeys=["", "ssh-ed25519 BBBB c"],
)  # fmt: skip
CT_UPDATE = changes(swap=[0, 256], features=["", "nesting=1"])
STATES = {
    "efidisk0": some(efitype=["2m", "4m"], **{"pre-enrolled-keys": ["0", "1"]}),
    "tpmstate0": some(version=["v1.2", "v2.0"]),
}
Case = tuple[str, dict[str, Any], tuple[str, dict[str, Any]]]
CARD_ACTS: list[tuple[str, dict[str, Any]]] = [
    ("delete_guest_network", {}),
    ("set_guest_network", {"tag": 5}),
    ("set_guest_network", {"model": "vmxnet3", "rate": 7}),
]
CT_CARD_ACTS: list[tuple[str, dict[str, Any]]] = [
    ("delete_guest_network", {}),
    ("set_guest_network", {"tag": 5, "ip": "manual", "ip6": "manual"}),
]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Generate a guest with one option of any kind, and what is done to it."""
    kind = draw(st.sampled_from(["card", "ct card", "drive", "mount"]))
    number = draw(st.integers(0, 31))
    if kind == "card":
        tool, more = draw(st.sampled_from(CARD_ACTS))
        value = printed(f"{draw(st.sampled_from(MODELS))}={MAC}", draw(CARD))
        return "qemu", {f"net{number}": value}, (tool, {"card": f"net{number}", **more})
    if kind == "ct card":
        tool, more = draw(st.sampled_from(CT_CARD_ACTS))
        value = printed(f"name=lan{number}", {**draw(CT_CARD), "hwaddr": MAC, "type": "veth"})
        return "lxc", {f"net{number}": value}, (tool, {"card": f"net{number}", **more})
    if kind == "drive":
        device = draw(st.sampled_from(DEVICES))
        config = {device: printed(DISK, {**draw(DRIVE), "size": "32G"})}
        boot = {"boot": f"order={device}"} if draw(st.booleans()) else {}
        return "qemu", config | boot, ("detach_disk", {"disk": device})
    point = f"mp{draw(st.integers(0, 255))}"
    value = printed(MOUNTED, {**draw(MOUNT), "mp": "/srv/x", "size": "8G"})
    return "lxc", {point: value}, ("detach_disk", {"disk": point})


@st.composite
def others(draw: st.DrawFn) -> Case:
    """Generate a guest with options that are no cards and no common drives, and what is done to it."""
    kind = draw(st.sampled_from(["state", "vm keys", "ct keys"]))
    if kind == "state":
        device = draw(st.sampled_from(sorted(STATES)))
        config = {device: printed(DISK, {**draw(STATES[device]), "size": "4M"})}
        return "qemu", config, ("detach_disk", {"disk": device})
    if kind == "vm keys":
        return "qemu", draw(KEYS) | draw(VM_KEYS), ("update_vm", draw(UPDATE) | draw(VM_UPDATE))
    return "lxc", draw(KEYS) | draw(CT_KEYS), ("update_container", draw(UPDATE) | draw(CT_UPDATE))


@pytest.mark.timeout(300)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_any_option_string(laboratory: FakePve, case: Case) -> None:
    """For any options of a card, drive or mount point: changed and undone, the raw configuration is equal."""
    undone(laboratory, case)


@pytest.mark.timeout(300)
@settings(
    max_examples=20,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=others())
def test_any_key(laboratory: FakePve, case: Case) -> None:
    """For any keys of a guest: updated and undone, all is as before, or no undo was offered."""
    undone(laboratory, case)


def undone(laboratory: FakePve, case: Case) -> None:
    """Do something to a guest and undo it; the raw configuration is equal, or no undo was offered."""
    kind, config, act = case
    vmid = made(laboratory, kind, config)
    before = raw(laboratory, vmid)
    try:
        call = asyncio.run(do_and_undo(laboratory, vmid, act))
        after = raw(laboratory, vmid)
    except (errors.Rejected, errors.Denied):  # an EFI disk and a TPM state are not taken off; features are for root@pam
        assert raw(laboratory, vmid) == before
        assert act[1].get("disk") in STATES or "features" in act[1]
        return
    finally:
        laboratory.drop_guest(vmid)

    if call.undo is None and call.acted:
        assert any("cannot be undone" in warning for warning in call.warnings)
    else:
        assert parsed(after) == parsed(before)


def parsed(config: dict[str, str]) -> dict[str, Any]:
    """Return the configuration with option strings as sets of their parts: a container's order is the writer's."""
    return {key: sorted(value.split(",")) if key[:2] in {"mp", "ne"} else value for key, value in config.items()}


@pytest.mark.parametrize(
    ("config", "act", "why"),
    [
        ({"scsi1": "/dev/disk/by-id/ata-X"}, ("detach_disk", {"disk": "scsi1"}), "only root@pam"),
        ({"net0": "virtio,bridge=vmbr0"}, ("delete_guest_network", {"card": "net0"}), "no MAC address"),
    ],
)
async def test_an_impossible_restore_is_reported(
    lab: FakePve, config: dict[str, Any], act: tuple[str, dict[str, Any]], why: str
) -> None:
    """What Proxmox would refuse or create again when it is restored is reported before, and no undo is offered."""
    vmid = await asyncio.to_thread(made, lab, "qemu", config)
    call = await do_and_undo(lab, vmid, act)

    assert call.undo is None
    assert why in call.warnings[0]


@pytest.mark.parametrize(
    "options",
    [
        {"scsi3": "local-lvm:8"},
        {"scsi3": "local-lvm:0,import-from=local-lvm:vm-100-disk-0"},
        {"scsi3": "local-lvm:vm-100-disk-0"},
        {"scsi3": "/dev/sda"},
        {"ide3": "local-lvm:cloudinit"},
        {"args": "-device x"},
        {"hookscript": "local:snippets/a.sh"},
        {"net0": "virtio,bridge=vmbr0"},
        {"net0": f"virtio={MAC},bridge=vmbr9"},
        {"description": "agentd:wf.other"},
    ],
)
async def test_options_that_are_not_restored(tools: Bench, sim: AsyncPve, options: dict[str, str]) -> None:
    """A new volume, another guest's, a path, an option of root, a new MAC address or a mark is not written."""
    with pytest.raises((errors.Rejected, errors.InvalidMessage)):
        await tools.call("update_guest_options", vmid=101, options=options)

    assert await sim.log("POST", "/config$") == []
