"""Resources, prompts and completion for the person at a client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from harness import eventually

if TYPE_CHECKING:
    from harness import Net


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_resources(net: Net, era: str) -> None:
    """Lists and single objects are read at their address; what does not exist is an error that names it."""
    async with net.client(), net.here() as daemon, Client(f"{daemon.url}/mcp", mode=era, cache=None) as client:

        async def offered() -> set[str]:
            uris = {str(resource.uri) for resource in (await client.list_resources()).resources}
            return uris if "pve://alerts" in uris else set()

        listed = await eventually(offered, "the monitor offers its tools")
        templates = {item.uri_template for item in (await client.list_resource_templates()).resource_templates}
        nodes, guest = [
            json.loads((await client.read_resource(uri)).contents[0].text)  # type: ignore[union-attr]
            for uri in ("pve://nodes", "pve://guests/101")
        ]
        for unknown in ("pve://nothing", "pve://guests/999999", "pve://guests/x", "file:///etc/passwd"):
            with pytest.raises(MCPError):
                await client.read_resource(unknown)

    assert {"pve://nodes", "pve://guests", "pve://storages", "pve://alerts", "pve://workflows"} <= listed
    assert "pve://guests/{vmid}" in templates
    assert [node["node"] for node in nodes["nodes"]] == ["pve1", "pve2", "pve3"]
    assert guest["vmid"] == 101


async def test_prompts_and_completion(net: Net) -> None:
    """A prompt is filled with its arguments, whose values are completed from the cluster."""
    reference = types.PromptReference(type="ref/prompt", name="plan_maintenance")
    async with net.client(), net.here() as daemon, Client(f"{daemon.url}/mcp") as client:
        names = {prompt.name for prompt in (await client.list_prompts()).prompts}
        prompt = await client.get_prompt("plan_maintenance", {"node": "pve2"})
        with pytest.raises(MCPError, match="node is missing"):
            await client.get_prompt("plan_maintenance")
        completed = await client.complete(reference, {"name": "node", "value": "pve"})
        other = await client.complete(reference, {"name": "other", "value": ""})

    assert names == {"check_cluster", "diagnose_guest", "plan_maintenance"}
    assert "node pve2" in str(prompt.messages[0].content)
    assert completed.completion.values == ["pve1", "pve2", "pve3"]
    assert other.completion.values == []
