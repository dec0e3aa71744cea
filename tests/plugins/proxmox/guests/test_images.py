"""VMs of cloud images: the disk is a copy of the image, cloud-init gets what it needs, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
import pytest_asyncio

from agentd import errors
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pve.client import FakePve

KEYS = "ssh-ed25519 AAAA+b/c= ada@home\nssh-rsa BBBB= bob"
CLOUDY: dict[str, Any] = {
    "vmid": 300, "node": "pve1", "name": "cloud-01", "storage": "local-lvm", "image": "local:import/cloud.qcow2",
    "ciuser": "ada", "sshkeys": KEYS, "ipconfig0": "ip=192.0.2.5/24,gw=192.0.2.1", "nameserver": "192.0.2.1",
}  # fmt: skip


@pytest_asyncio.fixture
async def bench(lab: FakePve, tmp_path: Path) -> AsyncIterator[Bench]:
    """Offer the tools, with an image that was sent."""
    proxmox = connect(lab)
    bench = Bench(proxmox, ToolSettings(lock_timeout=3, upload_dirs=[tmp_path]))
    with (tmp_path / "cloud.qcow2").open("wb") as file:
        file.truncate(64 << 20)
    await bench.call("upload_file", path=str(tmp_path / "cloud.qcow2"), storage="local", node="pve1", content="import")
    await AsyncPve(lab).call("DELETE", "/log")
    yield bench
    await proxmox.close()


async def test_made(bench: Bench, sim: AsyncPve) -> None:
    """One call makes the VM with its disk, cloud-init drive and what cloud-init reads; it grows and is cloned."""
    made = await bench.call("create_vm", **CLOUDY)
    config = (await sim.found(300))["config"]
    grown = await bench.call("resize_disk", vmid=300, size=10)
    template = await bench.call("convert_to_template", vmid=300, name="cloud-01")
    clone = await bench.call("create_vm", vmid=301, node="pve1", name="cloud-02", template=300, full=False)

    assert (made.name, made.disks, made.storages) == ("cloud-01", {"scsi0": 0.062}, ["local-lvm"])
    assert config["ide2"].startswith("local-lvm:vm-300-cloudinit,media=cdrom")
    assert (config["ciuser"], config["ipconfig0"]) == ("ada", "ip=192.0.2.5/24,gw=192.0.2.1")
    assert (unquote(config["sshkeys"]), config["boot"], config["serial0"]) == (KEYS, "order=scsi0", "socket")
    assert (grown.disks, template.template, clone.name) == ({"scsi0": 10.0}, True, "cloud-02")


@pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
async def test_lost(bench: Bench, sim: AsyncPve, fault: str) -> None:
    """A VM whose answer or request is lost is made once."""
    await sim.durations(qmcreate=0.5)
    await sim.rule("POST", "/qemu$", {fault: True}, 1)
    made = await bench.until_done("create_vm", MemoryCall(), **CLOUDY)

    assert (made.vmid, len(await sim.creates())) == (300, 1)


@pytest.mark.parametrize(
    ("wrong", "reported"),
    [
        ({"image": "local:import/no.qcow2"}, "image: there is no local:import/no.qcow2 on pve1; list_volumes lists"),
        ({"image": "nope:import/no.qcow2"}, "there is no storage 'nope' on pve1"),
        (
            {"image": "local:iso/debian-12.11.0-amd64-netinst.iso"},
            "image: .* is of content iso, not import; send it with upload_file or download_url as content import",
        ),
        ({"template": 9000}, "image: a VM is made of an image or with `template`, not both"),
        ({"iso": "local:iso/x.iso"}, "image: a VM is made of an image or with `iso`, not both"),
        ({"image": None}, "ciuser: it can only be given with `image`"),
        ({"storage": None}, "a new VM needs a storage"),
    ],
)
async def test_wrong(bench: Bench, sim: AsyncPve, wrong: dict[str, Any], reported: str) -> None:
    """A wrong image, and what cannot be meant together, is reported by its field; nothing is made."""
    with pytest.raises(errors.AgentdError, match=reported):
        await bench.call("create_vm", **CLOUDY | wrong)
    assert await sim.log("POST") == []
