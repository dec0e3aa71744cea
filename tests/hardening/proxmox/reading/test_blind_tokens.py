"""A token without the right to a list gets an error, never an empty list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import pytest_asyncio

from agentd import errors
from agentd_mcp import role
from agentd_proxmox.areas import AREAS
from agentd_proxmox.settings import ToolSettings
from harness import eventually
from proxmox_access import connect
from tool_bench import Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.daemon.supervisor import Supervisor
    from harness import Net
    from pve.client import FakePve

CALLS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("list_guests", "list_templates", "list_storages", "list_users", "list_groups")),
    *((name, {}) for name in ("list_grants", "list_sdn", "list_pools", "list_replications", "list_backup_jobs")),
    *((name, {}) for name in ("list_storage_definitions", "list_notifications", "list_ha", "list_backups")),
    ("list_tasks", {}),
    ("list_tasks", {"node": "pve1"}),
    ("list_volumes", {"node": "pve1", "storage": "local"}),
]


@pytest_asyncio.fixture
async def blind(lab: FakePve) -> AsyncIterator[Bench]:
    """Offer the tools with a token without rights."""
    proxmox = connect(lab, "blind")
    yield Bench(proxmox, ToolSettings())
    await proxmox.close()


@pytest.mark.parametrize(("tool", "requested"), CALLS)
async def test_a_blind_token_is_called_blind(blind: Bench, tool: str, requested: dict[str, Any]) -> None:
    """Every tool that lists says that the token may not see it, and how that is changed."""
    with pytest.raises(errors.Denied, match="pveum acl modify"):
        await blind.call(tool, **requested)


@pytest.mark.parametrize(
    ("tool", "privilege"), [("list_users", "Sys.Audit"), ("list_sdn", "SDN.Audit"), ("list_grants", "Sys.Audit")]
)
async def test_missing_privileges_are_named(lab: FakePve, tool: str, privilege: str) -> None:
    """A token that sees guests but no users or networks is shown which privilege it lacks for these."""
    full = connect(lab)
    await full.post("/access/roles", roleid="Half", privs="VM.Audit")
    await full.put("/access/acl", path="/vms", tokens="agentd@pve!blind", roles="Half")
    proxmox = connect(lab, "blind")
    tools = Bench(proxmox, ToolSettings())
    guests = await tools.call("list_guests")
    with pytest.raises(errors.Denied, match=f"lacks {privilege} on "):
        await tools.call(tool)
    await proxmox.close()
    await full.close()

    assert guests.total > 0


async def test_an_empty_list_is_reported_as_empty(tools: Bench) -> None:
    """What is really empty is reported as such."""
    assert (await tools.call("list_replications")).total == 0
    assert (await tools.call("list_guests", tag="nothing-has-this")).total == 0


def test_every_list_is_watched() -> None:
    """No tool that lists is forgotten."""
    names = {(area, name) for area in AREAS for name in vars(area) if name.startswith("list_")}

    assert [name for area, name in names if name not in area.shown_to] == []


async def test_a_blind_agent_is_not_ready(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent whose token sees nothing any more says so at /readyz; it is ready again when the token has a right."""
    monkeypatch.setattr(role, "RIGHTS_AGAIN", 0.1)
    monkeypatch.setattr(role, "BLIND_AGAIN", 0.1)
    assert net.pve is not None
    full, grant = connect(net.pve), {"path": "/vms", "tokens": "agentd@pve!blind", "roles": "PVEAuditor"}
    await full.put("/access/acl", **grant)
    net.use_token("blind")
    net.settings["instances"]["bridge"] = {"roles": ["mcp-bridge"]}
    async with net.client(), net.here("bridge") as daemon:
        await eventually(lambda: _readyz(daemon, 200, ""), "ready")
        await full.put("/access/acl", **grant, delete=1)
        await eventually(lambda: _readyz(daemon, 503, "is blind, it has no right anywhere in Proxmox"), "not ready")
        await full.put("/access/acl", **grant)
        await eventually(lambda: _readyz(daemon, 200, ""), "ready again")
    await full.close()


async def _readyz(daemon: Supervisor, status: int, words: str) -> bool:
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"{daemon.url}/readyz", params={"format": "text"})
    return answer.status_code == status and words in answer.text
