"""The role `monitor`: receive the network's messages, check the cluster, and raise alerts.

Several monitors may run: all of them receive the same messages and derive the same alerts; one of them writes the
alerts (writer.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.responses import Response
from starlette.routing import Route

from agentd import (
    AgentdError,
    AgentRegistration,
    Duty,
    Heartbeat,
    InvalidMessage,
    MetricReport,
    RateLimitedLog,
    decode,
    encode,
    now,
    subjects,
)
from agentd_monitor.alerts import DRAINED, DRAINING, KINDS, LOST, RESOLVED, AlertBook, WorkflowView, fingerprint_of
from agentd_monitor.checks import PeriodicChecks
from agentd_monitor.cluster.collector import ClusterCollector
from agentd_monitor.cluster.readings import Snapshot
from agentd_monitor.delivery.approvals import ApprovalRequests, WaitingWorkflow
from agentd_monitor.delivery.deliveries import Deliveries
from agentd_monitor.health.catalogue import BUILT_IN, RULES, worst_first
from agentd_monitor.own_work import Effect, OwnWork
from agentd_monitor.plugin_checks import PluginChecks
from agentd_monitor.tools import SERVICE
from agentd_monitor.writer import AlertWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from agentd import Alert, Context, Finding, Received
    from agentd_monitor.settings import MonitorSettings

M = TypeVar("M")

NAMES: Final = tuple(check.name for check in BUILT_IN)
"""Types of the alerts about the cluster."""
TICK: Final = 5.0
"""Seconds between two checks for missing messages."""
STATUSES: Final = ("available", "busy", DRAINING, DRAINED, LOST)
"""Statuses of agents that have a time series even while no agent has that status."""
CLUSTER_EVERY: Final = 15.0
"""Seconds between two runs of the checks of the cluster; the most frequent source is read every 20 s."""
PAUSE: Final = 15.0
"""If two ticks are more seconds apart, the monitor itself did not listen (no bus, or the process was stopped)."""


class Monitor:
    """The role: raises and clears alerts."""

    name = "monitor"
    port = 8082
    services: tuple[str, ...] = (SERVICE,)
    duties = frozenset({Duty.ALERT, Duty.REQUEST})

    def __init__(self) -> None:
        """Declare the state; `run` sets it when it gets the context."""
        self.routes: tuple[BaseRoute, ...] = (Route("/api/checks", self._serve_findings),)
        self._context: Context
        self._settings: MonitorSettings
        self._limited_log: RateLimitedLog
        self._alerts: AlertBook
        self._checks: PeriodicChecks
        self._ticked: datetime
        self._cluster: ClusterCollector | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._checked = -CLUSTER_EVERY
        self._findings: list[Finding] = []
        self._writer: AlertWriter
        self._plugin_checks = PluginChecks([], ())
        self._deliveries: Deliveries
        self._approvals = ApprovalRequests()
        self._own_work = OwnWork()
        self._texts: dict[str, str] = {}
        self._changed = asyncio.Event()

    async def run(self, context: Context) -> None:
        """Watch until the context is stopping."""
        self._context, self._settings = context, context.settings
        self._limited_log = RateLimitedLog(context.log)
        self._ticked = now()
        self._alerts = AlertBook(self._settings.thresholds(), self._ticked)
        self._plugin_checks = PluginChecks(context.checks, {*KINDS, *NAMES})
        self._deliveries = Deliveries(self._settings, context, self._changed.set)
        self._writer = AlertWriter(context, [*RULES, *self._plugin_checks.rules()], self._deliveries, self._own_work)
        self._alerts.restore([alert for alert in await self._writer.restored() if alert.alert_type in KINDS])
        subscriptions = [
            await context.bus.subscribe(
                subjects.ALL_HEARTBEATS, self._observing_handler(Heartbeat, self._alerts.observe_heartbeat)
            ),
            await context.bus.subscribe(
                subjects.AGENT_REGISTER, self._observing_handler(AgentRegistration, self._alerts.observe_registration)
            ),
            await context.bus.subscribe(
                subjects.ALL_METRICS, self._observing_handler(MetricReport, self._alerts.observe_metrics)
            ),
            await context.bus.subscribe(
                subjects.ALL_EVENTS, self._observing_handler(WaitingWorkflow, self._observe_workflow)
            ),
            await context.bus.subscribe(subjects.ALL_EFFECTS, self._observing_handler(Effect, self._observe_effect)),
            await context.bus.subscribe(subjects.ALL_DEAD, self._on_dead),
        ]
        self._checks = PeriodicChecks(context, self._alerts, self._note)
        self._collecting = self._collect_cluster()
        self._writer.cluster = self._collecting is not None
        serving = asyncio.create_task(
            context.worker.serve(
                SERVICE, context.stopping, queues=context.queues(SERVICE), drain=context.config.drain.timeout
            ),
            name="serve the tools of the monitor",
        )
        checking = asyncio.create_task(self._plugin_checks.run(), name="checks of plugins")
        try:
            await self._catch_up()
            await self._watch(serving)
            await serving
        finally:
            serving.cancel()
            checking.cancel()
            if self._collecting is not None:
                self._collecting.cancel()
            for subscription in subscriptions:
                await subscription.stop()
            await self._deliveries.close()
            with contextlib.suppress(AgentdError):  # without NATS, the lease expires
                await self._writer.close()

    def requesters(self, settings: MonitorSettings) -> set[str]:
        """Return the principals in whose name alerts start workflows."""
        return {action.principal for action in settings.actions.values()}

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Apply new thresholds, also to alerts that are firing."""
        self._settings = self._writer.settings = settings
        self._writer.adopt()
        self._writer.actions.configure(settings.actions)
        self._deliveries.configure(settings)
        if self._cluster is not None:
            self._cluster.settings = settings
        self._note(self._alerts.adopt(settings.thresholds(), now()))

    async def _check_cluster(self, at: datetime) -> tuple[Snapshot, list[Finding]] | None:
        """Run the checks of the cluster, if it is due; in a thread, because 10,000 guests take a part of a second."""
        cluster = self._cluster
        if not (cluster or self._plugin_checks) or time.monotonic() - self._checked < CLUSTER_EVERY:
            return None
        self._checked, snapshot = time.monotonic(), Snapshot()
        found: list[Finding] = []
        if cluster is not None:
            snapshot = cluster.snapshot()
            found = await asyncio.to_thread(cluster.findings, snapshot, at.timestamp())
        self._findings = worst_first([*found, *self._plugin_checks.findings()])
        return snapshot, self._findings

    async def _serve_findings(self, _: Request) -> Response:
        """Respond with the findings of the last run of the checks of the cluster, the worst first."""
        if not (self._cluster or self._plugin_checks):
            return Response("this monitor does not read the Proxmox cluster: see [proxmox] and cluster_metrics\n", 503)
        return Response(encode(self._findings), media_type="application/json")

    def _collect_cluster(self) -> asyncio.Task[None] | None:
        """Start to read the Proxmox cluster; the page /metrics has one collector, also after a restart of the role."""
        context = self._context
        if context.proxmox is None or not self._settings.cluster_metrics:
            return None
        if self._cluster is None:
            self._cluster = context.metrics.attach(ClusterCollector(self._settings))
        collecting = asyncio.create_task(self._cluster.run(context.proxmox), name="read the cluster")
        collecting.add_done_callback(lambda _: self._changed.set())
        return collecting

    async def _catch_up(self) -> None:
        """Read the last heartbeats and workflow events from the streams.

        So agents and workflows that stopped while no monitor ran are noticed, too.
        """
        bus = self._context.bus
        for stored in await bus.last_many(subjects.METRICS, subjects.ALL_HEARTBEATS):
            self._observe(stored.data, stored.subject, Heartbeat, self._alerts.observe_heartbeat, stored.time)
        for stored in await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS):
            self._observe(stored.data, stored.subject, WaitingWorkflow, self._observe_workflow, stored.time)
        for workflow_id in self._own_work.open_workflows():
            for stored in await bus.last_many(subjects.EFFECTS, subjects.effect("*", f"{workflow_id}.>")):
                self._observe(stored.data, stored.subject, Effect, self._observe_effect, stored.time)

    async def _watch(self, serving: asyncio.Task[None]) -> None:
        context = self._context
        stopping = asyncio.create_task(context.stopping.wait())
        try:
            while not stopping.done():
                if serving.done() and not context.stopping.is_set():
                    serving.result()
                if self._collecting is not None and self._collecting.done():
                    self._collecting.result()  # raises the error: the supervisor starts the role again
                self._tick(now())
                await self._checks.run(now())
                await self._write(await self._check_cluster(now()))
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({stopping, changed}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            stopping.cancel()

    def _tick(self, at: datetime) -> None:
        context = self._context
        if not context.bus.connected:
            context.health.down(context.bus.problem)
            return
        if at - self._ticked > timedelta(seconds=PAUSE):
            self._alerts.resume(at)
        self._ticked = at
        self._note(self._alerts.tick(at))

    async def _on_dead(self, _: Received) -> None:
        """Check at once when a dead letter was written or closed."""
        self._checks.hurry()
        self._changed.set()

    def _observe_workflow(self, workflow: WaitingWorkflow, at: datetime) -> list[Alert]:
        if self._approvals.observe(workflow):
            self._changed.set()
        self._own_work.observe_workflow(workflow.workflow_id, workflow.status)
        view = WorkflowView(workflow.workflow_id, workflow.status, workflow.workflow_type, workflow.error)
        return self._alerts.observe_workflow(view, at)

    def _observe_effect(self, effect: Effect, _: datetime) -> list[Alert]:
        self._own_work.observe_effect(effect)
        return []

    # -- receiving --------------------------------------------------------------------------------------------------

    def _observing_handler(
        self, kind: type[M], observe: Callable[[M, datetime], list[Alert]]
    ) -> Callable[[Received], Awaitable[None]]:
        async def handler(received: Received) -> None:
            self._observe(received.data, received.subject, kind, observe, now())

        return handler

    def _observe(
        self, data: bytes, subject: str, kind: type[M], observe: Callable[[M, datetime], list[Alert]], at: datetime
    ) -> None:
        """Pass one message to the alert book.

        It contains no await, so messages are processed in the order in which they arrive.
        """
        try:
            message = decode(data, kind)
        except InvalidMessage as error:
            self._limited_log.warning("a message cannot be decoded", subject=subject, reason=str(error))
            return
        self._note(observe(message, at))

    # -- alerts -----------------------------------------------------------------------------------------------------

    def _note(self, changed: list[Alert]) -> None:
        """Remember why alerts are over, and let the writer act at once."""
        for alert in changed:
            key = fingerprint_of(alert)
            if alert.state == RESOLVED:
                self._texts[key] = alert.message
            else:
                self._texts.pop(key, None)
        if changed:
            self._changed.set()

    async def _write(self, cluster: tuple[Snapshot, list[Finding]] | None) -> None:
        self._changed.clear()
        texts, self._texts = self._texts, {}
        await self._writer.step(now(), self._alerts.firing(), texts, cluster, self._approvals.waiting())
        problem = self._writer.problem or self._checks.problem
        if problem:
            self._texts = texts | self._texts
            self._context.health.down(problem)
        else:
            self._context.health.up()
        self._context.health.warnings[:] = [
            *self._plugin_checks.problems,
            *self._deliveries.problems,
            *self._writer.actions.problems,
        ]
        self._measure()

    def _measure(self) -> None:
        metrics = self._context.metrics
        firing = Counter(self._writer.firing())
        for kind in (*KINDS, *(NAMES if self._cluster is not None else ())):
            metrics.alerts_firing.labels(kind).set(firing[kind])
        agents = self._alerts.agents()
        for status in (*STATUSES, *agents):
            metrics.agents.labels(status).set(agents[status])
