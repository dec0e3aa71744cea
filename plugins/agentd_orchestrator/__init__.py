"""The orchestrator plugin: runs durable workflows, and brings the built-in ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentd.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd.definitions import Reader
    from agentd.role import Role, Settings
    from agentd.tools import Tool
    from agentd.workflows import Definition
    from agentd_orchestrator.role import OrchestratorSettings


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the type of the section `[orchestrator]`."""
    from agentd_orchestrator.role import OrchestratorSettings

    return OrchestratorSettings


@hookimpl
def agentd_role() -> Role:
    """Return the orchestrator."""
    from agentd_orchestrator.role import Orchestrator

    return Orchestrator()


@hookimpl
def agentd_workflows(tools: Callable[[], Mapping[str, Tool]]) -> list[Definition]:
    """Return the built-in workflows."""
    from agentd_orchestrator import single
    from agentd_orchestrator.catalogue import definitions

    return [*definitions(), *single.definitions(tools)]


@hookimpl
def agentd_workflow_reader(
    settings: Settings, tools: Callable[[], Mapping[str, Tool]], workflows: Mapping[str, Definition]
) -> Reader:
    """Return what reads the files of `[orchestrator] workflows_dir`."""
    from agentd_orchestrator.library import Library

    return Library(cast("OrchestratorSettings", settings).workflows_dir, tools, workflows)
