"""What [policy] protected names is a thing that a tool can change, or the daemon does not start."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import agentd_cloud
import agentd_filesystem
import agentd_proxmox
from agentd.config.policy import PROTECTABLE, unprotectable
from agentd.errors import AgentdError
from agentd.safety.policy import Policy
from agentd.wire.messages import Target, Tier
from harness import Net
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve

ANNOUNCED = re.compile(r'Target\(\s*f?"([a-z_-]+)/')
"""How tools announce what they change."""


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("vm/100", "unknown kind 'vm'; write KIND/NAME with one of guest, tag, pool"),
        ("ct/100", "unknown kind 'ct'"),
        ("Guest/102", "unknown kind 'Guest'"),
        ("GUEST/102", "unknown kind 'GUEST'"),
        ("ha_rule/a", "unknown kind 'ha_rule'"),
        ("102", "unknown kind '102'"),
        ("guest", "unknown kind 'guest'"),
        ("", "unknown kind ''"),
        ("/102", "unknown kind ''"),
        ("guest/102 ", "it contains blanks"),
        (" guest/102", "it contains blanks"),
        ("guest/ 102", "it contains blanks"),
        ("tag/keep\u200b", "it contains blanks or characters that cannot be seen"),
        ("tag/\tkeep", "it contains blanks"),
        ("guest/", "the name is missing: guest/NAME"),
        ("guest/[10", "a [ without its ]"),
        ("guest/10]", "a [ without its ]"),
        ("guest/[]", "a [ without its ]"),
    ],
)
def test_an_entry_that_protects_nothing_is_an_error(tmp_path: Path, entry: str, line: str) -> None:
    """The error names the entry and says what can be written."""
    net = Net(tmp_path, "nats://127.0.0.1:1")
    net.settings["policy"] = {"protected": ["tag/keep", entry]}
    with pytest.raises(AgentdError) as caught:
        net.config()

    assert "policy.protected" in str(caught.value)
    assert line in unprotectable(entry)
    assert line.partition(";")[0] in str(caught.value)


@pytest.mark.parametrize(
    "entry", ["guest/102", "guest/db-*", "tag/keep", "pool/core", "storage/*", "user/eve@pve", "guest/10[0-9]", "*"]
)
def test_kinds_that_can_be_protected(tmp_path: Path, entry: str) -> None:
    """Each kind that a tool announces, with the patterns of the shell."""
    net = Net(tmp_path, "nats://127.0.0.1:1")
    net.settings["policy"] = {"protected": [entry]}

    assert net.config().policy.protected == (entry,)


def test_every_kind_that_tools_announce_is_known() -> None:
    """The list is one: a tool that announces another kind could not be protected from."""
    packages = (agentd_proxmox, agentd_filesystem, agentd_cloud)
    sources = [source for package in packages for source in Path(str(package.__file__)).parent.rglob("*.py")]
    announced = {kind for source in sources for kind in ANNOUNCED.findall(source.read_text())}

    assert {"guest", "ha-rule", "ha-group"} <= announced
    assert announced <= set(PROTECTABLE)
    named_elsewhere = {"tag", "acl", "backups", "disk"}  # a label; names that are built in two steps
    assert set(PROTECTABLE) - announced == named_elsewhere, "a pattern of this kind would protect nothing"
    for kind in announced:
        policy = Policy(Tier.DESTROY, protected=(f"{kind}/x",))
        assert policy.protecting(Target(f"{kind}/x", "x")) == f"{kind}/x"


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ("pool/core", "pool/core/web"),
        ("pool/core", "pool/core/web/front"),
        ("pool/core/web", "pool/core/web/front"),
        ("tag/keep", "tag/Keep"),
        ("tag/Keep", "tag/keep"),
        ("guest/db-*", "guest/DB-01"),
        ("guest/[A-D]*", "guest/db-01"),
    ],
)
def test_a_pool_protects_its_members(entry: str, label: str) -> None:
    """A pool protects what is in the pools within it; names hold in either case."""
    assert Policy(Tier.DESTROY, protected=(entry,)).protecting(Target("guest/101", "x", labels=[label])) == entry


@pytest.mark.parametrize(
    ("entry", "label"), [("pool/core", "pool/core2"), ("pool/core/web", "pool/core"), ("guest/core", "guest/core/web")]
)
def test_a_pool_does_not_protect_others(entry: str, label: str) -> None:
    """A pool does not protect the one that it is in, nor others with a longer name."""
    assert Policy(Tier.DESTROY, protected=(entry,)).protecting(Target("guest/101", "x", labels=[label])) is None


DISK = {"scsi0": "local-lvm:vm-300-disk-0,size=4G", "ide2": "local:iso/x.iso,media=cdrom", "scsihw": "virtio-scsi-pci"}


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [
        ("delete_guest", {"vmid": 300, "name": "app"}),
        ("convert_to_template", {"vmid": 300, "name": "app"}),
        ("rollback_snapshot", {"vmid": 300, "guest": "app", "name": "before"}),
        ("delete_snapshot", {"vmid": 300, "guest": "app", "name": "before"}),
        ("api_destroy", {"path": "/nodes/pve1/qemu/300", "method": "DELETE"}),
        ("api_destroy", {"path": "/nodes/pve1/qemu/300/snapshot/before/rollback", "method": "POST"}),
    ],
    ids=["delete", "template", "rollback", "snapshot", "api delete", "api rollback"],
)
async def test_a_protected_storage(tools: Bench, sim: AsyncPve, tool: str, parameters: dict[str, Any]) -> None:
    """A guest whose disks lie on a protected storage is not deleted, rolled back or converted."""
    await sim.guest(vmid=300, node="pve1", name="app", status="stopped", config=DISK)
    if "before" in str(parameters):
        await tools.call("create_snapshot", MemoryCall("w.snap"), vmid=300, name="before")
    call = MemoryCall()
    with contextlib.suppress(AgentdError):
        await tools.call(tool, call, **parameters)

    policy = Policy(Tier.DESTROY, protected=("storage/local-lvm",))
    assert [policy.protecting(target) for target in call.targets if target.name == "guest/300"] == ["storage/local-lvm"]
    assert not any("storage/local" in target.labels for target in call.targets)
