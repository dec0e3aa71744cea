"""Every hook of agentd, and nothing else.

Hooks ask, roles do: a hook is synchronous, called once while the daemon starts, and returns data.
A plugin implements it with `from agentd import hookimpl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentd.plugins.role import Role, Settings
    from agentd.plugins.workflow_files import Reader
    from agentd.tools.definition import BrokenTool, Right, Tool, Toolbox
    from agentd.wire.workflow import Definition

PROJECT = "agentd"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def agentd_settings() -> type[Settings]:  # type: ignore[empty-body]
    """Return the plugin's own settings type; asked before the section `[<plugin>]` of the configuration is read."""


@hookspec
def agentd_role() -> Role:  # type: ignore[empty-body]
    """Return the role that this plugin brings; asked when the instance is to play it."""


@hookspec
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:  # type: ignore[empty-body]
    """Return the plugin's tools, bound to what `toolbox` offers; an exception leaves this plugin's tools out."""


@hookspec
def agentd_workflow_reader(  # type: ignore[empty-body]
    settings: Settings, tools: Callable[[], Mapping[str, Tool]], workflows: Mapping[str, Definition]
) -> Reader:
    """Return what reads workflow files, given the plugin's settings and what there is; asked by the command line."""


@hookspec
def agentd_workflows(  # type: ignore[empty-body]
    tools: Callable[[], Mapping[str, Tool]],
) -> list[Definition]:
    """Return the plugin's workflow definitions; asked by every instance that plays the orchestrator.

    `tools` returns every tool that an installed plugin defines, to look at; not to be called before it is needed.
    """


@hookspec
def agentd_rights(toolbox: Toolbox) -> Callable[[], Awaitable[list[Right]]]:  # type: ignore[empty-body]
    """Return how to learn which rights in Proxmox the plugin's tools need; `agentd doctor` asks and awaits it."""
