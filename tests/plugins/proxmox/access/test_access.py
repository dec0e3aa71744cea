"""Users, tokens, roles and permissions against a server: gains and losses are reported before, and read after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import errors
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve

EVE: dict[str, Any] = {"id": "eve@pve", "comment": "on call", "email": "eve@example.org"}


class TestUsers:
    """Users and groups."""

    async def test_from_its_making_to_its_end(self, tools: Bench, sim: AsyncPve) -> None:
        """A user is made once, put into a group, disabled and deleted; each time what is so is read back."""
        call = MemoryCall("wf.make")
        made = await tools.call("create_user", call, **EVE)
        await tools.call("create_user", MemoryCall("wf.again"), **EVE)
        await tools.call("create_group", MemoryCall("wf.group"), id="ops")
        changing = MemoryCall("wf.change")
        changed = await tools.call("update_user", changing, id="eve@pve", groups=["ops"], enabled=False)
        group = (await tools.call("list_groups")).groups
        gone = await tools.call("delete_user", MemoryCall("wf.delete"), id="eve@pve")
        await tools.call("delete_user", MemoryCall("wf.gone"), id="eve@pve")

        assert (made.enabled, made.email, made.groups) == (True, "eve@example.org", [])
        assert call.undo == ("delete_user", {"id": "eve@pve"})
        assert (changed.enabled, changed.groups) == (False, ["ops"])
        assert changing.undo == ("update_user", {"id": "eve@pve", "enabled": True, "groups": []})
        assert changing.targets[0].loses == ["enable: True → False", "groups: '' → 'ops'"]
        assert [item.members for item in group if item.id == "ops"] == [["eve@pve"]]
        assert (gone.name, gone.existed) == ("eve@pve", True)
        with pytest.raises(errors.AgentdError):
            await tools.call("get_user", id="eve@pve")
        assert len(await sim.log("DELETE")) == 1

    async def test_the_list_is_short(self, tools: Bench) -> None:
        """A tally and a page; a part of the name chooses."""
        await tools.call("create_user", **EVE)
        first = await tools.call("list_users", limit=1)
        found = await tools.call("list_users", name="EVE")

        assert first.total > 1
        assert first.next
        assert [user.id for user in found.users] == ["eve@pve"]

    async def test_a_group_is_deleted_with_its_grants(self, tools: Bench) -> None:
        """The approver sees its members and its grants."""
        await tools.call("create_group", MemoryCall("wf.g"), id="ops")
        await tools.call("grant_role", MemoryCall("wf.a"), role="PVEAuditor", who="@ops", path="/vms")
        call = MemoryCall("wf.d")
        await tools.call("delete_group", call, id="ops")

        assert call.targets[0].loses == ["no members", "role PVEAuditor on /vms"]
        assert all(group.id != "ops" for group in (await tools.call("list_groups")).groups)

    @pytest.mark.parametrize(
        ("tool", "requested", "line"),
        [
            ("delete_user", {"id": "root@pam"}, "root@pam is the user that can repair everything: it is not deleted"),
            ("delete_user", {"id": "agentd@pve"}, "is the user that agentd itself is: it is not deleted"),
            ("update_user", {"id": "agentd@pve", "enabled": False}, "it is not disabled"),
            ("create_user", EVE | {"id": "agentd@pve"}, "there is a user agentd@pve already, with other settings"),
            ("delete_token", {"user": "agentd@pve", "name": "full"}, "is the token that agentd itself uses"),
        ],
    )
    async def test_refused(self, tools: Bench, sim: AsyncPve, tool: str, requested: dict[str, Any], line: str) -> None:
        """What agentd depends on, and the way back in, are left alone; nothing is sent."""
        with pytest.raises(errors.Rejected, match=line):
            await tools.call(tool, **requested)

        assert [request for request in await sim.log() if request["method"] != "GET"] == []

    @pytest.mark.parametrize("wrong", ["eve", "eve@", "e/ve@pve", "eve@pve!t", "a b@pve", "e\x00ve@pve"])
    async def test_names_that_are_no_user(self, tools: Bench, wrong: str) -> None:
        """A name that Proxmox would read otherwise is refused by its field."""
        with pytest.raises(errors.InvalidMessage, match=r"get_user\.id"):
            await tools.call("get_user", id=wrong)


class TestTokens:
    """API tokens and their secrets."""

    async def test_the_secret_is_in_its_file_only(self, lab: FakePve, sim: AsyncPve, tmp_path: Path) -> None:
        """Its file is the agent's alone; neither result nor preview holds it, and it works."""
        del sim
        proxmox = connect(lab)
        tools = Bench(proxmox, ToolSettings(secrets_dir=tmp_path / "secrets"))
        await tools.call("create_user", MemoryCall("wf.u"), **EVE)
        call = MemoryCall("wf.t")
        made = await tools.call("create_token", call, user="eve@pve", name="t1", comment="scripts")
        file = tmp_path / "secrets" / "eve@pve!t1"
        secret = file.read_text().strip()
        listed = (await tools.call("list_tokens", id="eve@pve")).tokens
        with pytest.raises(errors.Rejected, match="there is a token eve@pve!t1 already"):
            await tools.call("create_token", MemoryCall("wf.t2"), user="eve@pve", name="t1")
        await tools.call("delete_token", MemoryCall("wf.r"), user="eve@pve", name="t1")

        assert len(secret) == 36
        assert file.stat().st_mode & 0o777 == 0o600
        assert made.secret_file == str(file)
        assert secret not in msgspec.json.encode([made, call.targets, listed]).decode()
        assert [item.id for item in listed] == ["eve@pve!t1"]
        assert (await tools.call("list_tokens", id="eve@pve")).tokens == []
        await proxmox.close()

    async def test_without_a_place_for_the_secret(self, tools: Bench, sim: AsyncPve) -> None:
        """No token is made whose secret could not be read."""
        with pytest.raises(errors.Rejected, match=r"set \[mcp-proxmox\] secrets_dir"):
            await tools.call("create_token", user="agentd@pve", name="t1")

        assert await sim.log("POST") == []


class TestRights:
    """Roles, grants and realms."""

    async def test_a_role_from_its_making_to_its_end(self, tools: Bench) -> None:
        """Made, granted, changed and deleted; what each gains is reported before."""
        await tools.call("create_role", MemoryCall("wf.r"), id="Looker", privileges=["VM.Audit", "Sys.Audit"])
        granting = MemoryCall("wf.g")
        await tools.call("create_user", MemoryCall("wf.u"), **EVE)
        await tools.call("grant_role", granting, role="Looker", who="eve@pve", path="/vms")
        held = await tools.call("list_grants", who="eve@pve")
        may = await tools.call("get_permissions", who="eve@pve", path="/vms")
        changing = MemoryCall("wf.c")
        await tools.call("update_role", changing, id="Looker", privileges=["VM.Audit", "VM.Console"])
        revoking = MemoryCall("wf.v")
        await tools.call("revoke_role", revoking, role="Looker", who="eve@pve", path="/vms")
        left = await tools.call("list_grants", who="eve@pve")
        await tools.call("delete_role", MemoryCall("wf.d"), id="Looker")

        assert granting.targets[0].loses == ["eve@pve gains 2 privileges on /vms and all below: Sys.Audit, VM.Audit"]
        assert [(grant.role, grant.path, grant.propagate) for grant in held.grants] == [("Looker", "/vms", True)]
        assert may.paths["/vms"] == ["Sys.Audit", "VM.Audit"]
        assert changing.targets[0].loses == ["gains VM.Console", "loses Sys.Audit", "eve@pve has it on /vms"]
        assert changing.undo == ("update_role", {"id": "Looker", "privileges": ["Sys.Audit", "VM.Audit"]})
        assert revoking.undo == (
            "grant_role",
            {"role": "Looker", "who": "eve@pve", "path": "/vms", "propagate": True},
        )
        assert left.total == 0
        assert all(role.id != "Looker" for role in (await tools.call("list_roles")).roles)

    @pytest.mark.parametrize(
        ("tool", "requested", "line"),
        [
            ("update_role", {"id": "PVEAuditor", "privileges": ["VM.Audit"]}, "comes with Proxmox and stays as it is"),
            ("delete_role", {"id": "Administrator"}, "comes with Proxmox and stays as it is"),
            ("revoke_role", {"role": "PVEAdmin", "who": "agentd@pve", "path": "/"}, "does not change its own rights"),
            ("grant_role", {"role": "Nothing", "who": "eve@pve", "path": "/"}, "there is no role 'Nothing'"),
        ],
    )
    async def test_refused(self, tools: Bench, sim: AsyncPve, tool: str, requested: dict[str, Any], line: str) -> None:
        """What comes with Proxmox, and what agentd depends on, stays; nothing is sent."""
        with pytest.raises(errors.PermanentError, match=line):
            await tools.call(tool, **requested)

        assert [request for request in await sim.log() if request["method"] != "GET"] == []

    async def test_realms_and_own_permissions(self, tools: Bench) -> None:
        """Where users come from, and what agentd's own token may do."""
        realms = (await tools.call("list_realms")).realms
        mine = await tools.call("get_permissions", path="/vms/101")

        assert {realm.id for realm in realms} >= {"pam", "pve"}
        assert mine.who == "agentd@pve!full"
        assert "VM.PowerMgmt" in mine.paths["/vms/101"]
