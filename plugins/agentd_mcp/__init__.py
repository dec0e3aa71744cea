"""The plugin of the role `mcp-bridge`: serve `mcp-proxmox` over NATS and MCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import hookimpl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agentd import Bus, Role, Settings, Tool


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the section `[mcp-bridge]`."""
    from agentd_mcp.role import BridgeSettings

    return BridgeSettings


@hookimpl
def agentd_requires() -> list[str]:
    """Return the plugin whose tools the role serves."""
    return ["mcp-proxmox"]


@hookimpl
def agentd_role() -> Role:
    """Return the role `mcp-bridge`.

    The role loads the MCP SDK later, when it builds its web app.
    """
    from agentd_mcp.role import Bridge

    return Bridge()


@hookimpl
def agentd_stdio() -> Callable[[Bus, str, Mapping[str, Tool], bool, Sequence[str]], Awaitable[None]]:
    """Return the function that serves MCP over stdin and stdout; it loads the MCP SDK."""

    async def serve(  # the parameters of the hook
        bus: Bus,
        principal: str,
        tools: Mapping[str, Tool],
        few: bool,  # noqa: FBT001
        within: Sequence[str],
    ) -> None:
        from agentd_mcp.transport import stdio

        await stdio.serve(bus, principal, tools, few=few, within=within)

    return serve
