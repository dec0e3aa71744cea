"""A switch or a text that Proxmox drops from a change is deleted instead, so that it is as was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd_proxmox.model import dropped_values
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


async def test_ha_rule_off_and_on(tools: Bench) -> None:
    """An HA rule that was switched off is switched on again, by its tool and by undo."""
    await tools.call("create_ha_resource", MemoryCall("wf.ha"), vmid=100)
    rule: dict[str, Any] = {"name": "web", "type": "node-affinity", "guests": [100], "nodes": {"pve1": 1}}
    await tools.call("create_ha_rule", MemoryCall("wf.rule"), **rule, strict=True)
    off = await tools.call("update_ha_rule", call := MemoryCall("wf.off"), name="web", enabled=False)
    assert call.undo is not None
    back = await tools.call(call.undo[0], MemoryCall("wf.undo"), **call.undo[1])
    again = await tools.call("update_ha_rule", MemoryCall("wf.again"), name="web", enabled=False)
    on = await tools.call("update_ha_rule", MemoryCall("wf.on"), name="web", enabled=True, strict=False, comment="")

    assert [rule.enabled for rule in (off, back, again, on)] == [False, True, False, True]
    assert on.strict is False


async def test_the_others(tools: Bench, sim: AsyncPve) -> None:
    """Storages and matchers are switched on again by `delete`, not by a 0 that could be dropped."""
    await tools.call("update_storage", MemoryCall("wf.off"), storage="shared", enabled=False)
    on = await tools.call("update_storage", MemoryCall("wf.on"), storage="shared", enabled=True)
    matcher: dict[str, Any] = {"name": "nights", "targets": ["mail-to-root"]}
    await tools.call("set_notification_matcher", MemoryCall("wf.m"), **matcher, enabled=False)
    matched = await tools.call("set_notification_matcher", MemoryCall("wf.n"), **matcher, enabled=True)
    sent = [entry["params"] for entry in await sim.log("PUT", "/storage/shared$|/matchers/nights$")]

    assert on.enabled
    assert "disable" not in matched.settings
    assert [str(params.get("disable")) for params in sent] == ["1", "None", "None"]
    assert all("disable" in str(params["delete"]) for params in sent[1:])


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"disable": False, "comment": "x"}, {"comment": "x", "delete": "disable"}),
        ({"disable": True, "comment": ""}, {"disable": True, "delete": "comment"}),
        ({"enable": False, "nodes": [], "rate": None}, {"enable": False, "delete": "nodes"}),
        ({"comment": "x"}, {"comment": "x", "delete": None}),
    ],
)
def test_sent(wanted: dict[str, Any], sent: dict[str, Any]) -> None:
    """What is false by default and what is empty is deleted; a switch that is on by default is sent as it is."""
    assert dropped_values.changed_parameters(wanted, wanted, {"disable"}) == sent
