"""What the contexts of the monitor's tests have in the place of a worker: no tool is called there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agentd.safety.policy import Policy

if TYPE_CHECKING:
    import asyncio


class Idle:
    """A worker that no task reaches."""

    async def serve(self, _: str, stopping: asyncio.Event, **__: Any) -> None:
        """Wait for the end."""
        await stopping.wait()


def idle() -> dict[str, Any]:
    """Return the parts of a context that concern tools and plugins."""
    drain = SimpleNamespace(timeout=1.0)
    config = SimpleNamespace(drain=drain)
    return {"worker": Idle(), "queues": lambda _: [], "config": config, "checks": [], "policy": Policy()}
