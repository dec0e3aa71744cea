"""The role `monitor`: receive the network's messages and publish alerts.

Several monitors may run: all of them receive the same messages and derive the same alerts.  The monitor that first
writes the new state of an alert to the bucket `alerts` (compare-and-set, with the alert's fingerprint as key) publishes
it.  The other monitors find the state in the bucket and publish nothing.  A state that could not be written yet is kept
in `_unpublished` (only the newest state of each alert) and retried at each tick.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentd import (
    AgentRegistration,
    Alert,
    BusFull,
    BusUnavailable,
    Duty,
    Heartbeat,
    InvalidMessage,
    MetricReport,
    RateLimitedLog,
    StaleWrite,
    decode,
    now,
    subjects,
)
from agentd_monitor.alerts import DRAINED, DRAINING, KINDS, LOST, RESOLVED, AlertBook, WorkflowView, fingerprint_of
from agentd_monitor.checks import PeriodicChecks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from starlette.routing import BaseRoute

    from agentd import Context, Received
    from agentd_monitor.settings import MonitorSettings

M = TypeVar("M")

TICK: Final = 5.0
"""Seconds between two checks for missing messages."""
STATUSES: Final = ("available", "busy", DRAINING, DRAINED, LOST)
"""Statuses of agents that have a time series even while no agent has that status."""
PAUSE: Final = 15.0
"""If two ticks are more seconds apart, the monitor itself did not listen (no bus, or the process was stopped)."""


class Monitor:
    """The role: raises and clears alerts."""

    name = "monitor"
    port = 8082
    services: tuple[str, ...] = ()
    duties = frozenset({Duty.ALERT})
    routes: tuple[BaseRoute, ...] = ()

    def __init__(self) -> None:
        """Declare the state; `run` sets it when it gets the context."""
        self._context: Context
        self._settings: MonitorSettings
        self._limited_log: RateLimitedLog
        self._alerts: AlertBook
        self._checks: PeriodicChecks
        self._ticked: datetime
        self._unpublished: dict[str, Alert] = {}
        self._unrecorded: dict[str, Alert] = {}
        self._changed = asyncio.Event()

    async def run(self, context: Context) -> None:
        """Watch until the context is stopping."""
        self._context, self._settings = context, context.settings
        self._limited_log = RateLimitedLog(context.log)
        self._ticked = now()
        self._alerts = AlertBook(self._settings.thresholds(), self._ticked)
        stored = (await context.bus.kv_values(subjects.ALERTS, Alert)).values()
        self._alerts.restore([entry.value for entry in stored if entry.value is not None])
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
                subjects.ALL_EVENTS, self._observing_handler(WorkflowView, self._alerts.observe_workflow)
            ),
            await context.bus.subscribe(subjects.ALL_DEAD, self._on_dead),
        ]
        self._checks = PeriodicChecks(context, self._alerts, self._log_alerts)
        try:
            await self._catch_up()
            await self._watch()
        finally:
            for subscription in subscriptions:
                await subscription.stop()

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Apply new thresholds, also to alerts that are firing."""
        self._settings = settings
        self._log_alerts(self._alerts.adopt(settings.thresholds(), now()))

    async def _catch_up(self) -> None:
        """Read the last heartbeats and workflow events from the streams.

        So agents and workflows that stopped while no monitor ran are noticed, too.
        """
        bus = self._context.bus
        for stored in await bus.last_many(subjects.METRICS, subjects.ALL_HEARTBEATS):
            self._observe(stored.data, stored.subject, Heartbeat, self._alerts.observe_heartbeat, stored.time)
        for stored in await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS):
            self._observe(stored.data, stored.subject, WorkflowView, self._alerts.observe_workflow, stored.time)

    async def _watch(self) -> None:
        context = self._context
        stopping = asyncio.create_task(context.stopping.wait())
        try:
            while not stopping.done():
                self._tick(now())
                await self._checks.run(now())
                await self._publish_changed()
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
        self._log_alerts(self._alerts.tick(at))

    async def _on_dead(self, _: Received) -> None:
        """Check at once when a dead letter was written or closed."""
        self._checks.hurry()
        self._changed.set()

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
        self._log_alerts(observe(message, at))

    # -- publishing -------------------------------------------------------------------------------------------------

    def _log_alerts(self, alerts: list[Alert]) -> None:
        if alerts:
            self._unpublished.update({fingerprint_of(alert): alert for alert in alerts})
            self._changed.set()

    async def _publish_changed(self) -> None:
        """Record and publish changed alerts.

        While NATS is not reachable, they stay in `_unpublished` and are retried.
        """
        context = self._context
        self._changed.clear()
        problem = self._checks.problem
        try:
            for key, alert in list(self._unpublished.items()):
                try:
                    await self._publish_one(key, alert)
                except BusFull as error:
                    problem = f"alerts cannot be stored: {error}"
        except BusUnavailable as error:
            problem = f"alerts cannot be published: {error}"
        if problem:
            context.health.down(problem)
        else:
            context.health.up()
        self._measure()

    async def _publish_one(self, key: str, alert: Alert) -> None:
        """Record and publish an alert.

        If NATS has no space for the record, publish the alert at once and record it later.  Only in this case every
        monitor publishes it: people must be notified that there is no space.
        """
        try:
            new = await self._record(key, alert)
        except BusFull:
            if self._unrecorded.get(key) is not alert:
                self._unrecorded[key] = alert
                await self._publish(alert)
            raise
        published = self._unrecorded.pop(key, None)
        if (published is None and new) or (published is not None and published.state != alert.state):
            await self._publish(alert)
        if self._unpublished.get(key) is alert:
            del self._unpublished[key]

    async def _publish(self, alert: Alert) -> None:
        await self._context.bus.publish(subjects.alert(alert.alert_type), alert)
        self._context.log.warning("alert", state=alert.state, kind=alert.alert_type, text=alert.message)

    def _measure(self) -> None:
        metrics = self._context.metrics
        firing = Counter(alert.alert_type for alert in self._alerts.firing())
        for kind in KINDS:
            metrics.alerts_firing.labels(kind).set(firing[kind])
        agents = self._alerts.agents()
        for status in (*STATUSES, *agents):
            metrics.agents.labels(status).set(agents[status])

    async def _record(self, key: str, alert: Alert) -> bool:
        """Write the state of an alert; return whether it was new to the network."""
        bus = self._context.bus
        ttl = self._settings.resolved_retention if alert.state == RESOLVED else None
        while True:
            newest = await bus.kv_read(subjects.ALERTS, key, Alert)
            before = newest.value
            known = RESOLVED if before is None else before.state
            if known == alert.state:
                return False
            try:
                await bus.kv_put(subjects.ALERTS, key, alert, ttl=ttl, expect=newest.seq)
            except StaleWrite:
                continue  # another monitor was faster: read what it wrote
            return True
