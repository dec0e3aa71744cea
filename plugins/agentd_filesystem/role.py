"""The role `filesystem`: serve the queue `mcp-filesystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from agentd import Context

SERVICE: Final = "mcp-filesystem"


class Filesystem:
    """The role: serves the tools of the service `mcp-filesystem`."""

    name = "filesystem"
    port = 8002
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
        """Change nothing: the directories are opened when the daemon starts."""
