"""A call of the API tools has the tier of its effect, in any form of its parameters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from agentd_proxmox.api import parameter_checks
from agentd_proxmox.api.schema_cache import Schemas
from agentd_proxmox.api_tiers import TABLE, class_of, tier_of
from proxmox_access import connect
from pve.client import FakePve, available

if TYPE_CHECKING:
    from pathlib import Path

    from agentd_proxmox.api_schema import Catalogue
    from tool_bench import Bench

CONFIG = "PUT /nodes/pve1/qemu/101/config"
VZDUMP = "POST /nodes/pve1/vzdump"
NOTHING_REMOVED = {"vmid": "101", "remove": 0}


async def tier(known: Catalogue, call: str, parameters: dict[str, Any]) -> Tier:
    """Return the tier of a call, decided on what is sent."""
    verb, _, path = call.partition(" ")
    endpoint = known.resolve(verb, path)
    sent, faults = parameter_checks.check(endpoint, parameters)
    assert not [fault for fault in faults if "is needed" not in fault], faults
    return tier_of(endpoint, sent)[0]


@pytest.fixture
async def catalogue(lab: FakePve, tmp_path: Path) -> Catalogue:
    """Return the schema of the simulated node."""
    proxmox = connect(lab)
    found = await Schemas(proxmox, tmp_path).catalogue()
    await proxmox.close()
    return found


@pytest.mark.parametrize("value", [False, 0, 0.0, "0", "off", "No", "FALSE"], ids=repr)
@pytest.mark.parametrize("kind", ["qemu/101", "lxc/103"])
async def test_removing_a_guard(catalogue: Catalogue, kind: str, value: object) -> None:
    """Any value that Proxmox reads as false removes the guard."""
    assert await tier(catalogue, f"PUT /nodes/pve1/{kind}/config", {"protection": value}) is Tier.DESTROY


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "on", "Yes", "TRUE"], ids=repr)
@pytest.mark.parametrize(
    ("call", "name", "rest"),
    [
        ("POST /nodes/pve1/qemu/101/move_disk", "delete", {"disk": "scsi0", "storage": "local"}),
        ("POST /nodes/pve1/lxc/103/move_volume", "delete", {"volume": "rootfs", "storage": "local"}),
        ("POST /nodes/pve1/qemu", "force", {"vmid": 300, "archive": "local:backup/x"}),
        ("PUT /nodes/pve1/qemu/101/config", "skiplock", {}),
        ("POST /nodes/pve1/qemu/101/status/shutdown", "forceStop", {}),
        ("POST /nodes/pve1/qemu/101/status/stop", "overrule-shutdown", {}),
        (VZDUMP, "remove", {"vmid": "101"}),
        (VZDUMP, "stop", NOTHING_REMOVED),
        ("PUT /nodes/pve1/qemu/101/config", "template", {}),
    ],
)
async def test_a_switch_is_on(catalogue: Catalogue, call: str, name: str, rest: dict[str, Any], value: object) -> None:
    """Any value that Proxmox reads as true overrides, interrupts or removes."""
    assert await tier(catalogue, call, {name: value, **rest}) is Tier.DESTROY


@pytest.mark.parametrize(
    ("call", "parameters", "wanted"),
    [
        (VZDUMP, {"vmid": "101", "storage": "local"}, Tier.DESTROY),
        (VZDUMP, NOTHING_REMOVED, Tier.OPERATE),
        (VZDUMP, {**NOTHING_REMOVED, "prune-backups": "keep-last=1"}, Tier.DESTROY),
        (VZDUMP, {**NOTHING_REMOVED, "prune-backups": "keep-all=1"}, Tier.OPERATE),
        (VZDUMP, {**NOTHING_REMOVED, "script": "/root/x"}, Tier.EXEC),
        ("POST /cluster/backup", {"all": 1}, Tier.DESTROY),
        ("POST /cluster/backup", {"all": 1, "remove": 0}, Tier.OPERATE),
        ("PUT /cluster/backup/x1", {"enabled": 0}, Tier.DESTROY),
        ("POST /nodes/pve1/lxc", {"vmid": 300, "ostemplate": "local:vztmpl/x.tar.zst"}, Tier.DESTROY),
        (
            "POST /nodes/pve1/lxc",
            {"vmid": 300, "ostemplate": "local:vztmpl/x.tar.zst", "unprivileged": 1},
            Tier.OPERATE,
        ),
        ("PUT /pools/x", {"vms": "101", "delete": 1.0}, Tier.DESTROY),
        ("PUT /pools/x", {"delete": 1.0}, Tier.DESTROY),
        ("PUT /pools/x", {"comment": "y"}, Tier.OPERATE),
        ("PUT /pools", {"poolid": "x", "vms": "101"}, Tier.EXEC),
        (CONFIG, {"cores": 2}, Tier.OPERATE),
        (CONFIG, {"delete": "description;scsi1"}, Tier.DESTROY),
        (CONFIG, {"delete": "unused0"}, Tier.DESTROY),
        (CONFIG, {"delete": "protection"}, Tier.DESTROY),
        (CONFIG, {"delete": "vmstate"}, Tier.DESTROY),
        (CONFIG, {"delete": ["description", "tags"]}, Tier.OPERATE),
        (CONFIG, {"revert": "scsi1"}, Tier.DESTROY),
        (CONFIG, {"scsi5": "local-lvm:vm-102-disk-0"}, Tier.DESTROY),
        (CONFIG, {"scsi5": "local:102/vm-102-disk-0.qcow2,size=3G"}, Tier.DESTROY),
        (CONFIG, {"scsi5": "file=local-lvm:vm-101-disk-7"}, Tier.OPERATE),
        (CONFIG, {"scsi5": "local-lvm:8"}, Tier.OPERATE),
        (CONFIG, {"scsi5": "local-lvm:0,import-from=local-lvm:vm-102-disk-0"}, Tier.DESTROY),
        (CONFIG, {"scsi5": "/dev/sda"}, Tier.EXEC),
        (CONFIG, {"ide2": "local:iso/x.iso,media=cdrom"}, Tier.OPERATE),
        (CONFIG, {"ide2": "none,media=cdrom"}, Tier.OPERATE),
        (CONFIG, {"net0": "virtio,bridge=vmbr0,firewall=0"}, Tier.DESTROY),
        (CONFIG, {"net0": "virtio,bridge=vmbr0,firewall=on"}, Tier.OPERATE),
        (CONFIG, {"ciuser": "root"}, Tier.EXEC),
        (CONFIG, {"cicustom": "user=local:snippets/x"}, Tier.EXEC),
        (CONFIG, {"sshkeys": "ssh-ed25519%20AAAA"}, Tier.EXEC),
        (CONFIG, {"serial0": "socket"}, Tier.OPERATE),
        (CONFIG, {"serial0": "/dev/ttyS0"}, Tier.EXEC),
        ("PUT /nodes/pve1/lxc/103/config", {"cmode": "shell"}, Tier.EXEC),
        ("PUT /nodes/pve1/lxc/103/config", {"cmode": "tty"}, Tier.OPERATE),
        ("PUT /nodes/pve1/lxc/103/config", {"entrypoint": "/bin/sh"}, Tier.EXEC),
        ("PUT /nodes/pve1/lxc/103/config", {"mp0": "/etc,mp=/host"}, Tier.EXEC),
        ("PUT /nodes/pve1/lxc/103/config", {"features": "mount=nfs"}, Tier.EXEC),
        ("POST /nodes/pve1/qemu/101/move_disk", {"disk": "unused0", "target-vmid": 102}, Tier.DESTROY),
        ("POST /nodes/pve1/storage/local/upload", {"content": "iso", "filename": "x.iso"}, Tier.DESTROY),
        ("PUT /nodes/pve1/storage/local/content/local:backup/x", {"protected": "no"}, Tier.DESTROY),
        ("POST /cluster/sdn/vnets/v1/firewall/rules", {"action": "DROP", "type": "forward"}, Tier.DESTROY),
        ("PUT /cluster/sdn/vnets/v1/firewall/options", {"enable": 1}, Tier.DESTROY),
        ("POST /cluster/sdn/vnets/v1/ips", {"ip": "192.0.2.9", "zone": "z1"}, Tier.DESTROY),
        ("POST /cluster/sdn/vnets", {"vnet": "v1", "zone": "z1"}, Tier.OPERATE),
        ("POST /cluster/firewall/ipset/management", {"cidr": "192.0.2.0/24"}, Tier.DESTROY),
        ("PUT /nodes/pve1/network/vmbr0", {"type": "bridge"}, Tier.DESTROY),
        ("PUT /storage/nfs", {"server": "192.0.2.9"}, Tier.DESTROY),
        ("POST /storage", {"storage": "x1", "type": "dir", "path": "/etc"}, Tier.EXEC),
        ("PUT /access/domains/ldap", {"server1": "192.0.2.9"}, Tier.EXEC),
        ("PUT /cluster/sdn/ipams/x1", {"url": "https://192.0.2.9"}, Tier.DESTROY),
        ("PUT /cluster/notifications/endpoints/gotify/x1", {"server": "https://192.0.2.9"}, Tier.DESTROY),
        ("PUT /cluster/notifications/matchers/x1", {"target": ["x1"]}, Tier.DESTROY),
        ("POST /cluster/metrics/server/x1", {"port": 8089, "server": "x", "type": "influxdb"}, Tier.DESTROY),
        ("PUT /access/roles/Admins", {"privs": "Sys.Modify"}, Tier.EXEC),
        ("PUT /access/users/eve@pve", {"groups": "admins"}, Tier.EXEC),
        ("PUT /access/users/eve@pve/token/t1", {"privsep": 0.0}, Tier.EXEC),
        ("PUT /access/acl", {"path": "/", "roles": "Administrator", "users": "eve@pve"}, Tier.EXEC),
        ("POST /access/domains/ldap/sync", {}, Tier.EXEC),
        ("GET /nodes/pve1/scan/nfs", {"server": "192.0.2.9"}, Tier.OPERATE),
        ("GET /nodes/pve1/query-url-metadata", {"url": "http://192.0.2.9/x"}, Tier.OPERATE),
        ("GET /nodes/pve1/report", {}, Tier.EXEC),
        ("GET /nodes/pve1/qemu/101/cloudinit/dump", {"type": "user"}, Tier.EXEC),
        ("GET /nodes/pve1/qemu/101/config", {}, Tier.READ),
        ("POST /nodes/pve1/stopall", {}, Tier.DESTROY),
        ("DELETE /cluster/ha/resources/vm:101", {}, Tier.DESTROY),
    ],
)
async def test_tier_by_effect(catalogue: Catalogue, call: str, parameters: dict[str, Any], wanted: Tier) -> None:
    """Each kind of effect has its tier, with the defaults that act when a parameter is left out."""
    assert await tier(catalogue, call, parameters) is wanted


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"onboot": 1.5}, "onboot"),
        ({"onboot": float("nan")}, "onboot"),
        ({"onboot": [True]}, "onboot"),
        ({"onboot": " 1"}, "onboot"),
        ({"cores": 1.5}, "cores"),
        ({"cores": float("inf")}, "cores"),
        ({"description": {"a": {"b": 1}}}, "description"),
        ({"tags": [["a"]]}, "tags"),
        ({"name": None}, "name"),
    ],
)
async def test_a_value_without_an_exact_text_is_refused(
    catalogue: Catalogue, parameters: dict[str, Any], field: str
) -> None:
    """A value that cannot be sent exactly is refused with the name of its field."""
    endpoint = catalogue.resolve("PUT", "/nodes/pve1/qemu/101/config")

    assert parameter_checks.check(endpoint, parameters)[1][0].startswith(f"{field}: ")


async def test_numbers_are_sent_as_meant(catalogue: Catalogue) -> None:
    """A whole number stays one in any JSON form, and a switch is sent as 0 or 1."""
    endpoint = catalogue.resolve("PUT", "/nodes/pve1/qemu/101/config")
    sent, faults = parameter_checks.check(endpoint, {"cores": 2.0, "onboot": "Yes", "memory": 2048.0, "tablet": 0.0})

    assert (sent, faults) == ({"cores": "2", "onboot": "1", "memory": "2048", "tablet": "0"}, [])


@pytest.mark.parametrize("value", [0, 0.0, "0", "off"], ids=repr)
async def test_a_refused_call_sends_nothing(tools: Bench, lab: FakePve, value: object) -> None:
    """The tool of tier operate refuses what takes a guard away, and Proxmox receives nothing."""
    with pytest.raises(errors.Rejected, match="api_destroy is the tool"):
        await tools("api_call", path="/nodes/pve1/qemu/101/config", method="PUT", parameters={"protection": value})
    assert [entry for entry in lab.log() if entry["method"] != "GET"] == []


def test_every_method_and_parameter_is_reviewed(facts: Path) -> None:
    """The table has each method and each parameter of the recorded schema of Proxmox VE 9.2."""
    recorded = json.loads((facts / "pve" / "pve-api-schema-9.2.json").read_text())
    methods = {key: info for key, info in recorded.items() if " " in key}
    missing = [
        f"{key}: {name}"
        for key, info in methods.items()
        for name in info["parameters"]
        if f"{{{name}}}" not in key and not class_of(key, name)
    ]

    assert sorted(set(methods) - set(TABLE)) == []
    assert missing == []


@pytest.mark.parametrize("version", ["8.4", "9.1", "9.2"])
async def test_every_version_is_reviewed(version: str) -> None:
    """No version that is supported brings a method or a parameter that the table does not know."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="demo", arguments=("--pve-version", version)) as running:
        proxmox = connect(running)
        known = await Schemas(proxmox, None).catalogue()
        await proxmox.close()
    keys = known.keys()
    missing = [key for key in keys if key not in TABLE]
    for key in keys:
        verb, _, path = key.partition(" ")
        missing += [f"{key}: {name}" for name in known.resolve(verb, path).parameters if not class_of(key, name)]

    assert len(known) > 600
    assert missing == []


async def test_an_unreviewed_method_has_tier_destroy(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method or a parameter that the table does not know is of tier destroy, also a read."""
    monkeypatch.delitem(TABLE, "GET /version")
    monkeypatch.setitem(TABLE, "PUT /nodes/{node}/qemu/{vmid}/config", {"tier": "operate", "why": "", "plain": []})

    assert await tier(catalogue, "GET /version", {}) is Tier.DESTROY
    assert await tier(catalogue, CONFIG, {"cores": 2}) is Tier.DESTROY
