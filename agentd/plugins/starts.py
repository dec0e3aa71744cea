"""Checks the workflows that plugins request by themselves, such as those that alerts start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.errors import ConfigError
from agentd.similar import suggestion

if TYPE_CHECKING:
    from agentd.config.load import Config
    from agentd.plugins.manager import Plugins
    from agentd.plugins.role import Start
    from agentd.plugins.workflow_files import ListedWorkflow


def check(config: Config, plugins: Plugins) -> None:
    """Raise ConfigError for a workflow that can never be requested; `plugins` has every installed plugin."""
    wanted = [start for name in plugins.loaded() for start in plugins.settings(name).starts()]
    if not wanted:
        return
    listed = {workflow.name: workflow for workflow in plugins.reader().listed()}
    for start in wanted:
        if start.workflow not in listed:
            raise ConfigError(f"{start.where}.workflow: unknown {start.workflow!r}{suggestion(start.workflow, listed)}")
        if start.principal not in config.policy.principals:
            raise ConfigError(
                f"{start.where}.principal: {start.principal!r} is not in [policy.principals], which must grant its tier"
            )
        _check_parameters(start, listed[start.workflow])


def _check_parameters(start: Start, workflow: ListedWorkflow) -> None:
    if workflow.faults:
        raise ConfigError(f"{start.where}.workflow: {workflow.faults[0]}")
    known = workflow.parameters.get("properties", {})
    for name in sorted(start.parameters - set(known)):
        raise ConfigError(f"{start.where}.parameters.{name}: unknown{suggestion(name, known)}")
    for name in sorted(set(workflow.parameters.get("required", ())) - start.parameters):
        raise ConfigError(f"{start.where}.parameters: {start.workflow} needs {name}")
