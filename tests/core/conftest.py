"""Fixtures of the core's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from agentd.provision import provision
from core.jetstream import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus import Bus
    from harness import NatsServer


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Yield a connection on which everything is provisioned."""
    async with connected(nats_server.url) as bus:
        await provision(bus)
        yield bus
