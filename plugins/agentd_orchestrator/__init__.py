"""The orchestrator plugin: runs durable workflows and provides the built-in ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentd import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd import Definition, Reader, Role, Settings, Tool
    from agentd_orchestrator.settings import OrchestratorSettings


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the type of the section `[orchestrator]`."""
    from agentd_orchestrator.settings import OrchestratorSettings

    return OrchestratorSettings


@hookimpl
def agentd_role() -> Role:
    """Return the orchestrator."""
    from agentd_orchestrator.role import Orchestrator

    return Orchestrator()


@hookimpl
def agentd_workflows(tools: Callable[[], Mapping[str, Tool]]) -> list[Definition]:
    """Return the built-in workflows."""
    from agentd_orchestrator.builtin_workflows import tool_call
    from agentd_orchestrator.builtin_workflows.deploy_vm import definitions

    return [*definitions(), *tool_call.definitions(tools)]


@hookimpl
def agentd_workflow_reader(
    settings: Settings, tools: Callable[[], Mapping[str, Tool]], workflows: Mapping[str, Definition]
) -> Reader:
    """Return the reader of the files in `[orchestrator] workflows_dir`."""
    from agentd_orchestrator.declared.library import Library

    return Library(cast("OrchestratorSettings", settings).workflows_dir, tools, workflows)
