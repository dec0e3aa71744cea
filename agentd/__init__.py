"""agentd: durable, policy-checked automation for Proxmox VE clusters.

This module re-exports the names that plugins may use.
"""

from agentd.errors import (
    AgentdError,
    ConfigError,
    PermanentError,
    ProxmoxUnavailable,
    Rejected,
    TemporaryError,
    UnknownOutcome,
)
from agentd.plugins.hookspecs import hookimpl
from agentd.tools.definition import Call, Found, Repeat, Tool, Toolbox, collect, tool
from agentd.version import __version__
from agentd.wire.messages import Tier
from agentd.wire.workflow import Definition, TaskSpec, result_of

__all__ = [
    "AgentdError",
    "Call",
    "ConfigError",
    "Definition",
    "Found",
    "PermanentError",
    "ProxmoxUnavailable",
    "Rejected",
    "Repeat",
    "TaskSpec",
    "TemporaryError",
    "Tier",
    "Tool",
    "Toolbox",
    "UnknownOutcome",
    "__version__",
    "collect",
    "hookimpl",
    "result_of",
    "tool",
]
