"""Every guest, storage, pool, node and user that a call of the API names is a target, with its state and its labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.safety.policy import Policy
from agentd.wire.messages import Consent, Tier
from tool_bench import Doubt

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from pve.client import FakePve
    from tool_bench import Bench

NODE = "/nodes/pve1"
DISK = "local-lvm:vm-102-disk-0"
ARCHIVE = "local:backup/vzdump-qemu-102-2026_01_01-00_00_00.vma.zst"


class Look(Doubt):
    """A call that ends where it would act, as a dry run does."""

    def check(self) -> None:
        """End here."""
        raise errors.PermanentError("ends before the act")


async def seen(tools: Bench, tool: str, method: str, path: str, parameters: dict[str, Any]) -> Look:
    """Return a call of a tool that has checked and not applied."""
    call = Look()
    with pytest.raises(errors.PermanentError, match="ends before the act"):
        await tools(tool, call, method=method, path=path, parameters=parameters)
    return call


@pytest.mark.parametrize(
    ("tool", "method", "path", "parameters", "names"),
    [
        ("api_destroy", "POST", f"{NODE}/qemu", {"vmid": 102, "archive": ARCHIVE, "force": 1}, {"guest/102"}),
        ("api_destroy", "POST", f"{NODE}/qemu", {"vmid": 300, "archive": ARCHIVE, "force": 1}, {"guest/102"}),
        ("api_destroy", "DELETE", f"{NODE}/storage/local-lvm/content/vm-102-disk-0", {}, {"guest/102"}),
        ("api_destroy", "DELETE", f"{NODE}/storage/local-lvm/content/{DISK}", {}, {"guest/102"}),
        ("api_call", "PUT", f"{NODE}/storage/local/content/{ARCHIVE}", {"notes": "x"}, {"guest/102", "storage/local"}),
        ("api_destroy", "PUT", f"{NODE}/qemu/101/config", {"scsi5": f"{DISK},size=1G"}, {"guest/101", "guest/102"}),
        (
            "api_destroy",
            "PUT",
            f"{NODE}/qemu/101/config",
            {"scsi5": f"local-lvm:0,import-from={DISK}"},
            {"guest/101", "guest/102"},
        ),
        (
            "api_destroy",
            "POST",
            f"{NODE}/qemu/101/move_disk",
            {"disk": "unused0", "target-vmid": 102},
            {"guest/101", "guest/102"},
        ),
        ("api_destroy", "POST", f"{NODE}/vzdump", {"vmid": "101,102"}, {"guest/101", "guest/102"}),
        ("api_destroy", "POST", f"{NODE}/vzdump", {"all": 1}, {"guest/101"}),
        ("api_destroy", "POST", f"{NODE}/stopall", {}, {"guest/101"}),
        ("api_destroy", "POST", f"{NODE}/stopall", {"vms": "102;101"}, {"guest/101", "guest/102"}),
        ("api_destroy", "POST", f"{NODE}/status", {"command": "reboot"}, {"guest/101", "node/pve1"}),
        ("api_destroy", "POST", "/cluster/bulk-action/guest/shutdown", {}, {"guest/101", "guest/102"}),
        ("api_destroy", "DELETE", f"{NODE}/storage/local/prunebackups", {}, {"guest/101", "guest/102"}),
        ("api_destroy", "DELETE", f"{NODE}/storage/local/prunebackups", {"vmid": 102}, {"guest/102"}),
        ("api_call", "POST", "/cluster/ha/resources/vm:102/migrate", {"node": "pve2"}, {"guest/102"}),
        ("api_exec", "PUT", "/pools", {"poolid": "core", "vms": "102"}, {"guest/102", "pool/core"}),
        ("api_destroy", "PUT", "/access/users/root@pam", {"comment": "x"}, {"user/root@pam"}),
        ("api_call", "POST", f"{NODE}/qemu/101/status/stop", {}, {"guest/101", "node/pve1"}),
        (
            "api_call",
            "POST",
            f"{NODE}/qemu/101/clone",
            {"newid": 300, "storage": "tank"},
            {"guest/101", "storage/tank"},
        ),
    ],
)
async def test_all_that_is_named(
    tools: Bench, lab: FakePve, tool: str, method: str, path: str, parameters: dict[str, Any], names: set[str]
) -> None:
    """What a call names in its path or its parameters is among its targets, and nothing was sent."""
    call = await seen(tools, tool, method, path, parameters)
    found = {name for target in call.targets for name in (target.name, *target.labels)}

    assert names <= found
    assert [entry for entry in lab.log() if entry["method"] != "GET"] == []


@pytest.mark.parametrize(
    ("method", "path", "parameters"),
    [
        ("POST", f"{NODE}/qemu", {"vmid": 102, "archive": ARCHIVE, "force": 1}),
        ("DELETE", f"{NODE}/storage/local-lvm/content/vm-102-disk-0", {}),
        ("POST", f"{NODE}/vzdump", {"vmid": "101,102"}),
    ],
)
@pytest.mark.parametrize("protected", ["guest/102", "tag/keep"])
async def test_protected_holds(
    tools: Bench, sim: AsyncPve, protected: str, method: str, path: str, parameters: dict[str, Any]
) -> None:
    """A protected guest is protected under any name: by id, as owner of a volume, by its tag."""
    at = await sim.found(102)
    await tools("api_call", path=f"/nodes/{at['node']}/qemu/102/config", method="PUT", parameters={"tags": "keep"})
    call = await seen(tools, "api_destroy", method, path, parameters)

    with pytest.raises(errors.Denied, match="protected"):
        Policy(protected=[protected]).check_targets("api_destroy", Tier.DESTROY, call.targets)


async def test_renamed_meanwhile(tools: Bench, sim: AsyncPve) -> None:
    """A guest that was renamed between the approval and the act is not what was approved."""
    path, parameters = f"{NODE}/qemu", {"vmid": 102, "archive": ARCHIVE, "force": 1}
    before = await seen(tools, "api_destroy", "POST", path, parameters)
    at = await sim.found(102)
    await tools("api_call", path=f"/nodes/{at['node']}/qemu/102/config", method="PUT", parameters={"name": "other"})
    after = await seen(tools, "api_destroy", "POST", path, parameters)

    with pytest.raises(errors.Rejected, match="not as it was"):
        Policy().check_targets("api_destroy", Tier.DESTROY, after.targets, Consent("bob", "", list(before.targets)))


async def test_everything_is_shown(tools: Bench) -> None:
    """An approver sees each value whole; what is too long to be read is refused."""
    command = ["sh", "-c", "echo " + "a" * 200 + "; rm -rf /"]
    call = await seen(tools, "api_exec", "POST", f"{NODE}/qemu/101/agent/exec", {"command": command})
    with pytest.raises(errors.Rejected, match="cannot be shown"):
        await tools("api_exec", path=f"{NODE}/qemu/101/agent/exec", parameters={"command": ["sh", "a" * 20_000]})

    assert any("rm -rf /" in line for target in call.targets for line in target.loses)
