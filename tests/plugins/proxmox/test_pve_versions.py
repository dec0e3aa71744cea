"""The tools behave on Proxmox VE 8.4, 9.1 and 9.2, with the rights that each of them knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.api import rights
from agentd_proxmox.api.schema_cache import Schemas
from agentd_proxmox.areas import declared
from plugins.proxmox.walk import WALK, bench_of, keyed
from plugins.proxmox.walks.guests import EIGHT
from plugins.proxmox.walks.local import CEPH
from proxmox_access import AsyncPve, connect
from pve.client import FakePve, available
from tool_bench import Doubt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSIONS = {"8.4": "8.4.14", "9.1": "9.1.11", "9.2": "9.2.11"}


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[FakePve]:
    """Run a simulated cluster of each version."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="demo", arguments=("--pve-version", request.param)) as running:
        running.settings(offline_delay=0.1, auth_delay=0, lock_wait=0.3)
        yield running


def _calls(version: str) -> list[tuple[str, Any]]:
    """Return the walk for a version: rules of HA are new in 9, groups go out with it."""
    last: list[tuple[str, Any]] = [("get_task", lambda results: {"upid": results["upid"]}), *CEPH]
    if version != "8.4":
        return [*WALK, *last]
    return [call for call in WALK if "ha_rule" not in call[0]] + last + EIGHT


async def test_every_tool_with_its_rights_alone(cluster: FakePve, tmp_path: Path, download_server: str) -> None:
    """A token with exactly the rights that are derived from this version's schema can do all that the tools do."""
    sim, full = AsyncPve(cluster), connect(cluster)
    await sim.reset()
    version = str((await full.get("/version"))["release"])
    roles = await full.get("/access/roles")
    known = {name for role in roles for name in role["privs"].split(",")}
    found = rights.needed_rights(await Schemas(full, tmp_path).catalogue(), declared(), known)
    privileges = {item.privilege for item in found}
    await full.post("/access/roles", roleid="AgentdLeast", privs=",".join(sorted(privileges)))
    await full.put("/access/acl", path="/", tokens="agentd@pve!blind", roles="AgentdLeast")
    least = connect(cluster, "blind")
    bench = bench_of(least, tmp_path)
    results: dict[str, Any] = {"shelf": download_server}
    await sim.settings(ha_has_groups=int(version == "8.4"))
    for tool, given in _calls(version):
        if (tool, given) == CEPH[0]:
            await sim.hardware(ceph={}, directories={"corp": "ldap"})
        parameters = given(results) if callable(given) else given
        results[tool] = await bench(tool, keyed(Doubt(), tool), **parameters)
        results["upid"] = ([request["upid"] for request in await sim.log() if request.get("upid")] or [""])[-1]

    assert ("VM.Monitor" in privileges) is (version == "8.4")
    assert ("VM.GuestAgent.Audit" in privileges) is (version != "8.4")
    assert ("VM.Replicate" in privileges) is (version != "8.4")
    await full.close()
    await least.close()


async def test_every_endpoint(cluster: FakePve, tmp_path: Path) -> None:
    """What a version has is found and called; what it has not is reported as none of it."""
    proxmox = connect(cluster)
    bench = bench_of(proxmox, tmp_path)
    version = (await bench("api_get", path="/version")).data
    rules = await bench("api_find", words="HA rules", limit=50)

    assert version["version"] in VERSIONS.values()
    has_rules = version["release"] != "8.4"
    assert any("/cluster/ha/rules" in item for item in rules.found) is has_rules
    if not has_rules:
        with pytest.raises(errors.NotFound, match="/cluster/ha/rules"):
            await bench("api_get", path="/cluster/ha/rules")
    if version["release"] != "9.2":
        with pytest.raises(errors.NotFound, match="custom-cpu-models"):
            await bench("api_get", path="/cluster/qemu/custom-cpu-models")
    await proxmox.close()
