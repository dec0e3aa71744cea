"""Fixtures of the plugins' tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from agentd.plugins.manager import known_tools
from agentd_proxmox.settings import ToolSettings
from harness import Net
from plugins.download_server import serving
from proxmox_access import AsyncPve, connect
from pve.client import FakePve, available
from tool_bench import Bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Tool
    from harness import NatsServer


@pytest.fixture
def quiet_net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return the configuration of a network without Proxmox."""
    return Net(tmp_path, nats_server.url)


@pytest_asyncio.fixture
async def bus(quiet_net: Net) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned."""
    async with quiet_net.client() as bus:
        yield bus


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tool]:
    """Return the tools that there are, as a daemon without Proxmox knows them."""
    return known_tools(Net(tmp_path_factory.mktemp("net"), "nats://127.0.0.1:1").config())


@pytest.fixture(scope="module")
def laboratory() -> Iterator[FakePve]:
    """Run one simulated Proxmox VE for a file."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="demo") as running:
        yield running


@pytest.fixture
def lab(laboratory: FakePve) -> FakePve:
    """Start each test with the cluster as it was at first."""
    laboratory.reset()
    laboratory.settings(offline_delay=0.1, auth_delay=0, lock_wait=0.3)
    return laboratory


@pytest.fixture
def sim(lab: FakePve) -> AsyncPve:
    """Control the simulator without blocking the loop."""
    return AsyncPve(lab)


@pytest_asyncio.fixture
async def tools(lab: FakePve) -> AsyncIterator[Bench]:
    """Offer the tools with the token that may do everything."""
    proxmox = connect(lab)
    yield Bench(proxmox, ToolSettings(lock_timeout=3, ha_timeout=1))
    await proxmox.close()


@pytest.fixture
def recorded(facts: Path) -> Callable[[str], Any]:
    """Return the data of an answer that was recorded from the real Proxmox."""

    def data(name: str) -> Any:
        return json.loads((facts / "pve" / "recorded" / f"{name}.json").read_text())["body"]["data"]

    return data


@pytest.fixture(scope="session")
def download_server() -> Iterator[str]:
    """Serve files on loopback and return the address."""
    with serving() as address:
        yield address
