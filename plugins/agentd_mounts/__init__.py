"""The plugin of the role `mounts`: the tools of other MCP servers, each server as a service of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import hookimpl

if TYPE_CHECKING:
    from agentd import BrokenTool, Role, Settings, Tool, Toolbox


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the section `[mounts]`."""
    from agentd_mounts.settings import MountsSettings

    return MountsSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `mounts`."""
    from agentd_mounts.role import MountsRole

    return MountsRole()


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the accepted tools of every mounted server."""
    from agentd_mounts.settings import MountsSettings
    from agentd_mounts.tools import accepted_tools

    return accepted_tools(toolbox.settings or MountsSettings())
