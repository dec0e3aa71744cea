"""The monitor: hears what the network says of itself and raises alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from agentd.plugins.role import Role, Settings


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the thresholds that an operator may set under `[monitor]`."""
    from agentd_monitor.settings import MonitorSettings

    return MonitorSettings


@hookimpl
def agentd_role() -> Role:
    """Return the role `monitor`."""
    from agentd_monitor.role import Monitor

    return Monitor()
