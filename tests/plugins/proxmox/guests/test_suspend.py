"""Suspend, resume, reset, templates, tags and pending changes against a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, Doubt, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve


class TestSuspend:
    """suspend_vm and resume_vm."""

    @pytest.mark.parametrize("todisk", [False, True])
    async def test_there_and_back(self, tools: Bench, sim: AsyncPve, *, todisk: bool) -> None:
        """A VM sleeps and goes on, each once: what is so already is left alone."""
        asleep = [await tools.call("suspend_vm", vmid=100, todisk=todisk) for _ in range(2)]
        awake = [await tools.call("resume_vm", vmid=100) for _ in range(2)]

        state = ("stopped", "suspended") if todisk else ("paused", "")
        assert [(item.status, item.lock) for item in asleep] == [state] * 2
        assert [(item.status, item.lock) for item in awake] == [("running", "")] * 2
        assert len(await sim.log("POST")) == 2

    async def test_not_running(self, tools: Bench, sim: AsyncPve) -> None:
        """A stopped VM can neither be suspended nor resumed; what to do is reported."""
        with pytest.raises(errors.Rejected, match=r"VM 101 'db-01' on pve1 is stopped: only a running VM"):
            await tools.call("suspend_vm", vmid=101)
        with pytest.raises(errors.Rejected, match="stopped, not suspended: start_guest starts it"):
            await tools.call("resume_vm", vmid=101)
        assert await sim.log("POST") == []

    async def test_container(self, tools: Bench) -> None:
        """A container is no VM."""
        with pytest.raises(
            errors.Rejected, match=r"is not a VM: Proxmox suspends containers only .*; use shutdown_guest"
        ):
            await tools.call("suspend_vm", vmid=200)

    @pytest.mark.parametrize("todisk", [False, True])
    async def test_cut(self, tools: Bench, sim: AsyncPve, *, todisk: bool) -> None:
        """A suspend whose answer is lost is found done, not done again."""
        await sim.rule("POST", "/suspend$", {"cut_after": True}, 1)
        await tools.until_done("suspend_vm", MemoryCall(), vmid=100, todisk=todisk)

        assert len(await sim.tasks("qmsuspend")) == 1

    async def test_denied(self, lab: FakePve) -> None:
        """A token without the right gets the missing one, and how to grant it."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.PowerMgmt.*pveum acl modify /vms/100"):
            await Bench(proxmox).call("suspend_vm", vmid=100)
        await proxmox.close()


class TestReset:
    """reset_vm."""

    async def test_reset(self, tools: Bench, sim: AsyncPve) -> None:
        """A running VM runs again after one task; a stopped one is refused."""
        assert (await tools.call("reset_vm", vmid=100)).status == "running"
        with pytest.raises(errors.Rejected, match="only a running VM can be reset"):
            await tools.call("reset_vm", vmid=101)
        assert len(await sim.tasks("qmreset")) == 1

    async def test_doubt(self, tools: Bench, sim: AsyncPve) -> None:
        """A reset with a lost answer is not repeated: a person decides."""
        await sim.rule("POST", "/reset$", {"cut_after": True}, 1)
        call = Doubt()
        with pytest.raises(errors.UnknownOutcome):
            await tools("reset_vm", call, vmid=100)
        with pytest.raises(errors.PermanentError, match="its result is not known"):
            await tools("reset_vm", call, vmid=100)

        assert len(await sim.tasks("qmreset")) == 1


class TestTemplate:
    """convert_to_template."""

    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_made(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """A stopped VM or container becomes a template, once."""
        name = (await tools.call("get_guest", vmid=vmid)).name
        for _ in range(2):
            assert (await tools.call("convert_to_template", vmid=vmid, name=name)).template

        assert len(await sim.log("POST")) == 1

    async def test_kept(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest of another name, one that runs and one with snapshots are refused with what to do."""
        with pytest.raises(errors.Rejected, match="is not called 'x'"):
            await tools.call("convert_to_template", vmid=101, name="x")
        running = (await tools.call("get_guest", vmid=100)).name
        with pytest.raises(errors.Rejected, match="is running: shutdown_guest first"):
            await tools.call("convert_to_template", vmid=100, name=running)
        await tools.call("create_snapshot", MemoryCall("wf.snap"), vmid=101, name="before")
        with pytest.raises(errors.Rejected, match=r"has snapshots \(before\): delete_snapshot first"):
            await tools.call("convert_to_template", vmid=101, name="db-01")

        assert not (await sim.found(101)).get("template")

    async def test_cut(self, tools: Bench, sim: AsyncPve) -> None:
        """A conversion whose answer is lost is found done."""
        await sim.rule("POST", "/template$", {"cut_after": True}, 1)

        assert (await tools.until_done("convert_to_template", MemoryCall(), vmid=101, name="db-01")).template
        assert len(await sim.tasks("qmtemplate")) == 1


class TestTags:
    """update_tags."""

    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_set(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """Tags are set as a whole, added and removed; a tag that is there already is left alone."""
        await tools.call("update_tags", MemoryCall("a"), vmid=vmid, tags=["web", "old"])
        found = await tools.call("update_tags", MemoryCall("b"), vmid=vmid, add=["new"], remove=["old"])
        sent = len(await sim.log("POST") + await sim.log("PUT"))
        again = await tools.call("update_tags", MemoryCall("c"), vmid=vmid, add=["new"], remove=["old"])
        none = await tools.call("update_tags", MemoryCall("d"), vmid=vmid, tags=[])

        assert found.tags == again.tags == ["new", "web"]
        assert sent == 2
        assert none.tags == []

    @pytest.mark.parametrize(
        ("wrong", "text"),
        [
            ({}, "update_tags: give `tags`, or `add` and `remove`"),
            ({"tags": ["a"], "add": ["b"]}, "not both"),
            ({"add": ["b"], "remove": ["b"]}, "b is in `add` and in `remove`"),
        ],
    )
    async def test_wrong(self, tools: Bench, wrong: dict[str, Any], text: str) -> None:
        """A request for no state or for two is refused."""
        with pytest.raises(errors.Rejected, match=text):
            await tools.call("update_tags", vmid=101, **wrong)

    async def test_digest(self, tools: Bench, sim: AsyncPve) -> None:
        """A configuration that was changed since is not changed."""
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("update_tags", vmid=201, add=["a"], digest="0" * 40)
        assert await sim.log("PUT") == []


class TestPending:
    """get_pending_changes."""

    async def test_shown(self, tools: Bench) -> None:
        """What waits for a restart is shown as it is and as it will be; a guest that waits for nothing has none."""
        before = await tools.call("get_pending_changes", vmid=100)
        have = (await tools.call("get_guest", vmid=100)).cores
        await tools.call("update_vm", vmid=100, cores=have + 1)
        (after,) = (await tools.call("get_pending_changes", vmid=100)).pending

        assert before.pending == []
        assert (after.option, after.now, after.then) == ("cores", str(have), str(have + 1))
        assert (await tools.call("get_pending_changes", vmid=200)).pending == []


class TestConsole:
    """get_console."""

    async def test_hint(self, tools: Bench, sim: AsyncPve, lab: FakePve) -> None:
        """The page and the command fit the guest's kind, and no ticket is made."""
        vm, container = [await tools.call("get_console", vmid=vmid) for vmid in (101, 200)]

        assert vm.url == f"{lab.url}/?console=kvm&novnc=1&vmid=101&vmname=db-01&node=pve1"
        assert (vm.command, container.command) == ("qm terminal 101", "pct console 200")
        assert "console=lxc" in container.url
        assert await sim.log("POST") == []


class TestCloudInit:
    """regenerate_cloudinit."""

    async def test_sent(self, tools: Bench, sim: AsyncPve) -> None:
        """It is asked for once where there is a drive, and refused where there is none."""
        await tools.call("create_vm", MemoryCall("wf.c"), vmid=302, node="pve1", name="cloudy", template=9000)
        assert (await tools.call("regenerate_cloudinit", vmid=302)).vmid == 302
        with pytest.raises(errors.Rejected, match=r"VM 101 'db-01' on pve1 has no cloud-init drive"):
            await tools.call("regenerate_cloudinit", vmid=101)

        assert len(await sim.log("PUT", "/302/cloudinit$")) == len(await sim.log("PUT")) == 1
