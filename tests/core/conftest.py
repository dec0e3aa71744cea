"""Fixtures of the core's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from agentd.bus.setup.provision import provision
from core.jetstream import connected, make_consumer, make_stream
from core.probe import SERVICE, Probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned, and a queue of the service `probe`."""
    async with connected(nats_server.url) as bus:
        await provision(bus, [SERVICE, "specialist"])
        yield bus


@pytest_asyncio.fixture
async def work(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection with a stream WORK and a consumer `w` of it."""
    async with connected(nats_server.url) as bus:
        await make_stream(bus, "WORK", "work.>", retention="workqueue")
        await make_consumer(bus, "WORK", "w", max_ack_pending=10_000)
        yield bus


@pytest.fixture
def probe() -> Probe:
    """Return tools that record what happens to them."""
    return Probe()
