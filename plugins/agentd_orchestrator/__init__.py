"""The orchestrator plugin: runs durable workflows, and brings the built-in ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.hookspecs import hookimpl

if TYPE_CHECKING:
    from agentd.role import Role, Settings
    from agentd.workflows import Definition


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
def agentd_workflows() -> list[Definition]:
    """Return the built-in workflows."""
    from agentd_orchestrator.catalogue import DEFINITIONS

    return DEFINITIONS
