"""The state of a daemon, for its pages, systemd and announcements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd.client.views import Identity, PluginState, PluginStatus, QuarantinedTool, Reason, RoleState
from agentd.plugins.role import Health
from agentd.safety.freeze import describe
from agentd.version import __version__
from agentd.wire.announcements import ARRIVING, AgentRegistration, Presence, ServiceRegistration
from agentd.wire.codec import now
from agentd.wire.workflow import VERSION

if TYPE_CHECKING:
    from agentd.daemon.supervisor import Supervisor
    from agentd.tools.worker import Worker

MAX_CLOCK_OFFSET: Final = 2.0
"""Seconds that the local clock may differ from NATS's before the daemon is not ready: deadlines use the server's."""


def starting_presence(daemon: Supervisor) -> Presence:
    """Return the announcement before the roles are ready: without services."""
    agent = AgentRegistration(
        agent_id=daemon.agent_id,
        status=ARRIVING,
        node=daemon.config.node.name,
        role="+".join(daemon.roles),
        version=__version__,
        state_version=VERSION,
        timestamp=now(),
    )
    return Presence(agent)


def presence(daemon: Supervisor, worker: Worker) -> Presence:
    """Return the announcement of this instance: load, state, tools."""
    status = "draining" if daemon.stopping.is_set() else ("busy" if worker.load >= 1 else "available")
    services = [service for role in daemon.roles.values() for service in role.services]
    agent = AgentRegistration(
        agent_id=daemon.agent_id,
        capabilities=sorted({tool.capability for tool in daemon.tools.values() if tool.service in services}),
        load=round(worker.load, 3),
        status=status if daemon.stopping.is_set() or not readiness(daemon) else "busy",
        node=daemon.config.node.name,
        role="+".join(daemon.roles),
        version=__version__,
        state_version=VERSION,
        url=daemon.url,
        timestamp=now(),
        config_digest=daemon.config_digest,
    )
    offered = [
        ServiceRegistration(
            service_id=name,
            service_type=name,
            capabilities=sorted({tool.capability for tool in daemon.tools.values() if tool.service == name}),
            endpoint=daemon.url,
            timestamp=now(),
            tools=sorted(tool.name for tool in daemon.tools.values() if tool.service == name),
        )
        for name in services
    ]
    return Presence(agent, offered, daemon.metrics.snapshot())


def identity(daemon: Supervisor) -> Identity:
    """Return the identity of this daemon and the state of its roles."""
    warnings = []
    if daemon.config.proxmox is not None and not daemon.config.proxmox.verify:
        warnings.append("the certificate of Proxmox is not verified ([proxmox] verify = false)")
    if daemon.proxmox is not None and daemon.proxmox.local:
        warnings.append("the API of Proxmox is not reachable: what is read comes from pvesh, nothing is changed")
    health = {running.role.name: running.context.health for running in daemon.running}
    warnings += [f"{name}: {text}" for name, state in health.items() for text in state.warnings]
    unreadable = daemon.bus.unreadable.shown()
    warnings += unreadable
    waiting = Health(reason="waiting for NATS")
    roles = [
        RoleState(name, health.get(name, waiting).ready, health.get(name, waiting).reason) for name in daemon.roles
    ]
    freeze = daemon.freeze_watch.current
    frozen = "" if freeze is None else describe(freeze)
    return Identity(
        daemon.name,
        daemon.config.node.name,
        daemon.agent_id,
        __version__,
        daemon.started,
        roles,
        warnings,
        frozen,
        unreadable,
    )


def plugin_states(daemon: Supervisor) -> list[PluginState]:
    """List every plugin that was found."""
    return [
        PluginState(
            plugin.name,
            PluginStatus(plugin.status),
            plugin.reason,
            [QuarantinedTool(tool.name, tool.reason) for tool in plugin.quarantined],
        )
        for plugin in daemon.plugins.status.values()
    ]


def readiness(daemon: Supervisor) -> list[Reason]:
    """Return why this daemon is not ready; empty means ready."""
    reasons = [] if not daemon.bus.problem else [Reason("bus", daemon.bus.problem)]
    if daemon.lease.problem:
        reasons.append(Reason("lease", daemon.lease.problem))
    if daemon.audit_log.alarm:
        reasons.append(Reason("audit", daemon.audit_log.alarm))
    offset = daemon.bus.clock_offset
    if abs(offset) > MAX_CLOCK_OFFSET:
        reasons.append(Reason("clock", f"differs from the NATS server's by {offset:+.1f} s"))
    if not daemon.running:
        return [*reasons, *(Reason(name, "waiting for NATS") for name in daemon.roles)]
    health = [(running.role.name, running.context.health) for running in daemon.running]
    queues = [] if daemon.worker is None else daemon.worker.consumers
    reasons += [Reason("queue", consumer.problem) for consumer in queues if consumer.problem]
    return [*reasons, *(Reason(name, state.reason) for name, state in health if not state.ready)]


def status_line(daemon: Supervisor) -> str:
    """Return the state of the daemon in one line, for systemd."""
    return "; ".join(f"{reason.source}: {reason.text}" for reason in readiness(daemon)) or "working"
