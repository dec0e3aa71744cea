"""Every hook of agentd, and nothing else.

Hooks return data, roles do the work: a hook is synchronous and called once while the daemon starts.
A plugin implements it with `from agentd import hookimpl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agentd.bus.jetstream import Bus
    from agentd.plugins.checks import Check
    from agentd.plugins.diagnosis import DiagnosisRule
    from agentd.plugins.role import Role, Settings
    from agentd.plugins.workflow_files import Reader
    from agentd.tools.definition import BrokenTool, Right, Tool, Toolbox
    from agentd.wire.workflow import Definition

    Stdio = Callable[[Bus, str, Mapping[str, Tool], bool, Sequence[str]], Awaitable[None]]

PROJECT: Final = "agentd"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def agentd_settings() -> type[Settings]:  # type: ignore[empty-body]
    """Return the plugin's settings type; called before its section is read."""


@hookspec
def agentd_role() -> Role:  # type: ignore[empty-body]
    """Return the role of this plugin; called if the instance has it, and for its services."""


@hookspec
def agentd_requires() -> list[str]:  # type: ignore[empty-body]
    """Return the names of the plugins that this one needs; they are loaded with it."""


@hookspec
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:  # type: ignore[empty-body]
    """Return the plugin's tools, bound to `toolbox`; after an exception none is offered."""


@hookspec
def agentd_workflow_reader(  # type: ignore[empty-body]
    settings: Settings, tools: Callable[[], Mapping[str, Tool]], workflows: Mapping[str, Definition]
) -> Reader:
    """Return the reader of workflow files; called by the command line.

    `settings` are the plugin's own. `tools` returns every known tool, `workflows` has the definitions of all plugins.
    """


@hookspec
def agentd_workflows(  # type: ignore[empty-body]
    tools: Callable[[], Mapping[str, Tool]],
) -> list[Definition]:
    """Return the plugin's workflow definitions; called by orchestrators.

    `tools` returns every tool that an installed plugin defines, for inspection only; call it only when it is needed.
    """


@hookspec
def agentd_checks(toolbox: Toolbox) -> list[Check]:  # type: ignore[empty-body]
    """Return checks that the monitor runs with its own; called by every instance that has the role monitor."""


@hookspec
def agentd_rights(toolbox: Toolbox) -> Callable[[], Awaitable[list[Right]]]:  # type: ignore[empty-body]
    """Return a coroutine function that finds the Proxmox rights of the plugin's tools.

    `agentd doctor` calls it.
    """


@hookspec
def agentd_stdio() -> Stdio:  # type: ignore[empty-body]
    """Return the coroutine function that serves tools over stdin and stdout; called by `agentd mcp`.

    Its arguments: the connection, the principal, every known tool, whether to list those of daily use only, and
    the directories to which the file tools are limited (none: all that are served).
    """


@hookspec
def agentd_diagnosis_rules() -> list[DiagnosisRule]:  # type: ignore[empty-body]
    """Return rules of the tool `diagnose`; called when an instance with the role specialist starts."""
