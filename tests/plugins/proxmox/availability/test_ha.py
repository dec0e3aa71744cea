"""High availability: resources and rules, changed once and reported as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

GROUPS = {"status": 501, "reason": "Method 'GET /cluster/ha/rules' not implemented"}


class TestResources:
    """list_ha and the tools for resources."""

    async def test_life(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest is put under HA, changed and taken out; each step is left alone when nothing to do."""
        wanted: dict[str, Any] = {"vmid": 101, "max_restart": 3, "comment": "x; ü=1"}
        await tools.call("create_ha_resource", **wanted)
        added = await tools.call("create_ha_resource", call := MemoryCall(), **wanted)
        running = (await sim.found(101))["status"]
        changed = await tools.call("update_ha_resource", vmid=101, state="stopped", comment="")
        same = MemoryCall()
        await tools.call("update_ha_resource", same, vmid=101, state="stopped")
        shown = await tools.call("list_ha")
        removed = await tools.call("delete_ha_resource", last := MemoryCall(), vmid=101, guest="db-01")
        again = await tools.call("delete_ha_resource", vmid=101, guest="db-01")

        assert (added.sid, added.max_restart, added.comment, call.adopted) == ("vm:101", 3, "x; ü=1", True)
        assert running == "running"
        assert (changed.requested, changed.comment, same.adopted) == ("stopped", "", True)
        assert (await sim.found(101))["status"] == "stopped"
        assert (shown.quorate, shown.states, shown.rules_from) == (True, {"stopped": 1}, "rules")
        assert shown.nodes == {"pve1": "active", "pve2": "active", "pve3": "active"}
        assert (shown.resources[0].name, shown.resources[0].node) == ("db-01", "pve1")
        assert removed.existed
        assert not again.existed
        assert (await tools.call("list_ha")).resources == []
        assert "under HA" in last.targets[0].loses[0]
        assert tools.tools["delete_ha_resource"].tier is Tier.DESTROY

    async def test_taken_back(self, tools: Bench) -> None:
        """What was changed or removed can be taken back by the call that was kept."""
        await tools.call("create_ha_resource", vmid=200, max_relocate=2, comment="dns")
        for tool, more in (
            ("update_ha_resource", {"state": "ignored", "max_relocate": 5}),
            ("delete_ha_resource", {"guest": "dns"}),
        ):
            await tools.call(tool, call := MemoryCall(), vmid=200, **more)
            assert call.undo is not None
            back = await tools.call(call.undo[0], **call.undo[1])

            assert (back.sid, back.requested, back.max_relocate, back.comment) == ("ct:200", "started", 2, "dns")

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A resource whose answer or request is lost is there once."""
        await sim.rule("POST", "/ha/resources$", {fault: True}, 1)
        await tools.until_done("create_ha_resource", call := MemoryCall(), vmid=101)

        assert call.adopted is (fault == "cut_after")
        assert (await tools.call("list_ha")).states == {"started": 1}

    async def test_changed(self, tools: Bench, sim: AsyncPve) -> None:
        """A resource changed since it was read is not changed; a change between check and write is refused."""
        seen = await tools.call("create_ha_resource", vmid=101)
        await tools.call("update_ha_resource", vmid=101, max_restart=5)
        for tool, more in (("update_ha_resource", {"max_restart": 2}), ("delete_ha_resource", {"guest": "db-01"})):
            with pytest.raises(errors.ConfigChanged, match="read it again"):
                await tools.call(tool, vmid=101, digest=seen.digest, **more)
        await tools.call("update_ha_resource", vmid=101, max_restart=7)

        assert (await sim.log("PUT"))[-1]["params"]["digest"] != seen.digest
        assert (await tools.call("list_ha")).resources[0].max_restart == 7

    async def test_no_quorum(self, tools: Bench, sim: AsyncPve) -> None:
        """Without a quorum nothing is changed, and that passes."""
        await sim.quorum(quorate=False)

        with pytest.raises(errors.NoQuorum, match="the cluster has no quorum"):
            await tools.call("create_ha_resource", vmid=101)

    async def test_refused(self, tools: Bench, lab: FakePve) -> None:
        """What is not possible is reported with what to do; a missing right with the command that grants it."""
        await tools.call("create_ha_resource", vmid=101)
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("create_ha_resource", {"vmid": 9000}, "is a template"),
            (
                "create_ha_resource",
                {"vmid": 101, "max_restart": 4},
                "another max_restart: update_ha_resource changes it",
            ),
            ("create_ha_resource", {"vmid": 100, "group": "left"}, "ha groups have been migrated to rules"),
            ("update_ha_resource", {"vmid": 100, "state": "ignored"}, "not under HA: create_ha_resource puts it there"),
            ("update_ha_resource", {"vmid": 101}, "give what to change"),
            ("delete_ha_resource", {"vmid": 101, "guest": "nas"}, "is not called 'nas': nothing was done"),
            ("create_ha_resource", {"vmid": 999}, "there is no guest 999"),
        ]
        for tool, parameters, line in wrong:
            with pytest.raises(errors.PermanentError, match=line):
                await tools.call(tool, **parameters)
        with pytest.raises(errors.InvalidMessage, match="state"):
            await tools.call("create_ha_resource", vmid=100, state="on")
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks Sys.Console on /; to grant it: pveum acl modify /"):
            await Bench(audit).call("create_ha_resource", vmid=100)
        await audit.close()


class TestRules:
    """The tools for rules of Proxmox VE 9 and groups of 8."""

    async def test_life(self, tools: Bench) -> None:
        """A rule is made, changed, switched off and deleted; each step is left alone when nothing to do."""
        for vmid in (100, 102):
            await tools.call("create_ha_resource", vmid=vmid)
        wanted: dict[str, Any] = {"name": "apart", "type": "resource-affinity", "affinity": "negative"}
        await tools.call("create_ha_rule", guests=[102, 100], **wanted)
        made = await tools.call("create_ha_rule", call := MemoryCall(), guests=[102, 100], **wanted)
        changed = await tools.call("update_ha_rule", last := MemoryCall(), name="apart", enabled=False, comment="why")
        assert last.undo is not None
        back = await tools.call(last.undo[0], **last.undo[1])
        gone = await tools.call("delete_ha_rule", last := MemoryCall(), name="apart")
        assert last.undo is not None
        again = await tools.call(last.undo[0], **last.undo[1])
        await tools.call("delete_ha_rule", name="apart")

        assert (made.resources, made.affinity, call.adopted) == (["vm:100", "vm:102"], "negative", True)
        assert (changed.enabled, changed.comment) == (False, "why")
        assert (back.enabled, back.comment) == (True, "")
        assert gone.existed
        assert last.targets[0].loses == ["that vm:100, vm:102 are kept apart"]
        assert again.resources == made.resources
        assert not (await tools.call("delete_ha_rule", name="apart")).existed

    async def test_nodes(self, tools: Bench) -> None:
        """A rule of nodes keeps their priorities."""
        await tools.call("create_ha_resource", vmid=100)
        made = await tools.call(
            "create_ha_rule", name="left", type="node-affinity", guests=[100], nodes={"pve2": 0, "pve1": 3}, strict=True
        )
        changed = await tools.call("update_ha_rule", name="left", nodes={"pve3": 0}, strict=False, digest=made.digest)

        assert (made.nodes, made.strict) == ({"pve1": 3, "pve2": 0}, True)
        assert (changed.nodes, changed.strict) == ({"pve3": 0}, False)
        with pytest.raises(errors.ConfigChanged, match="left was changed since it was read"):
            await tools.call("update_ha_rule", name="left", comment="x", digest=made.digest)

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A rule whose answer or request is lost is there once."""
        await tools.call("create_ha_resource", vmid=100)
        await sim.rule("POST", "/ha/rules$", {fault: True}, 1)
        await tools.until_done(
            "create_ha_rule", call := MemoryCall(), name="left", type="node-affinity", guests=[100], nodes={"pve1": 0}
        )

        assert call.adopted is (fault == "cut_after")
        assert [rule.name for rule in (await tools.call("list_ha")).rules] == ["left"]

    async def test_groups(self, tools: Bench, sim: AsyncPve) -> None:
        """Proxmox VE 8 has groups: made, changed and deleted, unless a resource is in it."""
        await sim.settings(ha_has_groups=1)
        await sim.rule("GET", "/cluster/ha/rules$", GROUPS)
        made = await tools.call("set_ha_group", name="left", nodes={"pve1": 2}, restricted=True, comment="x")
        await tools.call("create_ha_resource", vmid=100, group="left")
        changed = await tools.call("set_ha_group", call := MemoryCall(), name="left", nodes={"pve2": 0}, failback=False)
        shown = await tools.call("list_ha")

        assert (made.nodes, made.strict, made.comment) == ({"pve1": 2}, True, "x")
        assert (changed.nodes, changed.strict, changed.failback, changed.comment) == ({"pve2": 0}, False, False, "")
        assert call.undo is not None
        assert call.undo[1]["nodes"] == {"pve1": 2}
        assert (shown.rules_from, shown.rules[0].resources) == ("groups", ["vm:100"])
        with pytest.raises(errors.Rejected, match="the HA group left is that of vm:100"):
            await tools.call("delete_ha_group", name="left")
        with pytest.raises(errors.Rejected, match="this cluster has HA groups, not rules"):
            await tools.call("delete_ha_rule", name="left")
        await tools.call("delete_ha_resource", vmid=100, guest="web-01")
        assert (await tools.call("delete_ha_group", name="left")).existed
        assert (await tools.call("list_ha")).rules == []

    async def test_refused(self, tools: Bench) -> None:
        """What is not possible is reported with what to do."""
        await tools.call("create_ha_resource", vmid=100)
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("create_ha_rule", {"type": "node-affinity", "guests": [100]}, "a node-affinity rule has nodes"),
            (
                "create_ha_rule",
                {"type": "resource-affinity", "guests": [100]},
                "has an affinity and two guests or more",
            ),
            (
                "create_ha_rule",
                {"type": "node-affinity", "guests": [101], "nodes": {"pve1": 0}},
                "guests: VM 101 'db-01' on pve1 not under HA: create_ha_resource puts it there",
            ),
            (
                "create_ha_rule",
                {"type": "node-affinity", "guests": [], "nodes": {"pve1": 0}},
                "guests: name at least one",
            ),
            ("update_ha_rule", {"comment": "x"}, "there is no HA rule left; there are none"),
            ("update_ha_rule", {}, "give what to change"),
            ("update_ha_rule", {"nodes": {}}, "delete_ha_rule, or enabled=false"),
            ("set_ha_group", {"nodes": {"pve1": 0}}, "this cluster has HA rules, not groups"),
            ("delete_ha_group", {}, "this cluster has HA rules, not groups: use the tools for rules"),
        ]
        for tool, parameters, line in wrong:
            with pytest.raises(errors.PermanentError, match=line):
                await tools.call(tool, name="left", **parameters)
        with pytest.raises(errors.InvalidMessage, match="nodes"):
            await tools.call("set_ha_group", name="left", nodes={"a,b": 0})
