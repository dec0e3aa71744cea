"""What a tool says of how it is taken back makes the world as it was: read before, read after, compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from agentd_proxmox.settings import ToolSettings
from proxmox_access import connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pve.client import FakePve

Step = tuple[str, dict[str, Any]]

PASSING = {"digest", "next_run", "next", "users", "unused", "changes", "pending"}
"""What time and the way change: of all this only what is kept is compared."""
JOB: dict[str, Any] = {
    "id": "nightly",
    "schedule": "02:00",
    "storage": "local",
    "vmids": [100, 101],
    "keep": {"last": 3},
    "notes": "{{guestname}}\nback\\slash",
    "comment": "ü; =",
    "compress": "gzip",
    "enabled": False,
}
REALM: dict[str, Any] = {
    "id": "corp",
    "type": "ldap",
    "settings": {"server1": "ldap.example.com", "base_dn": "dc=example,dc=com", "user_attr": "uid", "port": 636},
}
PVE1 = {"node": "pve1"}
BRIDGE: dict[str, Any] = {**PVE1, "iface": "vmbr7", "type": "bridge"}
ZONE: Step = ("set_sdn_zone", {"zone": "lab", "type": "vxlan", "peers": ["192.0.2.1", "192.0.2.2"], "mtu": 1400})
VNET: Step = ("set_sdn_vnet", {"vnet": "labnet", "zone": "lab", "tag": 20, "alias": "ü; ="})
SUBNET: Step = ("set_sdn_subnet", {"vnet": "labnet", "subnet": "10.7.0.0/24", "gateway": "10.7.0.1"})
RULES: list[Step] = [
    ("create_firewall_rule", {"proto": "tcp", "dport": "22", "comment": "third"}),
    (
        "create_firewall_rule",
        {"proto": "tcp", "dport": "80", "source": "192.0.2.0/24", "comment": "mid", "enabled": False},
    ),
    ("create_firewall_rule", {"direction": "out", "action": "DROP", "macro": "SMTP", "log": "info"}),
]
GROUP: Step = ("create_firewall_group", {"name": "web", "comment": "ü"})
USES: Step = ("create_firewall_rule", {"uses": "web", "iface": "vmbr0"})


@dataclass(frozen=True)
class Case:
    """A call that is taken back, what reads that which it changes, and what is done before."""

    call: Step
    read: Step
    before: list[Step] = field(default_factory=list)


JOBS: Step = ("list_backup_jobs", {})
FIREWALL: Step = ("list_firewall", {})
SETS: Step = ("list_firewall_sets", {})
SDN: Step = ("list_sdn", {})
LINES: Step = ("list_interfaces", PVE1)
NOTIFICATIONS: Step = ("list_notifications", {})
FILES: Step = ("list_volumes", {"node": "pve1", "storage": "local"})

CASES = [
    Case(
        ("update_backup_job", {"id": "nightly", "keep": {}, "vmids": [102], "comment": "", "mode": "stop"}),
        JOBS,
        [("create_backup_job", JOB)],
    ),
    Case(
        ("update_backup_job", {"id": "nightly", "keep": {"daily": 7}, "enabled": True, "exclude": []}),
        JOBS,
        [
            (
                "create_backup_job",
                {"id": "nightly", "schedule": "sun 02:00", "storage": "local", "all": True, "exclude": [100]},
            ),
        ],
    ),
    Case(("delete_backup_job", {"id": "nightly"}), JOBS, [("create_backup_job", JOB)]),
    Case(
        ("delete_role", {"id": "Ops"}), ("list_roles", {}), [("create_role", {"id": "Ops", "privileges": ["VM.Audit"]})]
    ),
    Case(
        ("create_token", {"user": "eve@pve", "name": "t1"}),
        ("list_tokens", {"id": "eve@pve"}),
        [
            ("create_user", {"id": "eve@pve"}),
        ],
    ),
    *(
        Case(("delete_firewall_rule", {"pos": pos, "rule": rule}), FIREWALL, RULES)
        for pos, rule in enumerate(
            [
                "out DROP SMTP logged as info",
                "in ACCEPT from 192.0.2.0/24 tcp port 80",
                "in ACCEPT tcp port 22",
            ]
        )
    ),
    Case(
        ("delete_firewall_rule", {"pos": 1, "rule": "group web on vmbr0"}),
        FIREWALL,
        [GROUP, *RULES[:1], USES, RULES[1]],
    ),
    Case(("create_firewall_rule", {"proto": "udp", "dport": "53", "to": 2}), FIREWALL, RULES),
    Case(("delete_firewall_set", {"kind": "group", "name": "web"}), SETS, [GROUP]),
    Case(
        ("delete_firewall_set", {"kind": "alias", "name": "home"}),
        SETS,
        [
            ("set_firewall_alias", {"name": "home", "cidr": "192.0.2.0/24", "comment": "=;ü"}),
        ],
    ),
    Case(
        ("delete_firewall_set", {"kind": "ipset", "name": "admins"}),
        SETS,
        [
            ("set_firewall_ipset", {"name": "admins", "entries": ["192.0.2.1", "!192.0.2.3"], "comment": "=;ü"}),
        ],
    ),
    Case(
        ("update_realm", {"id": "corp", "settings": {"server2": "b.example.com", "port": 389, "verify": True}}),
        ("get_realm", {"id": "corp"}),
        [("create_realm", REALM)],
    ),
    Case(
        ("update_realm", {"id": "corp", "without": ["port"]}), ("get_realm", {"id": "corp"}), [("create_realm", REALM)]
    ),
    Case(
        ("set_interface", {**BRIDGE, "cidr": "198.51.100.2/24", "mtu": 9000, "vlan_aware": True}),
        LINES,
        [
            ("set_interface", {**BRIDGE, "ports": ["eno1"], "comment": "for guests"}),
        ],
    ),
    Case(
        ("set_interface", {**BRIDGE, "ports": ["eno1"], "without": ["cidr", "gateway"], "autostart": False}),
        LINES,
        [
            ("set_interface", {**BRIDGE, "cidr": "198.51.100.1/24", "gateway": "198.51.100.254"}),
        ],
    ),
    Case(
        ("delete_interface", {**PVE1, "iface": "vmbr7"}),
        LINES,
        [
            ("set_interface", {**BRIDGE, "cidr": "198.51.100.1/24", "ports": ["eno1"], "comment": "for guests"}),
        ],
    ),
    Case(("set_sdn_zone", {**ZONE[1], "peers": ["192.0.2.1"], "mtu": 1500, "nodes": ["pve1"]}), SDN, [ZONE]),
    Case(("set_sdn_zone", {**ZONE[1], "without": ["mtu"]} | {"mtu": None}), SDN, [ZONE]),
    Case(("set_sdn_vnet", {"vnet": "labnet", "zone": "lab", "tag": 21, "vlan_aware": True}), SDN, [ZONE, VNET]),
    Case(
        ("set_sdn_subnet", {**SUBNET[1], "gateway": "10.7.0.2", "snat": True}),
        ("api_get", {"path": "/cluster/sdn/vnets/labnet/subnets"}),
        [ZONE, VNET, SUBNET],
    ),
    Case(("delete_sdn", {"kind": "subnet", "name": "labnet", "subnet": "10.7.0.0/24"}), SDN, [ZONE, VNET, SUBNET]),
    Case(("delete_sdn", {"kind": "vnet", "name": "labnet"}), SDN, [ZONE, VNET]),
    Case(("delete_sdn", {"kind": "zone", "name": "lab"}), SDN, [ZONE]),
    Case(
        ("delete_storage", {"storage": "archive"}),
        ("list_storage_definitions", {}),
        [
            (
                "create_storage",
                {
                    "storage": "archive",
                    "type": "nfs",
                    "server": "nas",
                    "export": "/srv/a",
                    "content": ["backup"],
                    "nodes": ["pve1"],
                },
            ),
        ],
    ),
    Case(
        ("delete_metric_server", {"name": "graph"}),
        NOTIFICATIONS,
        [
            (
                "create_metric_server",
                {
                    "name": "graph",
                    "type": "graphite",
                    "server": "g.example.com",
                    "port": 2003,
                    "protocol": "tcp",
                    "path": "pve",
                },
            ),
        ],
    ),
    Case(
        ("delete_notification_target", {"name": "ops"}),
        NOTIFICATIONS,
        [
            (
                "create_mail_target",
                {
                    "name": "ops",
                    "type": "smtp",
                    "to": ["a@example.com", "b@example.com"],
                    "server": "mx.example.com",
                    "sender": "pve@example.com",
                    "mode": "starttls",
                    "comment": "ü",
                },
            ),
        ],
    ),
    Case(
        ("create_volume", {**PVE1, "storage": "shared", "vmid": 101, "size": 1, "name": "disk-9", "format": "qcow2"}),
        ("list_volumes", {**PVE1, "storage": "shared"}),
        [],
    ),
]


@pytest_asyncio.fixture
async def bench(lab: FakePve, tmp_path: Path) -> AsyncIterator[Bench]:
    """Offer the tools, with a place for secrets."""
    proxmox = connect(lab)
    yield Bench(proxmox, ToolSettings(lock_timeout=3, secrets_dir=tmp_path / "secrets"))
    await proxmox.close()


async def state(tools: Bench, read: Step) -> Any:
    """Return what is kept, as plain values."""
    return kept(msgspec.to_builtins(await tools.call(read[0], **read[1])))


def kept(value: Any) -> Any:
    """Leave out what passes, and what is off: for Proxmox that is as if it were not given."""
    if isinstance(value, dict):
        return {key: kept(item) for key, item in value.items() if key not in PASSING and item}
    return [kept(item) for item in value] if isinstance(value, list) else value


async def done(tools: Bench, number: int, step: Step) -> MemoryCall:
    """Call a tool by a key of its own."""
    call = MemoryCall(f"wf.{number}")
    await tools.call(step[0], call, **{key: value for key, value in step[1].items() if value is not None})
    return call


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.call[0]}" for number, case in enumerate(CASES)])
async def test_taken_back(bench: Bench, case: Case) -> None:
    """It is done, and undone by the undo that it reported; then all is as before, and it can be done again."""
    for number, step in enumerate(case.before):
        await done(bench, number, step)
    before = await state(bench, case.read)

    call = await done(bench, 100, case.call)
    between = await state(bench, case.read)
    assert call.undo is not None
    again = await done(bench, 101, call.undo)

    assert between != before
    assert await state(bench, case.read) == before
    assert again.acted == 1


async def test_files(bench: Bench, download_server: str) -> None:
    """A file that was fetched can be deleted again; one that was there before is not ours to delete."""
    wanted: dict[str, Any] = {**FILES[1], "content": "iso", "url": f"{download_server}/image.iso", "filename": "a.iso"}
    fetched = await done(bench, 1, ("download_url", wanted))
    again = await done(bench, 2, ("download_url", wanted))
    assert fetched.undo is not None
    await done(bench, 3, fetched.undo)

    assert fetched.undo == ("delete_volume", {"volid": "local:iso/a.iso", "node": "pve1"})
    assert again.undo is None
    assert "a.iso" not in str(await state(bench, FILES))


async def test_without_an_exact_inverse_no_undo_is_offered(bench: Bench, lab: FakePve) -> None:
    """A job or a zone with settings that no tool can give has no way back, rather than a wrong one."""
    for number, step in enumerate([("create_backup_job", JOB), ZONE]):
        await done(bench, number, step)
    proxmox = connect(lab)
    await proxmox.put("/cluster/backup/nightly", bwlimit=1000)
    await proxmox.put("/cluster/sdn/zones/lab", ipam="pve")
    await proxmox.post("/cluster/sdn/zones", zone="other", type="qinq", bridge="vmbr0", tag=20)
    await proxmox.close()

    job = await done(bench, 10, ("delete_backup_job", {"id": "nightly"}))
    zone = await done(bench, 11, ("delete_sdn", {"kind": "zone", "name": "lab"}))

    other = await done(bench, 12, ("delete_sdn", {"kind": "zone", "name": "other"}))

    assert (job.undo, zone.undo, other.undo) == (None, None, None)
