"""The role `cloud`: serve the queue `mcp-cloud`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from agentd import PermanentError
from agentd_cloud import providers

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from agentd import Context

SERVICE: Final = "mcp-cloud"


class Cloud:
    """The role: serves the tools of the service `mcp-cloud`."""

    name = "cloud"
    port = 8004
    services: tuple[str, ...] = (SERVICE,)
    routes: tuple[BaseRoute, ...] = ()

    async def run(self, context: Context) -> None:
        """Serve the queue until the context is stopping."""
        try:
            await asyncio.to_thread(providers.library)
        except PermanentError as error:
            context.health.warnings.append(str(error))
            context.log.warning("the cloud tools cannot work", reason=str(error))
        await context.worker.serve(
            SERVICE,
            context.stopping,
            queues=context.queues(SERVICE),
            drain=context.config.drain.timeout,
            ready=context.health.up,
        )

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Change nothing: the accounts are read when the daemon starts."""
