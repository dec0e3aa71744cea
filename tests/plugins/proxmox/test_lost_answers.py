"""Every tool does the same when the answers to its requests are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd.tools.definition import Repeat
from agentd_proxmox.api.schema_cache import Schemas
from plugins.proxmox.walk import bench_of, keyed, walk
from proxmox_access import AsyncPve, connect
from tool_bench import Doubt, MemoryCall

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve

WRITES = ("POST", "PUT", "DELETE")
UNSAFE = {
    *("exec_in_guest", "reboot_guest", "reset_vm", "restart_service"),
    *("rollback_snapshot", "stop_node", "test_notification"),
}
"""The tools that stop on doubt: it cannot be known whether it was done."""
CREATED_AGAIN = {"create_token"}
"""The tools that revoke what they have made, and make it again, because its secret was lost with the answer."""


async def walked(
    lab: FakePve, folder: Path, download_server: str, fault: str
) -> tuple[list[tuple[str, list[str]]], set[str]]:
    """Call every tool with a fault in the first request of each kind; return what each did, and to which object."""
    lab.reset()
    lab.settings(offline_delay=0.1, auth_delay=0, lock_wait=0.3)
    proxmox, sim = connect(lab), AsyncPve(lab)
    bench, done, hit = bench_of(proxmox, folder), list[tuple[str, list[str]]](), set[str]()
    catalogue = await Schemas(proxmox, None).catalogue()

    async def call(tool: str, parameters: Any) -> Any:
        nonlocal hit
        unsafe = bench.tools[tool].repeat is Repeat.UNSAFE
        seen = max((entry["n"] for entry in await sim.log()), default=0)
        rules = [await sim.rule(write, ".", {fault: True}, 1) for write in WRITES if fault and not unsafe]
        if unsafe:
            result = await bench(tool, keyed(Doubt(), tool), **parameters)
        else:
            result = await bench.until_done(tool, keyed(MemoryCall("wf.api"), tool), **parameters)
        applied = {rule["id"] for rule in await sim.rules() if rule["applied"]}
        hit |= {tool for rule in rules if rule["id"] in applied}
        for rule in rules:
            await sim.clear(rule["id"])
        sent = [entry for entry in await sim.log(since=seen) if entry["method"] in WRITES and entry["performed"]]
        keys = [catalogue.resolve(entry["method"], entry["path"]).key for entry in sent]
        if bench.tools[tool].repeat is Repeat.IDEMPOTENT:  # twice is the same as once
            keys = sorted(set(keys))
        done.append((tool, keys[-1:] if tool in CREATED_AGAIN else keys))
        return result

    await walk(lambda _: bench, sim, download_server, call=call)
    await proxmox.close()
    return done, hit


@pytest.mark.timeout(240)
async def test_the_same_is_done(lab: FakePve, tmp_path: Path, download_server: str) -> None:
    """For a lost answer and a lost request each tool checks, and does what is still missing."""
    wanted, _ = await walked(lab, tmp_path / "whole", download_server, "")
    for fault in ("cut_after", "lost_before"):
        found, hit = await walked(lab, tmp_path / fault, download_server, fault)

        assert [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]] == [], fault
        assert {tool for tool, keys in wanted if keys} - hit == UNSAFE
