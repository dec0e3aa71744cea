"""Containers against a server: made once, as asked for, or not at all; cloned and changed the same way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from proxmox_access import AsyncPve, connect
from tool_bench import CONTAINER, Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

COPY: dict[str, Any] = {"vmid": 321, "node": "pve2", "name": "ct-02", "source": 201}


class TestCreate:
    """create_container."""

    async def test_new(self, tools: Bench, sim: AsyncPve) -> None:
        """A new container is as asked for, unprivileged, has the mark, and is not started."""
        requested = CONTAINER | {
            "cores": 2,
            "memory": 1024,
            "tags": ["web"],
            "description": "shop",
            "features": "nesting=1",
        }
        address = {"ip": "192.0.2.5/24", "gateway": "192.0.2.1", "sshkeys": "ssh-ed25519 AAAA= me@home\n"}
        made = await tools.call("create_container", MemoryCall("wf-1.create"), **requested, **address)

        config = (await sim.found(320))["config"]
        (sent,) = await sim.log("POST")
        assert (made.vmid, made.type, made.name, made.status) == (320, "lxc", "ct-01", "stopped")
        assert (made.cores, made.memory, made.disks, made.tags) == (2, 1024, {"rootfs": 8.0}, ["web"])
        assert "ip=192.0.2.5/24" in made.networks["net0"]
        assert made.description == "shop"
        assert config["description"].split("\n")[-1] == "agentd:wf-1.create"
        assert (int(config["unprivileged"]), config["features"]) == (1, "nesting=1")
        assert sent["params"]["ssh-public-keys"] == "ssh-ed25519 AAAA= me@home"

    @pytest.mark.parametrize("tool", ["create_container", "clone_container"])
    async def test_cut(self, tools: Bench, sim: AsyncPve, tool: str) -> None:
        """A container whose answer is lost is found by its mark, also while it is being made; one is made."""
        await sim.durations(vzcreate=0.8, vzclone=0.8)
        await sim.rule("POST", "/(lxc|clone)$", {"cut_after": True}, 1)
        call = MemoryCall()
        made = await tools.until_done(tool, call, **(CONTAINER if tool == "create_container" else COPY))

        assert (made.status, made.lock, call.adopted) == ("stopped", "", True)
        assert len(await sim.creates()) == 1

    @pytest.mark.parametrize("tool", ["create_container", "clone_container"])
    async def test_a_vmid_of_a_foreign_guest(self, tools: Bench, sim: AsyncPve, tool: str) -> None:
        """A VMID of another guest is taken, whatever its kind, and nothing is sent."""
        requested = CONTAINER if tool == "create_container" else COPY
        for vmid in (101, 200):
            with pytest.raises(errors.VmidTaken, match="not ours"):
                await tools.call(tool, **requested | {"vmid": vmid})
        assert await sim.log("POST") == []

    async def test_race(self, tools: Bench, sim: AsyncPve) -> None:
        """Of two workflows that drew the same VMID one gets it, the other fails with vmid_taken."""
        await sim.durations(vzcreate=0.5)
        calls = [tools.until_done("create_container", MemoryCall(f"wf-{n}.c"), **CONTAINER) for n in range(2)]
        results = await asyncio.gather(*calls, return_exceptions=True)

        assert sorted(type(result).__name__ for result in results) == ["Guest", "VmidTaken"]
        assert len(await sim.creates()) == 1

    async def test_fails(self, tools: Bench, sim: AsyncPve) -> None:
        """A create that fails says why, and that nothing was left behind."""
        await sim.rule("POST", "/lxc$", {"task_exit": "lvcreate failed"})

        with pytest.raises(errors.TaskFailed, match=r"lvcreate failed.*no container 320 was left behind"):
            await tools.call("create_container", **CONTAINER)

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """A create that ends with warnings is done, and they are handed on."""
        await sim.rule("POST", "/lxc$", {"task_exit": "WARNINGS: 1"})
        call = MemoryCall()

        assert (await tools.call("create_container", call, **CONTAINER)).vmid == 320
        assert call.warnings

    async def test_denied(self, lab: FakePve, sim: AsyncPve) -> None:
        """A token without the right gets the missing one, and how to grant it."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.Allocate on /vms/320; .*pveum acl modify /vms/320"):
            await Bench(proxmox).call("create_container", **CONTAINER)
        assert await sim.found(320) is None
        await proxmox.close()

    async def test_wrong(self, tools: Bench) -> None:
        """What could become something else on its way, or cannot be meant, is refused."""
        for wrong in (
            {"ostemplate": "local:iso/x.iso"},
            {"ip": "dhcp,gw=1"},
            {"features": "nesting=1, x"},
            {"bridge": "vmbr0,tag=4"},
            {"gateway": "a"},
        ):
            with pytest.raises(errors.InvalidMessage):
                tools.tools["create_container"].parse(CONTAINER | wrong)
        with pytest.raises(errors.Rejected, match="gateway: it needs an address, and ip is dhcp"):
            await tools.tools["create_container"].run(
                MemoryCall(), tools.tools["create_container"].parse(CONTAINER | {"gateway": "192.0.2.1"})
            )
        with pytest.raises(errors.NotFound, match="there is no storage 'nope' on pve1"):
            await tools.call("create_container", **CONTAINER | {"storage": "nope"})


class TestClone:
    """clone_container."""

    async def test_full(self, tools: Bench, sim: AsyncPve) -> None:
        """A stopped container is cloned in full, with the mark; its source stays as it is."""
        before = await tools.call("get_guest", vmid=201)
        made = await tools.call("clone_container", MemoryCall("wf-2.clone"), **COPY)

        assert (made.vmid, made.node, made.name, made.status) == (321, "pve2", "ct-02", "stopped")
        assert "agentd:wf-2.clone" in (await sim.found(321))["config"]["description"]
        assert await tools.call("get_guest", vmid=201) == before

    async def test_linked(self, tools: Bench) -> None:
        """A linked clone is made of a template, on its storage."""
        with pytest.raises(errors.Rejected, match="is no template, so only a full clone"):
            await tools.call("clone_container", **COPY, full=False)
        name = (await tools.call("get_guest", vmid=201)).name
        await tools.call("convert_to_template", MemoryCall("wf.t"), vmid=201, name=name)
        with pytest.raises(errors.Rejected, match="leave `storage` out"):
            await tools.call("clone_container", **COPY, full=False, storage="shared")

        assert (await tools.call("clone_container", **COPY, full=False)).vmid == 321

    async def test_running(self, tools: Bench, sim: AsyncPve) -> None:
        """A container that runs is not cloned in full, and a VM is no container."""
        await tools.call("start_guest", MemoryCall("wf.s"), vmid=201)
        sent = len(await sim.log("POST"))
        with pytest.raises(errors.Rejected, match="runs: shutdown_guest first"):
            await tools.call("clone_container", **COPY)
        with pytest.raises(errors.Rejected, match="VM 101 'db-01' on pve1 is not a container"):
            await tools.call("clone_container", **COPY | {"source": 101})

        assert len(await sim.log("POST")) == sent


class TestUpdate:
    """update_container."""

    async def test_changed(self, tools: Bench, sim: AsyncPve) -> None:
        """Options change once, and are left alone when they are so; the mark stays."""
        await tools.call("create_container", MemoryCall("wf-1.create"), **CONTAINER)
        requested: dict[str, Any] = {
            "hostname": "renamed",
            "cores": 3,
            "memory": 768,
            "tags": ["db"],
            "description": "new",
            "onboot": True,
            "startup": "order=3",
            "protection": True,
        }
        for call in (first := MemoryCall(), MemoryCall()):
            found = await tools.call("update_container", call, vmid=320, **requested)

            assert (found.name, found.cores, found.memory, found.tags) == ("renamed", 3, 768, ["db"])
            assert (found.description, found.onboot) == ("new", True)
        assert len(await sim.log("PUT")) == 1
        assert [target.name for target in first.targets] == ["guest/320"]
        config = (await sim.found(320))["config"]
        assert "agentd:wf-1.create" in config["description"]
        assert (config["startup"], str(config["protection"])) == ("order=3", "1")
        assert first.undo is not None
        back = await tools.call(first.undo[0], **first.undo[1])
        assert (back.name, back.cores, back.memory, back.tags, back.onboot) == ("ct-01", 1, 512, [], False)

    async def test_digest(self, tools: Bench, sim: AsyncPve) -> None:
        """A configuration that was changed since it was read is not changed; a VM is no container."""
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("update_container", vmid=201, cores=4, digest="0" * 40)
        with pytest.raises(errors.Rejected, match="is not a container"):
            await tools.call("update_container", vmid=101, cores=4)
        assert await sim.log("PUT") == []

    async def test_pending(self, tools: Bench) -> None:
        """What takes effect only at the next start is reported."""
        await tools.call("start_guest", MemoryCall("wf.s"), vmid=201)
        call = MemoryCall()
        await tools.call("update_container", call, vmid=201, features="nesting=1")

        (waiting,) = (await tools.call("get_pending_changes", vmid=201)).pending
        assert (waiting.option, waiting.then) == ("features", "nesting=1")
        assert call.warnings[0].endswith("takes on at its next start: features")
