"""Attacks that destroy without the approval of a second principal, or change what is protected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attack.stage import Breach, Stage, refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FORGED = """\
workflow: forged
tasks:
  - name: make
    tool: create_vm
    with: {vmid: 105, name: shop, node: pve1}
    undo: {tool: discard_guest, with: {vmid: 105}}
  - name: fail
    tool: get_guest
    needs: [make]
    with: {vmid: 99999}
"""


async def mark_written_by_a_caller(stage: Stage) -> None:
    """A caller writes the mark of a workflow into a description, then has the guest discarded."""
    marked = await stage.run("oscar", "call", "update_vm", "vmid=102", "description=agentd:evil4.a.b")
    refused(marked, "a mark in a description")
    for key in ("evil4.undo-a.b", "evil4.undo-a", "undo-x.a.b"):
        refused(await stage.run("oscar", "call", "discard_guest", "vmid=102", "--key", key), f"discard_guest as {key}")
    await stage.nothing_written()


async def mark_forged_for_an_undo(stage: Stage) -> None:
    """A declared workflow adopts a guest that has its mark, fails, and its undo deletes the guest."""
    (stage.folder / "workflows" / "forged.yaml").write_text(FORGED)
    name = f"evil{stage.number}"
    await asyncio.to_thread(stage.pve.drop_guest, 105)
    mark = {"description": f"agentd:{name}.make"}
    await asyncio.to_thread(stage.pve.guest, vmid=105, name="shop", node="pve1", config=mark)
    await asyncio.sleep(2)  # the directory is read again when it changes
    await stage.run("oscar", "submit", "forged", "--id", name, "--wait", seconds=90)
    (stage.folder / "workflows" / "forged.yaml").unlink()
    if any(line.startswith("DELETE") for line in await asyncio.to_thread(stage.writes)):
        raise Breach("the undo deleted a guest that the workflow did not make")
    if 105 not in await asyncio.to_thread(stage.guests):
        raise Breach("guest 105 is gone")
    await stage.prepare()


def _operate(name: str, tool: str, *pairs: str, text: str) -> Callable[[Stage], Awaitable[None]]:
    """Return the attack of tier operate that calls `tool`; nothing may be written."""

    async def attack(stage: Stage) -> None:
        done = await stage.run("oscar", "call", tool, *pairs)
        if done.code == 0:
            raise Breach(f"accepted: {done.text[-300:]}")
        await stage.nothing_written()

    attack.__name__, attack.__doc__ = name, text
    return attack


def _protected(name: str, tool: str, *pairs: str, text: str) -> Callable[[Stage], Awaitable[None]]:
    """Return the attack on something protected with two principals of the highest tier: it must not be done."""

    async def attack(stage: Stage) -> None:
        workflow, _ = await stage.plan("alice", tool, *pairs)
        if workflow:
            await stage.run("bob", "approve", workflow)
            await stage.finished(workflow)
        await stage.nothing_written()

    attack.__name__, attack.__doc__ = name, text
    return attack


def _api(method: str, path: str, parameters: str) -> tuple[str, ...]:
    return f"method={method}", f"path={path}", f"parameters={parameters}"


FALSE_VALUES = ("0.0", '"0.0"', "false", '"off"', '"No"', '"0"', "0", '" 0"', '"FALSE"', "-0.0")

ATTACKS: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    mark_written_by_a_caller,
    mark_forged_for_an_undo,
    *(
        _operate(
            f"protection_removed_with_{index}",
            "api_call",
            *_api("PUT", "/nodes/pve1/qemu/101/config", f'{{"protection": {value}}}'),
            text=f"Tier operate removes the deletion guard with the value {value}.",
        )
        for index, value in enumerate(FALSE_VALUES)
    ),
    _operate(
        "disk_moved_with_deletion",
        "api_call",
        *_api("POST", "/nodes/pve1/qemu/101/move_disk", '{"disk": "scsi0", "storage": "local", "delete": 1.0}'),
        text="Tier operate deletes the source of a moved disk.",
    ),
    _operate(
        "pool_members_removed",
        "api_call",
        *_api("PUT", "/pools/x", '{"delete": 1.0, "vms": "101"}'),
        text="Tier operate removes members of a pool.",
    ),
    _operate(
        "backup_job_prunes",
        "create_backup_job",
        "schedule=*:0/5",
        'keep={"last":1}',
        "storage=local",
        "vmids=[101]",
        text="Tier operate creates a job that prunes backups.",
    ),
    _operate(
        "backup_prunes_by_default",
        "api_call",
        *_api("POST", "/nodes/pve1/vzdump", '{"vmid": "101", "storage": "local"}'),
        text="Tier operate makes a backup whose schema default prunes others.",
    ),
    _operate(
        "vnet_opened",
        "api_call",
        *_api("POST", "/cluster/sdn/vnets/v1/firewall/rules", '{"action": "ACCEPT", "type": "in"}'),
        text="Tier operate opens a firewall.",
    ),
    _operate(
        "console_opened",
        "api_call",
        *_api("POST", "/nodes/pve1/qemu/101/vncproxy", "{}"),
        text="Tier operate opens a console.",
    ),
    _protected(
        "protected_guest_overwritten",
        "api_destroy",
        *_api(
            "POST",
            "/nodes/pve2/qemu",
            '{"vmid": 102, "archive": "local:backup/vzdump-qemu-102-2026_01_01-00_00_00.vma.zst", "force": 1}',
        ),
        text="Two principals overwrite a protected guest by its VMID in the parameters.",
    ),
    _protected(
        "protected_disk_deleted",
        "api_destroy",
        *_api("DELETE", "/nodes/pve1/storage/local-lvm/content/local-lvm:vm-102-disk-0", "{}"),
        text="Two principals delete the disk of a protected guest.",
    ),
    _protected(
        "protected_guest_deleted",
        "delete_guest",
        "vmid=102",
        "name=core-db",
        text="Two principals delete a protected guest.",
    ),
)
