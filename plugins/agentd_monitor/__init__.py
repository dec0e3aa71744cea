"""The plugin of the role `monitor`: watch the network and raise alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import hookimpl

if TYPE_CHECKING:
    from agentd import BrokenTool, Role, Settings, Tool, Toolbox


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the section `[monitor]`."""
    from agentd_monitor.settings import MonitorSettings

    return MonitorSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `monitor`."""
    from agentd_monitor.role import Monitor

    return Monitor()


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the tools of the service `monitor`."""
    from agentd import collect
    from agentd_monitor.tools import SERVICE, MonitorTools

    return collect(MonitorTools(toolbox.bus, toolbox.node), service=SERVICE)
