"""The bridge: the tools of `mcp-proxmox` for the network, and the same tools for AI clients over MCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from agentd.plugins.role import Role, Settings


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return what an operator may set under `[mcp-bridge]`."""
    from agentd_mcp.role import BridgeSettings

    return BridgeSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `mcp-bridge`; the MCP SDK itself is loaded when its web app is built."""
    from agentd_mcp.role import Bridge

    return Bridge()
