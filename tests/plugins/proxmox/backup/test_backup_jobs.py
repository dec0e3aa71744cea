"""Old backups are pruned as it was seen, and backup jobs are made, changed and deleted once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from agentd_proxmox.backup.job_model import job_of
from tool_bench import Bench, MemoryCall, until

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


async def stored(sim: AsyncPve) -> list[str]:
    """Return the archives that really are on the storage."""
    return [item for item in (await sim.inventory())["volumes"]["local"] if item.startswith("backup/")]


class TestPrune:
    """preview_prune and prune_backups."""

    async def test_pruned(self, tools: Bench, sim: AsyncPve) -> None:
        """What the preview shows goes, and nothing else: protected ones and other guests' stay."""
        made = [await tools.call("create_backup", MemoryCall(f"wf.{n}"), vmid=101) for n in range(4)]
        await tools.call("create_backup", MemoryCall("wf.other"), vmid=100)
        await tools.call("set_backup_protection", volid=made[0].volid, node="pve1")
        rule: dict[str, Any] = {"storage": "local", "node": "pve1", "vmid": 101, "keep_last": 1}
        shown = await tools.call("preview_prune", **rule)
        done = await tools.call("prune_backups", **rule, digest=shown.digest)

        assert (shown.keep, shown.remove, shown.protected) == (1, 2, 1)
        assert sorted(done.removed) == sorted(item.volid for item in shown.removed)
        assert done.left == []
        assert len(await stored(sim)) == 3
        assert made[0].volid.partition(":")[2] in await stored(sim)
        again = await tools.call("prune_backups", call := MemoryCall(), **rule, digest=shown.digest)
        assert (call.adopted, again.removed) == (True, [])

    async def test_changed(self, tools: Bench, sim: AsyncPve) -> None:
        """A backup that came after the preview changes what would go: then nothing is deleted."""
        for n in range(2):
            await tools.call("create_backup", MemoryCall(f"wf.{n}"), vmid=101)
        rule: dict[str, Any] = {"storage": "local", "node": "pve1", "keep_last": 1}
        shown = await tools.call("preview_prune", **rule)
        await tools.call("create_backup", MemoryCall("wf.2"), vmid=101)

        with pytest.raises(errors.ConfigChanged, match="preview_prune shows them"):
            await tools.call("prune_backups", **rule, digest=shown.digest)
        with pytest.raises(errors.Rejected, match="keeps nothing"):
            await tools.call("preview_prune", storage="local", node="pve1")
        assert len(await stored(sim)) == 3

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A prune that fails names what is gone and what is left."""
        for n in range(2):
            await tools.call("create_backup", MemoryCall(f"wf.{n}"), vmid=101)
        rule: dict[str, Any] = {"storage": "local", "node": "pve1", "keep_last": 1}
        shown = await tools.call("preview_prune", **rule)
        await sim.rule("DELETE", "/prunebackups", {"task_exit": "error pruning backups - check log"})

        with pytest.raises(errors.TaskFailed, match=f"0 backups are deleted, left are: {shown.removed[0].volid}"):
            await tools.call("prune_backups", **rule, digest=shown.digest)

    def test_tiers(self, tools: Bench) -> None:
        """What throws data away is of tier destroy, so policy refuses it without an approval."""
        destroy = {"prune_backups", "restore_over_guest", "delete_backup_job", "delete_volume"}

        assert {name for name in destroy if tools.tools[name].tier is Tier.DESTROY} == destroy
        assert tools.tools["restore_backup"].tier is Tier.OPERATE


JOB: dict[str, Any] = {
    "schedule": "sun 02:00",
    "storage": "local",
    "vmids": [101, 100],
    "keep": {"last": 3, "weekly": 2},
}


class TestJobs:
    """Backup jobs."""

    async def test_made(self, tools: Bench) -> None:
        """A job is made once, and is as it was asked for."""
        made = await tools.call("create_backup_job", MemoryCall("wf.j"), **JOB, comment="x; $(id) ü = 1")
        again = await tools.call("create_backup_job", call := MemoryCall("wf.j"), **JOB, comment="x; $(id) ü = 1")

        assert made.id == again.id
        assert call.adopted
        assert (made.vmids, made.keep, made.comment) == ([100, 101], {"last": 3, "weekly": 2}, "x; $(id) ü = 1")
        assert (await tools.call("list_backup_jobs")).total == 1

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A job whose answer or request is lost is there exactly once."""
        await sim.rule("POST", "/cluster/backup$", {fault: True}, 1)
        await tools.until_done("create_backup_job", MemoryCall(), **JOB)

        assert (await tools.call("list_backup_jobs")).total == 1

    async def test_refused(self, tools: Bench, sim: AsyncPve) -> None:
        """A job for no guest or to a wrong storage, and another's id, is refused by name of the field."""
        await tools.call("create_backup_job", **JOB, id="nightly")
        with pytest.raises(errors.Rejected, match="backup job nightly with other settings"):
            await tools.call("create_backup_job", **JOB | {"schedule": "03:00"}, id="nightly")
        with pytest.raises(errors.Rejected, match="exactly one of all, vmids, pool"):
            await tools.call("create_backup_job", **JOB, all=True)
        with pytest.raises(errors.Rejected, match="local-lvm holds no backups; local does"):
            await tools.call("create_backup_job", **JOB | {"storage": "local-lvm"})
        with pytest.raises(errors.Rejected, match="there is no 'forever'"):
            await tools.call("create_backup_job", **JOB | {"keep": {"forever": 1}})
        with pytest.raises(errors.InvalidMessage, match="schedule"):
            await tools.call("create_backup_job", **JOB | {"schedule": "$(reboot)"})
        assert len(await sim.log("POST")) == 1

    async def test_changed(self, tools: Bench, sim: AsyncPve) -> None:
        """A job is changed as asked, once; with the digest of a job that changed since, nothing is done."""
        made = await tools.call("create_backup_job", **JOB, id="nightly", comment="old")
        now = await tools.call("update_backup_job", id="nightly", enabled=False, comment="", vmids=[103], keep={})
        await tools.call("update_backup_job", call := MemoryCall(), id="nightly", enabled=False, vmids=[103])

        assert (now.enabled, now.vmids, now.keep, now.comment, now.schedule) == (False, [103], {}, "", "sun 02:00")
        assert call.adopted
        assert len(await sim.log("PUT")) == 1
        with pytest.raises(errors.ConfigChanged, match="nightly was changed since"):
            await tools.call("update_backup_job", id="nightly", enabled=True, digest=made.digest)
        assert (await tools.call("update_backup_job", id="nightly", enabled=True, digest=now.digest)).enabled
        with pytest.raises(errors.NotFound, match="no backup job weekly; there are nightly"):
            await tools.call("update_backup_job", id="weekly", enabled=True)

    async def test_deleted(self, tools: Bench) -> None:
        """A job is deleted; the guests that no job backs up then are named, as list_guests_without_backup does."""
        made = await tools.call(
            "create_backup_job", id="all", schedule="02:00", storage="local", all=True, exclude=[105]
        )
        before = await tools.call("list_guests_without_backup")
        with pytest.raises(errors.ConfigChanged):
            await tools.call("delete_backup_job", id="all", digest="0" * 16)
        gone = await tools.call("delete_backup_job", id="all", digest=made.digest)

        assert [(guest.vmid, guest.name) for guest in before.guests] == [(105, "old-test")]
        assert (gone.before["id"], len(gone.uncovered)) == ("all", 9)
        assert not (await tools.call("delete_backup_job", id="all")).existed
        page = await tools.call("list_guests_without_backup", limit=2)
        assert (page.total, [guest.vmid for guest in page.guests]) == (9, [100, 101])
        rest = await tools.call("list_guests_without_backup", limit=2, cursor=page.next)
        assert [guest.vmid for guest in rest.guests] == [102, 103]

    async def test_no_quorum(self, tools: Bench, sim: AsyncPve) -> None:
        """Without a quorum nothing is changed; it is done when there is one again."""
        await sim.quorum(quorate=False)
        task = asyncio.ensure_future(tools.until_done("create_backup_job", MemoryCall(), **JOB))
        await until(lambda: sim.log("POST", "/cluster/backup"))
        await sim.quorum(quorate=True)

        assert (await task).vmids == [100, 101]

    def test_recorded(self, recorded: Any) -> None:
        """The recorded job is read as it is."""
        (entry,) = recorded("cluster-backup")
        job = job_of(entry)

        assert (job.vmids, job.keep, job.schedule, job.enabled) == (
            [100, 101],
            {"last": 3, "weekly": 2},
            "sun 02:00",
            True,
        )
        assert job.digest == job_of(recorded("cluster-backup-job")).digest
