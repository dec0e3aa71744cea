"""What uses an alias, an ipset or a security group is named before it is deleted: Proxmox deletes it all the same."""

from __future__ import annotations

from typing import Any

import pytest

from agentd_proxmox.network import firewall_uses
from tool_bench import Bench, MemoryCall


async def _losses(tools: Bench, **which: Any) -> list[str]:
    call = MemoryCall("wf.delete")
    await tools.call("delete_firewall_set", call, **which)
    return call.targets[0].loses


async def test_alias(tools: Bench) -> None:
    """All rules and ipsets that use an alias are named: those of the cluster, a node, a guest and a group."""
    await tools.call("set_firewall_alias", MemoryCall("wf.a"), name="office", cidr="192.0.2.0/24")
    await tools.call("create_firewall_group", MemoryCall("wf.g"), name="web")
    everywhere: tuple[dict[str, Any], ...] = ({}, {"node": "pve2"}, {"vmid": 100}, {"group": "web"})
    for number, whose in enumerate(everywhere):
        await tools.call("create_firewall_rule", MemoryCall(f"wf.r{number}"), **whose, source="dc/office")
    await tools.call("set_firewall_ipset", MemoryCall("wf.s"), name="admins", entries=["dc/office"])
    loses = await _losses(tools, kind="alias", name="office")
    shown = await tools.call("list_firewall")

    text = "\n".join(loses)
    for title in ("of the cluster", "of the node pve2", "VM 100 'web-01'", "security group web", "ipset admins"):
        assert title in text
    assert len(loses) == 6
    assert shown.rules[0].errors


async def test_ipset_and_group(tools: Bench) -> None:
    """The rules that use an ipset or a group are named; what nothing uses has no such line."""
    await tools.call("set_firewall_ipset", MemoryCall("wf.s"), name="admins", entries=["192.0.2.1"])
    await tools.call("set_firewall_ipset", MemoryCall("wf.t"), name="free", entries=["192.0.2.2"])
    await tools.call("create_firewall_rule", MemoryCall("wf.r"), vmid=100, source="+dc/admins")
    await tools.call("create_firewall_group", MemoryCall("wf.g"), name="web")
    await tools.call("create_firewall_rule", MemoryCall("wf.u"), vmid=102, uses="web")

    assert "rule 0 of the firewall of VM 100" in (await _losses(tools, kind="ipset", name="admins"))[1]
    assert len(await _losses(tools, kind="ipset", name="free")) == 1
    assert "rule 0 of the firewall of VM 102" in (await _losses(tools, kind="group", name="web"))[1]


@pytest.mark.parametrize(
    ("tool", "new"),
    [("set_firewall_alias", {"cidr": "198.51.100.0/24"}), ("set_firewall_ipset", {"entries": ["198.51.100.1"]})],
)
async def test_rules_that_change_with_an_alias_are_named(tools: Bench, tool: str, new: dict[str, Any]) -> None:
    """The rules that change with an alias or a set are named before it becomes another; a new one has none."""
    old = {"cidr": "192.0.2.0/24"} if "cidr" in new else {"entries": ["192.0.2.1"]}
    made, changed = MemoryCall("wf.a"), MemoryCall("wf.b")
    await tools.call(tool, made, name="office", **old)
    sign = "" if "cidr" in new else "+"
    await tools.call("create_firewall_rule", MemoryCall("wf.r"), vmid=100, source=f"{sign}dc/office")
    await tools.call(tool, changed, name="office", **new)

    assert len(made.targets[0].loses) == 1
    assert "rule 0 of the firewall of VM 100" in changed.targets[0].loses[1]
    assert changed.targets[0].loses[1].endswith("changes with it")


async def test_of_a_guest(tools: Bench) -> None:
    """A guest's own ipset is searched in that guest's rules."""
    await tools.call("set_firewall_ipset", MemoryCall("wf.s"), vmid=100, name="mine", entries=["192.0.2.1"])
    await tools.call("create_firewall_rule", MemoryCall("wf.r"), vmid=100, source="+guest/mine")

    assert "rule 0 of the firewall of VM 100" in (await _losses(tools, kind="ipset", name="mine", vmid=100))[1]


@pytest.mark.parametrize(
    ("entry", "kind", "name", "vmid", "uses"),
    [
        ({"source": "+admins"}, "ipset", "admins", None, True),
        ({"dest": "+dc/admins"}, "ipset", "admins", None, True),
        ({"source": "+guest/admins"}, "ipset", "admins", None, False),
        ({"source": "+guest/admins"}, "ipset", "admins", 100, True),
        ({"source": "admins"}, "ipset", "admins", None, False),
        ({"source": "Office"}, "alias", "office", None, True),
        ({"source": "192.0.2.1,dc/office"}, "alias", "office", None, True),
        ({"source": "office2"}, "alias", "office", None, False),
        ({"type": "group", "action": "web"}, "group", "web", None, True),
        ({"type": "in", "action": "web"}, "group", "web", None, False),
    ],
)
def test_names_it(entry: dict[str, str], kind: str, name: str, vmid: int | None, *, uses: bool) -> None:
    """A rule names a set in each of the ways that Proxmox knows."""
    wanted = firewall_uses.spellings(kind, name, vmid)
    assert firewall_uses.uses_name(entry, wanted, group=kind == "group") is uses
