"""What is created or deleted is read back: a success that Proxmox only reports is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from tool_bench import Bench

NOTHING_DONE = {"status": 200, "reason": "OK", "body": {"data": None}}
EVE = ("create_user", {"id": "eve@pve"})
GROUP = ("create_group", {"id": "ops"})
POOL = ("create_pool", {"pool": "prod"})
MATCHER = ("set_notification_matcher", {"name": "nights", "targets": ["mail-to-root"]})
SERVER = ("create_metric_server", {"name": "graph", "type": "graphite", "server": "192.0.2.7", "port": 2003})
ALIAS = ("set_firewall_alias", {"name": "office", "cidr": "192.0.2.0/24"})
JOB = ("create_backup_job", {"id": "nightly", "schedule": "02:00", "storage": "local", "all": True})
DELETIONS: list[tuple[tuple[str, dict[str, Any]], str, dict[str, Any]]] = [
    (EVE, "delete_user", {"id": "eve@pve"}),
    (GROUP, "delete_group", {"id": "ops"}),
    (POOL, "delete_pool", {"pool": "prod"}),
    (MATCHER, "delete_notification_matcher", {"name": "nights"}),
    (SERVER, "delete_metric_server", {"name": "graph"}),
    (ALIAS, "delete_firewall_set", {"kind": "alias", "name": "office"}),
    (JOB, "delete_backup_job", {"id": "nightly"}),
]


@pytest.mark.parametrize(("made", "tool", "given"), DELETIONS, ids=[tool for _, tool, _ in DELETIONS])
async def test_deletion(
    tools: Bench, sim: AsyncPve, made: tuple[str, dict[str, Any]], tool: str, given: dict[str, Any]
) -> None:
    """An object that is still there is an error; then it is deleted, and a repeat finds nothing."""
    await tools.call(made[0], MemoryCall("wf.make"), **made[1])
    rule = await sim.rule("DELETE", ".", NOTHING_DONE)
    with pytest.raises(errors.TaskFailed, match=r"Proxmox reports success, but .* is still there"):
        await tools.call(tool, MemoryCall("wf.in-vain"), **given)
    await sim.clear(rule["id"])
    gone = await tools.call(tool, MemoryCall("wf.delete"), **given)
    twice = await tools.call(tool, again := MemoryCall("wf.again"), **given)

    assert (gone.existed, twice.existed, twice.before, again.acted) == (True, False, None, 0)


@pytest.mark.parametrize(("tool", "given"), [EVE, GROUP, POOL, SERVER])
async def test_creation(tools: Bench, sim: AsyncPve, tool: str, given: dict[str, Any]) -> None:
    """An object that is missing after it was created is an error."""
    await sim.rule("POST", ".", NOTHING_DONE)

    with pytest.raises(errors.TaskFailed, match="Proxmox reports success, but there is no "):
        await tools.call(tool, MemoryCall("wf.make"), **given)


@pytest.mark.parametrize(
    ("tool", "given", "most"),
    [("create_user", {"id": "eve@pve"}, 2048), ("create_pool", {"pool": "prod"}, 4096)],
)
async def test_long_comment(tools: Bench, tool: str, given: dict[str, Any], most: int) -> None:
    """A comment is as long as Proxmox takes it, so that an undo can restore each."""
    made = await tools.call(tool, comment="x" * most, **given)

    assert len(made.comment) == most
    with pytest.raises(errors.InvalidMessage, match="comment"):
        await tools.call(tool, comment="x" * (most + 1), **given)
