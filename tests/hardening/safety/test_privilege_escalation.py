"""No tool gives a person or a token more rights than agentd's own token has, on any way that Proxmox offers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from agentd import errors
from agentd_proxmox.api.access_guard import EXCESS_CHECKS
from agentd_proxmox.api_tiers import TABLE
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.proxmox.client import Proxmox
    from pve.client import FakePve

OPERATOR = (
    "Datastore.Allocate Datastore.Audit Group.Allocate Permissions.Modify Pool.Allocate Pool.Audit Realm.Allocate "
    "Realm.AllocateUser Sys.Audit Sys.Modify User.Modify VM.Allocate VM.Audit VM.PowerMgmt"
)
OURS = "agentd@pve!blind"


@pytest_asyncio.fixture
async def full(lab: FakePve) -> AsyncIterator[Proxmox]:
    """Make a cluster whose agentd has a limited role, beside users and groups that have more."""
    proxmox = connect(lab)
    await proxmox.post("/access/roles", roleid="Operator", privs=",".join(OPERATOR.split()))
    await proxmox.post("/access/roles", roleid="Small", privs="VM.Audit")
    await proxmox.post("/access/roles", roleid="Free", privs="VM.Audit")
    await proxmox.put("/access/acl", path="/", tokens=OURS, roles="Operator")
    for group in ("admins", "readers", "ours", "staff-corp"):
        await proxmox.post("/access/groups", groupid=group)
    for user in ("eve@pve", "boss@pve", "ann@corp"):
        await proxmox.post("/access/users", userid=user)
    for kind, who, role, path in (
        ("groups", "admins", "Administrator", "/"),
        ("groups", "readers", "Small", "/vms"),
        ("groups", "staff-corp", "PVEVMAdmin", "/vms"),
        ("users", "boss@pve", "Administrator", "/vms"),
        ("users", "eve@pve", "Small", "/vms"),
    ):
        await proxmox.put("/access/acl", path=path, roles=role, **{kind: who})
    await proxmox.put("/access/users/agentd@pve", groups="ours")
    await proxmox.put("/access/users/boss@pve", enable=False)
    await proxmox.post("/pools", poolid="web")
    await proxmox.put("/access/acl", path="/pool/web", roles="PVEVMAdmin", users="eve@pve")
    await AsyncPve(lab).hardware(directories={"corp": "ldap"})
    yield proxmox
    await proxmox.close()


@pytest_asyncio.fixture
async def limited(full: Proxmox, lab: FakePve, tmp_path: Path) -> AsyncIterator[Bench]:
    """Offer the tools with the limited token."""
    del full  # it has made the cluster
    proxmox = connect(lab, "blind")
    yield Bench(proxmox, ToolSettings(secrets_dir=tmp_path / "secrets", lock_timeout=3, ha_timeout=1))
    await proxmox.close()


def role(name: str, who: str, path: str = "/", **more: Any) -> tuple[str, dict[str, Any]]:
    """Return a grant."""
    return ("grant_role", {"role": name, "who": who, "path": path, **more})


@pytest.mark.parametrize(
    ("tool", "requested", "line"),
    [
        (*role("Administrator", OURS), "does not change its own rights"),
        (*role("Small", OURS, "/vms/100"), "does not change its own rights"),
        (*role("Administrator", "agentd@pve"), "does not change its own rights"),
        (*role("Small", "@ours"), "does not change its own rights"),
        (*role("NoAccess", OURS, "/vms/100"), "does not change its own rights"),
        (*role("Administrator", "eve@pve"), "gives more rights than"),
        (*role("PVEVMAdmin", "@readers", "/vms/100"), "VM.Backup"),
        (*role("PVEVMUser", "eve@pve", "/vms/100", propagate=False), "VM.Console"),
        ("revoke_role", {"role": "Operator", "who": OURS, "path": "/"}, "does not change its own rights"),
        ("create_role", {"id": "New", "privileges": ["VM.Audit", "VM.Console"]}, "VM.Console"),
        ("update_role", {"id": "Operator", "privileges": [*OPERATOR.split(), "VM.Console"]}, "own rights"),
        ("update_role", {"id": "Operator", "privileges": ["VM.Audit"]}, "own rights"),
        ("update_role", {"id": "Small", "privileges": ["VM.Audit", "Sys.PowerMgmt"]}, "gains Sys.PowerMgmt on /vms"),
        ("update_role", {"id": "Free", "privileges": ["VM.Audit", "Sys.PowerMgmt"]}, "Sys.PowerMgmt"),
        ("delete_role", {"id": "Operator"}, "own rights"),
        ("update_user", {"id": "eve@pve", "groups": ["admins"]}, "@admins has role Administrator on /"),
        ("update_user", {"id": "agentd@pve", "groups": []}, "own rights"),
        ("update_user", {"id": "agentd@pve", "groups": ["ours", "readers"]}, "own rights"),
        ("update_user", {"id": "boss@pve", "enabled": True}, "boss@pve has role Administrator on /vms"),
        ("create_token", {"user": "root@pam", "name": "all", "separated": False}, "root@pam may do everything"),
        ("create_token", {"user": "boss@pve", "name": "all", "separated": False}, "boss@pve has role Administrator"),
        ("create_token", {"user": "agentd@pve", "name": "all", "separated": False}, "own rights"),
        ("delete_group", {"id": "ours"}, "agentd itself is in the group"),
        ("update_pool", {"pool": "web", "guests": [101]}, "eve@pve has role PVEVMAdmin on /pool/web"),
        ("update_pool", {"pool": "web", "guests": [100, 101], "move": True}, "PVEVMAdmin on /pool/web"),
        ("sync_realm", {"realm": "corp"}, "@staff-corp has role PVEVMAdmin on /vms"),
        ("update_realm", {"id": "corp", "settings": {"server1": "evil.example"}}, "@staff-corp has role PVEVMAdmin"),
    ],
)
async def test_more_than_the_own_token_has_is_refused(
    full: Proxmox, limited: Bench, sim: AsyncPve, tool: str, requested: dict[str, Any], line: str
) -> None:
    """What would widen rights beyond the own token's, or change these, is refused by name and nothing is sent."""
    before = await full.get("/access/acl")
    seen = max(entry["n"] for entry in await sim.log())
    with pytest.raises(errors.Rejected, match=line):
        await limited.call(tool, **requested)

    assert await full.get("/access/acl") == before
    assert [entry for entry in await sim.log(since=seen) if entry["method"] != "GET"] == []


async def test_no_more_on_a_part_than_the_own_token_has_there(full: Proxmox, limited: Bench) -> None:
    """A role that reaches down to where the own token has less is refused; beside it, it is granted."""
    await full.put("/access/acl", path="/vms/100", tokens=OURS, roles="NoAccess")
    with pytest.raises(errors.Rejected, match=r"role Operator on /vms gives more rights than"):
        await limited.call("grant_role", role="Operator", who="eve@pve", path="/vms")
    granted = await limited.call("grant_role", role="Small", who="eve@pve", path="/vms/101")

    assert granted.path == "/vms/101"


async def test_an_entry_that_shadows_a_larger_role_is_kept(full: Proxmox, limited: Bench) -> None:
    """An entry that keeps a larger role from a part is not taken away: its holder would gain by it."""
    await full.put("/access/acl", path="/vms/100", users="boss@pve", roles="NoAccess")
    with pytest.raises(errors.Rejected, match="role Administrator of boss@pve reaches /vms/100"):
        await limited.call("revoke_role", role="NoAccess", who="boss@pve", path="/vms/100")


@pytest.mark.parametrize(
    ("tool", "requested"),
    [
        role("Small", "@readers", "/vms/101"),
        ("create_role", {"id": "New", "privileges": ["VM.Audit"]}),
        ("update_role", {"id": "Small", "privileges": ["VM.Audit", "VM.PowerMgmt"]}),
        ("update_user", {"id": "eve@pve", "groups": ["readers"]}),
        ("create_token", {"user": "eve@pve", "name": "own"}),
        ("update_user", {"id": "boss@pve", "comment": "left"}),
    ],
)
async def test_rights_of_the_own_token_may_be_granted(limited: Bench, tool: str, requested: dict[str, Any]) -> None:
    """Rights within those of the own token are given as before."""
    call = MemoryCall()
    await limited.call(tool, call, **requested)

    assert call.acted == 1


async def test_an_undo_that_would_be_refused_is_not_offered(full: Proxmox, limited: Bench) -> None:
    """Taking a larger role away is done, and no undo is offered: granting it again would be refused."""
    await full.put("/access/acl", path="/vms/101", users="eve@pve", roles="PVEVMAdmin")
    call = MemoryCall()
    await limited.call("revoke_role", call, role="PVEVMAdmin", who="eve@pve", path="/vms/101")

    assert (call.acted, call.undo) == (1, None)


async def test_with_an_unreadable_access_list_no_right_is_granted(full: Proxmox, limited: Bench) -> None:
    """A token that may not read the whole access list gives no rights at all."""
    privileges = [part for part in OPERATOR.split() if part != "Sys.Audit"]
    await full.put("/access/roles/Operator", privs=",".join(privileges))
    with pytest.raises(errors.Denied, match=r"lacks Sys\.Audit on /access"):
        await limited.call("grant_role", role="Small", who="eve@pve", path="/vms/101")


def api(method: str, path: str, /, **parameters: Any) -> tuple[str, str, dict[str, Any]]:
    """Return a call of the API."""
    return method, path, parameters


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (api("PUT", "/access/acl", path="/", roles="Administrator", tokens=OURS), "does not change its own rights"),
        (api("PUT", "/access/acl", path="/vms", roles="Small", users=f"eve@pve;{OURS[:10]}"), "own rights"),
        (api("PUT", "/access/acl", path="/vms", roles="Small", groups="readers,ours"), "own rights"),
        (api("PUT", "/access/acl", path="/", roles="Operator", tokens=OURS, delete=1), "own rights"),
        (api("PUT", "/access/acl", path="/", roles="Small Administrator", users="eve@pve"), "gives more rights than"),
        (api("PUT", "/access/acl", path="/vms/100", roles="PVEVMAdmin", groups="readers"), "VM.Backup"),
        (api("PUT", "/access/acl", path="//vms", roles="PVEVMAdmin", users="eve@pve"), "rights"),
        (api("POST", "/access/roles", roleid="New", privs="VM.Audit VM.Console"), "VM.Console"),
        (api("PUT", "/access/roles/Operator", privs="VM.Console", append=1), "own rights"),
        (api("PUT", "/access/roles/Operator"), "own rights"),
        (api("PUT", "/access/roles/Small", privs="VM.Audit,Sys.PowerMgmt"), "gains Sys.PowerMgmt on /vms"),
        (api("PUT", "/access/roles/Free", privs="Sys.PowerMgmt"), "Sys.PowerMgmt"),
        (api("DELETE", "/access/roles/Operator"), "own rights"),
        (api("POST", "/access/users", userid="new@pve", groups="admins"), "@admins has role Administrator on /"),
        (api("POST", "/access/users", userid="new@pve", groups="ours"), "own rights"),
        (api("PUT", "/access/users/eve@pve", groups="admins", append=1), "@admins has role Administrator on /"),
        (api("PUT", "/access/users/agentd@pve", groups=""), "rights|empty"),
        (api("PUT", "/access/users/agentd@pve", enable=0), "own rights"),
        (api("PUT", "/access/users/boss@pve", enable=1), "boss@pve has role Administrator on /vms"),
        (api("DELETE", "/access/users/agentd@pve"), "own rights"),
        (api("DELETE", "/access/groups/ours"), "own rights"),
        (api("DELETE", "/access/users/agentd@pve/token/blind"), "own rights"),
        (api("PUT", "/access/users/agentd@pve/token/blind", privsep=0), "own rights"),
        (api("POST", "/access/domains/corp/sync"), "@staff-corp has role PVEVMAdmin on /vms"),
        (api("PUT", "/access/domains/corp", server1="evil.example"), "@staff-corp has role PVEVMAdmin"),
        (api("DELETE", "/access/domains/pve"), "own rights"),
        (api("PUT", "/pools", poolid="web", vms="101"), "eve@pve has role PVEVMAdmin on /pool/web"),
        (api("PUT", "/pools/web", vms="101"), "eve@pve has role PVEVMAdmin on /pool/web"),
    ],
)
async def test_the_api_tools_widen_no_rights_either(
    full: Proxmox, limited: Bench, sim: AsyncPve, call: tuple[str, str, dict[str, Any]], line: str
) -> None:
    """A call through the API tools is held to the same rule: it is refused by name and nothing is sent."""
    method, path, parameters = call
    before = await full.get("/access/acl")
    seen = max(entry["n"] for entry in await sim.log())
    answer = []
    for tool in ("api_call", "api_destroy", "api_exec"):
        with pytest.raises(errors.AgentdError) as caught:
            await limited.call(tool, path=path, method=method, parameters=parameters)
        answer.append(str(caught.value))
    judged = [text for text in answer if "is the tool for it" not in text]

    assert judged
    assert all(re.search(line, text) for text in judged), judged
    assert await full.get("/access/acl") == before
    assert [entry for entry in await sim.log(since=seen) if entry["method"] != "GET"] == []


async def test_the_api_tools_grant_rights_of_the_own_token(full: Proxmox, limited: Bench) -> None:
    """What gives nothing beyond the own rights is done."""
    acl = {"path": "/vms/100", "roles": "Small", "users": "eve@pve"}
    await limited.call("api_exec", path="/access/acl", method="PUT", parameters=acl)
    await limited.call("api_destroy", path="/access/users/eve@pve", method="PUT", parameters={"comment": "x"})

    assert {
        (entry["path"], entry["roleid"]) for entry in await full.get("/access/acl") if entry["ugid"] == "eve@pve"
    } > {("/vms/100", "Small")}


async def test_every_method_that_grants_rights_is_checked() -> None:
    """No method under /access that changes something goes unjudged, but for those that no tool calls."""
    unjudged = {
        key
        for key, row in TABLE.items()
        if not key.startswith("GET") and " /access/" in key and key not in EXCESS_CHECKS and row["tier"] != "refused"
    }

    assert unjudged == set()
