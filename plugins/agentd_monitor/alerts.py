"""Decide when an alert is raised and when it is cleared.

Pure: times are parameters, and nothing is sent from here.

    high_cpu, high_memory   a host at 85 %, an agent itself at 90 %
    agent_offline           two minutes without a heartbeat; an agent that reported `offline` itself was drained
    schedule_failed         the last run of a schedule did not complete; a run that completes clears the alert
    workflow_stuck          thirty minutes without a change while it should move; waiting for a person is not stuck
    dead_letters            messages of a stream were given up, and were not yet replayed or dropped
    nats_storage            the account or a stream with a limit is 70 % full
    audit_broken            the audit chain of an agent is not as the agent wrote it

The rules prevent floods of notifications; each was learnt from a real one:
- One reading proves nothing: a value must stay beyond its threshold for `min_duration` seconds and for at least
  `min_readings` readings, both to raise and to clear.  Readings of one value within SPACING seconds count once, because
  every agent of a node reports the same host.
- Raising and clearing have separate thresholds.
- Missing data never clears an alert: only received data does.
- A pause of the monitor is not a silence of the agents: after a pause, every agent gets the full time again.
- The labels identify an alert: it is published once when it is raised and once when it is cleared, no matter how often
  its cause is observed.
- An alert that flaps stays raised until its value has been calm.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from agentd import TERMINAL, AgentRegistration, Alert, Heartbeat, MetricReport, Status, digest, subjects
from agentd_monitor.levels import HIGH_CPU, HIGH_MEMORY, READINGS, Level, Thresholds

FIRING: Final = "firing"
RESOLVED: Final = "resolved"

AGENT_OFFLINE: Final = "agent_offline"
WORKFLOW_STUCK: Final = "workflow_stuck"
SCHEDULE_FAILED: Final = "schedule_failed"

DEAD_LETTERS: Final = "dead_letters"
NATS_STORAGE: Final = "nats_storage"
AUDIT_BROKEN: Final = "audit_broken"

KINDS: Final = (
    HIGH_CPU,
    HIGH_MEMORY,
    AGENT_OFFLINE,
    WORKFLOW_STUCK,
    SCHEDULE_FAILED,
    DEAD_LETTERS,
    NATS_STORAGE,
    AUDIT_BROKEN,
)
SEVERITY: Final = dict.fromkeys(KINDS, "warning") | dict.fromkeys(
    (AGENT_OFFLINE, NATS_STORAGE, AUDIT_BROKEN), "critical"
)

DRAINED: Final = "offline"
"""The status that an agent reports when it stops."""
DRAINING: Final = "draining"
"""The status of an agent that accepts no new work and stops when its work is finished."""

LOST: Final = "lost"
"""The status of an agent that stopped sending heartbeats."""

DONE: Final = frozenset({Status.COMPLETED, Status.COMPLETED_WITH_WARNINGS})

WATCHED: Final = 1000
"""Maximum number of watched agents: any client may register, and a flood must not fill the memory and the bucket."""

PATIENT: Final = frozenset({"waiting_approval", "paused"})
"""States in which a workflow waits for a person, without a time limit."""


class WorkflowView(msgspec.Struct, frozen=True):
    """The fields of a workflow event that alerts need."""

    workflow_id: str
    status: str
    workflow_type: str = ""
    error: str = ""


def fingerprint(alert_type: str, labels: dict[str, str]) -> str:
    """Return the identity of an alert: a hash of its type and labels.

    The order of the labels does not matter.
    """
    return digest({**labels, "alert_type": alert_type})


def fingerprint_of(alert: Alert) -> str:
    """Return the fingerprint of an alert message."""
    return fingerprint(alert.alert_type, alert.labels)


@dataclass
class _Agent:
    last_seen: datetime
    status: str


@dataclass
class _Workflow:
    view: WorkflowView
    changed: datetime


class AlertBook:
    """The received data and the alerts that are firing because of it.

    Each method returns the alerts that it changed.
    """

    def __init__(self, thresholds: Thresholds, start: datetime) -> None:
        """Start to watch at `start`: no silence can be longer than since then."""
        self._thresholds = thresholds
        self._watching = start
        self._firing: dict[str, Alert] = {}
        self._levels: dict[str, Level] = {}
        self._agents: dict[str, _Agent] = {}
        self._workflows: dict[str, _Workflow] = {}

    def firing(self) -> list[Alert]:
        """Return the alerts that are firing now, oldest first."""
        return sorted(self._firing.values(), key=lambda alert: alert.timestamp)

    def agents(self) -> Counter[str]:
        """Return the number of agents by reported status; lost agents count as `lost`."""
        lost = {alert.labels["agent"] for alert in self._firing.values() if alert.alert_type == AGENT_OFFLINE}
        known = {name: agent.status for name, agent in self._agents.items()}
        return Counter((known | dict.fromkeys(lost, LOST)).values())

    def restore(self, alerts: list[Alert]) -> None:
        """Restore the alerts that were firing before a restart.

        They are not published again, and only received data clears them.
        """
        self._firing.update({fingerprint_of(alert): alert for alert in alerts if alert.state == FIRING})

    def resume(self, at: datetime) -> None:
        """Ignore all silence until `at`: it was the monitor that did not listen."""
        self._watching = max(self._watching, at)
        for level in self._levels.values():
            level.forget()

    def adopt(self, thresholds: Thresholds, at: datetime) -> list[Alert]:
        """Apply new thresholds at once; return the alerts that changed.

        An alert whose value is below the new threshold is cleared.
        """
        self._thresholds = thresholds
        changed: list[Alert] = []
        for key, level in self._levels.items():
            if level.value < thresholds.band(level.scope)[1]:
                changed += self._resolve(key, level.text, at)
        return changed + self.tick(at)

    # -- received data ------------------------------------------------------------------------------------------

    def observe_heartbeat(self, heartbeat: Heartbeat, at: datetime) -> list[Alert]:
        """Record a sign of life of an agent, or that it stops."""
        return self._on_sign_of_life(heartbeat.agent_id, heartbeat.status, at)

    def observe_registration(self, registration: AgentRegistration, at: datetime) -> list[Alert]:
        """Record that an agent has registered, which is also a sign of life."""
        return self._on_sign_of_life(registration.agent_id, registration.status, at)

    def observe_metrics(self, report: MetricReport, at: datetime) -> list[Alert]:
        """Check the readings of a report; metrics that it does not contain do not change."""
        changed: list[Alert] = []
        for name, value in report.metrics.items():
            if name in READINGS:
                changed += self._check_reading(*READINGS[name], report, value, at)
        return changed + self._check_audit(report, at)

    def _check_audit(self, report: MetricReport, at: datetime) -> list[Alert]:
        """Check the state of the agent's audit chain, if the report contains it."""
        broken, agent = report.metrics.get(AUDIT_BROKEN), report.agent_id
        if broken is None or (broken and len(self._firing) >= len(KINDS) * WATCHED):
            return []
        text = f"agent {agent}: its audit chain is as the agent wrote it, or the difference was accepted"
        if broken:
            text = (
                f"agent {agent}: its audit chain is not as the agent wrote it, and the agent changes nothing: "
                f"see its /readyz and `agentd audit verify`, then `agentd audit accept {agent} --reason TEXT`"
            )
        return self._decide(AUDIT_BROKEN, {"agent": agent}, text, at, bad=bool(broken), good=not broken)

    def observe_workflow(self, view: WorkflowView, at: datetime) -> list[Alert]:
        """Record a change of a workflow at the time `at`."""
        key = fingerprint(WORKFLOW_STUCK, {"workflow": view.workflow_id})
        over = view.status in TERMINAL
        if over:
            self._workflows.pop(view.workflow_id, None)
        else:
            self._workflows[view.workflow_id] = _Workflow(view, at)
        moved = self._resolve(key, f"workflow {view.workflow_id} moves again: {view.status}", at, over=over)
        schedule = subjects.schedule_of(view.workflow_id)
        return moved + (self._check_schedule(schedule, view, at) if schedule and over else [])

    def observe_dead(self, stream: str, waiting: int, text: str, at: datetime) -> list[Alert]:
        """Record the number of open dead letters of a stream."""
        return self._decide(DEAD_LETTERS, {"stream": stream}, text, at, bad=waiting > 0, good=not waiting)

    def observe_storage(self, what: str, text: str, at: datetime, *, full: bool, eased: bool) -> list[Alert]:
        """Record how full NATS is; between `full` and `eased` nothing changes."""
        return self._decide(NATS_STORAGE, {"what": what}, text, at, bad=full, good=eased)

    def _decide(  # noqa: PLR0913 - the alert's identity, its text, and the decision
        self, kind: str, labels: dict[str, str], text: str, at: datetime, *, bad: bool, good: bool
    ) -> list[Alert]:
        key = fingerprint(kind, labels)
        if bad and key not in self._firing:
            return [self._fire(kind, labels, text, next(iter(labels.values())), at)]
        return self._resolve(key, text, at) if good else []

    def tick(self, at: datetime) -> list[Alert]:
        """Check for agents and workflows that were silent until `at`."""
        return self._check_lost_agents(at) + self._check_stuck_workflows(at)

    # -- agents and workflows -------------------------------------------------------------------------------------

    def _on_sign_of_life(self, agent: str, status: str, at: datetime) -> list[Alert]:
        if agent not in self._agents and len(self._agents) >= WATCHED:
            return []
        drained = status == DRAINED
        self._agents[agent] = _Agent(at, status)
        back = f"agent {agent} {'stopped by itself' if drained else 'is back'}"
        changed = self._resolve(fingerprint(AGENT_OFFLINE, {"agent": agent}), back, at)
        if drained:
            for kind in (HIGH_CPU, HIGH_MEMORY):
                key = fingerprint(kind, {"agent": agent})
                self._levels.pop(key, None)
                changed += self._resolve(key, f"agent {agent} stopped by itself", at)
        return changed

    def _check_lost_agents(self, at: datetime) -> list[Alert]:
        limit = timedelta(seconds=self._thresholds.offline_after)
        changed: list[Alert] = []
        for name, agent in self._agents.items():
            key = fingerprint(AGENT_OFFLINE, {"agent": name})
            silent = at - max(agent.last_seen, self._watching)
            if agent.status == DRAINED or key in self._firing or silent < limit:
                continue
            text = (
                f"agent {name}: no heartbeat since {agent.last_seen:%Y-%m-%d %H:%M:%S} UTC; if it was removed on "
                f'purpose, publish a heartbeat of it with status "{DRAINED}"'
            )
            changed.append(self._fire(AGENT_OFFLINE, {"agent": name}, text, name, at))
        return changed

    def _check_stuck_workflows(self, at: datetime) -> list[Alert]:
        limit = timedelta(seconds=self._thresholds.stuck_after)
        changed: list[Alert] = []
        for name, workflow in self._workflows.items():
            key = fingerprint(WORKFLOW_STUCK, {"workflow": name})
            if workflow.view.status in PATIENT or key in self._firing or at - workflow.changed < limit:
                continue
            kind = f" ({workflow.view.workflow_type})" if workflow.view.workflow_type else ""
            text = (
                f"workflow {name}{kind}: {workflow.view.status}, and no change since "
                f"{workflow.changed:%Y-%m-%d %H:%M:%S} UTC"
            )
            changed.append(self._fire(WORKFLOW_STUCK, {"workflow": name}, text, name, at))
        return changed

    def _check_schedule(self, schedule: str, view: WorkflowView, at: datetime) -> list[Alert]:
        """Check a schedule by its last run; a run that a person cancelled does not count."""
        key = fingerprint(SCHEDULE_FAILED, {"schedule": schedule})
        if view.status in DONE:
            return self._resolve(key, f"schedule {schedule}: {view.workflow_id} {view.status}", at, over=True)
        if view.status == Status.CANCELLED or key in self._firing:
            return []
        text = f"schedule {schedule}: {view.workflow_id} {view.status}" + (f": {view.error}" if view.error else "")
        return [self._fire(SCHEDULE_FAILED, {"schedule": schedule}, text, schedule, at)]

    # -- values and thresholds ------------------------------------------------------------------------------------

    def _check_reading(self, kind: str, scope: str, report: MetricReport, value: float, at: datetime) -> list[Alert]:
        source = report.tags.get("node", report.agent_id) if scope == "host" else report.agent_id
        fresh = Level(kind, scope, source)
        key = fingerprint(kind, fresh.labels)
        if key not in self._levels and len(self._levels) >= len(READINGS) * WATCHED:
            return []
        level = self._levels.setdefault(key, fresh)
        trigger, clear = self._thresholds.band(scope)
        firing = key in self._firing
        level.note(value, at, self._thresholds.spacing, beyond=value < clear if firing else value >= trigger)
        calm = self._thresholds.flap_window if firing and level.flapping else self._thresholds.min_duration
        if not level.proven(at, calm, self._thresholds.min_readings):
            return []
        level.turn(at, self._thresholds.flap_limit, self._thresholds.flap_window)
        return (
            self._resolve(key, level.text, at) if firing else [self._fire(kind, level.labels, level.text, source, at)]
        )

    # -- changed alerts ------------------------------------------------------------------------------------------

    def _fire(self, kind: str, labels: dict[str, str], text: str, source: str, at: datetime) -> Alert:
        alert = Alert(
            alert_type=kind,
            message=text,
            timestamp=at,
            source=source,
            severity=SEVERITY[kind],
            labels=labels,
            state=FIRING,
        )
        self._firing[fingerprint(kind, labels)] = alert
        return alert

    def _resolve(self, key: str, text: str, at: datetime, *, over: bool = False) -> list[Alert]:
        """Clear an alert.

        Data older than the alert (read from a stream) clears it only if its cause is `over`.
        """
        alert = self._firing.get(key)
        if alert is None or (at <= alert.timestamp and not over):
            return []
        del self._firing[key]
        return [msgspec.structs.replace(alert, message=text, timestamp=at, state=RESOLVED)]
