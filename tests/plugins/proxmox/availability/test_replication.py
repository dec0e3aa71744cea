"""Replication: one job for a guest and a target, run once, and its failures are reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

TO_2: dict[str, Any] = {"vmid": 101, "target": "pve2"}


class TestJobs:
    """create, update, list and delete."""

    async def test_life(self, tools: Bench) -> None:
        """A job is made, changed and deleted; each step is left alone when nothing to do."""
        await tools.call("create_replication", **TO_2, rate=10.5, comment="x; ü=1")
        made = await tools.call("create_replication", call := MemoryCall(), **TO_2, rate=10.5, comment="x; ü=1")
        second = await tools.call("create_replication", vmid=101, target="pve3", schedule="mon..fri */30")
        changed = await tools.call("update_replication", last := MemoryCall(), id="101-0", enabled=False, comment="")
        assert last.undo is not None
        back = await tools.call(last.undo[0], **last.undo[1])
        gone = await tools.call("delete_replication", last := MemoryCall(), id="101-1", guest="db-01", force=True)
        listed = await tools.call("list_replications")

        assert (made.id, made.source, made.target, made.rate, made.comment) == ("101-0", "pve1", "pve2", 10.5, "x; ü=1")
        assert call.adopted
        assert (second.id, second.schedule) == ("101-1", "mon..fri */30")
        assert (changed.enabled, changed.comment) == (False, "")
        assert (back.enabled, back.comment) == (True, "x; ü=1")
        assert gone.gone
        assert "copies of VM 101 'db-01' on pve1 on pve3" in last.targets[0].loses[0]
        assert last.undo is not None
        assert last.undo[1]["schedule"] == "mon..fri */30"
        assert [job.id for job in listed.jobs] == ["101-0"]
        assert tools.tools["delete_replication"].tier is Tier.DESTROY

    async def test_deleted_later(self, tools: Bench, sim: AsyncPve) -> None:
        """A job that is deleted goes with its next run, and is not deleted twice."""
        await sim.settings(replication_lag=30)
        await tools.call("create_replication", **TO_2)
        gone = await tools.call("delete_replication", id="101-0", guest="db-01")
        again = await tools.call("delete_replication", call := MemoryCall(), id="101-0", guest="db-01")

        assert (gone.gone, again.gone, call.adopted) == (False, False, True)
        assert (await tools.call("list_replications")).jobs[0].removing
        with pytest.raises(errors.Rejected, match="the replication job 101-0 is being removed"):
            await tools.call("run_replication", id="101-0")
        with pytest.raises(errors.Rejected, match="is being removed"):
            await tools.call("create_replication", **TO_2)

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A job whose answer or request is lost is there once."""
        await sim.rule("POST", "/cluster/replication$", {fault: True}, 1)
        made = await tools.until_done("create_replication", call := MemoryCall(), **TO_2)

        assert made.id == "101-0"
        assert call.adopted is (fault == "cut_after")
        assert (await tools.call("list_replications")).total == 1

    async def test_changed(self, tools: Bench) -> None:
        """A job that changed since it was read is left alone."""
        await tools.call("create_replication", **TO_2)
        seen = await tools.call("get_replication", id="101-0")
        await tools.call("update_replication", id="101-0", schedule="*/5")

        for tool, more in (("update_replication", {"rate": 5}), ("delete_replication", {"guest": "db-01"})):
            with pytest.raises(errors.ConfigChanged, match="read it again"):
                await tools.call(tool, id="101-0", digest=seen.digest, **more)

    async def test_node_is_offline(self, tools: Bench, sim: AsyncPve) -> None:
        """Jobs of a node that is away are listed, and that their state is not known is reported."""
        await tools.call("create_replication", **TO_2)
        await tools.call("create_replication", vmid=105, target="pve1")
        await sim.node("pve3", online=False)
        listed = await tools.call("list_replications")

        assert [job.id for job in listed.jobs] == ["101-0", "105-0"]
        assert list(listed.unread) == ["pve3"]

    async def test_refused(self, tools: Bench, lab: FakePve) -> None:
        """What is not possible is reported with what to do; a missing right with the command that grants it."""
        await tools.call("create_replication", **TO_2)
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("create_replication", {"vmid": 101, "target": "pve1"}, "target: VM 101 'db-01' on pve1 is there itself"),
            (
                "create_replication",
                {"vmid": 101, "target": "pve9"},
                "there is no node 'pve9'; there are pve1, pve2, pve3",
            ),
            ("create_replication", TO_2 | {"rate": 3}, "is there with another rate"),
            ("update_replication", {"id": "101-7", "rate": 3}, "there is no replication job 101-7; there are 101-0"),
            ("update_replication", {"id": "101-0"}, "give what to change"),
            ("delete_replication", {"id": "101-0", "guest": "nas"}, "is not called 'nas': nothing was done"),
        ]
        for tool, parameters, line in wrong:
            with pytest.raises(errors.PermanentError, match=line):
                await tools.call(tool, **parameters)
        with pytest.raises(errors.InvalidMessage, match="id"):
            await tools.call("run_replication", id="x")
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks VM.Replicate on /vms/101; to grant it: pveum"):
            await Bench(audit).call("update_replication", id="101-0", rate=3)
        await audit.close()


class TestRun:
    """run_replication and get_replication."""

    async def test_run(self, tools: Bench, sim: AsyncPve) -> None:
        """A run is waited for, and its log is shown."""
        await sim.settings(replication_lag=0.5)
        await tools.call("create_replication", **TO_2)
        ran = await tools.call("run_replication", call := MemoryCall(), id="101-0")
        shown = await tools.call("get_replication", id="101-0")

        assert ran.last_sync is not None
        assert ran.fails == 0
        assert "runs once a minute" in call.texts[0]
        assert shown.log[-1] == "101-0: end replication job"
        assert shown.job.last_sync == ran.last_sync

    async def test_failed(self, tools: Bench, sim: AsyncPve) -> None:
        """A run that fails returns the error of Proxmox, and is found by the list of those that fail."""
        await sim.settings(replication_fails=1)
        await tools.call("create_replication", **TO_2)
        await tools.call("create_replication", vmid=105, target="pve1")

        with pytest.raises(errors.TaskFailed, match="101-0 ran and failed: command 'zfs send' failed: exit code 1"):
            await tools.call("run_replication", id="101-0")
        listed = await tools.call("list_replications", failing=True)
        assert (listed.total, listed.failing, [job.id for job in listed.jobs]) == (2, 1, ["101-0"])

    async def test_two_runs_at_once(self, tools: Bench, sim: AsyncPve) -> None:
        """Two callers that start a job at once both see it run."""
        await sim.settings(replication_lag=0.3)
        await tools.call("create_replication", **TO_2)
        first, second = await asyncio.gather(*(tools.call("run_replication", id="101-0") for _ in range(2)))

        assert first.last_sync is not None
        assert second.last_sync is not None

    async def test_off(self, tools: Bench) -> None:
        """A job that is off is not run."""
        await tools.call("create_replication", **TO_2, enabled=False)

        with pytest.raises(errors.Rejected, match="is off: update_replication with enabled=true"):
            await tools.call("run_replication", id="101-0")
