"""The workflows and tools that are installed on this machine, as the pages list them.

Both load every plugin and may read files: call them in a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.client.views import ToolSummary, WorkflowType
from agentd.plugins.manager import every_plugin, known_tools

if TYPE_CHECKING:
    from agentd.config.load import Config


def workflow_types(config: Config) -> list[WorkflowType]:
    """Return the workflows that can be submitted, and those whose file has faults."""
    return [
        WorkflowType(
            found.name, found.source, found.description, found.parameters, [str(fault) for fault in found.faults]
        )
        for found in every_plugin(config).reader().listed()
    ]


def tools(config: Config) -> list[ToolSummary]:
    """Return the tools of the installed plugins."""
    return [
        ToolSummary(
            tool.name,
            tool.capability,
            tool.service,
            str(tool.tier),
            str(tool.repeat),
            tool.description,
            {rule.says: str(rule.tier) for rule in tool.raises},
        )
        for tool in known_tools(config).values()
    ]
