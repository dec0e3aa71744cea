"""A caller's digest holds others' changes against a call, never the call's own, whose answer was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve

VM: tuple[str, dict[str, Any]] = ("get_guest", {"vmid": 101})
APART = {"name": "apart", "type": "resource-affinity", "guests": [100, 102], "affinity": "negative"}
# The tool, what it is called with, the request whose answer is lost, what is there before, and what returns the digest.
CASES: list[tuple[str, dict[str, Any], str, list[tuple[str, dict[str, Any]]]]] = [
    ("update_vm", {"vmid": 101, "cores": 3}, "POST /config$", [VM]),
    ("update_tags", {"vmid": 101, "add": ["new"]}, "POST /config$", [VM]),
    ("create_disk", {"vmid": 101, "disk": "scsi3", "storage": "local-lvm", "size": 1}, "POST /config$", [VM]),
    ("move_disk", {"vmid": 101, "disk": "scsi0", "storage": "shared"}, "POST /move_disk$", [VM]),
    ("detach_disk", {"vmid": 101, "disk": "scsi0"}, "POST /config$", [VM]),
    ("update_pool", {"pool": "prod", "comment": "new"}, "PUT /pools", [("create_pool", {"pool": "prod"})]),
    ("update_ha_resource", {"vmid": 101, "max_restart": 4}, "PUT /ha/", [("create_ha_resource", {"vmid": 101})]),
    (
        *("update_ha_rule", {"name": "apart", "comment": "new"}, "PUT /ha/rules/"),
        [*(("create_ha_resource", {"vmid": vmid}) for vmid in (100, 102)), ("create_ha_rule", APART)],
    ),
    (
        *("update_replication", {"id": "101-0", "rate": 5}, "PUT /replication/"),
        [("create_replication", {"vmid": 101, "target": "pve2"}), ("get_replication", {"id": "101-0"})],
    ),
    (
        "update_firewall_options",
        {"vmid": 101, "policy_out": "DROP"},
        "PUT /options$",
        [("list_firewall", {"vmid": 101})],
    ),
]


@pytest.mark.parametrize(("tool", "given", "lost", "before"), CASES, ids=[case[0] for case in CASES])
async def test_own_change(
    tools: Bench, sim: AsyncPve, tool: str, given: dict[str, Any], lost: str, before: list[tuple[str, dict[str, Any]]]
) -> None:
    """A change whose answer is lost is found as done, though what it changed has another digest than was given."""
    done = [await tools.call(name, MemoryCall(f"{n}.x"), **parameters) for n, (name, parameters) in enumerate(before)]
    method, _, path = lost.partition(" ")
    await sim.rule(method, path, {"cut_after": True}, 1)
    await tools.until_done(tool, call := MemoryCall("own.x"), **given, digest=done[-1].digest)

    assert call.adopted
