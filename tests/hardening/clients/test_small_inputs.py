"""Smaller inputs: each is taken as Proxmox takes it, or refused with what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import cron, errors
from agentd_proxmox.backup.archives import template
from tool_bench import CONTAINER, Bench

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


@pytest.mark.parametrize(
    "text",
    ["*/90 * * * *", "*/60 * * * *", "0-0/5 * * * *", "0 */24 * * *", "0 0 */31 * *", "0 0 * */12 *", "0 0 * * */7",
     "10-20/11 * * * *", "59/1 * * * *", "0 20/4 * * *"],
)  # fmt: skip
def test_a_step_that_is_too_long(text: str) -> None:
    """A step that is longer than its range would mean one value alone: it is refused, and the field is named."""
    with pytest.raises(ValueError, match=r"in the field .*: a step of"):
        cron.parse(text)


@pytest.mark.parametrize("text", ["*/30 * * * *", "*/59 * * * *", "0-59/59 * * * *", "50/9 * * * *", "0 0 */10 * *"])
def test_a_step_that_fits(text: str) -> None:
    """A step that comes twice or more is taken."""
    assert len(cron.parse(text).text.split()) == 6


@pytest.mark.parametrize("disk", ["efidisk0", "tpmstate0"])
async def test_move(tools: Bench, sim: AsyncPve, disk: str) -> None:
    """The EFI disk and the TPM state of a VM are moved like its other disks."""
    config = {disk: "local-lvm:vm-101-disk-0,size=4M"}
    await sim.guest(vmid=300, node="pve1", name="odd", config=config)
    done = await tools.call("move_disk", vmid=300, disk=disk, storage="shared")

    assert done.guest.storages == ["shared"]


@pytest.mark.parametrize("blanks", ["{{ guestname }}", "{{guestname }}", "{{guestname}}", "{{  guestname}}"])
def test_notes(blanks: str) -> None:
    """Blanks in the braces of a notes template are left out, for Proxmox does not know them."""
    assert template(blanks, "k").startswith("{{guestname}}")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({"ip6": "auto"}, {"ip6=auto"}),
        ({"ip6": "dhcp"}, {"ip6=dhcp"}),
        ({"ip6": "2001:db8::5/64", "gateway6": "2001:db8::1"}, {"ip6=2001:db8::5/64", "gw6=2001:db8::1"}),
        ({"ip": "manual", "ip6": "2001:db8::5/64"}, {"ip=manual", "ip6=2001:db8::5/64"}),
    ],
)
async def test_container_ipv6(tools: Bench, more: dict[str, Any], parts: set[str]) -> None:
    """A container is made with an IPv6 address, or is given one."""
    made = await tools.call("create_container", **CONTAINER, **more)
    again = await tools.call("set_guest_network", vmid=CONTAINER["vmid"], card="net1", bridge="vmbr0", **more)

    assert parts < set(made.networks["net0"].split(","))
    assert parts < set(again.networks["net1"].split(","))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ip6": "fe80::1%eth0/64"},
        {"ip6": "fe80::1%eth0/"},
        {"ip6": "2001:db8::5"},
        {"ip6": "2001:db8::5/129"},
        {"ip6": "192.0.2.5/24"},
        {"ip6": "auto", "gateway6": "2001:db8::1"},
        {"ip6": "2001:db8::5/64", "gateway6": "192.0.2.1"},
        {"ip": "192.0.2.5/33"},
        {"ip": "192.0.2.05/24"},
        {"gateway": "192.0.2.1"},
    ],
)
async def test_no_address(tools: Bench, sim: AsyncPve, wrong: dict[str, Any]) -> None:
    """A zone, a missing or too long network, another version and a gateway without address are refused by name."""
    with pytest.raises((errors.Rejected, errors.InvalidMessage), match=r"ip|gateway"):
        await tools.call("create_container", **CONTAINER, **wrong)

    assert await sim.log("POST") == []
