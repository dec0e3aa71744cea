"""Looking at guests and changing them against a server: the results match the state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import errors
from agentd_proxmox.model import guest_model
from harness import until
from tool_bench import NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from pve.client import FakePve


class TestLists:
    """Reads of guests."""

    async def test_list(self, tools: Bench, sim: AsyncPve) -> None:
        """One API call gives a tally and a page; the cursor leads through all of them."""
        await sim.call("DELETE", "/log")
        page = await tools.call("list_guests", limit=3)
        rest = await tools.call("list_guests", limit=50, cursor=page.next)

        assert len(await sim.log()) == 2
        assert page.total == rest.total == 8
        assert [guest.vmid for guest in page.guests + rest.guests] == [100, 101, 102, 103, 104, 105, 200, 201]
        assert page.by_status == {"running": 5, "stopped": 3}
        assert (page.next, rest.next) == ("000000102", "")

    async def test_filters(self, tools: Bench) -> None:
        """Filters are by node, status, tag, part of the name and type."""
        for filters, vmids in (
            ({"node": "pve1", "type": "qemu"}, [100, 101]),
            ({"status": "stopped", "type": "qemu"}, [101, 105]),
            ({"tag": "web"}, [100, 102, 201]),
            ({"name": "WEB"}, [100, 102]),
            ({"templates": True}, [9000]),
        ):
            assert [guest.vmid for guest in (await tools.call("list_guests", **filters)).guests] == vmids
        assert [template.vmid for template in (await tools.call("list_templates")).templates] == [9000]

    async def test_many(self, tools: Bench, sim: AsyncPve) -> None:
        """A page of many guests stays small enough for a model to read."""
        for n in range(60):
            await sim.guest(vmid=1000 + n, node="pve1", name=f"machine-{n:03}", type="qemu", status="running")
        page = await tools.call("list_guests")

        assert page.total == 68
        assert len(msgspec.json.encode(page)) < 3000

    async def test_get(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest is found by VMID or unique name, VM or container, without control characters."""
        await sim.guest(vmid=500, node="pve3", name="odd", type="qemu", config={"description": "a\x1b[31mb\nc"})

        assert (await tools.call("get_guest", name="nas")).vmid == 104
        assert (await tools.call("get_guest", vmid=200)).type == "lxc"
        assert (await tools.call("get_guest", vmid=100)).status == "running"
        assert (await tools.call("get_guest", vmid=500)).description == "a [31mb\nc"
        with pytest.raises(errors.NotFound, match="777"):
            await tools.call("get_guest", vmid=777)
        await sim.guest(vmid=501, node="pve1", name="nas", type="qemu")
        with pytest.raises(errors.Rejected, match="2 guests are called 'nas'"):
            await tools.call("get_guest", name="nas")
        with pytest.raises(errors.Rejected):
            await tools.call("get_guest")


class TestUpdate:
    """update_vm and resize_disk."""

    async def test_update(self, tools: Bench, sim: AsyncPve) -> None:
        """Everything that is asked for is so afterwards; the second time nothing is sent."""
        wanted: dict[str, Any] = {
            "vmid": 101,
            "name": "db-main",
            "cores": 6,
            "memory": 8192,
            "description": "the\ndatabase",
            "tags": ["prod", "db", "gold"],
            "onboot": True,
            "startup": "order=2,up=30",
            "protection": True,
            "agent": False,
            "ciuser": "admin",
            "sshkeys": "ssh-ed25519 AAAA+/=x one@host\nssh-rsa BBBB two@host",
            "ipconfig0": "ip=192.0.2.5/24,gw=192.0.2.1",
            "nameserver": "192.0.2.53",
            "searchdomain": "example.org",
        }
        changed = await tools.call("update_vm", **wanted)
        config = (await sim.found(101))["config"]
        sent = len(await sim.log("POST"))
        again = MemoryCall()
        await tools.call("update_vm", again, **wanted)

        assert (changed.name, changed.cores, changed.memory) == ("db-main", 6, 8192)
        assert (changed.onboot, changed.agent, changed.tags) == (True, False, ["db", "gold", "prod"])
        assert config["ipconfig0"] == wanted["ipconfig0"]
        assert (config["startup"], guest_model.enabled(config["protection"])) == ("order=2,up=30", True)
        assert config["sshkeys"].startswith("ssh-ed25519%20AAAA%2B%2F%3Dx%20one%40host%0A")
        assert changed.description == "the\ndatabase"
        assert (len(await sim.log("POST")), sent) == (1, 1)
        assert again.adopted

    async def test_mark_stays(self, tools: Bench, sim: AsyncPve) -> None:
        """A new description keeps the mark, so that the guest is still known as ours; removing works too."""
        await tools.call("create_vm", MemoryCall("wf.mark"), **NEW, description="old", tags=["x"])
        await tools.call("update_vm", vmid=300, description="new", tags=[])

        real = await sim.found(300)
        assert guest_model.marks(real["description"]) == ["agentd:wf.mark"]
        assert guest_model.text_of(real["description"]) == "new"
        assert "tags" not in real["config"]
        assert (await tools.call("create_vm", MemoryCall("wf.mark"), **NEW)).description == "new"

    async def test_digest(self, tools: Bench, sim: AsyncPve) -> None:
        """With a digest that is old nothing is changed; without one a race is won by looking again."""
        seen = await tools.call("get_guest", vmid=101)
        await tools.call("update_vm", vmid=101, cores=3)

        with pytest.raises(errors.ConfigChanged):
            await tools.call("update_vm", vmid=101, cores=4, digest=seen.digest)
        await sim.rule("POST", "/config$", {"status": 500, "reason": "checksum mismatch (file change)"}, 2)
        assert (await tools.call("update_vm", vmid=101, cores=4)).cores == 4

    async def test_container(self, tools: Bench) -> None:
        """A container is not taken for a VM."""
        with pytest.raises(errors.Rejected, match="not a VM"):
            await tools.call("update_vm", vmid=200, cores=2)

    async def test_resize(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk grows to a size, once; one that is larger is left alone with a warning."""
        grown = await tools.call("resize_disk", vmid=101, size=40)
        await tools.call("resize_disk", vmid=101, size=40)
        call = MemoryCall()
        await tools.call("resize_disk", call, vmid=101, size=20)

        assert grown.disks == {"scsi0": 40.0}
        assert "size=40G" in (await sim.found(101))["config"]["scsi0"]
        assert len(await sim.log("PUT")) == 1
        assert "cannot shrink" in call.warnings[0]
        with pytest.raises(errors.Rejected, match="has no disk scsi7; it has scsi0"):
            await tools.call("resize_disk", vmid=101, size=20, disk="scsi7")

    async def test_a_late_resize_is_refused(self, tools: Bench, sim: AsyncPve, lab: FakePve) -> None:
        """A request that was taken for lost, and reaches the guest after another one, is refused by Proxmox."""
        await sim.rule("PUT", "/resize$", {"delay": 2.0}, 1)
        lost = asyncio.create_task(tools.call("resize_disk", vmid=101, size=40))
        await asyncio.to_thread(until, lambda: lab.log("PUT", "resize") or None, "the first request arrived")
        lost.cancel()  # its caller waits no more; Proxmox carries it out all the same
        grown = await tools.call("resize_disk", vmid=101, size=40)
        ended = await asyncio.to_thread(until, lambda: _ends(lab, 2), "both ended")

        assert grown.disks == {"scsi0": 40.0}
        assert ended == ["OK", "checksum mismatch (file change by other user?)"]

    async def test_resize_cut(self, tools: Bench, sim: AsyncPve) -> None:
        """A resize whose answer is lost is found done, not done again."""
        await sim.rule("PUT", "/resize$", {"cut_after": True}, 1)
        grown = await tools.until_done("resize_disk", MemoryCall(), vmid=101, size=40)

        assert grown.disks == {"scsi0": 40.0}
        assert len(await sim.log("PUT")) == 1


def _ends(lab: FakePve, count: int) -> list[str] | None:
    """Return how so many resizes ended, once they have."""
    found = sorted(str(task["exitstatus"]) for task in lab.tasks("resize") if task["exitstatus"])
    return found if len(found) == count else None
