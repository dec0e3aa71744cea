"""The role `specialist`: serve the queue `specialist`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentd_specialist.tools import SERVICE

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from agentd import Context


class Specialist:
    """The role: serves the tools of the service `specialist`."""

    name = "specialist"
    port = 8081
    services: tuple[str, ...] = (SERVICE,)
    routes: tuple[BaseRoute, ...] = ()

    async def run(self, context: Context) -> None:
        """Serve the queue until the context is stopping."""
        await context.worker.serve(
            SERVICE,
            context.stopping,
            queues=context.queues(SERVICE),
            drain=context.config.drain.timeout,
            ready=context.health.up,
        )

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Change nothing: the tools read their settings when the daemon starts."""
