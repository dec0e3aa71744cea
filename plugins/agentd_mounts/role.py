"""The role `mounts`: keep the mounted MCP servers running, and serve the queue of each."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from agentd_mounts.tools import mounts_of

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from agentd import Context
    from agentd_mounts.mount import Mount
    from agentd_mounts.settings import MountsSettings


class MountsRole:
    """The role: each server NAME is the service `mcp-NAME`."""

    name = "mounts"
    port = 8003
    services: tuple[str, ...] = ()
    routes: tuple[BaseRoute, ...] = ()

    def configure(self, settings: MountsSettings) -> None:
        """Serve one service for each configured server."""
        self.services = tuple(f"mcp-{name}" for name in settings.servers)

    async def run(self, context: Context) -> None:
        """Serve until the context is stopping."""
        mounts = mounts_of(context.tools, context.settings)
        starting = set(self.services)

        def serving_now(service: str) -> None:
            starting.discard(service)
            if not starting:
                context.health.up()

        serving_now("")
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(_keep(context, mount)) for mount in mounts.values()]
            async with asyncio.TaskGroup() as serving:
                for service in self.services:
                    queues, drain = context.queues(service), context.config.drain.timeout
                    ready = partial(serving_now, service)
                    serving.create_task(
                        context.worker.serve(service, context.stopping, queues=queues, drain=drain, ready=ready)
                    )
                await context.stopping.wait()
            for task in running:
                task.cancel()

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Change nothing: the servers are started when the role starts."""


async def _keep(context: Context, mount: Mount) -> None:
    """Keep one server running, and report what an administrator has to do."""

    async def changed() -> None:
        context.health.warnings[:] = [
            *(line for line in context.health.warnings if not line.startswith(f"{mount.name}: ")),
            *([f"{mount.name}: {mount.state}"] if mount.state else []),
            *(f"{mount.name}: {tool} is not called: {reason}" for tool, reason in mount.quarantined.items()),
        ]
        offered = await asyncio.to_thread(mount.write_offered, context.settings.offered)
        if mount.state:
            context.log.warning("a mounted server is not available", server=mount.name, reason=mount.state)
        if mount.quarantined:
            context.log.warning(
                "tools of a mounted server are not called",
                server=mount.name,
                tools=mount.quarantined,
                advice=f"read {offered}, and copy it to {context.settings.definitions} to accept it",
            )

    await mount.run(changed)
