"""Proxmox answers 403 for what does not exist: the answer says that it does not exist, and what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.proxmox.responses import not_found_error, object_of_path
from proxmox_access import connect
from tool_bench import CONTAINER, NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve


@pytest.mark.parametrize(("tool", "wanted"), [("create_vm", NEW), ("create_container", CONTAINER)])
async def test_pool(tools: Bench, tool: str, wanted: dict[str, Any]) -> None:
    """A guest for a pool that does not exist is refused with that reason, and without advice to grant anything."""
    await tools.call("create_pool", MemoryCall("wf.p"), pool="core")
    with pytest.raises(errors.NotFound, match=r"no pool 'nope' that this token may see; there are core") as found:
        await tools.call(tool, **wanted, pool="nope")

    assert "to grant it" not in str(found.value)


async def test_denied(lab: FakePve) -> None:
    """What exists and is denied stays denied."""
    proxmox = connect(lab, "audit")
    with pytest.raises(errors.Denied, match="to grant it"):
        await Bench(proxmox).call("create_vm", **NEW)
    await proxmox.close()


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/pool/nope", "pool", "nope"),
        ("/storage/nope", "storage", "nope"),
        ("/nodes/nope", "node", "nope"),
        ("/access/realm/nope", "realm", "nope"),
        ("/access/groups/nope", "group", "nope"),
    ],
)
def test_kinds(path: str, kind: str, name: str) -> None:
    """Each kind of thing that a right is held on is looked up in its list."""
    text = f"POST /x: t lacks A or B on {path}; to grant it: pveum acl modify {path} --roles C"
    source = object_of_path(text)
    assert source is not None
    assert (source[0], source[3]) == (kind, name)
    error = not_found_error(source, [{source[2]: "Nope"}, {source[2]: "other"}], text)
    assert f"there is no {kind} 'nope'" in str(error)
    assert "there are Nope, other" in str(error)
    assert not_found_error(source, [{source[2]: "nope"}], text) is None


def test_in_words() -> None:
    """A refusal that names the thing in words is looked up too."""
    assert object_of_path("POST /x: Permission check failed (pool 'nope' does not exist)") == (
        "pool",
        "/pools",
        "poolid",
        "nope",
    )


def test_paths_without_a_name_are_not_looked_up() -> None:
    """A path that names nothing of its own is not looked up."""
    assert object_of_path("t lacks Sys.Audit on /; to grant it: x") is None
    assert object_of_path("t lacks VM.Audit on /vms/100; to grant it: x") is None


PLACE = {"storage": "local", "node": "nope9"}
JOB = {"schedule": "02:30", "storage": "local", "id": "nightly"}


@pytest.mark.parametrize(
    ("tool", "parameters", "says"),
    [
        ("create_vm", {**NEW, "node": "nope9"}, "no node 'nope9'; there are pve1, pve2, pve3"),
        ("create_vm", {**NEW, "storage": "nope9"}, "storage 'nope9'"),
        ("create_vm", {**NEW, "bridge": "nope9"}, "no bridge 'nope9' on pve2"),
        ("create_vm", {**NEW, "storage": None, "template": 99999}, "no guest 99999"),
        ("create_container", {**CONTAINER, "node": "nope9"}, "no node 'nope9'; there are pve1, pve2, pve3"),
        ("create_container", {**CONTAINER, "storage": "nope9"}, "no storage 'nope9' on pve1; there are local"),
        ("create_container", {**CONTAINER, "bridge": "nope9"}, "no bridge 'nope9' on pve1"),
        ("list_volumes", PLACE, "no node 'nope9'"),
        ("create_volume", {**PLACE, "vmid": 100, "size": 1}, "no node 'nope9'"),
        ("list_backups", {"node": "nope9"}, "no node 'nope9'; there are pve1"),
        ("list_backups", {"storage": "nope9"}, "storage nope9 holds no backups, or does not exist; there are local on"),
        ("preview_prune", {**PLACE, "keep_last": 1}, "no node 'nope9'"),
        ("move_disk", {"vmid": 101, "disk": "scsi0", "storage": "nope9"}, "no storage 'nope9' on pve1"),
        ("set_guest_network", {"vmid": 101, "bridge": "nope9"}, "no bridge 'nope9'"),
        ("migrate_guest", {"vmid": 101, "target": "nope9"}, "nope9"),
        ("create_backup_job", {**JOB, "vmids": [99999]}, "vmids: there is no guest 99999"),
        ("grant_role", {"role": "Nope", "who": "eve@pve", "path": "/vms"}, "no role 'Nope'; there are Administrator"),
        ("list_grants", {"role": "Nope"}, "role: there is no role 'Nope'"),
        ("get_pool", {"pool": "nope9"}, "no pool nope9"),
        ("get_realm", {"id": "nope9"}, "nope9"),
        ("set_sdn_vnet", {"vnet": "walknet", "zone": "nope9"}, "nope9"),
    ],
)
async def test_named(tools: Bench, tool: str, parameters: dict[str, Any], says: str) -> None:
    """A missing object of a parameter is named with its kind, and no right is advised for it."""
    given = {name: value for name, value in parameters.items() if value is not None}
    with pytest.raises(errors.AgentdError) as found:
        await tools.call(tool, **given)

    assert says in str(found.value)
    assert not isinstance(found.value, errors.Denied)
    assert "to grant it" not in str(found.value)


async def test_a_member_that_is_not_there(tools: Bench) -> None:
    """A pool gets no storage that does not exist: Proxmox takes the name, and nothing is in the pool."""
    await tools.call("create_pool", MemoryCall("wf.p"), pool="core")
    with pytest.raises(errors.NotFound, match="storages: there is no storage 'nope9'"):
        await tools.call("update_pool", pool="core", storages=["nope9"])
