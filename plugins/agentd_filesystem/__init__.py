"""The plugin of the role `filesystem`: file tools, the service `mcp-filesystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import hookimpl

if TYPE_CHECKING:
    from agentd import BrokenTool, Role, Settings, Tool, Toolbox


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the section `[filesystem]`."""
    from agentd_filesystem.settings import FilesystemSettings

    return FilesystemSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `filesystem`."""
    from agentd_filesystem.role import Filesystem

    return Filesystem()


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the tools of the service `mcp-filesystem`."""
    from agentd import collect
    from agentd_filesystem.role import SERVICE
    from agentd_filesystem.roots import Roots
    from agentd_filesystem.settings import FilesystemSettings
    from agentd_filesystem.tools.areas import AREAS

    roots = Roots(toolbox.settings or FilesystemSettings())
    return [tool for area in AREAS for tool in collect(area(roots), service=SERVICE)]
