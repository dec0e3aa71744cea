"""Fixtures of the plugins' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from agentd.plugins import known_tools
from harness import Net

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.bus import Bus
    from agentd.tools import Tool
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
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tool]:
    """Return the tools that there are, as a daemon without Proxmox knows them."""
    return known_tools(Net(tmp_path_factory.mktemp("net"), "nats://127.0.0.1:1").config())
