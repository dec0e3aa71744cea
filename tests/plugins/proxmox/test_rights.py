"""Rights: the declared calls are the real ones, the least roles suffice, and what is missing is named."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.cli.setup import doctor
from agentd.config import load as configuration
from agentd.proxmox.read_only import dry_run_context
from agentd.tools.definition import Right
from agentd.wire.messages import Tier
from agentd_proxmox.api import rights
from agentd_proxmox.api.schema_cache import Schemas
from agentd_proxmox.areas import CALLS, declared
from plugins.proxmox.walk import bench_of, calls, keyed, walk
from proxmox_access import AsyncPve, connect
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agentd.config.load import Config
    from agentd.tools.definition import Found
    from pve.client import FakePve

TOKEN = "agentd@pve!full"  # noqa: S105 - a name


async def test_calls_are_up_to_date(lab: FakePve, tmp_path: Path, download_server: str) -> None:
    """The stored methods of every tool are those that it calls; only those of the whole API have none."""
    called = await calls(lab, tmp_path, download_server)

    assert called == CALLS, "calls.json is old: make calls"
    assert set(called) == {tool.tool for tool in declared()}


class Dry(MemoryCall):
    """A call of a dry run: it ends where the world would be touched."""

    async def ensure(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Check, and stop."""
        del act
        if await look() is None:
            self.check()
        raise asyncio.CancelledError


async def test_dry_runs(lab: FakePve, tmp_path: Path, download_server: str) -> None:
    """A dry run of any tool reads alone, and one that destroys or executes says what it would change."""
    proxmox, sim = connect(lab), AsyncPve(lab)
    bench = bench_of(proxmox, tmp_path)

    async def dry(name: str, parameters: Any) -> None:
        seen = max((entry["n"] for entry in await sim.log()), default=0)
        call, tool = keyed(Dry(), name), bench.tools[name]
        call.tool = tool
        with dry_run_context(), contextlib.suppress(asyncio.CancelledError):
            await tool.run(call, tool.parse(parameters))
        sent = [entry for entry in await sim.log(since=seen) if entry["method"] != "GET"]

        assert sent == [], name

    await walk(lambda _: bench, sim, download_server, dry)
    await proxmox.close()


@pytest.mark.parametrize("tier", list(Tier))
async def test_least_role_suffices(lab: FakePve, tmp_path: Path, tier: Tier, download_server: str) -> None:
    """A token with the role of a tier can do all that tools of the tier do, and nothing besides."""
    full = connect(lab)
    found = rights.needed_rights(await Schemas(full, tmp_path).catalogue(), declared())
    privileges = {item.privilege for item in found if tier.covers(item.tier)}
    beyond = {name for item in found if not tier.covers(item.tier) for name in item.tools}
    await full.post("/access/roles", roleid="AgentdLeast", privs=",".join(sorted(privileges)))
    await full.put("/access/acl", path="/", tokens="agentd@pve!blind", roles="AgentdLeast")
    least = connect(lab, "blind")
    can, all_can = bench_of(least, tmp_path), bench_of(full, tmp_path)
    await walk(
        lambda tool: all_can if tool in beyond or not tier.covers(can.tools[tool].tier) else can,
        AsyncPve(lab),
        download_server,
    )

    assert set((await least.permissions())["/"]) == privileges
    with pytest.raises(errors.Denied, match="pveum"):
        await least.post("/nodes/pve1/qemu/300/vncproxy")
    await full.close()
    await least.close()


async def test_roles_grow_with_the_tiers(lab: FakePve, tmp_path: Path) -> None:
    """Each tier needs more than the one below, and the lowest nothing by which anything can be changed."""
    full = connect(lab)
    found = rights.needed_rights(await Schemas(full, tmp_path).catalogue(), declared())
    await full.close()
    privileges = [{item.privilege for item in found if tier.covers(item.tier)} for tier in Tier]

    assert privileges[0] < privileges[1] < privileges[2] < privileges[3]
    assert all(privilege.endswith(".Audit") or privilege in rights.SHOWS for privilege in privileges[0])
    assert {"Permissions.Modify", "VM.Snapshot.Rollback"} <= privileges[2] - privileges[1]


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
    assert rights.privileges_of_check(check) == privileges


def test_are_real(facts: Path) -> None:
    """Every privilege that is named in words exists."""
    roles = json.loads((facts / "pve" / "recorded" / "access-roles.json").read_text())["body"]["data"]
    known = {part for role in roles for part in role["privs"].split(",")}

    assert {privilege for item in declared() for privilege, _ in item.needs} <= known


class TestCompare:
    """What a token has against what the tools need."""

    NEEDED = (
        Right("VM.Audit", "/vms/{vmid}", Tier.READ, ("get_guest",)),
        Right("Sys.Audit", "/", Tier.READ, ("list_nodes",)),
        Right("VM.PowerMgmt", "/vms/{vmid}", Tier.OPERATE, ("start_guest", "stop_guest")),
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

        assert [item.good for item in doctor.compare(TOKEN, held, list(self.NEEDED))] == [True]

    def test_missing(self) -> None:
        """Each missing privilege is named with its path, its tools, and the commands for token and user."""
        (found,) = doctor.compare(TOKEN, {"/": ["VM.Audit", "Sys.Audit"]}, list(self.NEEDED))

        assert found.text == f"{TOKEN} lacks VM.PowerMgmt on /vms/{{vmid}}, which start_guest, stop_guest need"
        assert f"pveum acl modify /vms --tokens '{TOKEN}' --roles PVEVMUser" in found.advice
        assert "--users 'agentd@pve'" in found.advice

    def test_a_right_on_another_path(self) -> None:
        """A right on another path is none."""
        found = doctor.compare(TOKEN, {"/": ["VM.Audit"], "/storage": ["VM.PowerMgmt", "Sys.Audit"]}, list(self.NEEDED))

        assert [item.good for item in found] == [False, False]


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
    """`agentd doctor --roles` says the commands: a role for each tier, and gives the token that of the tier granted."""
    read, operate, destroy, execute, user, token = await doctor.roles(config)

    privileges = [set(item.split("'")[1].split(",")) for item in (read, operate, destroy, execute)]
    assert read.startswith("pveum role add AgentdRead -privs ")
    assert execute.startswith("pveum role add AgentdExec -privs ")
    assert privileges[0] < privileges[1] < privileges[2] < privileges[3]
    assert privileges[0] == {
        *(f"{item}.Audit" for item in ("Datastore", "Mapping", "Pool", "SDN", "Sys", "VM", "VM.GuestAgent")),
        "Sys.Syslog",
    }
    assert all("Permissions.Modify" not in privilege for privilege in privileges)
    assert user == "pveum acl modify / --users 'agentd@pve' --roles AgentdRead"
    assert token == f"pveum acl modify / --tokens '{TOKEN}' --roles AgentdRead"
