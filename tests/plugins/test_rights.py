"""Rights: the declared calls are the real ones, the least roles suffice, and what is missing is named."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from agentd import config as configuration
from agentd import doctor, errors
from agentd.messages import Tier
from agentd.policy import looking
from agentd.tools import Right
from agentd_proxmox import rights
from agentd_proxmox.schemas import Schemas
from proxmox_access import Steer, connect
from tool_bench import CONTAINER, Bench, Doubt, MemoryCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agentd.config import Config
    from agentd.tools import Found
    from pve.client import FakePve

C = TypeVar("C", bound=MemoryCall)
TOKEN = "agentd@pve!full"  # noqa: S105 - a name

TALK: dict[str, Any] = {"vmid": 100, "guest": "web-01"}
LEFT: dict[str, Any] = {"name": "left", "nodes": {"pve1": 0}}
MOVES: list[tuple[str, dict[str, Any]]] = [
    ("migration_preflight", {"vmid": 100, "target": "pve2"}),
    ("migrate_guest", {"vmid": 201, "target": "pve1"}),
    ("migrate_guest", {"vmid": 101, "target": "pve2", "target_storage": "shared"}),
    ("agent_ping", {"vmid": 100}),
    ("agent_info", {"vmid": 100}),
    ("agent_exec", {**TALK, "command": ["id"]}),
    ("agent_write_file", {**TALK, "path": "/x", "content": "y"}),
    ("agent_read_file", {**TALK, "path": "/x"}),
    ("add_ha_resource", {"vmid": 104}),
    ("update_ha_resource", {"vmid": 104, "max_restart": 2}),
    ("create_ha_rule", {**LEFT, "type": "node-affinity", "guests": [104]}),
    ("update_ha_rule", {"name": "left", "comment": "x"}),
    ("migrate_guest", {"vmid": 104, "target": "pve1"}),
    ("list_ha", {}),
    ("delete_ha_rule", {"name": "left"}),
    ("remove_ha_resource", {"vmid": 104, "guest": "nas"}),
    ("create_replication", {"vmid": 105, "target": "pve1"}),
    ("update_replication", {"id": "105-0", "rate": 5}),
    ("list_replications", {}),
    ("run_replication", {"id": "105-0"}),
    ("replication_status", {"id": "105-0"}),
    ("delete_replication", {"id": "105-0", "guest": "old-test"}),
    ("create_pool", {"pool": "walked"}),
    ("update_pool", {"pool": "walked", "guests": [105], "storages": ["shared"]}),
    ("list_pools", {}),
    ("get_pool", {"pool": "walked"}),
    ("update_pool", {"pool": "walked", "guests": [105], "storages": ["shared"], "remove": True}),
    ("delete_pool", {"pool": "walked"}),
]
EIGHT: list[tuple[str, dict[str, Any]]] = [
    ("set_ha_group", LEFT),
    ("set_ha_group", {**LEFT, "restricted": True}),
    ("list_ha", {}),
    ("delete_ha_group", {"name": "left"}),
]
"""Calls of Proxmox VE 8 alone."""
WALK: list[tuple[str, dict[str, Any]]] = [
    ("list_nodes", {}),
    ("get_node", {"node": "pve1"}),
    ("list_storages", {}),
    ("list_bridges", {"node": "pve1"}),
    ("list_tasks", {}),
    ("list_tasks", {"node": "pve1"}),
    ("list_vms", {}),
    ("list_templates", {}),
    ("get_vm", {"vmid": 101}),
    ("get_vm", {"vmid": 200}),
    ("next_vmids", {}),
    ("create_vm", {"vmid": 300, "node": "pve1", "name": "new", "storage": "local-lvm", "disk": 4}),
    ("create_vm", {"vmid": 301, "node": "pve1", "name": "cloned", "template": 9000}),
    ("create_vm", {"vmid": 302, "node": "pve1", "name": "cloudy", "template": 9000}),
    ("update_vm", {"vmid": 300, "cores": 3, "description": "x"}),
    ("resize_disk", {"vmid": 300, "size": 8}),
    ("start_vm", {"vmid": 300}),
    ("reboot_vm", {"vmid": 300}),
    ("shutdown_vm", {"vmid": 300}),
    ("start_vm", {"vmid": 300}),
    ("reset_vm", {"vmid": 300}),
    ("suspend_vm", {"vmid": 300}),
    ("resume_vm", {"vmid": 300}),
    ("stop_vm", {"vmid": 300}),
    ("set_tags", {"vmid": 201, "add": ["walked"]}),
    ("pending_changes", {"vmid": 300}),
    ("move_disk", {"vmid": 101, "disk": "scsi0", "storage": "shared"}),
    ("detach_disk", {"vmid": 101, "disk": "scsi0"}),
    ("attach_disk", {"vmid": 101, "disk": "scsi1", "volume": "shared:101/vm-101-disk-0.raw"}),
    ("create_container", CONTAINER),
    ("clone_container", {"vmid": 321, "node": "pve1", "name": "ct-02", "source": 320}),
    ("update_container", {"vmid": 320, "cores": 2}),
    ("console_hint", {"vmid": 320}),
    ("regenerate_cloudinit", {"vmid": 302}),
    ("make_template", {"vmid": 301, "name": "cloned"}),
    ("delete_guest", {"vmid": 301, "name": "cloned"}),
    ("create_vm", {"vmid": 303, "node": "pve1", "name": "passing", "storage": "local-lvm", "disk": 4}),
    ("start_vm", {"vmid": 303}),
    ("discard_guest", {"vmid": 303}),
    *MOVES,
]
"""One call of each tool at least; get_task comes with a UPID that one of them left."""


def keyed(call: C, tool: str) -> C:
    """Return the call with the key by which the tool takes it for its own: discard_guest undoes what this walk made."""
    call.key = "wf.undo-api" if tool == "discard_guest" else call.key
    return call


async def walk(bench: Bench, steer: Steer) -> dict[str, set[str]]:
    """Call every tool and return the methods that arrived for each."""
    catalogue = await Schemas(bench.tools["get_vm"].run.__self__.proxmox, None).catalogue()  # type: ignore[attr-defined]
    called: dict[str, set[str]] = {}
    upid = ""
    for tool, parameters in [*WALK, ("get_task", {}), *EIGHT]:
        if (tool, parameters) == EIGHT[0]:
            await steer.settings(ha_has_groups=1)
            await steer.rule("GET", "/cluster/ha/rules$", {"status": 501, "reason": "Method not implemented"})
        before = max((entry["n"] for entry in await steer.log()), default=0)
        await bench(tool, keyed(Doubt(), tool), **(parameters if tool != "get_task" else {"upid": upid}))
        for entry in await steer.log(since=before):
            called.setdefault(tool, set()).add(catalogue.resolve(entry["method"], entry["path"]).key)
            upid = entry.get("upid") or upid
    return called


async def test_declared_is_called(lab: FakePve) -> None:
    """Every method that a tool calls is declared, and every tool but those of the whole API is."""
    proxmox = connect(lab)
    bench = Bench(proxmox)
    called = await walk(bench, Steer(lab))

    for tool, keys in called.items():
        assert keys <= set(rights.CALLS[tool][1]), tool
    assert set(called) == set(rights.CALLS)
    assert all(bench.tools[tool].tier is tier for tool, (tier, _) in rights.CALLS.items())
    await proxmox.close()


class Dry(MemoryCall):
    """A call of a dry run: it ends where the world would be touched."""

    async def once(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Look, and go no further."""
        del act
        if await look() is None:
            self.check()
        raise asyncio.CancelledError


async def test_dry_runs(tools: Bench, steered: Steer) -> None:
    """A dry run of any tool reads alone, and one that destroys or executes says what it would change."""
    for name, parameters in WALK:
        before = max((entry["n"] for entry in await steered.log()), default=0)
        dry, tool = keyed(Dry(), name), tools.tools[name]
        dry.tool = tool
        with looking(), contextlib.suppress(asyncio.CancelledError):
            await tool.run(dry, tool.parse(parameters))
        sent = [entry for entry in await steered.log(since=before) if entry["method"] != "GET"]
        await tools(name, keyed(Doubt(), name), **parameters)

        assert sent == [], name


async def test_least_role_suffices(lab: FakePve, tmp_path: Path) -> None:
    """A token whose user has the generated role alone can do all that the tools do, and nothing besides."""
    full = connect(lab)
    found = rights.rights(await Schemas(full, tmp_path).catalogue())
    privileges = ",".join(sorted({each.privilege for each in found}))
    await full.post("/access/roles", roleid="AgentdOperate", privs=privileges)
    await full.put("/access/acl", path="/", tokens="agentd@pve!blind", roles="AgentdOperate")
    least = connect(lab, "blind")
    await walk(Bench(least), Steer(lab))

    assert set((await least.permissions())["/"]) == {each.privilege for each in found}
    for path, more in (("snapshot", {"snapname": "ab"}), ("vncproxy", {})):
        with pytest.raises(errors.Denied, match="pveum"):
            await least.post(f"/nodes/pve1/qemu/300/{path}", **more)
    await full.close()
    await least.close()


@pytest.mark.parametrize(
    ("check", "privileges"),
    [
        (["perm", "/vms/{vmid}", ["VM.Audit"]], {("VM.Audit", "/vms/{vmid}")}),
        (["perm", "/", ["Sys.Audit", "Datastore.Audit"]], {("Sys.Audit", "/"), ("Datastore.Audit", "/")}),
        (["perm", "/vms/{vmid}", ["VM.Config.Disk", "VM.Config.CPU"], "any", 1], set()),
        (["perm", "/v", ["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"], "any"], {("VM.GuestAgent.Audit", "/v")}),
        (["or", ["perm", "/a", ["X.Y"]], ["perm", "/b", ["X.Z"]]], {("X.Y", "/a")}),
        (["and", ["perm", "/a", ["X.Y"]], ["or", ["perm", "/b", ["X.Z"]]]], {("X.Y", "/a"), ("X.Z", "/b")}),
        (["userid-param", "self"], set()),
        (None, set()),
    ],
)
def test_needed(check: Any, privileges: set[tuple[str, str]]) -> None:
    """A permission check of the schema becomes the privileges that it asks for."""
    assert rights.needed(check) == privileges


def test_are_real(facts: Path) -> None:
    """Every privilege that is named in words exists, and the roles that look need no right to change."""
    roles = json.loads((facts / "pve" / "recorded" / "access-roles.json").read_text())["body"]["data"]
    known = {each for role in roles for each in role["privs"].split(",")}
    reading = {
        privilege
        for tool, (tier, _) in rights.CALLS.items()
        if tier is Tier.READ
        for privilege, _ in rights.WORDS.get(tool, set())
    }

    assert {privilege for needs in rights.WORDS.values() for privilege, _ in needs} <= known
    assert all(each.endswith(".Audit") for each in reading)


class TestCompare:
    """What a token has against what the tools need."""

    NEEDED = (
        Right("VM.Audit", "/vms/{vmid}", Tier.READ, ("get_vm",)),
        Right("Sys.Audit", "/", Tier.READ, ("list_nodes",)),
        Right("VM.PowerMgmt", "/vms/{vmid}", Tier.OPERATE, ("start_vm", "stop_vm")),
    )

    def test_blind(self) -> None:
        """A token without any right is called blind."""
        (found,) = doctor.compare(TOKEN, {}, list(self.NEEDED))

        assert not found.good
        assert "blind" in found.text

    @pytest.mark.parametrize("path", ["/", "/vms", "/vms/101", "/pool/prod"])
    def test_held(self, path: str) -> None:
        """A right is held on the path, above it, or on a part of it."""
        held = {"/": ["Sys.Audit"]} | {path: ["VM.Audit", "VM.PowerMgmt", "Sys.Audit"]}

        assert [each.good for each in doctor.compare(TOKEN, held, list(self.NEEDED))] == [True]

    def test_missing(self) -> None:
        """Each missing privilege is named with its path, who needs it, and the commands for token and user."""
        (found,) = doctor.compare(TOKEN, {"/": ["VM.Audit", "Sys.Audit"]}, list(self.NEEDED))

        assert found.text == f"{TOKEN} lacks VM.PowerMgmt on /vms/{{vmid}}, which start_vm, stop_vm need"
        assert f"pveum acl modify /vms --tokens '{TOKEN}' --roles PVEVMUser" in found.advice
        assert "--users 'agentd@pve'" in found.advice

    def test_elsewhere(self) -> None:
        """A right on another path is none."""
        found = doctor.compare(TOKEN, {"/": ["VM.Audit"], "/storage": ["VM.PowerMgmt", "Sys.Audit"]}, list(self.NEEDED))

        assert [each.good for each in found] == [False, False]


@pytest.fixture
def config(lab: FakePve, tmp_path: Path) -> Config:
    """Return a configuration for the simulator."""
    token_id, _, secret = lab.tokens["full"].partition("=")
    (tmp_path / "token").write_text(secret)
    path = tmp_path / "agentd.toml"
    path.write_text(
        f'[node]\nstate_dir = "{tmp_path}"\n[proxmox]\nurl = "{lab.url}"\ntoken_id = "{token_id}"\n'
        f'token_file = "{tmp_path}/token"\nca_file = "{lab.ca}"\n'
    )
    return configuration.load(path, {})


async def test_roles(config: Config) -> None:
    """`agentd doctor --roles` says the commands: a role for looking that is part of the one for operating."""
    read, operate, user, token = await doctor.roles(config)

    privileges = [set(each.split("'")[1].split(",")) for each in (read, operate)]
    assert read.startswith("pveum role add AgentdRead -privs ")
    assert privileges[0] < privileges[1]
    assert privileges[0] == {"Datastore.Audit", "Pool.Audit", "Sys.Audit", "VM.Audit", "VM.GuestAgent.Audit"}
    assert user == "pveum acl modify / --users 'agentd@pve' --roles AgentdOperate"
    assert token == f"pveum acl modify / --tokens '{TOKEN}' --roles AgentdOperate"
