"""Pools: members come and go once, and only an empty pool is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, size

if TYPE_CHECKING:
    from pve.client import FakePve


class TestPools:
    """All tools for pools."""

    async def test_life(self, tools: Bench) -> None:
        """A pool is made, filled, emptied and deleted; each step is left alone when nothing to do."""
        await tools.call("create_pool", pool="prod", comment="a=1; ü")
        made = await tools.call("create_pool", call := MemoryCall(), pool="prod", comment="a=1; ü")
        filled = await tools.call("update_pool", pool="prod", guests=[101, 100, 200], storages=["shared"])
        again = await tools.call("update_pool", same := MemoryCall(), pool="prod", guests=[100, 101])
        listed = await tools.call("list_pools")
        await tools.call("update_pool", pool="prod", guests=[100, 101, 200], storages=["shared"], remove=True)
        gone = await tools.call("delete_pool", last := MemoryCall(), pool="prod")
        twice = await tools.call("delete_pool", pool="prod")

        assert (made.comment, made.total, call.adopted) == ("a=1; ü", 0, True)
        assert [(guest.vmid, guest.type) for guest in filled.guests] == [(100, "qemu"), (101, "qemu"), (200, "lxc")]
        assert (filled.storages, again.total, same.adopted) == (["shared"], 3, True)
        assert [(pool.pool, pool.comment) for pool in listed.pools] == [("prod", "a=1; ü")]
        assert (gone.existed, twice.existed) == (True, False)
        assert last.targets[0].loses == ["the rights that were given on /pool/prod"]
        assert last.undo == ("create_pool", {"pool": "prod", "comment": "a=1; ü"})
        assert tools.tools["delete_pool"].tier is Tier.DESTROY

    async def test_right_gone_with_it(self, tools: Bench, sim: AsyncPve) -> None:
        """A deletion is read back from the list: the right to read the pool itself may be deleted with it."""
        await tools.call("create_pool", pool="prod")
        await tools.call("delete_pool", pool="prod")

        [sent] = await sim.log("DELETE")
        assert {str(read["params"]) for read in await sim.log("GET", "/pools$", since=sent["n"])} == {"{}"}

    async def test_taken_back(self, tools: Bench) -> None:
        """What was changed can be taken back by the call that was kept."""
        await tools.call("create_pool", pool="prod", comment="old")
        await tools.call("update_pool", pool="prod", guests=[100])
        changed = await tools.call("update_pool", call := MemoryCall(), pool="prod", guests=[100, 101], comment="new")
        assert call.undo is not None
        back = await tools.call(call.undo[0], **call.undo[1])

        assert (changed.total, changed.comment) == (2, "new")
        assert ([guest.vmid for guest in back.guests], back.comment) == ([100], "old")

    async def test_not_empty(self, tools: Bench, sim: AsyncPve) -> None:
        """A pool with members is not deleted, and they are named."""
        await tools.call("create_pool", pool="prod")
        await tools.call("create_pool", pool="prod/web")
        await tools.call("update_pool", pool="prod", guests=[100, 101, 102, 103, 104, 200], storages=["local"])

        with pytest.raises(
            errors.Rejected,
            match=r"the pool prod is not empty: guest 100, .*storage local, pool prod/web and 1 more; update_pool with",
        ):
            await tools.call("delete_pool", pool="prod")
        assert await sim.log("DELETE") == []

    async def test_other_pool(self, tools: Bench) -> None:
        """A guest of another pool is taken out of it only if that is given."""
        for name in ("prod", "test"):
            await tools.call("create_pool", pool=name)
        await tools.call("update_pool", pool="prod", guests=[100])

        with pytest.raises(errors.Rejected, match="guests: 100 is in the pool prod; move=true takes it out of there"):
            await tools.call("update_pool", pool="test", guests=[100])
        await tools.call("update_pool", call := MemoryCall(), pool="test", guests=[100], move=True)
        assert (await tools.call("get_pool", pool="prod")).total == 0
        assert (await tools.call("get_pool", pool="test")).total == 1
        assert call.undo is None

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A change whose answer or request is lost is settled by the members."""
        await tools.call("create_pool", pool="prod")
        await sim.rule("PUT", "/pools$", {fault: True}, 1)
        changed = await tools.until_done("update_pool", call := MemoryCall(), pool="prod", guests=[100, 101])

        assert changed.total == 2
        assert call.adopted is (fault == "cut_after")

    async def test_changed(self, tools: Bench) -> None:
        """A pool that changed since it was read is not changed on that ground."""
        seen = await tools.call("create_pool", pool="prod")
        await tools.call("update_pool", pool="prod", guests=[100])

        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("update_pool", pool="prod", guests=[101], digest=seen.digest)

    async def test_many(self, tools: Bench, sim: AsyncPve) -> None:
        """A pool of 300 guests is a page and a total."""
        vmids = list(range(1000, 1300))
        for vmid in vmids:
            await sim.guest(vmid=vmid, name=f"guest-{vmid}", node="pve1", config={})
        await tools.call("create_pool", pool="big")
        pool = await tools.call("update_pool", pool="big", guests=vmids)
        rest = await tools.call("get_pool", pool="big", cursor=pool.next, limit=500)

        assert (pool.total, len(pool.guests) + len(rest.guests)) == (300, 300)
        assert 0 < len(pool.guests) < 30  # as many as make 1000 tokens
        assert size(pool) < 1000

    async def test_refused(self, tools: Bench, lab: FakePve) -> None:
        """Bad input and missing rights are reported with the field, or the command that grants them."""
        await tools.call("create_pool", pool="prod")
        for name in ("1st", "a/b/c/d", "x;y"):
            with pytest.raises(errors.InvalidMessage, match="pool"):
                await tools.call("create_pool", pool=name)
        wrong: dict[str, dict[str, Any]] = {
            "there is no pool nope; there are prod": {"pool": "nope", "guests": [100]},
            "guests: there is no guest 999": {"pool": "prod", "guests": [999]},
            "give what to change by comment, guests or storages": {"pool": "prod"},
        }
        for line, parameters in wrong.items():
            with pytest.raises(errors.PermanentError, match=line):
                await tools.call("update_pool", **parameters)
        with pytest.raises(errors.Rejected, match="with another comment"):
            await tools.call("create_pool", pool="prod", comment="other")
        audit, blind = connect(lab, "audit"), connect(lab, "blind")
        with pytest.raises(errors.Denied, match=r"lacks Pool.Allocate on /pool/new; to grant it: pveum"):
            await Bench(audit).call("create_pool", pool="new")
        with pytest.raises(errors.Denied, match="has no rights"):
            await Bench(blind).call("list_pools")
        await audit.close()
        await blind.close()
