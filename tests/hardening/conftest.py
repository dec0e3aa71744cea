"""Fixtures of the tests of faults that were found on the built product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from agentd.bus.setup.provision import provision
from core.jetstream import connected
from core.probe import SERVICE, Probe
from plugins.conftest import bus, download_server, known, lab, laboratory, quiet_net, recorded, sim, tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer

__all__ = ["bus", "download_server", "known", "lab", "laboratory", "quiet_net", "recorded", "sim", "tools"]


@pytest.fixture
def probe() -> Probe:
    """Return the small tools of the worker's tests."""
    return Probe()


@pytest_asyncio.fixture
async def probing(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned, and a queue of the service `probe`."""
    async with connected(nats_server.url) as bus:
        await provision(bus, [SERVICE, "specialist"])
        yield bus
