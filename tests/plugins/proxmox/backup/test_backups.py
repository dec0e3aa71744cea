"""Backups: one archive however often the answer is lost, restored where it was meant."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import errors
from agentd.safety import marks
from agentd_proxmox.backup.archives import backup_line, mark_notes
from agentd_proxmox.backup.restore import parse_config
from agentd_proxmox.model import guest_model
from agentd_proxmox.model.guest_model import mark_of, notes_text
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, size, until

if TYPE_CHECKING:
    from agentd.proxmox.client import Proxmox
    from pve.client import FakePve

NASTY = "before $(reboot); `rm -rf /` = 100% \\n 'quoted' & ünïcødé\nsecond line"


async def stored(sim: AsyncPve) -> list[str]:
    """Return the archives that really are on the storage."""
    return [item for item in (await sim.inventory())["volumes"]["local"] if item.startswith("backup/")]


def proxmox_of(tools: Bench) -> Proxmox:
    """Return the connection that the tools are bound to."""
    found: Proxmox = tools.tools["get_guest"].run.__self__.proxmox  # type: ignore[attr-defined] # a bound method
    return found


class TestCreate:
    """create_backup."""

    @pytest.mark.parametrize(("vmid", "kind"), [(101, "qemu"), (201, "lxc")])
    async def test_made(self, tools: Bench, sim: AsyncPve, vmid: int, kind: str) -> None:
        """The only storage for backups is taken; the archive is there with notes, protection and whose it is."""
        made = await tools.call(
            "create_backup", MemoryCall("wf-1.back"), vmid=vmid, notes="{{guestname}} nightly", protected=True
        )

        assert await stored(sim) == [made.volid.partition(":")[2]]
        assert (made.vmid, made.type, made.protected, made.made_by) == (vmid, kind, True, "wf-1.back")
        assert made.notes == ("db-01 nightly" if vmid == 101 else "proxy nightly")
        sent = (await sim.log("POST", "/vzdump$"))[0]["params"]
        assert (sent["mode"], sent["compress"], int(sent["remove"])) == ("snapshot", "zstd", 0)

    async def test_notes(self, tools: Bench, sim: AsyncPve) -> None:
        """Notes with shell characters, backslashes and more lines arrive as they are; unknown keys are refused."""
        made = await tools.call("create_backup", vmid=101, notes=NASTY)
        whole = await proxmox_of(tools).get(f"/nodes/pve1/storage/local/content/{made.volid}")

        first, _, rest = whole["notes"].partition("\n")
        assert (first, rest) == (NASTY.partition("\n")[0] + " agentd:wf.task", "second line")
        assert made.notes == NASTY.partition("\n")[0]
        with pytest.raises(errors.Rejected, match=r"does not know \{\{evil\}\}; there are \{\{cluster\}\}"):
            await tools.call("create_backup", vmid=101, notes="{{evil}}")
        with pytest.raises(errors.Rejected, match="Proxmox takes 1024"):
            await tools.call("create_backup", vmid=101, notes="x" * 1020)
        assert len(await sim.log("POST")) == 1

    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    async def test_answer_cut(self, tools: Bench, sim: AsyncPve, seconds: float) -> None:
        """A backup whose answer is lost is found by its mark, also while it runs: there is exactly one archive."""
        await sim.durations(vzdump=seconds)
        await sim.rule("POST", "/vzdump$", {"cut_after": True}, 1)
        made = await tools.until_done("create_backup", call := MemoryCall(), vmid=101)

        assert call.adopted
        assert made.made_by == "wf.task"
        assert len(await stored(sim)) == len(await sim.tasks("vzdump")) == 1

    async def test_write_lost(self, tools: Bench, sim: AsyncPve) -> None:
        """A request that was lost before Proxmox saw it is sent again: exactly one archive."""
        await sim.rule("POST", "/vzdump$", {"lost_before": True}, 1)
        await tools.until_done("create_backup", MemoryCall(), vmid=101)

        assert len(await stored(sim)) == 1
        assert len(await sim.log("POST")) == 2

    async def test_others(self, tools: Bench, sim: AsyncPve) -> None:
        """Another call's backup of the same guest is not taken for ours, even while it runs."""
        await sim.durations(vzdump=0.7)
        first = asyncio.ensure_future(tools.call("create_backup", MemoryCall("wf.a"), vmid=101))
        await until(lambda: sim.tasks("vzdump"))
        second = await tools.call("create_backup", other := MemoryCall("wf.b"), vmid=101)

        assert (await first).volid != second.volid
        assert any("is it ours?" in text for text in other.texts)
        assert len(await stored(sim)) == 2

    async def test_warnings(self, tools: Bench, sim: AsyncPve) -> None:
        """WARNINGS is a success that says what Proxmox warned of."""
        await sim.rule("POST", "/vzdump$", {"task_exit": "WARNINGS: 1"})
        made = await tools.call("create_backup", call := MemoryCall(), vmid=101)

        assert made.vmid == 101
        assert "simulated warning" in call.warnings[0]

    async def test_locked(self, lab: FakePve, sim: AsyncPve) -> None:
        """A lock is waited for with a bound and reported; one that comes between too, and may be tried again."""
        proxmox = connect(lab)
        bench = Bench(proxmox, ToolSettings(lock_timeout=0.3))
        await sim.lock(101, "snapshot")
        with pytest.raises(errors.GuestLocked, match=r"VM 101 'db-01' on pve1 is locked \(snapshot\)"):
            await bench.call("create_backup", vmid=101)
        assert await sim.log("POST") == []
        await sim.lock(101, None)
        await sim.rule("POST", "/vzdump$", {"delay": 0.5}, 1)
        task = asyncio.ensure_future(bench.call("create_backup", vmid=101))
        await until(lambda: sim.log("POST", "/vzdump$"))
        await sim.lock(101, "snapshot")

        with pytest.raises(errors.GuestLocked, match="nothing was done"):
            await task
        await proxmox.close()

    @pytest.mark.parametrize("goes", ["moves", "vanishes"])
    async def test_a_guest_that_moves_or_is_deleted(self, tools: Bench, sim: AsyncPve, goes: str) -> None:
        """A guest that moves or vanishes before its backup starts is reported as that, and that nothing was left."""
        await sim.rule("POST", "/vzdump$", {"delay": 0.6}, 1)
        task = asyncio.ensure_future(tools.call("create_backup", vmid=101))
        await until(lambda: sim.log("POST", "/vzdump$"))
        if goes == "moves":
            await proxmox_of(tools).post("/nodes/pve1/qemu/101/migrate", target="pve2")
        else:
            await sim.call("DELETE", "/guest?vmid=101")

        reported = "moved to pve2 meanwhile" if goes == "moves" else "is gone"
        with pytest.raises(
            errors.TaskFailed, match=f"unable to find VM '101'.*no backup was left on local.*{reported}"
        ):
            await task

    async def test_killed(self, tools: Bench, sim: AsyncPve) -> None:
        """A backup that is killed names the lock that it left, and how to take it away."""
        await sim.durations(vzdump=30)
        task = asyncio.ensure_future(tools.call("create_backup", call := MemoryCall(), vmid=101))
        await until(lambda: asyncio.sleep(0, call.upid))
        await proxmox_of(tools).delete(f"/nodes/pve1/tasks/{call.upid}")

        with pytest.raises(errors.TaskFailed, match=r"no backup was left.*still locked \(backup\).*qm unlock 101"):
            await task

    async def test_storage(self, tools: Bench, sim: AsyncPve) -> None:
        """A storage that is unknown, away or for other things is reported as that before anything is sent."""
        with pytest.raises(errors.Rejected, match="storage local-lvm of pve1 does not hold backup, but images,rootdir"):
            await tools.call("create_backup", vmid=101, storage="local-lvm")
        with pytest.raises(errors.NotFound, match="no storage 'nope' on pve1; there are local, local-lvm, shared"):
            await tools.call("create_backup", vmid=101, storage="nope")
        await sim.storage("local", active=False)
        with pytest.raises(errors.ProxmoxUnavailable, match="storage local is not online on pve1"):
            await tools.call("create_backup", vmid=101)
        await sim.storage("shared", content="images,backup")
        with pytest.raises(errors.Rejected, match=r"name the storage: 2 of pve1 hold backup \(local, shared\)"):
            await tools.call("create_backup", vmid=101)
        assert await sim.log("POST") == []

    async def test_denied(self, lab: FakePve, sim: AsyncPve) -> None:
        """A token without the right gets the path, the privilege and the command."""
        proxmox = connect(lab, "audit")

        with pytest.raises(errors.Denied, match=r"VM.Backup on /vms/101; .*pveum acl modify /vms/101 --tokens"):
            await Bench(proxmox, ToolSettings()).call("create_backup", vmid=101)
        assert await stored(sim) == []
        await proxmox.close()


class TestList:
    """list_backups, notes and protection."""

    async def test_listed(self, tools: Bench, sim: AsyncPve) -> None:
        """Backups are listed newest first over all nodes, by pages, with a tally; one guest's alone on request."""
        for vmid in (101, 103, 201, 101):
            await tools.call("create_backup", MemoryCall(f"wf.{vmid}-{len(await stored(sim))}"), vmid=vmid)
        first = await tools.call("list_backups", limit=3)
        second = await tools.call("list_backups", limit=3, cursor=first.next)
        one = await tools.call("list_backups", vmid=101, show=["time"])

        assert (first.total, first.guests, len(first.backups), len(second.backups), second.next) == (4, 3, 3, 1, "")
        assert [backup.time for backup in first.backups] == sorted((e.time for e in first.backups), reverse=True)
        assert {backup.volid for backup in first.backups + second.backups} == {f"local:{e}" for e in await stored(sim)}
        assert (one.total, {backup.size for backup in one.backups}) == (2, {0})

    async def test_unreachable(self, tools: Bench, sim: AsyncPve) -> None:
        """A storage that cannot be read is named: its guests are not taken for ones without backups."""
        await tools.call("create_backup", vmid=103)
        await sim.node("pve2", online=False)
        listed = await tools.call("list_backups")

        assert listed.backups == []
        assert list(listed.unread) == ["local on pve2"]
        with pytest.raises(
            errors.NotFound, match="local-lvm holds no backups, or does not exist; there are local on pve1"
        ):
            await tools.call("list_backups", storage="local-lvm")

    async def test_blind(self, lab: FakePve, tools: Bench) -> None:
        """To a token from which Proxmox hides backups they are not seen, and that is not called none."""
        await tools.call("create_backup", vmid=101)
        proxmox = connect(lab, "audit")
        bench = Bench(proxmox, ToolSettings())
        listed = await bench.call("list_backups")
        content = await bench.call("list_volumes", call := MemoryCall(), storage="local", node="pve1", content="backup")

        assert (listed.total, content.total) == (0, 0)
        assert "lacks Datastore.AllocateSpace on /storage/local" in listed.unread["local on pve1"]
        assert "pveum acl modify /storage/local" in call.warnings[0]
        assert (await tools.call("list_backups", vmid=100)).unread == {}
        await proxmox.close()

    async def test_many(self, tools: Bench, sim: AsyncPve) -> None:
        """500 backups cost one call a storage and fewer than 1,000 tokens."""
        await sim.volumes("local", "pve1", 500)
        await sim.call("DELETE", "/log")
        listed = await tools.call("list_backups", node="pve1")

        assert listed.total == 500
        assert size(listed) < 1000
        assert len(await sim.log("GET")) == 2

    async def test_recorded(self, recorded: Any) -> None:
        """The recorded list is read as it is; what a backup server adds is understood."""
        (entry,) = recorded("storage-content-backup")
        line = backup_line(entry | {"verification": {"state": "ok"}, "encrypted": "aa:bb", "protected": 1}, "pve1")

        assert (line.vmid, line.type, line.notes, line.size, line.made_by) == (201, "lxc", "ct201", 1625, "")
        assert (line.verified, line.encrypted, line.protected) == ("ok", True, True)

    async def test_notes(self, tools: Bench, sim: AsyncPve) -> None:
        """New notes keep the mark; repeating sends nothing twice; a backup that is not there is reported."""
        made = await tools.call("create_backup", vmid=101)
        noted = await tools.call("set_backup_notes", volid=made.volid, node="pve1", notes=NASTY)
        await tools.call("set_backup_notes", call := MemoryCall(), volid=made.volid, node="pve1", notes=NASTY)

        assert (noted.notes, noted.made_by) == (NASTY.partition("\n")[0], "wf.task")
        assert call.adopted
        assert len(await sim.log("PUT")) == 1
        with pytest.raises(errors.NotFound, match="no backup local:backup/none"):
            await tools.call("set_backup_notes", volid="local:backup/none.vma", node="pve1", notes="x")

    async def test_protection(self, tools: Bench, sim: AsyncPve) -> None:
        """Protection is set and taken away, also when an answer is lost; a protected backup is not deleted."""
        made = await tools.call("create_backup", vmid=101)
        await sim.rule("PUT", "/content/", {"cut_after": True}, 1)
        kept = await tools.until_done("set_backup_protection", MemoryCall(), volid=made.volid, node="pve1")
        with pytest.raises(errors.Rejected, match="is protected"):
            await tools.call("delete_volume", volid=made.volid, node="pve1")
        freed = await tools.call("set_backup_protection", volid=made.volid, node="pve1", protected=False)
        gone = await tools.call("delete_volume", volid=made.volid, node="pve1")

        assert (kept.protected, freed.protected) == (True, False)
        assert gone.before["size"] == made.size
        assert await stored(sim) == []


class TestRestore:
    """restore_backup, restore_over_guest, inspect_backup."""

    @pytest.mark.parametrize("vmid", [101, 201])
    async def test_new(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """A backup becomes a new guest with its configuration and description, marked, beside the old one."""
        node, kind = ("pve1", "qemu") if vmid == 101 else ("pve2", "lxc")
        await proxmox_of(tools).put(f"/nodes/{node}/{kind}/{vmid}/config", description="the database\n100% = ü")
        made = await tools.call("create_backup", vmid=vmid)
        guest = await tools.call(
            "restore_backup", MemoryCall("wf.re"), volid=made.volid, node=node, vmid=300, name="scratch"
        )

        assert (guest.vmid, guest.name, guest.type, guest.status) == (300, "scratch", kind, "stopped")
        assert guest.description == "the database\n100% = ü"
        assert guest_model.marks((await sim.found(300))["description"]) == ["agentd:wf.re"]
        assert await sim.found(vmid) is not None

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    async def test_lost(self, tools: Bench, sim: AsyncPve, fault: str, seconds: float) -> None:
        """A restore whose answer or request is lost is settled: exactly one guest."""
        made = await tools.call("create_backup", vmid=101)
        await sim.durations(qmrestore=seconds)
        await sim.rule("POST", "/qemu$", {fault: True}, 1)
        guest = await tools.until_done("restore_backup", MemoryCall(), volid=made.volid, node="pve1", vmid=300)

        assert (guest.vmid, guest.lock) == (300, "")
        assert len(await sim.tasks("qmrestore")) == 1

    async def test_taken(self, tools: Bench, sim: AsyncPve) -> None:
        """A VMID of another guest is reported, and that guest is not changed; so is a backup that is not there."""
        made = await tools.call("create_backup", vmid=101)

        with pytest.raises(errors.VmidTaken, match="VM 104 'nas' on pve3"):
            await tools.call("restore_backup", volid=made.volid, node="pve1", vmid=104)
        with pytest.raises(errors.NotFound, match="no backup"):
            await tools.call("restore_backup", volid="local:backup/none.vma", node="pve1", vmid=300)
        with pytest.raises(errors.Rejected, match="storage local of pve1 does not hold images"):
            await tools.call("restore_backup", volid=made.volid, node="pve1", vmid=300, storage="local")
        assert await sim.tasks("qmrestore") == []

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A restore that fails names what is left: nothing, or a half-made guest with its lock."""
        made = await tools.call("create_backup", vmid=101)
        where = {"volid": made.volid, "node": "pve1"}
        await sim.rule("POST", "/qemu$", {"task_exit": "lvcreate failed"}, 1)
        with pytest.raises(errors.TaskFailed, match=r"lvcreate failed.*no guest 300 was left behind"):
            await tools.call("restore_backup", **where, vmid=300)
        await sim.rule("POST", "/qemu$", {"task_exit": "unexpected status"}, 1)
        with pytest.raises(errors.TaskFailed, match=r"VM 301.* was left behind, locked \(create\)"):
            await tools.call("restore_backup", **where, vmid=301)

    async def test_over(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest is overwritten when it is named, stopped and unprotected; once, though the answer was lost."""
        made = await tools.call("create_backup", MemoryCall("wf.b"), vmid=101)
        await proxmox_of(tools).put("/nodes/pve1/qemu/101/config", memory=1111)
        with pytest.raises(errors.Rejected, match="is not called 'nas'"):
            await tools.call("restore_over_guest", volid=made.volid, vmid=101, guest="nas")
        await sim.rule("POST", "/qemu$", {"cut_after": True}, 1)
        guest = await tools.until_done("restore_over_guest", MemoryCall(), volid=made.volid, vmid=101, guest="db-01")

        assert (guest.memory, guest.name) == (4096, "db-01")
        assert len(await sim.tasks("qmrestore")) == 1

    async def test_over_refused(self, tools: Bench, sim: AsyncPve) -> None:
        """A running or protected guest, and one of another kind, is not overwritten."""
        made = await tools.call("create_backup", vmid=100)
        with pytest.raises(errors.Rejected, match="web-01' on pve1 is running: only a stopped guest"):
            await tools.call("restore_over_guest", volid=made.volid, vmid=100, guest="web-01")
        await proxmox_of(tools).put("/nodes/pve1/qemu/101/config", protection=1)
        with pytest.raises(errors.Rejected, match="is protected"):
            await tools.call("restore_over_guest", volid=made.volid, vmid=101, guest="db-01")
        with pytest.raises(errors.Rejected, match="backup of a qemu guest"):
            await tools.call("restore_over_guest", volid=made.volid, vmid=200, guest="dns")
        assert await sim.tasks("qmrestore") == []

    async def test_inspected(self, tools: Bench) -> None:
        """A backup is checked as far as it goes without a restore."""
        made = await tools.call("create_backup", vmid=101)
        seen = await tools.call("inspect_backup", volid=made.volid, node="pve1")

        assert (seen.sound, seen.problems, seen.disks, seen.memory) == (True, [], {"scsi0": 32.0}, 4096)


class TestNotes:
    """Marks in notes, and configurations in archives, without a server."""

    @given(st.text(), st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\.[a-z]{1,8}\Z"))
    def test_mark(self, text: str, key: str) -> None:
        """A mark is found again in any notes, and is not shown as text."""
        notes = mark_notes(text, key)

        assert mark_of(notes) == key
        assert marks.mark(key) not in notes_text(notes) or marks.mark(key) in text

    def test_foreign(self) -> None:
        """Notes that mention agentd at another place have no mark."""
        assert mark_of("agentd:a.b was here") == mark_of("x\nagentd:a.b") == mark_of("xagentd:a.b") == ""

    def test_config(self) -> None:
        """A configuration in an archive is read until its first section; comments are the description."""
        text = "#a%3Ab\n#c\nname: db\nscsi0: local:1,size=8G\n\n[snap]\nname: old\n"

        assert parse_config(text) == {"name": "db", "scsi0": "local:1,size=8G", "description": "a:b\nc"}
