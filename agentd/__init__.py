"""agentd: durable, policy-checked automation for Proxmox VE clusters.

This module is the public API of plugins: `from agentd import Context, Role, Tier, tool`.  A name is loaded at its first
use, so `import agentd` is cheap, and a plugin loads only what it uses.  Whatever is not listed here may change at any
time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from agentd.version import __version__

if TYPE_CHECKING:
    from agentd import files, formats, printable
    from agentd.bus import capacity
    from agentd.bus.delivery import dead_letters
    from agentd.bus.delivery.consumer import Consumer
    from agentd.bus.delivery.job import Job
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.bus.setup.permissions import Duty
    from agentd.config.secret_files import read_secret
    from agentd.errors import (
        AgentdError,
        BadExpression,
        BusError,
        BusFull,
        BusUnavailable,
        ConfigChanged,
        ConfigError,
        Denied,
        Frozen,
        GiveUp,
        GuestLocked,
        InvalidMessage,
        NodeOffline,
        NotFound,
        NotOurs,
        PermanentError,
        ProxmoxUnavailable,
        Rejected,
        StaleWrite,
        TaskFailed,
        TemporaryError,
        UnknownOutcome,
        UnsafeFile,
        UsageError,
        VmidTaken,
    )
    from agentd.plugins.checks import Check, Finding, Level
    from agentd.plugins.diagnosis import Cause, DiagnosisRule, Evidence, Situation
    from agentd.plugins.hookspecs import hookimpl
    from agentd.plugins.role import Context, Health, Role, Settings, Start
    from agentd.plugins.workflow_files import Fault, ListedWorkflow, Reader
    from agentd.proxmox.client import Proxmox
    from agentd.proxmox.read_only import is_dry_run
    from agentd.proxmox.responses import Upid, grant, known_names, one_line
    from agentd.proxmox.upload import Upload
    from agentd.proxmox.vm import CLOUD_INIT, VmOptions, VmParameters
    from agentd.safety import marks
    from agentd.safety.marks import key_of, mark
    from agentd.safety.policy import ANONYMOUS, NEEDS_APPROVAL, Policy
    from agentd.similar import suggestion
    from agentd.telemetry.logs import Logger, RateLimitedLog
    from agentd.telemetry.metrics import Metrics
    from agentd.tools import raises
    from agentd.tools.content import Content
    from agentd.tools.declaration import by_name, collect, tool
    from agentd.tools.definition import BrokenTool, Call, Found, Repeat, Right, Tool, Toolbox
    from agentd.tools.raises import Raise
    from agentd.tools.worker import Worker
    from agentd.wire import secrets, subjects
    from agentd.wire.announcements import AgentRegistration, Alert, Heartbeat, MetricReport
    from agentd.wire.codec import decode, digest, encode, now, plain
    from agentd.wire.messages import (
        Inverse,
        Outcome,
        Preview,
        Target,
        TaskError,
        Tier,
        ToolReply,
        WorkflowRequest,
        WorkflowResponse,
        WorkflowSignal,
    )
    from agentd.wire.workflow import (
        DONE,
        TERMINAL,
        Approval,
        Compensation,
        Definition,
        Parent,
        Status,
        TaskSpec,
        TaskState,
        TaskStatus,
        Workflow,
        result_of,
        template,
    )

__all__ = [
    "ANONYMOUS",
    "CLOUD_INIT",
    "DONE",
    "NEEDS_APPROVAL",
    "TERMINAL",
    "AgentRegistration",
    "AgentdError",
    "Alert",
    "Approval",
    "BadExpression",
    "BrokenTool",
    "Bus",
    "BusError",
    "BusFull",
    "BusUnavailable",
    "Call",
    "Cause",
    "Check",
    "Compensation",
    "ConfigChanged",
    "ConfigError",
    "Consumer",
    "Content",
    "Context",
    "Definition",
    "Denied",
    "DiagnosisRule",
    "Duty",
    "Evidence",
    "Fault",
    "Finding",
    "Found",
    "Frozen",
    "GiveUp",
    "GuestLocked",
    "Health",
    "Heartbeat",
    "InvalidMessage",
    "Inverse",
    "Job",
    "Level",
    "ListedWorkflow",
    "Logger",
    "MetricReport",
    "Metrics",
    "NodeOffline",
    "NotFound",
    "NotOurs",
    "Outcome",
    "Parent",
    "PermanentError",
    "Policy",
    "Preview",
    "Proxmox",
    "ProxmoxUnavailable",
    "Raise",
    "RateLimitedLog",
    "Reader",
    "Received",
    "Rejected",
    "Repeat",
    "Right",
    "Role",
    "Settings",
    "Situation",
    "StaleWrite",
    "Start",
    "Status",
    "Target",
    "TaskError",
    "TaskFailed",
    "TaskSpec",
    "TaskState",
    "TaskStatus",
    "TemporaryError",
    "Tier",
    "Tool",
    "ToolReply",
    "Toolbox",
    "UnknownOutcome",
    "UnsafeFile",
    "Upid",
    "Upload",
    "UsageError",
    "VmOptions",
    "VmParameters",
    "VmidTaken",
    "Worker",
    "Workflow",
    "WorkflowRequest",
    "WorkflowResponse",
    "WorkflowSignal",
    "__version__",
    "by_name",
    "capacity",
    "collect",
    "dead_letters",
    "decode",
    "digest",
    "encode",
    "files",
    "formats",
    "grant",
    "hookimpl",
    "is_dry_run",
    "key_of",
    "known_names",
    "mark",
    "marks",
    "now",
    "one_line",
    "plain",
    "printable",
    "raises",
    "read_secret",
    "result_of",
    "secrets",
    "subjects",
    "suggestion",
    "template",
    "tool",
]

_ORIGINS: Final = {
    "ANONYMOUS": "agentd.safety.policy",
    "AgentRegistration": "agentd.wire.announcements",
    "AgentdError": "agentd.errors",
    "Alert": "agentd.wire.announcements",
    "Approval": "agentd.wire.workflow",
    "BadExpression": "agentd.errors",
    "BrokenTool": "agentd.tools.definition",
    "Bus": "agentd.bus.jetstream",
    "BusError": "agentd.errors",
    "BusFull": "agentd.errors",
    "BusUnavailable": "agentd.errors",
    "CLOUD_INIT": "agentd.proxmox.vm",
    "NEEDS_APPROVAL": "agentd.safety.policy",
    "Call": "agentd.tools.definition",
    "Cause": "agentd.plugins.diagnosis",
    "Check": "agentd.plugins.checks",
    "Compensation": "agentd.wire.workflow",
    "ConfigChanged": "agentd.errors",
    "ConfigError": "agentd.errors",
    "Consumer": "agentd.bus.delivery.consumer",
    "Content": "agentd.tools.content",
    "Context": "agentd.plugins.role",
    "DONE": "agentd.wire.workflow",
    "Definition": "agentd.wire.workflow",
    "Denied": "agentd.errors",
    "DiagnosisRule": "agentd.plugins.diagnosis",
    "Duty": "agentd.bus.setup.permissions",
    "Evidence": "agentd.plugins.diagnosis",
    "Fault": "agentd.plugins.workflow_files",
    "Finding": "agentd.plugins.checks",
    "Found": "agentd.tools.definition",
    "Frozen": "agentd.errors",
    "GiveUp": "agentd.errors",
    "GuestLocked": "agentd.errors",
    "Health": "agentd.plugins.role",
    "Heartbeat": "agentd.wire.announcements",
    "InvalidMessage": "agentd.errors",
    "Inverse": "agentd.wire.messages",
    "Job": "agentd.bus.delivery.job",
    "Level": "agentd.plugins.checks",
    "ListedWorkflow": "agentd.plugins.workflow_files",
    "Logger": "agentd.telemetry.logs",
    "MetricReport": "agentd.wire.announcements",
    "Metrics": "agentd.telemetry.metrics",
    "NodeOffline": "agentd.errors",
    "NotFound": "agentd.errors",
    "NotOurs": "agentd.errors",
    "Outcome": "agentd.wire.messages",
    "Parent": "agentd.wire.workflow",
    "PermanentError": "agentd.errors",
    "Policy": "agentd.safety.policy",
    "Preview": "agentd.wire.messages",
    "Proxmox": "agentd.proxmox.client",
    "ProxmoxUnavailable": "agentd.errors",
    "Raise": "agentd.tools.raises",
    "Reader": "agentd.plugins.workflow_files",
    "Received": "agentd.bus.nats.subscriptions",
    "Rejected": "agentd.errors",
    "Repeat": "agentd.tools.definition",
    "Right": "agentd.tools.definition",
    "Role": "agentd.plugins.role",
    "RateLimitedLog": "agentd.telemetry.logs",
    "Settings": "agentd.plugins.role",
    "Situation": "agentd.plugins.diagnosis",
    "StaleWrite": "agentd.errors",
    "Start": "agentd.plugins.role",
    "Status": "agentd.wire.workflow",
    "TERMINAL": "agentd.wire.workflow",
    "Target": "agentd.wire.messages",
    "TaskError": "agentd.wire.messages",
    "TaskFailed": "agentd.errors",
    "TaskSpec": "agentd.wire.workflow",
    "TaskState": "agentd.wire.workflow",
    "TaskStatus": "agentd.wire.workflow",
    "TemporaryError": "agentd.errors",
    "Tier": "agentd.wire.messages",
    "Tool": "agentd.tools.definition",
    "ToolReply": "agentd.wire.messages",
    "Toolbox": "agentd.tools.definition",
    "UnknownOutcome": "agentd.errors",
    "UnsafeFile": "agentd.errors",
    "Upid": "agentd.proxmox.responses",
    "Upload": "agentd.proxmox.upload",
    "UsageError": "agentd.errors",
    "VmOptions": "agentd.proxmox.vm",
    "VmParameters": "agentd.proxmox.vm",
    "VmidTaken": "agentd.errors",
    "Worker": "agentd.tools.worker",
    "Workflow": "agentd.wire.workflow",
    "WorkflowRequest": "agentd.wire.messages",
    "WorkflowResponse": "agentd.wire.messages",
    "WorkflowSignal": "agentd.wire.messages",
    "by_name": "agentd.tools.declaration",
    "capacity": "agentd.bus.capacity",
    "collect": "agentd.tools.declaration",
    "dead_letters": "agentd.bus.delivery.dead_letters",
    "decode": "agentd.wire.codec",
    "digest": "agentd.wire.codec",
    "encode": "agentd.wire.codec",
    "files": "agentd.files",
    "formats": "agentd.formats",
    "grant": "agentd.proxmox.responses",
    "hookimpl": "agentd.plugins.hookspecs",
    "is_dry_run": "agentd.proxmox.read_only",
    "key_of": "agentd.safety.marks",
    "known_names": "agentd.proxmox.responses",
    "mark": "agentd.safety.marks",
    "marks": "agentd.safety.marks",
    "now": "agentd.wire.codec",
    "one_line": "agentd.proxmox.responses",
    "plain": "agentd.wire.codec",
    "printable": "agentd.printable",
    "raises": "agentd.tools.raises",
    "read_secret": "agentd.config.secret_files",
    "result_of": "agentd.wire.workflow",
    "secrets": "agentd.wire.secrets",
    "subjects": "agentd.wire.subjects",
    "suggestion": "agentd.similar",
    "template": "agentd.wire.workflow",
    "tool": "agentd.tools.declaration",
}
"""The module that defines each public name; a module that is public as a whole has its own path."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as each name has it
    """Return a public name, loaded at its first use."""
    origin = _ORIGINS.get(name)
    if origin is None:
        raise AttributeError(f"module 'agentd' has no attribute {name!r}")
    module = import_module(origin)
    found = module if origin.rpartition(".")[2] == name else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
