"""Snapshots: made once, named by whom they were made, thrown away only by name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from agentd_proxmox.guests.snapshot_tree import tree
from agentd_proxmox.inventory import GuestLocation
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, size, until

if TYPE_CHECKING:
    from pve.client import FakePve

SPECIAL = "before $(reboot); `rm -rf /` = 100% 'quoted' & ünïcødé\nsecond line"


class TestCreate:
    """create_snapshot."""

    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_made(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """A snapshot of a VM or container is there afterwards, with its description."""
        made = await tools.call("create_snapshot", vmid=vmid, name="before-upgrade", description=SPECIAL)
        listed = await tools.call("list_snapshots", vmid=vmid)

        assert (await sim.found(vmid))["snapshots"] == ["before-upgrade"]
        assert made.description == SPECIAL.replace("\n", " ")
        assert (made.name, made.ours, made.state) == ("before-upgrade", True, "")
        assert (listed.current, [snapshot.name for snapshot in listed.snapshots]) == (
            "before-upgrade",
            ["before-upgrade"],
        )

    async def test_memory(self, tools: Bench) -> None:
        """Memory is kept of a running VM; of a stopped one that is reported, a container has none."""
        running = await tools.call("create_snapshot", vmid=100, name="ram", vmstate=True)
        stopped = await tools.call("create_snapshot", call := MemoryCall(), vmid=101, name="ram", vmstate=True)

        assert running.vmstate
        assert not stopped.vmstate
        assert "did not run" in call.warnings[0]
        with pytest.raises(errors.Rejected, match="container 201 'proxy' on pve2 has no memory"):
            await tools.call("create_snapshot", vmid=201, name="ram", vmstate=True)

    async def test_name_from_key(self, tools: Bench, sim: AsyncPve) -> None:
        """Without a name it comes from the call's key, so that a repeat finds its own."""
        first = await tools.call("create_snapshot", MemoryCall("wf-1.snap"), vmid=101)
        again = await tools.call("create_snapshot", call := MemoryCall("wf-1.snap"), vmid=101)
        other = await tools.call("create_snapshot", MemoryCall("wf-2.snap"), vmid=101)

        assert first.name == again.name != other.name
        assert call.adopted
        assert len(await sim.tasks("qmsnapshot")) == 2

    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_answer_cut(self, tools: Bench, sim: AsyncPve, vmid: int, seconds: float) -> None:
        """A snapshot whose answer is lost is found, also while it is being made: there is exactly one."""
        await sim.durations(default=seconds)
        await sim.rule("POST", "/snapshot$", {"cut_after": True}, 1)
        made = await tools.until_done("create_snapshot", call := MemoryCall(), vmid=vmid, name="s1")

        assert call.adopted
        assert (made.name, made.state) == ("s1", "")
        assert len([task for task in await sim.tasks() if task["type"].endswith("snapshot")]) == 1

    async def test_write_lost(self, tools: Bench, sim: AsyncPve) -> None:
        """A request that was lost before Proxmox saw it is sent again."""
        await sim.rule("POST", "/snapshot$", {"lost_before": True}, 1)
        await tools.until_done("create_snapshot", MemoryCall(), vmid=101, name="s1")

        assert len(await sim.tasks("qmsnapshot")) == 1
        assert len(await sim.log("POST")) == 2

    async def test_late_write(self, tools: Bench, sim: AsyncPve) -> None:
        """Our own request that comes late takes the name first; then it is ours all the same."""
        await sim.rule("POST", "/snapshot$", {"delay": 0.5}, 2)
        first = asyncio.ensure_future(tools.call("create_snapshot", call := MemoryCall("wf.l"), vmid=101, name="s1"))
        await asyncio.sleep(0.2)
        second = await tools.call("create_snapshot", other := MemoryCall("wf.l"), vmid=101, name="s1")

        assert (await first).time == second.time
        assert "already used" in (call.warnings + other.warnings)[0]

    async def test_a_snapshot_of_another_client(self, tools: Bench, sim: AsyncPve) -> None:
        """A snapshot of that name by another client is not taken for ours, and nothing is sent."""
        await tools.call("create_snapshot", MemoryCall("other.one"), vmid=101, name="daily")

        with pytest.raises(errors.Rejected, match="snapshot daily that this call did not make"):
            await tools.call("create_snapshot", vmid=101, name="daily")
        with pytest.raises(errors.Rejected, match="keeps the name 'current'"):
            await tools.call("create_snapshot", vmid=101, name="current")
        with pytest.raises(errors.Rejected, match="template"):
            await tools.call("create_snapshot", vmid=9000, name="daily")
        assert len(await sim.log("POST")) == 1

    @pytest.mark.parametrize("name", ["x", "1st", "a b", "a;b", "ä-umlaut", "a" * 41, "../x", "$(id)"])
    async def test_bad_name(self, tools: Bench, name: str) -> None:
        """A name that Proxmox does not know is refused with the field's name."""
        with pytest.raises(errors.InvalidMessage, match="name"):
            await tools.call("create_snapshot", vmid=101, name=name)

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """WARNINGS is a success that says what Proxmox warned of."""
        await sim.rule("POST", "/snapshot$", {"task_exit": "WARNINGS: 2"})
        await tools.call("create_snapshot", call := MemoryCall(), vmid=101, name="s1")

        assert len(call.warnings) == 2

    async def test_locked(self, lab: FakePve, sim: AsyncPve) -> None:
        """A lock is waited for with a bound and reported; when it goes, the snapshot is made."""
        proxmox = connect(lab)
        bench = Bench(proxmox, ToolSettings(lock_timeout=0.3))
        await sim.lock(101, "backup")
        with pytest.raises(errors.GuestLocked, match=r"VM 101 'db-01' on pve1 is locked \(backup\)"):
            await bench.call("create_snapshot", vmid=101, name="s1")
        sent = await sim.log("POST")
        await sim.lock(101, None)

        assert sent == []
        assert (await bench.call("create_snapshot", vmid=101, name="s1")).name == "s1"
        await proxmox.close()

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A failure says what is left: nothing, or a snapshot half made and a lock with the way out."""
        await sim.rule("POST", "/snapshot$", {"task_exit": "snapshot feature is not available"}, 1)
        with pytest.raises(errors.TaskFailed, match=r"not available.*no snapshot s1 was left behind.*not locked"):
            await tools.call("create_snapshot", vmid=101, name="s1")
        await sim.durations(qmsnapshot=30)
        call = MemoryCall()
        task = asyncio.ensure_future(tools.call("create_snapshot", call, vmid=101, name="s2"))
        await until(lambda: asyncio.sleep(0, call.upid))
        proxmox = tools.tools["create_snapshot"].run.__self__.proxmox  # type: ignore[attr-defined] # a bound method
        await proxmox.delete(f"/nodes/pve1/tasks/{call.upid}")

        with pytest.raises(errors.TaskFailed, match="s2"):
            await task

    async def test_no_quorum(self, tools: Bench, sim: AsyncPve) -> None:
        """Without a quorum the task fails and nothing was done; it is made when there is one."""
        await sim.quorum(quorate=False)
        task = asyncio.ensure_future(tools.until_done("create_snapshot", MemoryCall(), vmid=101, name="s1"))
        await until(lambda: sim.tasks("qmsnapshot"))
        await sim.quorum(quorate=True)

        assert (await task).name == "s1"

    async def test_denied(self, lab: FakePve, sim: AsyncPve) -> None:
        """A token without the right gets the path, the privilege and the command."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.Snapshot on /vms/101; .*pveum acl modify /vms/101 --tokens"):
            await Bench(proxmox, ToolSettings()).call("create_snapshot", vmid=101, name="s1")
        assert await sim.tasks() == []
        await proxmox.close()


class TestRollback:
    """rollback_snapshot."""

    @pytest.mark.parametrize(("vmid", "guest"), [(101, "db-01"), (201, "proxy")])
    async def test_back(self, tools: Bench, sim: AsyncPve, vmid: int, guest: str) -> None:
        """The guest is as it was at the snapshot, and runs if that was asked for."""
        before = (await sim.found(vmid))["config"]["memory"]
        await tools.call("create_snapshot", vmid=vmid, name="s1")
        proxmox = tools.tools["get_guest"].run.__self__.proxmox  # type: ignore[attr-defined] # a bound method
        at = f"/nodes/{'pve1' if vmid == 101 else 'pve2'}/{'qemu' if vmid == 101 else 'lxc'}/{vmid}"
        await proxmox.put(f"{at}/config", memory=1234)
        done = await tools.call("rollback_snapshot", vmid=vmid, guest=guest, name="s1", start=True)

        assert str((await sim.found(vmid))["config"]["memory"]) == str(before)
        assert (done.guest.status, done.snapshots.current) == ("running", "s1")

    async def test_wrong_guest(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest that is called otherwise, or has no such snapshot, is left alone."""
        await tools.call("create_snapshot", vmid=101, name="s1")
        sent = len(await sim.log("POST"))

        with pytest.raises(errors.Rejected, match="is not called 'nas'"):
            await tools.call("rollback_snapshot", vmid=101, guest="nas", name="s1")
        with pytest.raises(errors.Rejected, match="has no whole snapshot s2; it has s1"):
            await tools.call("rollback_snapshot", vmid=101, guest="db-01", name="s2")
        assert len(await sim.log("POST")) == sent

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A rollback that fails says why, and whether the guest is locked."""
        await tools.call("create_snapshot", vmid=101, name="s1")
        await sim.rule("POST", "/rollback$", {"task_exit": "can't rollback, 's2' is more recent"})

        with pytest.raises(errors.TaskFailed, match=r"more recent.*is not locked"):
            await tools.call("rollback_snapshot", vmid=101, guest="db-01", name="s1")

    def test_tier(self, tools: Bench) -> None:
        """What throws data away is of tier destroy, so policy refuses it without an approval."""
        tiers = {name: tools.tools[name].tier for name in ("rollback_snapshot", "delete_snapshot", "create_snapshot")}

        assert tiers == {
            "rollback_snapshot": Tier.DESTROY,
            "delete_snapshot": Tier.DESTROY,
            "create_snapshot": Tier.OPERATE,
        }


class TestDelete:
    """delete_snapshot."""

    async def test_deleted(self, tools: Bench, sim: AsyncPve) -> None:
        """A snapshot is gone, its child has its parent; deleting it again does nothing."""
        for name in ("s1", "s2", "s3"):
            await tools.call("create_snapshot", MemoryCall(f"wf.{name}"), vmid=101, name=name)
        left = await tools.call("delete_snapshot", vmid=101, guest="db-01", name="s2", force=True)
        again = await tools.call("delete_snapshot", call := MemoryCall(), vmid=101, guest="db-01", name="s2")

        assert [(snapshot.name, snapshot.parent, snapshot.depth) for snapshot in left.snapshots] == [
            ("s1", "", 0),
            ("s3", "s1", 1),
        ]
        assert call.adopted
        assert [snapshot.name for snapshot in again.snapshots] == ["s1", "s3"]
        assert int((await sim.log("DELETE", "/snapshot/"))[0]["params"]["force"]) == 1
        with pytest.raises(errors.Rejected, match="is not called"):
            await tools.call("delete_snapshot", vmid=101, guest="x", name="s1")

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_lost(self, tools: Bench, sim: AsyncPve, fault: str, vmid: int) -> None:
        """A delete with a lost answer or request is settled by reading: once, and no other snapshot is deleted."""
        guest = "db-01" if vmid == 101 else "proxy"
        for name in ("s1", "s2"):
            await tools.call("create_snapshot", MemoryCall(f"wf.{name}"), vmid=vmid, name=name)
        await sim.durations(qmdelsnapshot=0.5, vzdelsnapshot=0.5)
        await sim.rule("DELETE", "/snapshot/", {fault: True}, 1)
        left = await tools.until_done("delete_snapshot", MemoryCall(), vmid=vmid, guest=guest, name="s2")

        assert [snapshot.name for snapshot in left.snapshots] == ["s1"]

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A delete that fails says so."""
        await tools.call("create_snapshot", vmid=101, name="s1")
        await sim.rule("DELETE", "/snapshot/", {"task_exit": "lvremove failed"})

        with pytest.raises(errors.TaskFailed, match=r"lvremove failed.*not locked"):
            await tools.call("delete_snapshot", vmid=101, guest="db-01", name="s1")


class TestOld:
    """list_old_snapshots."""

    async def test_found(self, tools: Bench, sim: AsyncPve) -> None:
        """Old snapshots are found in the cluster by one call a guest, paged; unreadable guests are named."""
        for vmid in (101, 103, 201):
            await tools.call("create_snapshot", vmid=vmid, name="old")
        await sim.node("pve2", online=False)
        await sim.call("DELETE", "/log")
        first = await tools.call("list_old_snapshots", days=0, guests=5)
        calls = len(await sim.log("GET"))
        second = await tools.call("list_old_snapshots", days=0, guests=5, cursor=first.next)

        assert [snapshot.vmid for snapshot in first.snapshots] == [101]
        assert (first.searched, first.guests, second.searched, second.next) == (5, 8, 3, "")
        assert calls <= 9  # a guest that is not read has its node asked for too
        assert sorted(first.unread) == ["VM 102 'web-02' on pve2", "VM 103 'ci-runner' on pve2"]
        assert list(second.unread) == ["container 201 'proxy' on pve2"]
        assert (await tools.call("list_old_snapshots", days=1, node="pve1")).snapshots == []
        await tools.call("create_snapshot", MemoryCall("wf.2"), vmid=101, name="newer")
        short = await tools.call("list_old_snapshots", days=0, node="pve1", limit=1)
        assert (short.total, len(short.snapshots)) == (2, 1)
        with pytest.raises(errors.Rejected, match="cursor"):
            await tools.call("list_old_snapshots", cursor="x")


class TestTree:
    """The tree, without a server."""

    AT = GuestLocation(101, "pve1", "qemu", "db", "running", template=False)

    def test_recorded(self, recorded: Any) -> None:
        """The recorded list is read as it is."""
        found = tree(self.AT, recorded("qemu-snapshot-list"), datetime.fromtimestamp(1795342356 + 7200, UTC))

        assert (found.current, found.snapshots[0].name, found.snapshots[0].age) == ("s1", "s1", 2.0)
        assert found.snapshots[0].description == "first"
        assert not found.snapshots[0].vmstate

    def test_shape(self) -> None:
        """Children stand under their parents, by time; control characters and lost parents do no harm."""
        entries: list[dict[str, Any]] = [
            {"name": "c", "parent": "a", "snaptime": 3, "description": "x\x1b[31m\r\ny"},
            {"name": "b", "parent": "a", "snaptime": 2},
            {"name": "a", "snaptime": 1},
            {"name": "d", "parent": "gone", "snaptime": 4},
            {"name": "current", "parent": "b"},
        ]
        found = tree(self.AT, entries, datetime.fromtimestamp(0, UTC))

        assert [(snapshot.name, snapshot.depth) for snapshot in found.snapshots] == [
            ("a", 0),
            ("b", 1),
            ("c", 1),
            ("d", 0),
        ]
        assert found.snapshots[2].description == "x [31m\ny".replace("\n", " ")
        assert size(found) < 200
