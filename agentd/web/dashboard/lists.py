"""The lists of the dashboard and their columns."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from agentd.web import formats, status
from agentd.web.dashboard.listing import Cell, Column, Listing
from agentd.web.overview import agent_status
from agentd.web.status import style_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentd.client.views import AlertSummary, GuestSummary, ToolSummary, WorkflowSummary
    from agentd.wire.announcements import AgentRegistration
    from agentd.wire.records import AuditRecord

ACTS: Final = frozenset({"network", "agent", "audit"})
"""First words of the keys of audited acts that belong to no workflow."""
DIGITS: Final = 6
"""Digits of a digest of settings that are shown."""
_KINDS: Final = {"qemu": "VM", "lxc": "container"}


def _status(table: dict[str, status.StatusStyle], name: str) -> Cell:
    style = style_of(table, name)
    return Cell(style.word, style=style)


def _guest_status(guest: GuestSummary) -> Cell:
    style = style_of(status.GUEST, guest.status)
    return Cell(f"{style.word}, locked: {guest.lock}" if guest.lock else style.word, style=style)


GUESTS: Final[Listing[GuestSummary]] = Listing(
    "guests",
    "Guests",
    (
        Column("vmid", "VMID", lambda guest: str(guest.vmid), order=lambda guest: guest.vmid),
        Column("name", "Name", lambda guest: guest.name),
        Column("status", "Status", lambda guest: f"{guest.status} {guest.lock}", _guest_status),
        Column(
            "node", "Node", lambda guest: guest.node, lambda guest: Cell(guest.node, f"/guests?q=node:{guest.node}")
        ),
        Column("type", "Type", lambda guest: _KINDS.get(guest.type, guest.type)),
        Column("tags", "Tags", lambda guest: " ".join(guest.tags)),
    ),
    lambda guest: str(guest.vmid),
    "There is no guest, or the token of Proxmox may not see any: `agentd doctor`",
    (
        ("all", ""),
        ("not running", "-status:running"),
        ("locked", "status:backup"),
        ("VMs", "type:vm"),
        ("containers", "type:container"),
    ),
)

WORKFLOWS: Final[Listing[WorkflowSummary]] = Listing(
    "workflows",
    "Workflows",
    (
        Column(
            "status",
            "Status",
            lambda run: style_of(status.WORKFLOW, run.status).word,
            lambda run: _status(status.WORKFLOW, run.status),
        ),
        Column(
            "id",
            "Workflow",
            lambda run: run.workflow_id,
            lambda run: Cell(run.workflow_id, f"/workflows/{run.workflow_id}"),
        ),
        Column("type", "Type", lambda run: run.workflow_type),
        Column("requester", "Requested by", lambda run: run.requester),
        Column("done", "Tasks", lambda run: f"{run.done}/{run.total}", order=lambda run: run.done),
        Column(
            "updated",
            "Changed",
            lambda run: formats.exact(run.updated),
            lambda run: Cell("", at=run.updated),
            lambda run: run.updated,
        ),
        Column("error", "Error", lambda run: run.error, lambda run: Cell(run.error, wide=True)),
    ),
    lambda run: run.workflow_id,
    "No workflow yet. Submit one: `agentd submit vm_deployment name=web1`",
    (("all", ""), ("running", "status:running"), ("waits for approval", "status:waits"), ("failed", "status:failed")),
)

TOOLS: Final[Listing[ToolSummary]] = Listing(
    "tools",
    "Tools",
    (
        Column("name", "Tool", lambda tool: tool.name),
        Column("tier", "Tier", lambda tool: tool.tier or "unknown", lambda tool: _status(status.TIER, tool.tier)),
        Column("area", "Area", lambda tool: tool.area.replace("_", " ") or "other agents"),
        Column("service", "Service", lambda tool: tool.service),
        Column("agents", "Offered by", lambda tool: ", ".join(tool.agents) or "no agent"),
        Column(
            "description",
            "Description",
            lambda tool: tool.description.partition("\n\n")[0],
            lambda tool: Cell(tool.description.partition("\n\n")[0], wide=True),
        ),
    ),
    lambda tool: tool.name,
    "No tool is installed or offered.",
    (
        ("all", ""),
        ("read", "tier:read"),
        ("operate", "tier:operate"),
        ("destroy", "tier:destroy"),
        ("exec", "tier:exec"),
        ("not offered", "agents:no"),
    ),
)

AUDIT: Final[Listing[AuditRecord]] = Listing(
    "audit",
    "Audit",
    (
        Column(
            "time",
            "Time",
            lambda line: formats.exact(line.timestamp),
            lambda line: Cell("", at=line.timestamp),
            lambda line: line.timestamp,
        ),
        Column("principal", "Requested by", lambda line: line.principal),
        Column("approved", "Approved by", lambda line: line.approved_by),
        Column("tool", "Tool", lambda line: line.tool),
        Column("tier", "Tier", lambda line: str(line.tier), lambda line: _status(status.TIER, str(line.tier))),
        Column("phase", "Phase", lambda line: f"{line.phase} {line.outcome}".strip()),
        Column("key", "Key", lambda line: line.key, lambda line: Cell(line.key, _workflow_link(line.key))),
        Column("agent", "Agent", lambda line: f"{line.agent_id} #{line.seq}"),
    ),
    lambda line: f"{line.agent_id}-{line.seq}",
    "No change was made yet.",
    (("all", ""), ("changes", "-tool:anchor"), ("failed", "phase:failed")),
)

ALERTS: Final[Listing[AlertSummary]] = Listing(
    "alerts",
    "Alerts",
    (
        Column("severity", "Severity", lambda alert: alert.severity),
        Column("name", "Alert", lambda alert: alert.name),
        Column("state", "State", lambda alert: alert.state),
        Column("text", "Text", lambda alert: alert.text),
        Column("labels", "Labels", lambda alert: " ".join(f"{name}={value}" for name, value in alert.labels.items())),
        Column(
            "handled",
            "Handled",
            lambda alert: " ".join(
                word
                for word, by in (
                    (f"acknowledged by {alert.acknowledged_by}", alert.acknowledged_by),
                    (f"silenced by {alert.silenced_by}", alert.silenced_by),
                )
                if by
            ),
        ),
    ),
    lambda alert: alert.id or alert.name,
    "No alert.",
    (
        ("all", ""),
        ("firing", "-state:resolved"),
        ("resolved", "state:resolved"),
        ("critical", "severity:critical"),
        ("not handled", "-handled:by"),
    ),
)


def _workflow_link(key: str) -> str:
    """Return the page of the workflow whose task the key belongs to; calls and acts on the network have none."""
    workflow, dot, _ = key.partition(".")
    return f"/workflows/{workflow}" if dot and "=" not in key and workflow not in ACTS else ""


def _settings(agent: AgentRegistration, agents: Sequence[AgentRegistration]) -> Cell:
    """Return the digest of an agent's settings; marked if other agents of its role have other settings."""
    if not agent.config_digest:
        return Cell("unknown" if agent.role else "")
    found = Counter(other.config_digest for other in agents if other.role == agent.role and other.config_digest)
    others = [(digest, count) for digest, count in found.most_common() if digest != agent.config_digest]
    if not others or found[agent.config_digest] > others[0][1]:
        return Cell(agent.config_digest[:DIGITS])
    text = f"{agent.config_digest[:DIGITS]} differs from {others[0][0][:DIGITS]}"
    return Cell(text, style=status.LEVEL["warn"])


def _version(agent: AgentRegistration, usual: str) -> Cell:
    if agent.version in {"", usual}:
        return Cell(agent.version)
    return Cell(f"{agent.version}, not {usual}", style=status.LEVEL["warn"])


def agents_list(agents: Sequence[AgentRegistration], at: datetime) -> Listing[AgentRegistration]:
    """Return the list of agents at a time.

    A version that differs from that of most agents is marked, and settings that differ from those of its role.
    """
    versions = Counter(agent.version for agent in agents if agent.version)
    usual = versions.most_common(1)[0][0] if versions else ""

    def state(agent: AgentRegistration) -> str:
        return style_of(status.AGENT, agent_status(agent, at)).word

    def load(agent: AgentRegistration) -> str:
        known = agent_status(agent, at) not in {"silent", "offline"}
        return formats.percent(agent.load) if known else "unknown"

    return Listing(
        "agents",
        "Agents",
        (
            Column("status", "Status", state, lambda agent: _status(status.AGENT, agent_status(agent, at))),
            Column(
                "id",
                "Agent",
                lambda agent: agent.agent_id,
                lambda agent: Cell(agent.agent_id, formats.web_address(agent.url)),
            ),
            Column("role", "Role", lambda agent: agent.role or "external agent"),
            Column("node", "Node", lambda agent: agent.node),
            Column("version", "Version", lambda agent: agent.version, lambda agent: _version(agent, usual)),
            Column(
                "config", "Settings", lambda agent: _settings(agent, agents).text, partial(_settings, agents=agents)
            ),
            Column("load", "Load", load, order=lambda agent: agent.load),
            Column(
                "heard",
                "Heard",
                lambda agent: formats.ago(agent.timestamp, at),
                lambda agent: Cell("never" if agent.timestamp is None else "", at=agent.timestamp),
                lambda agent: agent.timestamp or at.min.replace(tzinfo=at.tzinfo),
            ),
        ),
        lambda agent: agent.agent_id,
        "No agent has registered. Start one on a node: `systemctl enable --now agentd@specialist`",
        (
            ("all", ""),
            ("need attention", "-status:available"),
            ("silent", "status:silent"),
            ("settings differ", "config:differs"),
        ),
    )
