"""Rights: the declared calls are the real ones, the least roles suffice, and what is missing is named."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from agentd import config as configuration
from agentd import doctor, errors
from agentd.messages import Tier
from agentd.policy import looking
from agentd.tools import Right
from agentd_proxmox import rights
from agentd_proxmox.areas import AREAS, declared
from agentd_proxmox.schemas import Schemas
from plugins.walk_guests import EIGHT
from proxmox_access import Steer, connect
from tool_bench import Bench, Doubt, MemoryCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.config import Config
    from agentd.tools import Found
    from pve.client import FakePve

C = TypeVar("C", bound=MemoryCall)
TOKEN = "agentd@pve!full"  # noqa: S105 - a name

WALK = [
    call
    for file in sorted(Path(__file__).parent.glob("walk_*.py"))
    for call in importlib.import_module(f"plugins.{file.stem}").WALK
]


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

    calls = {name: set(keys) for area in AREAS for name, keys in getattr(area, "calls", {}).items()}
    for tool, keys in called.items():
        assert keys <= calls[tool], tool
    assert set(called) == set(calls)
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
    found = rights.rights(await Schemas(full, tmp_path).catalogue(), declared())
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
    reading = {privilege for each in declared() if each.tier is Tier.READ for privilege, _ in each.needs}

    assert {privilege for each in declared() for privilege, _ in each.needs} <= known
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
