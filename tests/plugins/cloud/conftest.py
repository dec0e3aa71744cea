"""Fixtures of the cloud tools: a simulated EC2 on loopback, and the tools over an account there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.tools.declaration import by_name
from agentd.tools.definition import BrokenTool, Tool, Toolbox
from agentd_cloud import agentd_tools
from agentd_cloud.settings import CloudSettings
from cloud.client import KEY, Moto, available
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "the+secret/of/the/account"  # noqa: S105
IMAGE = "ami-1e749f67"
ZONE = "us-east-1a"


@dataclass
class Clouds:
    """The cloud tools by name."""

    tools: dict[str, Tool]

    async def __call__(self, name: str, call: MemoryCall | None = None, /, **parameters: Any) -> Any:
        """Call a tool as the worker does; its result is JSON that fits its type."""
        tool = self.tools[name]
        call = call or MemoryCall(key=f"wf.{name}")
        call.tool = tool
        result = await tool.run(call, tool.parse({"account": "lab", **parameters}))

        assert msgspec.convert(msgspec.to_builtins(result), type(result)) == result
        return result

    async def create(self, name: str = "web1", key: str = "wf.create", **parameters: Any) -> Any:
        """Create a node of the smallest size."""
        given = {"name": name, "size": "t3.micro", "image": IMAGE, **parameters}
        return await self("create_cloud_node", MemoryCall(key), **given)


def account(endpoint: str, secret: Path, **settings: Any) -> dict[str, Any]:
    """Return the settings of an account at the simulated EC2."""
    secret.write_text(SECRET)
    secret.chmod(0o600)
    base = {"provider": "ec2", "key": KEY, "secret_file": str(secret), "region": "us-east-1", "endpoint": endpoint}
    return base | settings


def serving(accounts: dict[str, dict[str, Any]]) -> Clouds:
    """Return the cloud tools for these accounts."""
    found = agentd_tools(Toolbox("pve1", None, CloudSettings.model_validate({"accounts": accounts})))
    assert not [tool for tool in found if isinstance(tool, BrokenTool)]
    return Clouds(by_name(tool for tool in found if isinstance(tool, Tool)))


@pytest.fixture(scope="session")
def simulated() -> Iterator[Moto]:
    """Run one simulated EC2 for a worker."""
    if not available():
        pytest.skip("the environment of the simulated EC2 is not there (.venv-cloud)")
    with Moto() as running:
        yield running


@pytest.fixture
def moto(simulated: Moto) -> Moto:
    """Start each test with an empty account."""
    simulated.reset()
    return simulated


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read again soon while an object changes its state."""
    monkeypatch.setattr("agentd_cloud.nodes.PAUSE", 0.05)
    monkeypatch.setattr("agentd_cloud.volumes.PAUSE", 0.05)


@pytest.fixture
def lab(moto: Moto, tmp_path: Path) -> dict[str, Any]:
    """Return the settings of the account `lab`."""
    return account(moto.url, tmp_path / "secret")


@pytest.fixture
def clouds(lab: dict[str, Any]) -> Clouds:
    """Return the cloud tools over the account `lab`."""
    return serving({"lab": lab})
