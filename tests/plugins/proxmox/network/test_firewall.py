"""Firewalls: the rule that is meant is changed and no other, no lockout is unnoticed, and it is done once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, size

if TYPE_CHECKING:
    from pve.client import FakePve

SSH: dict[str, Any] = {"action": "ACCEPT", "proto": "tcp", "dport": "22", "source": "192.0.2.0/24"}
SAYS = "in ACCEPT from 192.0.2.0/24 tcp port 22"
LEVELS: list[dict[str, Any]] = [{}, {"node": "pve1"}, {"vmid": 100}, {"vmid": 200}]


class TestRules:
    """list_firewall, create_firewall_rule, update_firewall_rule, delete_firewall_rule."""

    @pytest.mark.parametrize("where", LEVELS, ids=["cluster", "node", "VM", "container"])
    async def test_life(self, tools: Bench, where: dict[str, Any]) -> None:
        """On each level a rule is added, switched off and deleted, once each, and the approver sees which."""
        before = await tools.call("list_firewall", **where)
        added = await tools.call("create_firewall_rule", add := MemoryCall(), **where, **SSH, comment="the admins; ü")
        again = await tools.call("create_firewall_rule", same := MemoryCall(), **where, **SSH)
        off = await tools.call("update_firewall_rule", **where, pos=0, rule=SAYS, enabled=False)
        await tools.call("update_firewall_rule", still := MemoryCall(), **where, pos=0, rule=SAYS, enabled=False)
        gone = await tools.call("delete_firewall_rule", delete := MemoryCall(), **where, pos=0, rule=SAYS)
        await tools.call("delete_firewall_rule", twice := MemoryCall(), **where, pos=0, rule=SAYS)

        assert (before.rules, gone.rules) == ([], [])
        (rule,) = added.rules
        assert (rule.rule, rule.enabled, rule.comment) == (SAYS, True, "the admins; ü")
        assert (len(again.rules), same.acted, still.acted, twice.acted) == (1, 0, 0, 0)
        assert off.rules[0].enabled is False
        assert add.targets[0].loses == [f"{SAYS} is added"]
        assert delete.targets[0].loses == [f"{SAYS} is deleted"]
        assert tools.tools["create_firewall_rule"].tier is Tier.DESTROY
        assert not added.in_force
        assert "the cluster's firewall is off" in added.why

    async def test_many(self, tools: Bench) -> None:
        """Of many rules a page is shown that costs little, in their order, and the next one on demand."""
        for number in range(120):
            await tools.call(
                "create_firewall_rule", MemoryCall(f"wf.{number}"), source=f"192.0.2.{number}", comment="x" * 40
            )
        first = await tools.call("list_firewall")
        rest = await tools.call("list_firewall", cursor=first.next, limit=500, show=["pos", "rule"])

        assert (first.count, first.rules[0].rule) == (120, "in ACCEPT from 192.0.2.119")
        assert size(first) < 1000
        assert [item.pos for item in (*first.rules, *rest.rules)] == list(range(120))
        assert (rest.next, rest.rules[0].comment) == ("", "")

    async def test_a_changed_rule(self, tools: Bench, sim: AsyncPve) -> None:
        """A rule comes to say exactly what is asked for, once though the answer is lost, and can say the old again."""
        await tools.call("create_firewall_rule", MemoryCall("wf.a"), vmid=100, **SSH, comment="admins")
        becomes: dict[str, Any] = {"action": "DROP", "proto": "icmp", "icmp_type": "echo-request", "log": "info"}
        wanted: dict[str, Any] = {"vmid": 100, "pos": 0, "rule": SAYS, "becomes": becomes, "comment": ""}
        await sim.rule("PUT", "/firewall/rules/0$", {"cut_after": True}, 1)
        await tools.until_done("update_firewall_rule", call := MemoryCall(), **wanted)
        await tools.call("update_firewall_rule", same := MemoryCall(), **wanted)
        found = await tools.call("list_firewall", vmid=100)
        assert call.undo is not None
        back = await tools.call(call.undo[0], **call.undo[1])

        (rule,) = found.rules
        assert (rule.rule, rule.comment) == ("in DROP icmp of type echo-request logged as info", "")
        assert (call.acted, same.acted) == (1, 0)
        assert call.targets[0].loses == [f"{SAYS} becomes {rule.rule}, gets another comment"]
        assert (back.rules[0].rule, back.rules[0].comment) == (SAYS, "admins")

    async def test_equal_rules(self, tools: Bench, sim: AsyncPve) -> None:
        """Of rules that say the same the one that is meant goes, and no second one when the answer is lost."""
        for number in range(3):
            await tools.call("create_firewall_rule", MemoryCall(f"wf.{number}"), vmid=100, **SSH)
        called = [rule.rule for rule in (await tools.call("list_firewall", vmid=100)).rules]
        with pytest.raises(errors.Rejected, match=r"3 rules read .*; begin with the last of them, '.* \(3\)'"):
            await tools.call("delete_firewall_rule", vmid=100, pos=0, rule=SAYS)
        await sim.rule("DELETE", "/firewall/rules/2$", {"cut_after": True}, 1)
        gone = await tools.until_done("delete_firewall_rule", MemoryCall(), vmid=100, pos=2, rule=f"{SAYS} (3)")

        assert called == [SAYS, f"{SAYS} (2)", f"{SAYS} (3)"]
        assert [rule.rule for rule in gone.rules] == called[:2]

    async def test_taken_back(self, tools: Bench) -> None:
        """What was added, switched or moved is made as it was."""
        await tools.call("create_firewall_rule", MemoryCall("wf.a"), action="DROP", source="198.51.100.1")
        before = await tools.call("create_firewall_rule", add := MemoryCall("wf.b"), **SSH)
        calls, after = [MemoryCall(), MemoryCall()], before
        await tools.call("update_firewall_rule", calls[0], pos=0, rule=SAYS, enabled=False)
        await tools.call("update_firewall_rule", calls[1], pos=0, rule=SAYS, to=1)
        for call in reversed(calls):
            assert call.undo is not None
            await tools.call(call.undo[0], **call.undo[1])
        after = await tools.call("list_firewall")
        assert add.undo is not None
        gone = await tools.call(add.undo[0], **add.undo[1])

        assert after.rules == before.rules
        assert [rule.rule for rule in gone.rules] == ["in DROP from 198.51.100.1"]

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    @pytest.mark.parametrize(("method", "times"), [("POST", 1), ("PUT", 1), ("PUT", 2)])
    async def test_in_its_place(self, tools: Bench, sim: AsyncPve, method: str, times: int, fault: str) -> None:
        """A rule that belongs further down is off until it is there, and is one rule, whichever answer is lost."""
        for number in range(3):
            await tools.call("create_firewall_rule", MemoryCall(f"wf.{number}"), source=f"192.0.2.{number}")
        await sim.rule(method, "/cluster/firewall/rules(/.*)?$", {fault: True}, times)
        found = await tools.until_done("create_firewall_rule", MemoryCall("wf.last"), action="DROP", to=2)

        assert [rule.rule for rule in found.rules][1:] == [
            "in ACCEPT from 192.0.2.1",
            "in DROP",
            "in ACCEPT from 192.0.2.0",
        ]
        assert all(rule.enabled for rule in found.rules)
        assert {str(request["params"]["enable"]) for request in (await sim.log("POST"))[3:]} == {"0"}

    async def test_another_rule_has_its_place(self, tools: Bench, sim: AsyncPve) -> None:
        """A rule that has moved is not confused with the one that is in its place now."""
        await tools.call("create_firewall_rule", MemoryCall("wf.a"), vmid=100, **SSH)
        await tools.call("create_firewall_rule", MemoryCall("wf.b"), vmid=100, action="DROP", source="198.51.100.1")
        with pytest.raises(errors.Rejected, match=r"pos: at 0 firewall of VM 100 .* has 'in DROP from 198"):
            await tools.call("delete_firewall_rule", vmid=100, pos=0, rule=SAYS)
        with pytest.raises(errors.NotFound, match=r"rule: firewall of VM 100 .* has no rule 'in DROP'; list_firewall"):
            await tools.call("update_firewall_rule", vmid=100, pos=0, rule="in DROP", enabled=False)

        assert await sim.log("DELETE") == []
        assert await sim.log("PUT") == []

    async def test_changed_in_between(self, tools: Bench) -> None:
        """A list that changes between check and apply is refused by Proxmox itself."""
        await tools.call("create_firewall_rule", MemoryCall("wf.a"), vmid=100, **SSH)
        call = MemoryCall()
        real = call.ensure

        async def late(look: Any, act: Any) -> Any:
            async def and_then() -> Any:
                await tools.call("create_firewall_rule", MemoryCall("wf.b"), vmid=100, action="DROP")
                return await act()

            return await real(look, and_then)

        call.ensure = late  # type: ignore[method-assign]
        with pytest.raises(errors.ConfigChanged):
            await tools.tools["delete_firewall_rule"].run(
                call, tools.tools["delete_firewall_rule"].parse({"vmid": 100, "pos": 0, "rule": SAYS})
            )
        assert len((await tools.call("list_firewall", vmid=100)).rules) == 2

    async def test_moved(self, tools: Bench) -> None:
        """A rule is moved to exactly the given position, downwards and upwards, once."""
        for number in (3, 2, 1, 0):
            await tools.call(
                "create_firewall_rule", MemoryCall(f"wf.{number}"), vmid=100, dport=str(8000 + number), proto="tcp"
            )
        names = [rule.rule for rule in (await tools.call("list_firewall", vmid=100)).rules]
        down = await tools.call("update_firewall_rule", vmid=100, pos=0, rule=names[0], to=2)
        await tools.call("update_firewall_rule", same := MemoryCall(), vmid=100, pos=0, rule=names[0], to=2)
        up = await tools.call("update_firewall_rule", vmid=100, pos=2, rule=names[0], to=0)

        assert [rule.rule for rule in down.rules] == [names[1], names[2], names[0], names[3]]
        assert same.acted == 0
        assert [rule.rule for rule in up.rules] == names

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A rule whose answer or request was lost is there once; one that was to go is gone."""
        await sim.rule("POST", "/firewall/rules$", {fault: True}, 1)
        added = await tools.until_done("create_firewall_rule", add := MemoryCall(), vmid=100, **SSH)
        await sim.rule("DELETE", "/firewall/rules/0$", {fault: True}, 1)
        gone = await tools.until_done("delete_firewall_rule", delete := MemoryCall(), vmid=100, pos=0, rule=SAYS)

        assert (len(added.rules), len(gone.rules)) == (1, 0)
        assert add.adopted is delete.adopted is (fault == "cut_after")

    async def test_refused(self, tools: Bench, lab: FakePve) -> None:
        """Bad input names its field, Proxmox' own refusal too; missing rights the command that grants them."""
        wrong: dict[str, Any] = {"source": "a b", "dport": "22;23", "comment": "a\nb", "direction": "up"}
        for name, value in wrong.items():
            with pytest.raises(errors.InvalidMessage, match=f"create_firewall_rule.{name}"):
                await tools.call("create_firewall_rule", **{name: value})
        with pytest.raises(errors.Rejected, match="dport"):
            await tools.call("create_firewall_rule", vmid=100, dport="22")  # a port of which protocol?
        with pytest.raises(errors.Rejected, match="name a node, a vmid or a group, one of them"):
            await tools.call("list_firewall", node="pve1", vmid=100)
        with pytest.raises(errors.Rejected, match="give either to, or some of enabled, comment and becomes"):
            await tools.call("update_firewall_rule", pos=0, rule="x")
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks VM.Config.Network on /vms/100; to grant it: pveum"):
            await Bench(audit).call("create_firewall_rule", vmid=100, **SSH)
        await audit.close()


class TestOptions:
    """update_firewall_options."""

    async def test_a_lockout_is_refused(self, tools: Bench, sim: AsyncPve) -> None:
        """The cluster's firewall is not switched on before its nodes can still be reached, unless that is meant."""
        with pytest.raises(errors.Rejected, match="no rule of the cluster opens the ports 8006 and 22"):
            await tools.call("update_firewall_options", enable=True)
        assert await sim.log("PUT") == []
        await tools.call("create_firewall_rule", proto="tcp", dport="22,8006", source="192.0.2.0/24")
        on = await tools.call("update_firewall_options", call := MemoryCall(), enable=True, policy_in="DROP")
        again = await tools.call("update_firewall_options", same := MemoryCall(), enable=True)
        back = await tools.call(call.undo[0], **call.undo[1]) if call.undo else None

        assert (on.in_force, on.why, again.in_force, same.acted) == (True, "", True, 0)
        assert call.targets[0].loses == ["enable: False → True"]
        assert back is not None
        assert not back.in_force

    @pytest.mark.parametrize(
        ("rule", "enough"),
        [
            ({"proto": "tcp", "dport": "22,8000:8010"}, True),
            ({}, True),
            ({"proto": "icmp"}, False),
            ({"proto": "udp", "dport": "22,8006"}, False),
            ({"proto": "tcp", "dport": "8006"}, False),
            ({"macro": "SSH"}, False),
            ({"direction": "out", "proto": "tcp", "dport": "22,8006"}, False),
            ({"proto": "tcp", "dport": "22,8006", "enabled": False}, False),
            ({"proto": "tcp", "sport": "22"}, False),
        ],
    )
    async def test_which_rules_let_in(self, tools: Bench, rule: dict[str, Any], enough: bool) -> None:  # noqa: FBT001
        """Only a rule that opens both ports counts."""
        await tools.call("create_firewall_rule", **rule)
        if enough:
            assert (await tools.call("update_firewall_options", enable=True)).in_force
        else:
            with pytest.raises(errors.Rejected, match="no rule of the cluster opens the ports"):
                await tools.call("update_firewall_options", enable=True)

    async def test_every_way_to_lock_clients_out(self, tools: Bench) -> None:
        """By a policy, a rule before it, a group: it is refused, or the approver sees it."""
        await tools.call("update_firewall_options", policy_in="ACCEPT")
        await tools.call("update_firewall_options", enable=True)
        with pytest.raises(errors.Rejected, match="no rule of the cluster opens the ports 8006 and 22"):
            await tools.call("update_firewall_options", policy_in="DROP")
        await tools.call("create_firewall_group", name="admins")
        await tools.call("create_firewall_rule", MemoryCall("wf.in"), group="admins", proto="tcp", dport="22,8006")
        await tools.call("create_firewall_rule", MemoryCall("wf.use"), uses="admins")
        await tools.call("update_firewall_options", policy_in="DROP")
        calls = [MemoryCall(f"wf.{number}") for number in range(4)]
        await tools.call("create_firewall_rule", calls[0], node="pve1", action="DROP", proto="tcp", dport="22")
        await tools.call("update_firewall_rule", calls[1], pos=0, rule="group admins", enabled=False)
        await tools.call("update_firewall_rule", calls[2], pos=0, rule="group admins", enabled=True)
        rule = "in ACCEPT tcp port 22,8006"
        await tools.call("delete_firewall_rule", calls[3], group="admins", pos=0, rule=rule)

        reported = [[loss for loss in call.targets[0].loses if "reached" in loss] for call in calls]
        shut = "{} can no longer be reached from outside of the nodes' own network"
        assert reported == [[shut.format("22")], [shut.format("8006 and 22")], [], [shut.format("8006 and 22")]]

    async def test_firewalls_of_every_level(self, tools: Bench, lab: FakePve) -> None:
        """A guest's firewall is in force where the cluster's and a network card's are on too; a node's is by itself."""
        full = connect(lab)
        await tools.call("update_firewall_options", enable=True, locked_out=True)
        off = await tools.call("list_firewall", vmid=100)
        await tools.call("update_firewall_options", vmid=100, enable=True, policy_out="REJECT", macfilter=False)
        bare = await tools.call("list_firewall", vmid=100)
        card = (await full.get("/nodes/pve1/qemu/100/config"))["net0"]
        await full.put("/nodes/pve1/qemu/100/config", net0=f"{card},firewall=1", net1="virtio,bridge=vmbr0")
        on = await tools.call("list_firewall", vmid=100)
        node = await tools.call("list_firewall", node="pve1")
        await full.close()

        assert (off.in_force, off.why) == (False, "it is off at this level")
        assert (bare.in_force, bare.why) == (False, "no network card of it has firewall=1 (net0); set_guest_network")
        assert (on.in_force, on.bare, on.policy_out, on.options) == (True, ["net1"], "REJECT", {"macfilter": "0"})
        assert node.in_force
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("update_firewall_options", vmid=100, enable=False, digest=off.digest)
        with pytest.raises(errors.Rejected, match="policy_in: the firewall of a node has none; it has enable, log_"):
            await tools.call("update_firewall_options", node="pve1", policy_in="DROP")


class TestLog:
    """get_firewall_log."""

    async def test_read(self, tools: Bench) -> None:
        """The newest lines that fit are shown, of a guest only its own, and of an empty log none."""
        node = await tools.call("get_firewall_log", node="pve1", lines=2)
        guest = await tools.call("get_firewall_log", vmid=100, match="src=192.0.2.5")
        none = await tools.call("get_firewall_log", node="pve3")

        assert (node.searched, len(node.lines)) == (60, 2)
        assert "10:59" in node.lines[-1]
        assert [line.split("DPT=")[1] for line in guest.lines] == ["22"] * 3
        assert all(line.startswith("100 ") for line in guest.lines)
        assert (none.searched, none.lines) == (0, [])
        assert size(await tools.call("get_firewall_log", node="pve1")) < 1500
        with pytest.raises(errors.Rejected, match="name a node or the vmid of a guest, one of both"):
            await tools.call("get_firewall_log")


class TestNames:
    """list_firewall_sets and what makes and deletes them."""

    async def test_life(self, tools: Bench) -> None:
        """Aliases, sets and groups are made, changed and deleted once; a set becomes exactly what is asked for."""
        await tools.call("set_firewall_alias", name="home", cidr="192.0.2.0/24", comment="=;ü")
        alias = await tools.call("set_firewall_alias", call := MemoryCall(), name="home", cidr="198.51.100.0/24")
        await tools.call("set_firewall_ipset", name="friends", entries=["192.0.2.1", "192.0.2.0/28", "!192.0.2.3"])
        sets = await tools.call("set_firewall_ipset", change := MemoryCall(), name="friends", entries=["192.0.2.9"])
        await tools.call("set_firewall_ipset", same := MemoryCall(), name="friends", entries=["192.0.2.9"])
        groups = await tools.call("create_firewall_group", name="web")
        for kind, name in (("alias", "home"), ("ipset", "friends"), ("group", "web")):
            await tools.call("delete_firewall_set", kind=kind, name=name)
            await tools.call("delete_firewall_set", twice := MemoryCall(), kind=kind, name=name)
            assert twice.acted == 0
        left = await tools.call("list_firewall_sets")

        assert alias.aliases[0].cidr == "198.51.100.0/24"
        assert call.targets[0].loses == ["alias home: 192.0.2.0/24 → 198.51.100.0/24"]
        assert call.undo == ("set_firewall_alias", {"name": "home", "cidr": "192.0.2.0/24", "comment": "=;ü"})
        assert (sets.ipsets[0].entries, same.acted) == (["192.0.2.9"], 0)
        assert change.undo is not None
        assert set(change.undo[1]["entries"]) == {"192.0.2.1", "192.0.2.0/28", "!192.0.2.3"}
        assert groups.groups == {"web": ""}
        assert (left.aliases, left.ipsets, left.groups) == ([], [], {})
        assert size(sets) < 200

    async def test_no_gap(self, tools: Bench, sim: AsyncPve) -> None:
        """An entry that becomes an exclusion never leaves the set; exclusions are removed last."""
        await tools.call("set_firewall_ipset", name="friends", entries=["192.0.2.1", "192.0.2.0/28"])
        since = max(entry["n"] for entry in await sim.log())
        turned = await tools.call("set_firewall_ipset", name="friends", entries=["!192.0.2.1", "192.0.2.0/28"])
        await tools.call("delete_firewall_set", kind="ipset", name="friends")
        sent = [entry for entry in await sim.log(since=since) if entry["method"] != "GET"]

        assert set(turned.ipsets[0].entries) == {"!192.0.2.1", "192.0.2.0/28"}
        assert [(entry["method"], entry["path"].rpartition("/ipset/friends")[2]) for entry in sent] == [
            ("PUT", "/192.0.2.1"),
            ("DELETE", "/192.0.2.0/28"),
            ("DELETE", "/192.0.2.1"),
            ("DELETE", ""),
        ]

    async def test_of_a_guest(self, tools: Bench, sim: AsyncPve) -> None:
        """A guest has names of its own, as Proxmox writes them; a set whose making was cut off is made whole."""
        whose: dict[str, Any] = {"vmid": 200}
        await tools.call("set_firewall_alias", **whose, name="Home", cidr="192.0.2.7/24")
        await tools.call("set_firewall_alias", case := MemoryCall(), **whose, name="home", cidr="192.0.2.0/24")
        wanted: dict[str, Any] = {**whose, "name": "friends", "entries": ["192.0.2.1/32", "!2001:DB8::1", "guest/home"]}
        await sim.rule("POST", "/ipset/friends$", {"lost_before": True}, 1)
        found = await tools.until_done("set_firewall_ipset", MemoryCall(), **wanted)
        await tools.call("set_firewall_ipset", same := MemoryCall(), **wanted)
        turned = await tools.call("set_firewall_ipset", **whose, name="friends", entries=["!192.0.2.1"])
        cluster = await tools.call("list_firewall_sets")
        await tools.call("delete_firewall_set", **whose, kind="ipset", name="friends")

        assert (found.aliases[0].cidr, case.acted, same.acted) == ("192.0.2.0/24", 0, 0)
        assert set(found.ipsets[0].entries) == {"192.0.2.1", "!2001:db8::1", "guest/home"}
        assert turned.ipsets[0].entries == ["!192.0.2.1"]
        assert (cluster.aliases, cluster.ipsets) == ([], [])
        assert (await tools.call("list_firewall_sets", **whose)).ipsets == []
        with pytest.raises(errors.Rejected, match="vmid: a guest has no security groups"):
            await tools.call("delete_firewall_set", **whose, kind="group", name="web")
        with pytest.raises(errors.Rejected, match=r"'300\.1\.1\.1' is neither an address nor a network"):
            await tools.call("set_firewall_alias", name="odd", cidr="300.1.1.1")

    async def test_a_group_that_has_rules(self, tools: Bench) -> None:
        """Proxmox refuses to delete a group with rules, and that is reported."""
        await tools.call("create_firewall_group", name="web")
        await tools.call("create_firewall_rule", group="web", **SSH)
        used = await tools.call("create_firewall_rule", MemoryCall("wf.use"), vmid=100, uses="web")

        assert used.rules[0].rule == "group web"
        with pytest.raises(errors.AgentdError, match="not empty"):
            await tools.call("delete_firewall_set", kind="group", name="web")
