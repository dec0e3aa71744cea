"""The tier of a named tool is that of the worst that it can do, as for the same call through the API tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from agentd.tools.definition import Tool
    from tool_bench import Bench

WANTED = {
    Tier.DESTROY: "create_backup_job update_backup_job set_interface set_dns set_notification_matcher "
    "create_mail_target create_user create_metric_server set_backup_protection delete_guest delete_volume "
    "prune_backups rollback_snapshot stop_node",
    Tier.EXEC: "create_storage sync_realm update_pool grant_role update_role create_realm update_realm update_user "
    "create_token exec_in_guest write_guest_file read_guest_file",
}


@pytest.mark.parametrize(("tier", "name"), [(tier, name) for tier, names in WANTED.items() for name in names.split()])
async def test_tier_by_effect(tools: Bench, tier: Tier, name: str) -> None:
    """What prunes, waits for the next boot or sends data elsewhere destroys; what widens rights or runs is exec."""
    assert tools.tools[name].tier is tier


@pytest.mark.parametrize(
    ("name", "parameters", "field"),
    [
        ("update_vm", {"vmid": 101, "protection": False}, "protection"),
        ("update_container", {"vmid": 103, "protection": False}, "protection"),
    ],
)
async def test_a_tool_of_tier_operate_removes_no_guard(
    tools: Bench, name: str, parameters: dict[str, Any], field: str
) -> None:
    """A tool of tier operate refuses to take a guard away and names the field."""
    with pytest.raises(errors.InvalidMessage, match=f"{field}: false takes a guard away"):
        tools.tools[name].parse(parameters)


@pytest.mark.parametrize("value", [0.0, 0, "0", "no"], ids=repr)
@pytest.mark.parametrize("name", ["update_vm", "update_container"])
async def test_no_other_form_is_false(tools: Bench, name: str, value: object) -> None:
    """What is not true or false in JSON is no switch of a named tool."""
    with pytest.raises(errors.InvalidMessage):
        tools.tools[name].parse({"vmid": 101, "protection": value})


async def test_removing_flags(tools: Bench) -> None:
    """No tool of tier operate has a flag that removes, overwrites or forces, but for those that were reviewed."""
    flags = {"delete", "force", "remove", "purge", "overwrite", "keep"}
    found = {
        tool.name for tool in tools.tools.values() if _operates(tool) and flags & {*tool.parameters.__struct_fields__}
    }

    assert found == {"shutdown_guest", "update_tags", "update_guest_options"}


def _operates(tool: Tool) -> bool:
    return tool.tier in {Tier.READ, Tier.OPERATE} and not tool.name.startswith(("preview_", "list_"))
