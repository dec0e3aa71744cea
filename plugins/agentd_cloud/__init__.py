"""The plugin of the role `cloud`: nodes, volumes and images of cloud providers, the service `mcp-cloud`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import hookimpl

if TYPE_CHECKING:
    from agentd import BrokenTool, Role, Settings, Tool, Toolbox


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the section `[cloud]`."""
    from agentd_cloud.settings import CloudSettings

    return CloudSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `cloud`."""
    from agentd_cloud.role import Cloud

    return Cloud()


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the tools of the service `mcp-cloud`."""
    from agentd import collect
    from agentd_cloud.accounts import Accounts
    from agentd_cloud.role import SERVICE
    from agentd_cloud.settings import CloudSettings
    from agentd_cloud.tools import AREAS

    accounts = Accounts(toolbox.settings or CloudSettings())
    return [tool for area in AREAS for tool in collect(area(accounts), service=SERVICE)]
