"""A named tool needs at least the tier of what it sends: the table of the API tools holds for both.

Each step of the walk over all tools is tried with every value of its switches and choices, and with values that have
an effect of their own, by a client that keeps each write instead of sending it.
"""

from __future__ import annotations

import contextlib
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest

from agentd import errors
from agentd.proxmox import client as proxmox_client
from agentd.wire.messages import Tier
from agentd_proxmox import api_tiers
from agentd_proxmox.api.schema_cache import Schemas
from plugins.proxmox.walk import bench_of, keyed, walk
from proxmox_access import AsyncPve, connect
from tool_bench import Doubt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentd.tools.definition import Tool
    from agentd_proxmox.api_schema import Catalogue
    from pve.client import FakePve

Parameters = dict[str, Any]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHwq0K9f0yqg9n6c5v3Z4l1l3o9r2wqf5e7b8d9a0c1d x"
VALUES: dict[str, list[Any]] = {
    "bridge": ["vmbr0"],
    "ciuser": ["root", ""],
    "features": ["nesting=1", "mount=nfs", "keyctl=1,fuse=1"],
    "image": ["local:import/w.raw", "local-lvm:vm-101-disk-0"],
    "ipconfig0": ["ip=dhcp"],
    "iso": ["local:iso/debian-13.0.0-amd64-netinst.iso", "local-lvm:vm-101-disk-0"],
    "nameserver": ["192.0.2.53"],
    "onboot": [True, False],
    "options": [
        {"net0": "virtio=BC:24:11:0A:0B:0C,bridge=vmbr0"},
        {"net0": "virtio=BC:24:11:0A:0B:0C,bridge=vmbr0,firewall=1"},
        {"ciuser": "root"},
        {"sshkeys": "ssh-ed25519%20AAAA"},
        {"protection": "0"},
        {"hookscript": "local:snippets/x"},
        {"features": "nesting=1"},
        {"onboot": "1"},
    ],
    "remove": [["protection"], ["sshkeys"], ["features"], ["onboot"], ["net0"]],
    "sshkeys": [KEY],
    "tag": [0, 5],
}
REVIEWED: dict[tuple[str, str], str] = {
    ("upload_file", "POST /nodes/{node}/storage/{storage}/upload"): "it refuses a name that is there already",
    ("create_vm", "POST /nodes/{node}/qemu"): "a login in a new guest takes nothing from anyone, nor does a copy of an "
    "image; a disk of another guest is of tier destroy",
    ("create_container", "POST /nodes/{node}/lxc"): "a login in a new guest takes nothing from anyone",
    ("detach_disk", "POST /nodes/{node}/qemu/{vmid}/config"): "the volume stays with the guest, unused",
    ("detach_disk", "PUT /nodes/{node}/lxc/{vmid}/config"): "the volume stays with the guest, unused",
    ("set_guest_network", "POST /nodes/{node}/qemu/{vmid}/config"): "a card without the firewall stays so",
    ("set_guest_network", "PUT /nodes/{node}/lxc/{vmid}/config"): "a card without the firewall stays so",
    ("discard_guest", "DELETE /nodes/{node}/qemu/{vmid}"): "it runs only where a workflow undoes what it has made",
    ("create_group", "POST /access/groups"): "a new group has no members and no rights",
    ("create_role", "POST /access/roles"): "a new role is given to no one",
    ("revoke_role", "PUT /access/acl"): "it takes rights, and refuses where a role above would come to light",
    ("set_ceph_flag", "PUT /cluster/ceph/flags/{flag}"): "flags for a maintenance stop neither reading nor repairing",
    (
        "shutdown_guest",
        "POST /nodes/{node}/qemu/{vmid}/status/shutdown",
    ): "stop_guest does at once what `force` does late",
    (
        "shutdown_guest",
        "POST /nodes/{node}/lxc/{vmid}/status/shutdown",
    ): "stop_guest does at once what `force` does late",
}
"""Named tool and method that may need less than the table says, and why; any other is a fault."""


BESIDES: list[tuple[str, Parameters]] = [
    ("set_guest_network", {"vmid": 100, "rate": 5}),
    ("set_guest_network", {"vmid": 200, "rate": 5}),
    ("shutdown_guest", {"vmid": 200, "force": True}),
]
"""Calls that no step of the walk is near to."""
FETCHING = frozenset({"download_url", "upload_file"})
"""Tools that fetch or read a file before they write."""
TRIED = 3
"""Steps of the walk in which a tool is tried with all its values."""


class Kept(Exception):
    """A write was kept."""


def kinds(annotation: Any) -> Iterator[Any]:
    """Yield the plain types of an annotation."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        yield from kinds(get_args(annotation)[0])
    elif origin in {typing.Union, types.UnionType}:
        for part in get_args(annotation):
            yield from kinds(part)
    else:
        yield annotation


def variants(tool: Tool, parameters: Parameters) -> Iterator[Parameters]:
    """Yield the parameters with one value changed: each switch, each choice, each value with an effect of its own."""
    for name, annotation in typing.get_type_hints(tool.parameters, include_extras=True).items():
        values = list(VALUES.get(name, []))
        for kind in kinds(annotation):
            values += [True, False] if kind is bool else []
            values += get_args(kind) if get_origin(kind) is Literal else []
        for value in values:
            yield {**parameters, name: value}
            if name in {"bridge", "tag"} and "firewall" in tool.parameters.__struct_fields__:
                yield {**parameters, name: value, "firewall": True}


def keep(client: proxmox_client.Proxmox, kept: list[tuple[str, str, Parameters]]) -> None:
    """Let a client keep its writes in `kept` instead of sending them."""
    send = client._call  # noqa: SLF001 - where every request passes

    async def call(method: str, path: str, params: Parameters) -> Parameters:
        if method == "GET":
            return await send(method, path, params)
        kept.append(("POST", path, {}) if method == "UPLOAD" else (method, path, proxmox_client.encode(params)))
        raise Kept

    client._call = call  # type: ignore[method-assign]  # noqa: SLF001


class Judge:
    """Compares what a named tool sends with the table of the API tools."""

    def __init__(self, tools: dict[str, Tool], catalogue: Catalogue) -> None:
        self.tools = tools
        self.catalogue = catalogue
        self.faults: set[str] = set()
        self.used: set[tuple[str, str]] = set()
        self.seen: dict[str, int] = {}

    def __call__(self, name: str, parameters: Parameters, method: str, path: str, sent: Parameters) -> None:
        """Note a request that needs more than the tool does with these parameters."""
        endpoint = self.catalogue.resolve(method, path)
        values = {key: value for key, value in sent.items() if key not in endpoint.values}
        needed, why = api_tiers.tier_of(endpoint, values)
        decided = self.tools[name].tier_for(parameters)
        self.seen[name] = self.seen.get(name, 0) + 1
        if needed.rank > decided.rank and (name, endpoint.key) in REVIEWED:
            self.used.add((name, endpoint.key))
        elif needed.rank > decided.rank:
            self.faults.add(f"{name} {parameters}: {decided}, and {endpoint.key} {values} is {needed}: {why}")


@pytest.mark.timeout(600)
async def test_the_tier_of_every_tool_covers_its_requests(lab: FakePve, tmp_path: Path, download_server: str) -> None:
    """No named tool sends what the API tools would do only at a higher tier, but for what was reviewed."""
    sending, keeping = connect(lab), connect(lab)
    bench, dry = bench_of(sending, tmp_path), bench_of(keeping, tmp_path)
    sim = AsyncPve(lab)
    kept: list[tuple[str, str, Parameters]] = []
    tried: dict[str, int] = {}
    keep(keeping, kept)
    judge = Judge(bench.tools, await Schemas(sending, None).catalogue())

    async def attempt(name: str, parameters: Parameters) -> None:
        kept.clear()
        with contextlib.suppress(Kept, errors.AgentdError):
            await dry(name, keyed(Doubt(), name), **parameters)
        for sent in kept[:1]:
            judge(name, parameters, *sent)

    async def call(name: str, parameters: Parameters) -> Any:
        tool = bench.tools[name]
        tried[name] = tried.get(name, 0) + 1
        trying = tool.tier in {Tier.OPERATE, Tier.DESTROY} and tried[name] <= TRIED and name not in FETCHING
        for variant in variants(tool, parameters) if trying else ():
            await attempt(name, variant)
        before = max((entry["n"] for entry in await sim.log()), default=0)
        result = await bench(name, keyed(Doubt(), name), **parameters)
        for entry in await sim.log(since=before):
            if entry["method"] != "GET":
                judge(name, parameters, entry["method"], entry["path"], entry["params"])
        return result

    for name, parameters in BESIDES:
        await attempt(name, parameters)
    await walk(lambda _: bench, sim, download_server, call=call)
    await sending.close()
    await keeping.close()

    assert sorted(judge.faults) == []
    assert sorted(set(REVIEWED) - judge.used) == [], "what was reviewed is not needed any more"
    assert {name for name, count in judge.seen.items() if count > 3} >= {
        *(
            "update_vm",
            "update_container",
            "create_vm",
            "create_container",
            "set_guest_network",
            "update_guest_options",
        ),
    }
    assert sum(judge.seen.values()) > 300


@pytest.mark.parametrize(
    ("name", "parameters", "wanted"),
    [
        ("update_vm", {"cores": 2}, Tier.OPERATE),
        ("update_vm", {"ciuser": "root"}, Tier.EXEC),
        ("update_vm", {"sshkeys": KEY}, Tier.EXEC),
        ("update_vm", {"sshkeys": ""}, Tier.EXEC),
        ("update_vm", {"sshkeys": "{{ parameters.keys }}"}, Tier.EXEC),
        ("update_vm", {"sshkeys": None}, Tier.OPERATE),
        ("update_vm", "{{ tasks.find.result }}", Tier.EXEC),
        ("update_container", {"cores": 2}, Tier.OPERATE),
        ("update_container", {"features": "nesting=1"}, Tier.EXEC),
        ("update_container", {"features": ""}, Tier.EXEC),
        ("create_container", {}, Tier.OPERATE),
        ("create_container", {"unprivileged": True}, Tier.OPERATE),
        ("create_container", {"unprivileged": "true"}, Tier.OPERATE),
        ("create_container", {"unprivileged": False}, Tier.DESTROY),
        ("create_container", {"unprivileged": "{{ parameters.safe }}"}, Tier.DESTROY),
        ("create_container", {"features": "mount=nfs"}, Tier.EXEC),
        ("create_vm", {"iso": "local:iso/x.iso"}, Tier.OPERATE),
        ("create_vm", {"iso": "local-lvm:vm-102-disk-0"}, Tier.DESTROY),
        ("create_vm", {"iso": "local:iso/../images/102/vm-102-disk-0.raw"}, Tier.DESTROY),
        ("create_vm", {"image": "local:import/x.raw"}, Tier.OPERATE),
        ("create_vm", {"image": "local:102/vm-102-disk-0.qcow2"}, Tier.DESTROY),
        ("set_guest_network", {"rate": 5}, Tier.OPERATE),
        ("set_guest_network", {"connected": False}, Tier.OPERATE),
        ("set_guest_network", {"firewall": True, "bridge": "vmbr1", "tag": 5}, Tier.OPERATE),
        ("set_guest_network", {"firewall": False}, Tier.DESTROY),
        ("set_guest_network", {"bridge": "vmbr1"}, Tier.DESTROY),
        ("set_guest_network", {"tag": 0}, Tier.DESTROY),
        ("set_guest_network", {"connected": True}, Tier.DESTROY),
        ("update_guest_options", {"options": {"onboot": "1", "cores": "2"}}, Tier.OPERATE),
        ("update_guest_options", {"options": {"net0": "virtio,bridge=vmbr0,firewall=1"}}, Tier.OPERATE),
        ("update_guest_options", {"options": {"net0": "virtio,bridge=vmbr0"}}, Tier.DESTROY),
        ("update_guest_options", {"options": {"net0": "virtio,bridge=vmbr0,link_down=1"}}, Tier.OPERATE),
        ("update_guest_options", {"options": {"protection": "0"}}, Tier.DESTROY),
        ("update_guest_options", {"remove": ["protection"]}, Tier.DESTROY),
        ("update_guest_options", {"remove": ["onboot"]}, Tier.OPERATE),
        ("update_guest_options", {"options": {"ciuser": "root"}}, Tier.EXEC),
        ("update_guest_options", {"options": {"features": "nesting=1"}}, Tier.EXEC),
        ("update_guest_options", {"options": {"hookscript": "local:snippets/x"}}, Tier.EXEC),
        ("update_guest_options", {"options": {"unheard": "1"}}, Tier.EXEC),
        ("update_guest_options", {"options": '{"hookscript": "local:snippets/x"}'}, Tier.EXEC),
        ("update_storage", {"enabled": True}, Tier.OPERATE),
        ("update_storage", {"enabled": False}, Tier.DESTROY),
        ("update_storage", {"nodes": []}, Tier.DESTROY),
        ("set_ceph_flag", {"flag": "noout"}, Tier.OPERATE),
        ("set_ceph_flag", {"flag": "pause"}, Tier.DESTROY),
        ("download_url", {}, Tier.OPERATE),
        ("download_url", {"verify_certificates": False}, Tier.DESTROY),
    ],
)
def test_tier_of_parameters(known: dict[str, Tool], name: str, parameters: Any, wanted: Tier) -> None:
    """What gives a login, a right or a guard away needs its tier with any value that cannot be read as harmless."""
    assert known[name].tier_for(parameters) is wanted


@pytest.mark.parametrize("beside", [["create_vm"], ["clone_container", "start_guest"]])
def test_a_new_guest_is_its_makers(known: dict[str, Tool], beside: list[str]) -> None:
    """A workflow that makes a guest may give it a login: the agent holds it to what the workflow has made."""
    assert known["update_vm"].tier_for({"sshkeys": KEY}, beside) is Tier.OPERATE
    assert known["update_vm"].tier_for({"sshkeys": KEY}, ["start_guest"]) is Tier.EXEC
